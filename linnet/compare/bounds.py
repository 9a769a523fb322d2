"""The stated bounds that apply to a comparison, with their slack: claims, evaluated on the user's data."""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict

from linnet._linalg import outer
from linnet.network import DeepLinearNetwork
from linnet.task import Moments
from linnet.trials import Layer
from linnet.trials.algebra import FloatMatrix, ranks_by_policy
from linnet.trials.claim import installed_claims
from linnet.trials.evaluate import comparisons_at


class Bound(BaseModel):
    """A stated bound on these data.

    Attributes:
        id: the claim, as ``linnet show`` knows it.
        part: which of the claim's inequalities, from 1, if it has several.
        statement: in one line.
        observed: the bounded quantity.
        stated: the bound.
        slack: ``stated - observed``, 0 within rounding; negative where the bound fails.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    part: int | None
    statement: str
    observed: float
    stated: float
    slack: float


def bounds_that_apply(
    net: DeepLinearNetwork, layer: int, train: Moments, test: Moments, channels: np.ndarray, rank: int
) -> list[Bound]:
    """Return the upper bounds whose hypotheses these data meet, the two samples taken as populations.

    Every installed claim about a layer with relation ``<=`` is asked, but for those that the ledger refutes. Of
    what else such a claim states, lower bounds and equalities, nothing is returned.

    Args:
        net: the pre-trained network on standardised data.
        layer: the fine-tuned layer, from 0.
        train: moments of the standardised training set.
        test: moments of the test set in the same units.
        channels: rows of S2FT at the budget, by gradient, (s,).
        rank: of LoRA.
    """
    view = Layer.view(_as_instance(net, layer, train, test, channels, rank))
    out = []
    for claim in installed_claims().values():
        if claim.setting is not Layer or claim.relation != "<=" or claim.replaced_by is not None:
            continue
        with ranks_by_policy():
            sides = comparisons_at(claim, view)
        statement = " ".join(claim.statement.split("\n\n")[0].split())
        for i, (observed, relation, stated) in enumerate(sides):
            if relation != "<=" or not (math.isfinite(observed) and math.isfinite(stated)):
                continue
            slack = stated - observed
            rounding = 1e-12 * max(abs(observed), abs(stated))
            out.append(
                Bound(
                    id=claim.id,
                    part=i + 1 if len(sides) > 1 else None,
                    statement=statement,
                    observed=observed,
                    stated=stated,
                    slack=0.0 if abs(slack) <= rounding else slack,
                )
            )
    return out


def _as_instance(
    net: DeepLinearNetwork, layer: int, train: Moments, test: Moments, channels: np.ndarray, rank: int
) -> dict[str, object]:
    """Write the problem as a linear one through the origin, on inputs (x, 1).

    The papers have neither means nor biases. With a constant input the frozen layers below are one matrix
    [lower, offset], second moments about zero are covariances, and what the biases from the layer upwards
    add is taken off the targets of both tasks: all risks stay what they are.
    """
    upper, weight, lower = net.upper(layer), net.weights[layer], net.lower(layer)
    below = net.offset_below(layer)
    below = np.zeros(lower.shape[0]) if below is None else below
    offset = np.zeros(upper.shape[0]) if net.offset is None else net.offset
    constant = offset - upper @ (weight @ below)
    p, q = lower.shape[1], upper.shape[0]

    def coef_and_cov(m: Moments) -> tuple[np.ndarray, np.ndarray]:
        xm = np.zeros(p) if m.x_mean is None else m.x_mean
        ym = np.zeros(q) if m.y_mean is None else m.y_mean
        cov = np.block([[m.xx, xm[:, None]], [xm[None, :], np.ones((1, 1))]])
        yx = np.concatenate([m.yx - outer(constant, xm), (ym - constant)[:, None]], axis=1)
        return yx @ np.linalg.pinv(cov, hermitian=True), cov

    (coef_train, cov_train), (coef_test, cov_test) = coef_and_cov(train), coef_and_cov(test)
    matrices = {
        "coef_train": coef_train,
        "coef_test": coef_test,
        "cov_train": cov_train,
        "cov_test": cov_test,
        "x": np.zeros((p + 1, 1)),
        "noise": np.zeros((q, 1)),
    }
    chain = [np.concatenate([lower, below[:, None]], axis=1), weight, upper]
    return {
        "weights": [FloatMatrix(w[None]) for w in chain],
        "layer": 1,
        "rank": rank,
        "channels": [int(c) for c in channels],
        **{k: FloatMatrix(v[None]) for k, v in matrices.items()},
    }
