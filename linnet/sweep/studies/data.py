"""One layer of a network that was pre-trained on real data, fine-tuned on others."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from linnet import datasets
from linnet.errors import DataError, MaskedWarning
from linnet.network import DeepLinearNetwork
from linnet.problem import LayerProblem
from linnet.risk import expected_risk
from linnet.sweep.choices import Choices
from linnet.sweep.study import MisfitError, Study, mean_and_error
from linnet.task import Moments, Regression

HELD = 3
"""One in so many of the source's rows is held out, to see what is forgotten."""


@dataclass(frozen=True)
class ErrorRow:
    """Means over the splits of a cell, with their standard errors (``_se``); errors are mean squared errors.

    Splits of one data set overlap: the standard errors speak of other splits of these data, not of other data.

    Attributes:
        method: name of the method.
        selection: how channels or entries are chosen; None where there is nothing to choose.
        size: rank, number of channels or of entries; 0 where the method has none.
        parameters: how many are trained.
        risk_in: on rows of the target that were not trained on, in squared units of y.
        risk_out: on rows of the source that the network was not pre-trained on.
        pretrained_in, pretrained_out: the same of the pre-trained network.
        gain: pretrained_in - risk_in on the same rows.
        forgetting: risk_out - pretrained_out on the same rows.
        training: on the rows that were trained on.
        norm, nuclear: Frobenius and nuclear norm of the layer's update.
        solved: splits that have a solution.
    """

    method: str
    selection: str | None
    size: int
    parameters: int
    risk_in: float
    risk_in_se: float
    risk_out: float
    risk_out_se: float
    pretrained_in: float
    pretrained_in_se: float
    pretrained_out: float
    pretrained_out_se: float
    gain: float
    gain_se: float
    forgetting: float
    forgetting_se: float
    training: float
    training_se: float
    norm: float
    norm_se: float
    nuclear: float
    nuclear_se: float
    solved: int


class DataStudy(Study):
    """Errors of every method on a real data set under a shift.

    The network is pre-trained by gradient flow on two thirds of the source. Each replicate splits the target anew:
    ``n`` rows to train on, and a half that is never trained on in that replicate to judge by.

    Attributes:
        data: name of the data set, see ``linnet.datasets``.
        layer: that is fine-tuned, from 0.
        widths: of the network; the data set's own by default.
        methods: what is compared.
        n: rows of the target to train on; at most half of them.
        replicates: splits.
    """

    Row: ClassVar[type] = ErrorRow
    aside: ClassVar[tuple[str, ...]] = ("methods",)

    data: str
    layer: Annotated[int, Field(ge=0)]
    widths: list[Annotated[int, Field(ge=1)]] | None = None
    methods: Choices
    n: Annotated[int, Field(ge=1)]
    replicates: Annotated[int, Field(ge=2)] = 50

    @model_validator(mode="after")
    def _fits(self) -> Self:
        data, widths = fitting(self.data, self.widths, self.layer)
        half = len(data.target[0]) // 2
        if self.n > half:
            raise MisfitError(
                ("n",),
                f"{self.data} has {half} rows to train on, half of the target's, not {self.n}; give 1 to {half}",
            )
        for i, choice in enumerate(self.methods):
            choice.check(widths[self.layer + 1], widths[self.layer], ("methods", i))
        return self

    def layers(self) -> tuple[int, ...]:
        """Return the widths of the network."""
        return tuple(self.widths or loaded(self.data).widths)

    def run(self) -> list[ErrorRow]:
        """Return a row for each method and size."""
        net, held, target = pretrained(self.data, self.layers(), self.seed)
        splitting = self.stream("split", self.data, self.n)
        orders = np.argsort(splitting.random((self.replicates, len(target[0]))), axis=1)
        train, judge = orders[:, : self.n], orders[:, len(target[0]) // 2 :]
        problem = LayerProblem(net, self.layer, Moments.from_data(*(a[train] for a in target)))
        inside = Moments.from_data(*(a[judge] for a in target))
        start_in, start_out = expected_risk(net, inside), expected_risk(net, held)
        rows = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MaskedWarning)  # counted in the rows
            for several in self.methods:
                for size, choice in several.alone():
                    method = choice.of_size(size, problem, self.stream("choice", self.data, self.n, choice))
                    update = method.solve(problem)
                    tuned = net.updated(update)
                    lost = np.isnan(update.delta).any(axis=(-2, -1))
                    singular = np.linalg.svd(np.nan_to_num(update.delta), compute_uv=False)
                    risk_in, risk_out = expected_risk(tuned, inside), expected_risk(tuned, held)
                    values = {
                        "risk_in": risk_in,
                        "risk_out": risk_out,
                        "pretrained_in": start_in,
                        "pretrained_out": np.full(self.replicates, start_out),
                        "gain": start_in - risk_in,
                        "forgetting": risk_out - start_out,
                        "training": problem.risk(update),
                        "norm": np.sqrt(np.sum(singular**2, axis=-1)),
                        "nuclear": np.sum(singular, axis=-1),
                    }
                    columns: dict[str, Any] = {}
                    for name, value in values.items():
                        kept = np.where(lost, np.nan, value)
                        columns[name], columns[f"{name}_se"] = mean_and_error(kept)
                    rows.append(
                        ErrorRow(
                            method=choice.label(),
                            selection=getattr(choice, "by", None),
                            size=size,
                            parameters=method.n_parameters(problem),
                            solved=int(np.sum(~lost)),
                            **columns,
                        )
                    )
        return rows


def fitting(name: str, given: list[int] | None, layer: int) -> tuple[datasets.Shifted, tuple[int, ...]]:
    """Return a data set and the widths of a network for it, the given ones or its own.

    Raises:
        MisfitError: there is no such data set, or the widths or the layer do not fit it.
    """
    try:
        data = loaded(name)
    except DataError as err:
        raise MisfitError(("data",), str(err)) from None
    widths = tuple(given or data.widths)
    p, q = data.widths[0], data.widths[-1]
    if len(widths) < 2 or (widths[0], widths[-1]) != (p, q):
        raise MisfitError(("widths",), f"{name} has {p} inputs and {q} outputs; give [{p}, ..., {q}]")
    if layer >= len(widths) - 1:
        what = f"layer {layer} of a network with {len(widths) - 1}"
        raise MisfitError(("layer",), f"{what}; layers count from 0; give 0 to {len(widths) - 2}")
    return data, widths


@lru_cache(maxsize=8)
def loaded(name: str) -> datasets.Shifted:
    """Return the data set, standardised by all of its source; read once a process."""
    return datasets.load(name)


@lru_cache(maxsize=8)
def pretrained(
    name: str, widths: tuple[int, ...], seed: int
) -> tuple[DeepLinearNetwork, Moments, tuple[np.ndarray, np.ndarray]]:
    """Return the pre-trained network, the moments of what is held out of the source, and the target.

    Cells of one seed share all three; columns are in units of the rows that the network was pre-trained on.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(name), *name.encode()]))
    raw = datasets.load(name, standardise=False)
    order = rng.permutation(len(raw.source[0]))
    cut = len(order) - len(order) // HELD
    seen, held = np.sort(order[:cut]), np.sort(order[cut:])
    data = raw.standardised(seen) if raw.mixed_units else raw
    x, y = data.source
    task = Regression.from_data(x[seen], y[seen])
    net = DeepLinearNetwork.pretrained(list(widths), task, rng=rng, tolerance=data.tolerance)
    return net, Moments.from_data(x[held], y[held]), data.target
