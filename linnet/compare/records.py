"""What a comparison holds, frozen, and as JSON what ``linnet compare --json`` writes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from linnet.compare.bounds import Bound


class Frozen(BaseModel):
    """A record that does not change, with numbers JSON can hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(Frozen):
    """A mean over samples and its standard error, in the same units."""

    value: float
    se: float


class Side(Frozen):
    """One method on one distribution; risks in training variances of y, summed over the outputs.

    Attributes:
        risk: held-out risk E|y - f(x)|^2.
        excess: risk less that of the best affine map, paired.
        to_best: risk less that of the fine-tuning method of least risk, paired; zero for that method.
        z: ``to_best`` over its standard error; None where both are zero.
    """

    risk: Estimate
    excess: Estimate
    to_best: Estimate
    z: float | None


def in_order(side: Side) -> float:
    """Key by which rows are sorted: what differs by rounding alone stays in the order it came in, cheapest first."""
    return float(f"{side.risk.value:.9g}")


class Row(Frozen):
    """One method, or the pre-trained network.

    Attributes:
        name: the form of the method that was fitted.
        method: its class in ``linnet.methods``; None for the pre-trained network.
        parameters: trained parameters.
        matched: whether they are within one row or column of the layer of the budget.
        affordable: whether they are matched or fewer.
        in_distribution: on held-out folds of the training set.
        out_of_distribution: on the test set.
        forgetting: out-of-distribution risk less that of the pre-trained network, paired.
    """

    name: str
    method: str | None
    parameters: int
    matched: bool
    affordable: bool
    in_distribution: Side
    out_of_distribution: Side
    forgetting: Estimate


class BestAffine(Frozen):
    """Risk of the best affine map, cross-fitted on each distribution."""

    in_distribution: Estimate
    out_of_distribution: Estimate


class Recommendation(Frozen):
    """Which method to take on one distribution, among methods of any size or within the budget.

    Attributes:
        distribution: "in", "out", or "overall" (a method only where both agree).
        scope: "any size", or "within budget": matched or fewer parameters.
        method: the clear winner, or None.
        best: method of least estimated risk, clear or not; None for "overall".
        not_separated: without a clear winner, the methods that the data do not tell from ``best``, it first.
        runner_up: the nearest other method.
        lead: risk of the runner-up less that of ``best``, paired.
        tuning_gain: risk of the pre-trained network less that of ``best``, paired.
        tuning_helps: whether ``tuning_gain`` is beyond error: True, False if it is so below zero, else None.
        critical: number of standard errors that count as beyond error.
    """

    distribution: Literal["in", "out", "overall"]
    scope: Literal["any size", "within budget"]
    method: str | None
    best: str | None = None
    not_separated: tuple[str, ...] = ()
    runner_up: str | None = None
    lead: Estimate | None = None
    tuning_gain: Estimate | None = None
    tuning_helps: bool | None = None
    critical: float | None = None


class Source(Frozen):
    """Where network and data came from."""

    network: str
    train: str
    test: str
    shift: str | None = None


class Comparison(Frozen):
    """All methods on one layer of one network, facing a training set and a shifted test set.

    Attributes:
        linnet, numpy, python: versions.
        source: files or example; None from the library.
        seed: of folds and random choices.
        widths: (p, d_1, ..., q).
        layer: the fine-tuned layer, from 0.
        rank: of LoRA; its parameters, ``rank * (d_out + d_in)``, are the ``budget``.
        n_train, n_test: samples.
        folds: number of folds.
        units, protocol, errors, rule: how to read the numbers, in words.
        notes: what is particular to these data.
        methods: by increasing in-distribution risk.
        pretrained: the network as it was given.
        best_affine: the yardstick of the excess.
        same_predictions: groups of methods whose predictions coincide here.
        recommendations: for each scope: in, out, overall.
        bounds: stated bounds that apply, with their slack.
    """

    linnet: str
    numpy: str
    python: str
    source: Source | None
    seed: int
    widths: tuple[int, ...]
    layer: int
    rank: int
    budget: int
    n_train: int
    n_test: int
    folds: int
    units: str
    protocol: str
    errors: str
    rule: str
    notes: tuple[str, ...]
    methods: tuple[Row, ...]
    pretrained: Row
    best_affine: BestAffine
    same_predictions: tuple[tuple[str, ...], ...]
    recommendations: tuple[Recommendation, ...]
    bounds: tuple[Bound, ...]
