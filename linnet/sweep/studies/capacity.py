"""How far increments of the layers move the output of a deep network, beside the bounds that are stated for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from linnet.network import haar
from linnet.sweep.study import MisfitError, Study, mean_and_error

Activation = Literal["identity", "relu", "tanh"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

DECADES = 100.0
"""Powers of ten that the layers of a network may span together: squares of what comes out must be finite."""

ROUNDING = 1e-9
"""A bound counts as violated where the displacement exceeds it by more than this, relatively."""


@dataclass(frozen=True)
class CapacityRow:
    """Means over the networks of a cell, with standard errors (``_se``).

    Displacements and bounds are those of |f(x) - f_0(x)| / |x|, the largest over x; spectral norms throughout.

    Attributes:
        displacement: the largest that the search found: a lower bound of the truth, with an input that attains it.
        exact: the truth for the identity, the spectral norm of the difference of the products; None otherwise.
        printed: liu2025, eq. (6), with the least M.
        product: liu2025, eq. (29).
        bound: the first bound of ``linnet/capacity``, by the norms of the tuned layers.
        bound_norms: the second one, by the norms of weights and increments alone.
        ratio_printed, ratio_product, ratio_bound: displacement over ``printed``, ``product`` and ``bound``.
        violated, violated_product, violated_bound: the share of networks whose displacement exceeds the bound.
    """

    displacement: float
    displacement_se: float
    exact: float | None
    exact_se: float | None
    printed: float
    printed_se: float
    product: float
    product_se: float
    bound: float
    bound_se: float
    bound_norms: float
    bound_norms_se: float
    ratio_printed: float
    ratio_printed_se: float
    ratio_product: float
    ratio_product_se: float
    ratio_bound: float
    ratio_bound_se: float
    violated: float
    violated_se: float
    violated_product: float
    violated_product_se: float
    violated_bound: float
    violated_bound_se: float


class CapacityStudy(Study):
    """The largest displacement of random networks by increments of their layers.

    f_0(x) = s(W_N ... s(W_1 x)) and f the same with W_k + Phi_k; all layers are width x width. Cells that differ in
    nothing but activation, ``norm``, ``tilt``, ``strength`` and ``layer`` have the same matrices up to scale.

    Attributes:
        activation: s, 1-Lipschitz and 0 at 0.
        depth: N.
        width: of all layers.
        weights: "gaussian"; "orthogonal", all singular values equal; or "permutation", which on inputs without
            negative entries the ReLU does not notice.
        norm: geometric mean of the spectral norms |W_k|.
        tilt: |W_N| / |W_1|; the norms between are a geometric sequence.
        increments: "random" (Gaussian); "rank one", u v^T in random directions; or "aligned", multiples of W_k.
        strength: |Phi_k| / |W_k|.
        layer: the only one that is tuned, from 0; all by default.
        replicates: networks.
        draws: random inputs for each network.
        starts: the best of them, from which the search ascends.
        steps: of each ascent.

    Source: liu2025, Theorem 2, eq. (6), (29) and the remark after it.
    """

    Row: ClassVar[type] = CapacityRow

    activation: Activation
    depth: Count
    width: Count = 16
    weights: Literal["gaussian", "orthogonal", "permutation"] = "gaussian"
    norm: Positive = 1.0
    tilt: Positive = 1.0
    increments: Literal["random", "rank one", "aligned"] = "random"
    strength: Positive = 0.1
    layer: Annotated[int, Field(ge=0)] | None = None
    replicates: Count = 32
    draws: Count = 128
    starts: Count = 8
    steps: Annotated[int, Field(ge=0)] = 100

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.layer is not None and self.layer >= self.depth:
            raise MisfitError(("layer",), f"layer {self.layer} of a network with {self.depth}; layers count from 0")
        if self.starts > self.draws:
            raise MisfitError(("starts",), f"{self.starts} starts out of {self.draws} draws; give at most as many")
        decades = sum(abs(math.log10(m)) + math.log10(1 + self.strength) for m in self.norms())
        if decades > DECADES:
            raise MisfitError(
                ("norm",),
                f"the layers together span {decades:.0f} powers of ten, and what comes out would overflow or vanish; "
                f"keep depth, norm, tilt and strength so small that it is at most {DECADES:.0f}",
            )
        return self

    def norms(self) -> list[float]:
        """Return |W_k|, from the first layer."""
        places = [k / (self.depth - 1) - 0.5 if self.depth > 1 else 0.0 for k in range(self.depth)]
        return [float(self.norm * self.tilt**place) for place in places]

    def networks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and increments, each (depth, replicates, width, width)."""
        shape = (self.depth, self.replicates, self.width, self.width)
        about = (self.depth, self.width, self.replicates, self.weights)
        weights = self._directions(self.weights, shape, self.stream("weights", *about))
        if self.increments == "aligned":
            increments = weights
        else:
            increments = self._directions(self.increments, shape, self.stream("increments", *about, self.increments))
        size = np.array(self.norms())[:, None, None, None]
        tuned = np.ones(self.depth) if self.layer is None else np.arange(self.depth) == self.layer
        return size * weights, self.strength * size * tuned[:, None, None, None] * increments

    @staticmethod
    def _directions(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Return random matrices of spectral norm 1."""
        *batch, n, _ = shape
        if kind == "orthogonal":
            return haar(n, rng, tuple(batch))
        if kind == "permutation":
            return np.eye(n)[np.argsort(rng.random((*batch, n)), axis=-1)]
        if kind == "rank one":
            u, v = rng.normal(size=(2, *batch, n))
            return _unit(u)[..., :, None] * _unit(v)[..., None, :]
        drawn = rng.normal(size=shape)
        return drawn / _norm(drawn)[..., None, None]

    def run(self) -> list[CapacityRow]:
        """Return the one row of the cell."""
        weights, increments = self.networks()
        tuned = weights + increments
        found = largest_displacement(
            weights,
            tuned,
            self.activation,
            draws=self.draws,
            starts=self.starts,
            steps=self.steps,
            rng=self.stream("search"),
        )
        values = {"displacement": found, **bounds(_norm(weights), _norm(increments), _norm(tuned))}
        for name, bound in (("printed", "violated"), ("product", "violated_product"), ("bound", "violated_bound")):
            values[f"ratio_{name}"] = found / values[name]
            values[bound] = (found > values[name] * (1 + ROUNDING)).astype(float)
        if self.activation == "identity":
            values["exact"] = _norm(_product(tuned) - _product(weights))
        columns: dict[str, Any] = {"exact": None, "exact_se": None}
        for name, value in values.items():
            columns[name], columns[f"{name}_se"] = mean_and_error(value)
        assert set(columns) == {f.name for f in fields(CapacityRow)}
        return [CapacityRow(**columns)]


def bounds(weights: np.ndarray, increments: np.ndarray, tuned: np.ndarray) -> dict[str, np.ndarray]:
    """Return the bounds of |f(x) - f_0(x)| / |x|, each (...), for activations of Lipschitz constant 1.

    Args:
        weights: norms of W_k, (depth, ...).
        increments: norms of Phi_k.
        tuned: norms of W_k + Phi_k.

    Source: liu2025, eq. (6) ("printed") and (29) ("product"); docs/proofs/capacity.md ("bound", "bound_norms").
    """
    depth = len(weights)
    most = weights.max(axis=0)
    return {
        "printed": sum_of(most ** (depth - 1 - k) * increments[k] for k in range(depth)),
        "product": sum_of(weights[k + 1 :].prod(axis=0) * increments[k] for k in range(depth)),
        "bound": sum_of(tuned[k + 1 :].prod(axis=0) * increments[k] * weights[:k].prod(axis=0) for k in range(depth)),
        # The difference of the products as the sum that it telescopes from: nothing cancels.
        "bound_norms": sum_of(
            (weights + increments)[k + 1 :].prod(axis=0) * increments[k] * weights[:k].prod(axis=0)
            for k in range(depth)
        ),
    }


def largest_displacement(
    weights: np.ndarray,
    tuned: np.ndarray,
    activation: Activation,
    *,
    draws: int,
    starts: int,
    steps: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the largest |f(x) - f_0(x)| / |x| that a search finds for each network, (replicates,).

    Of ``draws`` random inputs the best ``starts`` ascend by conjugate gradients with Jacobians in closed form; each
    has a step size of its own, which grows as long as steps succeed. Inputs stay on the unit sphere where the ratio
    does not depend on their length; for tanh their length is searched too.

    Args:
        weights: W_k, (depth, replicates, d, d).
        tuned: W_k + Phi_k.
        activation: of all layers.
        draws: inputs to begin with.
        starts: the best of these, from which to climb.
        steps: of each climb.
        rng: draws the inputs.
    """
    both = np.stack([weights, tuned], axis=1)
    replicates, width = weights.shape[1], weights.shape[-1]
    x = _unit(rng.normal(size=(replicates, width, draws)), axis=-2)
    shortest = longest = 1.0
    if activation == "tanh":
        # So short that nothing saturates, up to so long that the first layer does.
        gain = max(1.0, float(np.max(np.cumprod(_norm(both), axis=0))))
        shortest, longest = 1e-3 / gain, 10.0
        x *= np.exp(rng.uniform(math.log(shortest), math.log(longest), size=(replicates, 1, draws)))
    best = np.argsort(-_ascent(both, activation, x)[0], axis=-1, kind="stable")[:, :starts]
    x = np.take_along_axis(x, best[:, None, :], axis=-1)
    ratio, slope = _ascent(both, activation, x)
    way, step = slope, np.ones_like(ratio)
    for _ in range(steps):
        tried = x + step[:, None, :] * way
        length = np.linalg.norm(tried, axis=-2, keepdims=True)
        tried = np.where(length > 0, tried, x)  # from where tanh saturates, the way up may lead to the origin
        length = np.where(length > 0, length, 1.0)
        tried *= np.clip(length, shortest, longest) / length
        ratio_there, slope_there = _ascent(both, activation, tried)
        better = ratio_there > ratio
        kept = np.sum(slope_there * (slope_there - slope), axis=-2) / np.maximum(np.sum(slope**2, axis=-2), 1e-300)
        onwards = slope_there + np.maximum(kept, 0.0)[:, None, :] * way
        uphill = np.sum(onwards * slope_there, axis=-2) > 0
        onwards = np.where(uphill[:, None, :], onwards, slope_there)
        # What failed goes back to steepest ascent, with a shorter step.
        x = np.where(better[:, None, :], tried, x)
        way = np.where(better[:, None, :], onwards, slope)
        slope = np.where(better[:, None, :], slope_there, slope)
        ratio = np.where(better, ratio_there, ratio)
        step = np.where(better, 1.5 * step, 0.3 * step)
    return np.asarray(ratio.max(axis=-1))


def _ascent(both: np.ndarray, activation: Activation, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return |f(x) - f_0(x)| / |x|, (replicates, k), and |x|^2 times the gradient of its logarithm, as ``x``.

    Args:
        both: frozen and tuned weights, (depth, 2, replicates, d, d).
        activation: of all layers.
        x: inputs as columns, (replicates, d, k).
    """
    state, slopes = x, []
    for w in both:
        state = w @ state
        if activation == "relu":
            slopes.append(state > 0)
            state = np.maximum(state, 0.0)
        elif activation == "tanh":
            state = np.tanh(state)
            slopes.append(1.0 - state**2)
    moved = state[1] - state[0]
    back = np.stack([-moved, moved])
    for k in reversed(range(len(both))):
        back = np.swapaxes(both[k], -1, -2) @ (back * slopes[k] if slopes else back)
    square, length = np.sum(moved**2, axis=-2), np.sum(x**2, axis=-2)
    moves = square > 0  # where nothing moves there is no way up
    pulled = back.sum(axis=0) * (length / np.where(moves, square, 1.0))[:, None, :]
    return np.sqrt(square / length), np.where(moves[:, None, :], pulled - x, 0.0)


def sum_of(terms: Any) -> np.ndarray:
    """Return the sum of arrays."""
    return np.asarray(sum(terms))


def _product(layers: np.ndarray) -> np.ndarray:
    """Return the product of layers (depth, ..., d, d), the last one first."""
    out = layers[0]
    for w in layers[1:]:
        out = w @ out
    return np.asarray(out)


def _norm(a: np.ndarray) -> np.ndarray:
    """Return spectral norms."""
    return np.asarray(np.linalg.norm(a, 2, axis=(-2, -1)))


def _unit(v: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(v / np.linalg.norm(v, axis=axis, keepdims=True))
