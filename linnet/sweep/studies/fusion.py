"""Two adapters of one network, trained apart and added: what is left of what each had learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from linnet.finite_sample import expectation
from linnet.methods.base import Method
from linnet.methods.full import FullFT
from linnet.methods.lora import LoRA
from linnet.methods.s2ft import S2FT
from linnet.network import DeepLinearNetwork
from linnet.problem import LayerProblem, Update
from linnet.risk import excess_risk
from linnet.sweep.parts import Network, NonNegative, Task, population
from linnet.sweep.study import MisfitError, Study, mean_and_error
from linnet.task import Regression, Shift


@dataclass(frozen=True)
class FusionRow:
    """One method at one weight: means over the replicates of a cell, with standard errors (``_se``).

    Risks are excess risks in squared units of y, each the mean of two: on task A and on task B.

    Attributes:
        method: "full FT"; "LoRA"; "S2FT, overlap": both adapters on the first channels; "S2FT, disjoint": B's on the
            next ones.
        size: rank or number of channels of each adapter; 0 for full fine-tuning.
        parameters: how many are trained, by each.
        weight: w of W + w (delta_A + delta_B); the mean of the best ones for ``chosen`` "best".
        chosen: "given", or "best": the weight of least mean risk on the two populations, found for each replicate.
        pretrained: risk before.
        alone: risk of each adapter on its own task.
        fused: risk of the fused network.
        loss: fused - alone.
        kept: (pretrained - fused) / (pretrained - alone): the share of the gain that fusion leaves, of the means.
        predicted_alone, predicted_fused: by theory, exact; None where it does not say.
    """

    method: str
    size: int
    parameters: int
    weight: float
    weight_se: float
    chosen: str
    pretrained: float
    alone: float
    alone_se: float
    fused: float
    fused_se: float
    loss: float
    loss_se: float
    kept: float
    predicted_alone: float | None
    predicted_fused: float | None


class FusionStudy(Study):
    """Fusion of two adapters that were trained on independent samples of two tasks.

    On the whitened inputs of one law, let T_A and T_B be what the tasks ask for, and let both adapters be trained on
    the population and on the same weights. With P the projector on what these can say, they are P T_A and P T_B, and
    fused at weight w the mean risk is the pre-trained one less w (1 - w) |P (T_A + T_B)|^2: at w = 1 nothing is left.

    The tasks have the same network, size, spectrum and noise. Cells that agree on ``network``, ``task``, ``where``,
    ``alike``, ``inputs`` and ``seed``, and on ``channels`` if tasks live in these, speak of the same two tasks.

    Attributes:
        network: the pre-trained network.
        task: both tasks; ``task.channels`` says how many outputs of the layer each of them moves, unless they move all
            of them, by default as many as an adapter of S2FT has.
        where: outputs of the layer that the residuals move: all ("anywhere"), A's the first ones and B's the next
            ("disjoint"), or both the first ones ("same").
        alike: correlation of the two residuals, in the mean over problems: B's is A's times this, and a part drawn
            independently; then it gets its size.
        inputs: whether the two tasks share the "same" law of the inputs, or each draws its "own": the eigenvectors of
            their covariances, which matters if ``task.inputs`` is above 0.
        channels: s, of S2FT. LoRA's rank is the one that comes nearest to as many parameters.
        weights: w, of the two adapters.
        n: size of either sample; ``inf`` for the populations.
        replicates: independent pairs of samples; of populations there is one.
    """

    Row: ClassVar[type] = FusionRow
    aside: ClassVar[tuple[str, ...]] = ("weights",)

    network: Network
    task: Task = Task()
    where: Literal["anywhere", "disjoint", "same"] = "anywhere"
    alike: Annotated[float, Field(ge=-1, le=1)] = 0.0
    inputs: Literal["same", "own"] = "own"
    channels: Annotated[int, Field(ge=1)]
    weights: list[NonNegative] = Field(default_factory=lambda: [0.5, 1.0], min_length=1)
    n: float = math.inf
    replicates: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.n >= 1 or (self.n != math.inf and self.n != int(self.n)):
            raise MisfitError(("n",), "give a whole number of samples, at least 1, or inf for the population")
        d_out = self.network.d_out
        if 2 * self.channels > d_out:
            raise MisfitError(
                ("channels",), f"{self.channels} channels for each of two disjoint adapters; the layer has {d_out}"
            )
        if self.where == "anywhere" and self.task.channels is not None:
            raise MisfitError(
                ("task", "channels"), 'tasks that live "anywhere" have no channels; leave them out, or change "where"'
            )
        if self.where == "disjoint" and 2 * self._rows() > d_out:
            raise MisfitError(
                ("task", "channels"), f"{self._rows()} channels for each of two disjoint tasks; the layer has {d_out}"
            )
        if self.where == "disjoint" and self.network.layer == len(self.network.widths) - 2:
            raise MisfitError(
                ("network", "layer"), "the last layer's channels are the outputs; give a layer with one above it"
            )
        if self.task.size == 0 and self.task.beyond == 0:
            raise MisfitError(
                ("task", "size"), "nothing to learn, so that there is nothing to lose; give a size above 0"
            )
        try:
            self._task().check(self.network)
        except MisfitError as err:
            raise MisfitError(("task", *err.place), str(err)) from None
        return self

    def _rows(self) -> int:
        """Return how many outputs of the layer a task moves."""
        return self.network.d_out if self.where == "anywhere" else self.task.channels or self.channels

    def _task(self) -> Task:
        return self.task.model_copy(update={"channels": None if self.where == "anywhere" else self._rows()})

    def tasks(self) -> tuple[DeepLinearNetwork, Regression, Regression]:
        """Return the network, task A and task B."""
        net, layer = self.network.draw(self.stream("network", self.network)), self.network.layer
        task = self._task()
        first = task.draw(net, layer, self.stream("A", self.network, task))
        # To the same network with its channels in another order the next ones are the first.
        turned = _turned(net, layer, self._rows()) if self.where == "disjoint" else net
        second = task.draw(turned, layer, self.stream("B", self.network, task))
        cov = first.signal_cov if self.inputs == "same" else second.signal_cov
        own, new = first.coef - net.product, second.coef - net.product
        mixed = self.alike * own + math.sqrt(1 - self.alike**2) * new
        size = math.sqrt((task.size**2 + task.beyond**2) / float(np.trace(mixed @ cov @ mixed.T)))
        return net, first, Regression(net.product + size * mixed, cov, second.noise_cov)

    def run(self) -> list[FusionRow]:
        """Return a row for each method and weight, and one for its best weight."""
        net, *tasks = self.tasks()
        layer = self.network.layer
        drawing = self.stream("sample", self.network, self._task(), self.where, self.alike, self.inputs, self.n)
        if self.n == math.inf:
            problems = [population(net, layer, task) for task in tasks]
        else:
            drawn = [task.sample_moments(int(self.n), rng=drawing, batch=(self.replicates,)) for task in tasks]
            problems = [LayerProblem(net, layer, moments) for moments in drawn]
        start = float(np.mean([excess_risk(net, task) for task in tasks]))
        rows = []
        for name, size, pair in self.methods():
            deltas = [np.asarray(m.solve(p).delta) for m, p in zip(pair, problems, strict=True)]
            alone = _mean_risk(net, layer, deltas, tasks)
            both = [deltas[0] + deltas[1]] * 2

            def fused(weight: Any, both: list[np.ndarray] = both) -> np.ndarray:
                weight = np.asarray(weight)[..., None, None]
                return _mean_risk(net, layer, [weight * delta for delta in both], tasks)

            said = self.predicted(net, tasks, pair)
            for weight, chosen in [*((w, "given") for w in self.weights), (best_weight(start, fused), "best")]:
                risk = fused(weight)
                columns: dict[str, Any] = {}
                of_weight = np.broadcast_to(np.asarray(weight), risk.shape)
                for label, value in {"weight": of_weight, "alone": alone, "fused": risk, "loss": risk - alone}.items():
                    columns[label], columns[f"{label}_se"] = mean_and_error(np.atleast_1d(value))
                exact = said is not None and (chosen == "given" or self.n == math.inf)
                rows.append(
                    FusionRow(
                        method=name,
                        size=size,
                        parameters=pair[0].n_parameters(problems[0]),
                        chosen=chosen,
                        pretrained=start,
                        kept=(start - columns["fused"]) / (start - columns["alone"]),
                        predicted_alone=None if said is None else said[0],
                        predicted_fused=said[1](columns["weight"]) if said is not None and exact else None,
                        **columns,
                    )
                )
        return rows

    def methods(self) -> list[tuple[str, int, tuple[Method, Method]]]:
        """Return (name, size, the two adapters' methods)."""
        s, d_out, d_in = self.channels, self.network.d_out, self.network.d_in
        rank = min(max(1, round(s * d_in / (d_out + d_in))), d_out, d_in)
        lora, first = LoRA(rank, ties="first"), S2FT(range(s))
        return [
            ("full FT", 0, (FullFT(), FullFT())),
            ("LoRA", rank, (lora, lora)),
            ("S2FT, overlap", s, (first, first)),
            ("S2FT, disjoint", s, (first, S2FT(range(s, 2 * s)))),
        ]

    def predicted(
        self, net: DeepLinearNetwork, tasks: list[Regression], pair: tuple[Method, Method]
    ) -> tuple[float, Callable[[float], float]] | None:
        """Return what theory expects of the adapters alone, and fused, by weight; None where it does not say.

        Of populations that is their closed form. On samples of full fine-tuning and S2FT an adapter is the population's
        in the mean, and the two are independent, so that on task A fusion costs the populations' fused risk and w^2
        times the variances of both adapters' outputs on A's inputs. ``expectation`` has both: that of A's adapter as
        its variance, that of B's as what it adds to the risk on a task with A's inputs.
        """
        layer = self.network.layer
        truths = [population(net, layer, task) for task in tasks]
        deltas = [np.asarray(m.solve(p).delta) for m, p in zip(pair, truths, strict=True)]

        def fused(weight: float) -> float:
            return float(_mean_risk(net, layer, [weight * (deltas[0] + deltas[1])] * 2, tasks))

        alone = float(_mean_risk(net, layer, deltas, tasks))
        if self.n == math.inf:
            return alone, fused
        if isinstance(pair[0], LoRA) or self.n < self.network.d_in + 2:
            return None
        own, strays = 0.0, 0.0
        for i, (method, truth) in enumerate(zip(pair, truths, strict=True)):
            shift = Shift(tasks[i], Regression(tasks[1 - i].coef, tasks[1 - i].signal_cov))
            said = expectation(method, truth, shift, int(self.n))
            if said is None:
                return None
            own += said.variance / 2
            strays += (said.test - excess_risk(net.updated(Update(deltas[i], layer)), shift.test)) / 2
        return alone + own, lambda weight: fused(weight) + weight**2 * (own + strays)


def best_weight(start: float, fused: Callable[[Any], np.ndarray]) -> np.ndarray:
    """Return the weight of least fused risk: a quadratic in it, known by its values at -1, 0 (``start``) and 1."""
    ahead, behind = fused(1.0), fused(-1.0)
    bend = ahead + behind - 2 * start
    return np.where(bend > 0, (behind - ahead) / (2 * np.where(bend > 0, bend, 1.0)), 0.0)


def _mean_risk(net: DeepLinearNetwork, layer: int, deltas: list[np.ndarray], tasks: list[Regression]) -> np.ndarray:
    """Return the mean over the tasks of the excess risk with each one's delta, over the batch of these."""
    risks = [excess_risk(net.updated(Update(delta, layer)), task) for delta, task in zip(deltas, tasks, strict=True)]
    return np.mean(np.stack([np.asarray(risk) for risk in risks]), axis=0)


def _turned(net: DeepLinearNetwork, layer: int, by: int) -> DeepLinearNetwork:
    """Return the same map with the outputs of ``layer`` in another order: the one at ``by`` comes first."""
    weights = list(net.weights)
    weights[layer] = np.roll(weights[layer], -by, axis=-2)
    weights[layer + 1] = np.roll(weights[layer + 1], -by, axis=-1)
    return DeepLinearNetwork(tuple(weights))
