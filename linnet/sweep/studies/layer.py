"""One layer of a network, fine-tuned on samples of a shifted Gaussian regression."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from linnet.errors import MaskedWarning
from linnet.finite_sample import Expectation
from linnet.methods import Method
from linnet.network import DeepLinearNetwork
from linnet.problem import LayerProblem
from linnet.risk import excess_risk
from linnet.sweep.choices import Choices
from linnet.sweep.parts import Moved, Network, Task, population
from linnet.sweep.study import MisfitError, Study, mean_and_error
from linnet.task import Regression, Shift

BLOCK = 100_000
"""Entries of the widest layer, over a block of replicates: SpFT, the greediest, squares its share of them."""


@dataclass(frozen=True)
class RiskRow:
    """Means over the replicates of a cell, with standard errors (``_se``).

    Risks are excess risks, in squared units of y.

    Attributes:
        method: name of the method.
        selection: how channels or entries are chosen; None where there is nothing to choose.
        size: rank, number of channels or of entries; 0 where the method has none.
        parameters: how many are trained.
        risk_in, risk_out: in- and out-of-distribution excess risk of the sample's solution.
        pretrained_in, pretrained_out: those of the pre-trained network.
        bias: in-distribution excess risk of the population's solution, over the random choices of the method.
        variance: mean square distance between the sample's and the population's outputs.
        forgetting: out-of-distribution excess risk, less the pre-trained network's.
        training: mean squared error on the sample itself, noise included.
        norm, nuclear: Frobenius and nuclear norm of the layer's update.
        predicted_in, predicted_out, predicted_variance: what theory expects; None where it does not say.
        prediction: "exact", or "first" order in 1/n; None without.
        solved: replicates that have a solution; the means are theirs.
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
    pretrained_out: float
    bias: float
    bias_se: float
    variance: float
    variance_se: float
    forgetting: float
    forgetting_se: float
    training: float
    training_se: float
    norm: float
    norm_se: float
    nuclear: float
    nuclear_se: float
    predicted_in: float | None
    predicted_out: float | None
    predicted_variance: float | None
    prediction: str | None
    solved: int


class LayerStudy(Study):
    """Risks of every method over samples of one size.

    Cells of equal ``network``, ``task``, ``shift`` and ``seed`` speak of the same problem, whatever their noise, and
    those of equal noise, ``n`` and ``replicates`` of the same samples, whichever methods they compare.

    Attributes:
        network, task, shift: the problem, drawn once from the seed.
        methods: what is compared.
        n: size of a sample; ``inf`` for the population.
        replicates: independent samples; what methods choose at random is drawn anew for each.
    """

    Row: ClassVar[type] = RiskRow
    aside: ClassVar[tuple[str, ...]] = ("methods",)

    network: Network
    task: Task = Task()
    shift: Moved = Moved()
    methods: Choices
    n: float = math.inf
    replicates: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.n >= 1 or (self.n != math.inf and self.n != int(self.n)):
            raise MisfitError(("n",), "give a whole number of samples, at least 1, or inf for the population")
        for i, choice in enumerate(self.methods):
            choice.check(self.network.d_out, self.network.d_in, ("methods", i))
        for name in ("task", "shift"):
            try:
                getattr(self, name).check(self.network)
            except MisfitError as err:
                raise MisfitError((name, *err.place), str(err)) from None
        return self

    def problem(self) -> tuple[DeepLinearNetwork, Shift]:
        """Return the cell's network and its tasks."""
        net = self.network.draw(self.stream("network", self.network))
        quiet = self.task.model_copy(update={"noise": 0.0})
        train = self.task.draw(net, self.network.layer, self.stream("task", self.network, quiet))
        where = self.stream("shift", self.network, quiet, self.shift)
        return net, self.shift.draw(train, net, self.network.layer, where)

    def run(self) -> list[RiskRow]:
        """Return a row for each method and size."""
        net, shift = self.problem()
        truth = population(net, self.network.layer, shift.train)
        found: dict[tuple[int, int], list[dict[str, np.ndarray]]] = {}
        about: dict[tuple[int, int], dict[str, Any]] = {}
        drawing = self.stream("sample", self.network, self.task, self.n)
        compared = [(i, *alone) for i, choice in enumerate(self.methods) for alone in choice.alone()]
        choosing = [self.stream("choice", self.network, self.task, self.n, choice) for _, _, choice in compared]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MaskedWarning)  # counted in the rows
            for count in self._blocks():
                problem = self._sample(net, shift.train, count, drawing)
                for (i, size, choice), rng in zip(compared, choosing, strict=True):
                    method = choice.of_size(size, problem, rng)
                    found.setdefault((i, size), []).append(measure(method, problem, truth, shift))
                    if (i, size) not in about:
                        about[i, size] = {
                            "method": choice.label(),
                            "selection": getattr(choice, "by", None),
                            "size": size,
                            "parameters": method.n_parameters(problem),
                            **predicted(choice.expected(size, method, truth, shift, self.n)),
                        }
        start = {
            "pretrained_in": float(excess_risk(net, shift.train)),
            "pretrained_out": float(excess_risk(net, shift.test)),
        }
        return [row(about[key] | start, blocks) for key, blocks in found.items()]

    def _blocks(self) -> Iterator[int]:
        """Yield numbers of replicates that fit into memory together, whichever methods there are.

        What is drawn depends on the blocks, and must not depend on who is compared.
        """
        block = max(1, BLOCK // max(self.network.widths) ** 2)
        for start in range(0, self.replicates, block):
            yield min(block, self.replicates - start)

    def _sample(self, net: DeepLinearNetwork, task: Regression, count: int, rng: np.random.Generator) -> LayerProblem:
        if self.n == math.inf:
            return population(net, self.network.layer, task, (count,))
        return LayerProblem(net, self.network.layer, task.sample_moments(int(self.n), rng=rng, batch=(count,)))


def measure(method: Method, problem: LayerProblem, truth: LayerProblem, shift: Shift) -> dict[str, np.ndarray]:
    """Return what one method's solutions of a batch of samples are worth, each (replicates,)."""
    net, task = problem.net, shift.train
    update = method.solve(problem)
    tuned = net.updated(update)
    best = truth.net.updated(method.solve(truth))
    outputs = Regression(coef=best.product, signal_cov=task.signal_cov)
    singular = np.linalg.svd(np.nan_to_num(update.delta), compute_uv=False)
    lost = np.isnan(update.delta).any(axis=(-2, -1))
    out = excess_risk(tuned, shift.test)
    values = {
        "risk_in": excess_risk(tuned, task),
        "risk_out": out,
        "bias": np.asarray(excess_risk(best, task)),
        "variance": excess_risk(tuned, outputs),
        "forgetting": out - excess_risk(truth.net, shift.test),
        "training": problem.risk(update),
        "norm": np.sqrt(np.sum(singular**2, axis=-1)),
        "nuclear": np.sum(singular, axis=-1),
    }
    return {name: np.where(lost, np.nan, value) for name, value in values.items()}


def predicted(said: Expectation | None) -> dict[str, Any]:
    """Return what theory expects as columns of ``RiskRow``."""
    if said is None:
        return {"predicted_in": None, "predicted_out": None, "predicted_variance": None, "prediction": None}
    return {
        "predicted_in": _number(said.train),
        "predicted_out": _number(said.test),
        "predicted_variance": _number(said.variance),
        "prediction": said.order,
    }


def row(about: dict[str, Any], blocks: list[dict[str, np.ndarray]]) -> RiskRow:
    """Return the means over all blocks as a row."""
    columns = dict(about)
    for name in blocks[0]:
        values = np.concatenate([np.atleast_1d(block[name]) for block in blocks])
        columns[name], columns[f"{name}_se"] = mean_and_error(values)
        columns["solved"] = int(np.sum(~np.isnan(values)))
    assert set(columns) == {f.name for f in fields(RiskRow)}
    return RiskRow(**columns)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
