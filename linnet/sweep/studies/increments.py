"""How the entries of a layer's update are spread: what each method adds to the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from linnet.errors import LinnetError
from linnet.methods.base import Method
from linnet.methods.full import FullFT
from linnet.methods.s2ft import S2FT
from linnet.problem import LayerProblem
from linnet.sweep.choices import Choices
from linnet.sweep.parts import Network, Task, population
from linnet.sweep.studies.data import fitting, loaded, pretrained
from linnet.sweep.study import MisfitError, Part, Study, mean_and_error
from linnet.task import Moments

NEAR = 0.1
"""An entry counts as near zero below this share of the root mean square entry of full fine-tuning."""

VIEWS = ("all", "trained", "own", "shape")


class Gaussian(Part):
    """Networks and tasks that are drawn, anew for each replicate.

    Attributes:
        network, task: as for other sweeps.
        n: size of a sample; ``inf`` for the population.
    """

    kind: Literal["gaussian"]
    network: Network
    task: Task = Task()
    n: float = math.inf

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.n >= 1 or (self.n != math.inf and self.n != int(self.n)):
            raise MisfitError(("n",), "give a whole number of samples, at least 1, or inf for the population")
        try:
            self.task.check(self.network)
        except MisfitError as err:
            raise MisfitError(("task", *err.place), str(err)) from None
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.network.d_out, self.network.d_in

    @property
    def turns(self) -> bool:
        """Whether the law of the problem is the same in every orthonormal basis on both sides of the layer."""
        return 0 < self.network.layer < len(self.network.widths) - 2 and self.task.channels is None

    def problems(self, study: Study, replicates: int) -> Iterator[LayerProblem]:
        """Yield a problem for each replicate."""
        drawing = study.stream("problem", self)
        for _ in range(replicates):
            net = self.network.draw(drawing)
            task = self.task.draw(net, self.network.layer, drawing)
            if self.n == math.inf:
                yield population(net, self.network.layer, task)
            else:
                yield LayerProblem(net, self.network.layer, task.sample_moments(int(self.n), rng=drawing))


class Real(Part):
    """A network pre-trained on the source of a data set, fine-tuned on rows of its target, drawn for each replicate.

    Attributes:
        data: name of the data set, see ``linnet.datasets``.
        layer: that is fine-tuned, from 0.
        widths: of the network; the data set's own by default.
        n: rows of the target to train on.
    """

    kind: Literal["real"]
    data: str
    layer: Annotated[int, Field(ge=0)]
    widths: list[Annotated[int, Field(ge=1)]] | None = None
    n: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        data, _ = fitting(self.data, self.widths, self.layer)
        if self.n > len(data.target[0]):
            raise MisfitError(("n",), f"{self.n} rows of a target with {len(data.target[0])}; give at most these")
        return self

    def _layers(self) -> tuple[int, ...]:
        return tuple(self.widths or loaded(self.data).widths)

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        widths = self._layers()
        return widths[self.layer + 1], widths[self.layer]

    @property
    def turns(self) -> bool:
        """The network is the same for all replicates, and real inputs have a basis of their own."""
        return False

    def problems(self, study: Study, replicates: int) -> Iterator[LayerProblem]:
        """Yield a problem for each replicate."""
        net, _, (x, y) = pretrained(self.data, self._layers(), study.seed)
        drawing = study.stream("rows", self)
        for _ in range(replicates):
            rows = drawing.permutation(len(x))[: self.n]
            yield LayerProblem(net, self.layer, Moments.from_data(x[rows], y[rows]))


@dataclass(frozen=True)
class IncrementRow:
    """One bin of one method's histogram; all but ``left`` to ``density_se`` is the same in all bins.

    Means are over the replicates of a cell, with standard errors (``_se``). Trained entries are those that the method
    may move; the others are exactly zero.

    Attributes:
        method: name of the method.
        selection: how channels or entries are chosen; None where there is nothing to choose.
        size: rank, number of channels or of entries; 0 where the method has none.
        parameters: how many are trained.
        view: "all": all entries, in units of the root mean square entry of full fine-tuning on the same replicate;
            "trained": trained entries, in these units; "own": all entries, in units of their own root mean square;
            "shape": trained entries, in units of their own.
        left, right: ends of the bin, in these units.
        density: share of the entries in the bin, over its width. What lies beyond the last bin counts as entries.
        zeros: share of exactly zero entries.
        rms: root mean square of all entries, in units of full fine-tuning's.
        rms_trained: the same of the trained ones.
        near: share of all entries below a tenth of full fine-tuning's root mean square.
        near_trained: of the trained ones.
        kurtosis: mean fourth power of all entries over their squared mean square; 3 for a Gaussian.
        kurtosis_trained: of the trained ones. Zeros alone make a peak: with a share f of the entries trained, kurtosis
            = kurtosis_trained / f.
        rank: effective rank of the trained part, (sum s^2)^2 / sum s^4 over its singular values; None
            if it is no matrix.
        untrained: share of the entries that are not trained; where inputs are always zero, ``zeros`` is larger.
        predicted_kurtosis_trained: mean over the replicates of what the singular values of each say, see ``turned``;
            None where directions are not random.
        kurtosis_gap: kurtosis_trained less its prediction, replicate by replicate; None without one.
    """

    method: str
    selection: str | None
    size: int
    parameters: int
    view: str
    left: float
    right: float
    density: float
    density_se: float
    zeros: float
    zeros_se: float
    rms: float
    rms_se: float
    rms_trained: float
    rms_trained_se: float
    near: float
    near_se: float
    near_trained: float
    near_trained_se: float
    kurtosis: float
    kurtosis_se: float
    kurtosis_trained: float
    kurtosis_trained_se: float
    rank: float | None
    rank_se: float | None
    untrained: float
    predicted_kurtosis_trained: float | None
    kurtosis_gap: float | None
    kurtosis_gap_se: float | None


class IncrementStudy(Study):
    """Histograms of the entries of the update, a row a bin, for every method on the same replicates.

    Attributes:
        problem: where updates come from.
        methods: what is compared.
        bins: of equal width.
        reach: the bins go from ``-reach`` to ``reach``.
        replicates: problems, or splits of the data.
    """

    Row: ClassVar[type] = IncrementRow
    aside: ClassVar[tuple[str, ...]] = ("methods",)

    problem: Annotated[Gaussian | Real, Field(discriminator="kind")]
    methods: Choices
    bins: Annotated[int, Field(ge=1)] = 61
    reach: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    replicates: Annotated[int, Field(ge=2)] = 50

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for i, choice in enumerate(self.methods):
            choice.check(*self.problem.shape, ("methods", i))
        return self

    def run(self) -> list[IncrementRow]:
        """Return a row for each method, size, view and bin.

        Raises:
            LinnetError: a method moves nothing, or not all replicates have a solution.
        """
        edges = np.linspace(-self.reach, self.reach, self.bins + 1)
        found: dict[tuple[int, int], list[dict[str, Any]]] = {}
        about: dict[tuple[int, int], dict[str, Any]] = {}
        choosing = [self.stream("choice", self.problem, choice) for choice in self.methods]
        for problem in self.problem.problems(self, self.replicates):
            unit = _rms(FullFT().solve(problem).delta, "full FT")
            for i, choice in enumerate(self.methods):
                selection = getattr(choice, "by", None)
                # Channels that a score picks are no random ones: theirs are directions of their own.
                turns = self.problem.turns and selection in (None, "first", "random")
                for size in choice.sizes():
                    method = choice.of_size(size, problem, choosing[i])
                    measured = measure(method, problem, choice.label(), unit, edges, turns=turns)
                    found.setdefault((i, size), []).append(measured)
                    about[i, size] = {
                        "method": choice.label(),
                        "selection": selection,
                        "size": size,
                        "parameters": method.n_parameters(problem),
                    }
        return [row for key, each in found.items() for row in rows(about[key], each, edges)]


def measure(
    method: Method, problem: LayerProblem, name: str, unit: float, edges: np.ndarray, *, turns: bool
) -> dict[str, Any]:
    """Return what one update's entries are like, and its histograms by the name of the view.

    Args:
        method: solved on the problem.
        problem: one layer.
        name: for messages.
        unit: root mean square entry of full fine-tuning.
        edges: of the bins.
        turns: whether problem and choice of channels have the same law in every basis.

    Raises:
        LinnetError: nothing moves.
    """
    delta = np.asarray(method.solve(problem).delta)
    own = _rms(delta, name)
    part = trained(method, problem, delta)
    own_trained = _rms(part, name)
    kurtosis = float(np.mean((part / own_trained) ** 4))
    values: dict[str, Any] = {
        "zeros": float(np.mean(delta == 0)),
        "rms": own / unit,
        "rms_trained": own_trained / unit,
        "near": float(np.mean(np.abs(delta) < NEAR * unit)),
        "near_trained": float(np.mean(np.abs(part) < NEAR * unit)),
        "kurtosis": float(np.mean((delta / own) ** 4)),
        "kurtosis_trained": kurtosis,
        "untrained": 1 - part.size / delta.size,
    }
    if part.ndim == 2:
        powers = np.linalg.svd(part, compute_uv=False) ** 2
        values["rank"] = float(np.sum(powers) ** 2 / np.sum(powers**2))
        if turns:
            values["predicted_kurtosis_trained"] = turned(values["rank"], *part.shape)
            values["kurtosis_gap"] = kurtosis - values["predicted_kurtosis_trained"]
    for view, entries in zip(VIEWS, (delta / unit, part / unit, delta / own, part / own_trained), strict=True):
        values[view] = np.histogram(entries, edges)[0] / entries.size / np.diff(edges)
    return values


def turned(rank: float, rows: int, columns: int) -> float:
    """Return the mean kurtosis of the entries of a matrix whose singular bases are Haar, given its singular values.

    A row of each basis is uniform on a sphere, with E u_k^4 = 3 E u_k^2 u_l^2 = 3 / (m (m + 2)). Summed over the
    singular values that is 3 (1 + 2 / rank) m n / ((m + 2) (n + 2)): 3 for many alike, 9 for one.

    Args:
        rank: (sum s^2)^2 / sum s^4.
        rows: m.
        columns: n.
    """
    return 3 * (1 + 2 / rank) * rows * columns / ((rows + 2) * (columns + 2))


def trained(method: Method, problem: LayerProblem, delta: np.ndarray) -> np.ndarray:
    """Return the entries of ``delta`` that the method may move: a matrix if they form one, else a vector."""
    if isinstance(method, S2FT):
        moved = np.asarray(method.channels)
        return delta[moved] if method.form == "rows" else delta[:, moved]
    mask = getattr(method, "mask", None)
    return delta if mask is None else delta[mask]


def rows(about: dict[str, Any], each: list[dict[str, Any]], edges: np.ndarray) -> Iterator[IncrementRow]:
    """Yield the rows of one method: the means of ``each`` replicate, a row for each view and bin."""
    columns = dict(about)
    for name in each[0]:
        if name not in VIEWS:
            mean, error = mean_and_error(np.array([values[name] for values in each]))
            columns |= (
                {name: mean} if name.startswith(("predicted", "untrained")) else {name: mean, f"{name}_se": error}
            )
    for name in ("rank", "rank_se", "predicted_kurtosis_trained", "kurtosis_gap", "kurtosis_gap_se"):
        columns.setdefault(name, None)
    for view in VIEWS:
        density = np.array([values[view] for values in each])
        for j in range(density.shape[1]):
            mean, error = mean_and_error(density[:, j])
            ends: dict[str, Any] = {"left": float(edges[j]), "right": float(edges[j + 1])}
            yield IncrementRow(view=view, density=mean, density_se=error, **ends, **columns)


def _rms(a: np.ndarray, name: str) -> float:
    size = float(np.sqrt(np.mean(np.asarray(a) ** 2)))
    if not size > 0:
        raise LinnetError(f"{name} moves nothing here, so that its entries have no unit; give another task or layer")
    return size
