"""Increments of trained weights: their singular values, what truncating them costs, and how their entries are spread.

Theorem 3 of liu2025 cuts the increment of full fine-tuning to rank r and bounds what that costs by L times the root of
the energy that is cut off. Its L is no constant of the loss (``liu2025/eq-35`` is refuted); what stands for it here is
the largest gradient found on the way from the cut increment to the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linnet.errors import ArgumentError, NonFiniteError, RankError, ShapeError
from linnet.llm.objective import Objective
from linnet.llm.vectors import dot, flat, norm

Increments = Mapping[str, Tensor]
"""What training added to weights, by the name of the parameter."""


# --- singular values ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one layer's increment.

    Attributes:
        name: of the parameter.
        values: (min(d_out, d_in),), the largest first.
    """

    name: str
    values: np.ndarray

    @property
    def tails(self) -> np.ndarray:
        """Energy that a cut to rank r discards, sum of squares beyond r, for r = 0, 1, ..., (len + 1,).

        Source: liu2025, eq. (33).
        """
        return np.concatenate([np.cumsum(self.values[::-1] ** 2)[::-1], [0.0]])

    @property
    def curve(self) -> np.ndarray:
        """Share of the energy that a cut to rank r keeps, for r = 0, 1, ..., (len + 1,); 1 where there is none."""
        return 1 - self.tails / self.tails[0] if self.tails[0] > 0 else np.ones(len(self.tails))

    @property
    def effective_rank(self) -> float:
        """(sum s^2)^2 / sum s^4: r for r equal singular values; 0 for an increment of zero."""
        powers = self.values**2
        return float(powers.sum() ** 2 / np.sum(powers**2)) if powers.any() else 0.0

    def critical_rank(self, epsilon: float) -> int:
        """Return r_c, the least rank beyond which the energy is below ``epsilon``.

        Raises:
            ArgumentError: epsilon is not above 0.

        Source: liu2025, eq. (34).
        """
        return critical_rank([self], epsilon)


def spectra(increments: Increments) -> list[Spectrum]:
    """Return the singular values of every increment that is a matrix, in double precision.

    Raises:
        ArgumentError: none is.
        NonFiniteError: an increment has NaN or infinite entries.
    """
    found = [
        Spectrum(name, torch.linalg.svdvals(_finite(name, increment).double()).cpu().numpy())
        for name, increment in increments.items()
        if increment.ndim == 2
    ]
    if not found:
        raise ArgumentError("no increment is a matrix; give those of the linear layers")
    return found


def critical_rank(layers: Sequence[Spectrum], epsilon: float) -> int:
    """Return the least rank beyond which the energy of all layers together is below ``epsilon``.

    Raises:
        ArgumentError: epsilon is not above 0: no energy is below it; or no layer.

    Source: liu2025, eq. (34).
    """
    if not layers:
        raise ArgumentError("no layer, and so no rank; give the spectra of at least one")
    if not epsilon > 0:
        raise ArgumentError(f"epsilon = {epsilon}; give a number above 0: eq. (34) asks for energy below it")
    tails = np.zeros(max(len(layer.tails) for layer in layers))
    for layer in layers:
        tails[: len(layer.tails)] += layer.tails
    return int(np.argmax(tails < epsilon))


def truncated(increments: Increments, rank: int) -> dict[str, Tensor]:
    """Return the best approximation of rank ``rank`` of every increment; what is no matrix stays.

    Where singular values tie, the ones that the decomposition returns first are kept.

    Raises:
        RankError: a negative rank.
        NonFiniteError: an increment has NaN or infinite entries.

    Source: liu2025, eq. (33).
    """
    return {name: _cut(_factors(name, increment), rank) for name, increment in increments.items()}


def _factors(name: str, increment: Tensor) -> tuple[Tensor, ...]:
    """Return left singular vectors times singular values, and right ones; or what is no matrix, alone."""
    if increment.ndim != 2:
        return (increment.detach(),)
    u, s, vt = torch.linalg.svd(_finite(name, increment).double(), full_matrices=False)
    return (u * s).to(increment), vt.to(increment)


def _cut(factors: tuple[Tensor, ...], rank: int) -> Tensor:
    if rank < 0:
        raise RankError(f"rank {rank}; give a whole number >= 0")
    return factors[0] if len(factors) == 1 else factors[0][:, :rank] @ factors[1][:rank]


# --- what a rank costs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """What it costs to cut all increments to one rank.

    Attributes:
        rank: r.
        parameters: of the cut increments as factors, sum of r (d_out + d_in), at most all entries of each.
        energy: epsilon, what is discarded of all increments together.
        loss: with the cut increments.
        cost: loss(cut) - loss(whole).
        slope: L, the largest length of the gradient at the ``points`` on the segment. The true largest is no smaller.
        bound: L epsilon^(1/2). With the true largest slope it bounds |cost|; with this one, ``bound + gap`` does.
        half: |gradient at the cut| epsilon^(1/2) / 2, the bound of ``linnet/rank-returns``: proved of a layer's
            quadratic at its optimum, no bound in general.
        straight: <mean of the gradients at both ends, cut - whole>: the cost itself if the loss is quadratic.
        integral: the mean over the segment in its place, from all points: Simpson's rule where their number is odd, the
            trapezoid rule otherwise.
        gap: |integral - cost|: what happens between the points, and rounding of the losses.

    Source: liu2025, Theorem 3, eq. (34) to (36); docs/proofs/rank-returns.md.
    """

    rank: int
    parameters: int
    energy: float
    loss: float
    cost: float
    slope: float
    bound: float
    half: float
    straight: float
    integral: float
    gap: float


def cuts(objective: Objective, increments: Sequence[Tensor], ranks: Sequence[int], *, points: int = 5) -> list[Cut]:
    """Return what cutting all increments to each rank costs.

    Args:
        objective: in the weights, at the frozen weights theta_0: no ``g``.
        increments: Delta* of each weight of the objective.
        ranks: to cut to.
        points: on the segment from the cut increments to the whole ones, ends included; each costs a gradient.

    Raises:
        ArgumentError: the objective has a ``g``, or fewer than two points.
        ShapeError: the increments do not fit the objective's weights.
        RankError: a negative rank.
    """
    if objective.g is not None or points < 2:
        raise ArgumentError("cuts need the objective in the weights, without g, and at least two points")
    if [tuple(t.shape) for t in increments] != [tuple(t.shape) for t in objective.point]:
        raise ShapeError(
            f"increments of shapes {[tuple(t.shape) for t in increments]} for weights of shapes "
            f"{[tuple(t.shape) for t in objective.point]}"
        )
    factors = [_factors(f"weight {i}", increment) for i, increment in enumerate(increments)]
    whole = flat(list(increments)).to(objective.like)
    best, slope_there = objective.value(whole), objective.gradient(whole)
    weights = np.linspace(0.0, 1.0, points)
    found = []
    for rank in ranks:
        cut = flat([_cut(pair, rank) for pair in factors]).to(objective.like)
        way = whole - cut
        lengths, along = [], []
        for t in weights:
            slope = objective.gradient(cut + t * way) if t < 1 else slope_there
            lengths.append(norm(slope))
            along.append(dot(slope, way))
        loss, energy = objective.value(cut), dot(way, way)
        integral = -float(np.dot(_rule(points), along))
        cost = loss - best
        found.append(
            Cut(
                rank,
                sum(min(rank * sum(t.shape), t.numel()) if t.ndim == 2 else t.numel() for t in increments),
                energy,
                loss,
                cost,
                max(lengths),
                max(lengths) * math.sqrt(energy),
                lengths[0] * math.sqrt(energy) / 2,
                -(along[0] + along[-1]) / 2,
                integral,
                abs(integral - cost),
            )
        )
    return found


def _rule(points: int) -> np.ndarray:
    """Return the weights of Simpson's rule on [0, 1] for an odd number of points, of the trapezoid otherwise."""
    if points % 2:
        inner = np.where(np.arange(points) % 2, 4.0, 2.0)
        inner[[0, -1]] = 1.0
        return inner / (3 * (points - 1))
    out = np.full(points, 1.0)
    out[[0, -1]] = 0.5
    return out / (points - 1)


# --- entries --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peak:
    """How sharply the entries of an increment are peaked at zero.

    Attributes:
        name: of the parameter, or "all".
        entries: how many.
        rms: root mean square.
        largest: of their sizes.
        kurtosis: mean fourth power over the squared mean square; 3 for a Gaussian, None where nothing moved. Zeros
            alone make a peak.
        kurtosis_trained: of the entries that are not zero.
        near: share of the entries within ``share`` of the largest.
        zeros: share of exactly zero entries.

    Source: liu2025, Figure 1, has histograms; these numbers of them are ours.
    """

    name: str
    entries: int
    rms: float
    largest: float
    kurtosis: float | None
    kurtosis_trained: float | None
    near: float
    zeros: float


def peaks(increments: Increments, *, share: float = 0.01) -> list[Peak]:
    """Return how sharply the entries of each increment are peaked at zero, and those of all together, last.

    Args:
        increments: of at least one weight.
        share: an entry counts as near zero up to this share of the largest.

    Raises:
        ArgumentError: nothing moved, so that its entries have no unit.
        NonFiniteError: an increment has NaN or infinite entries.
    """
    sums = {name: _sums(name, increment) for name, increment in increments.items()}
    sums["all"] = np.sum(list(sums.values()), axis=0) if sums else np.zeros(4)
    if not sums["all"][1] > 0:
        raise ArgumentError("the increments are zero, and their entries have no unit; train first")
    most = {name: float(t.abs().max()) for name, t in increments.items()}
    most["all"] = max(most.values())
    near = {name: _within(t, share * most[name]) for name, t in increments.items()}
    near["all"] = sum(_within(t, share * most["all"]) for t in increments.values())
    return [_peak(name, sums[name], most[name], near[name]) for name in sums]


def _sums(name: str, increment: Tensor) -> np.ndarray:
    """Return number of entries, sums of squares and of fourth powers, and number of zeros."""
    entries = _finite(name, increment).double()
    return np.array([entries.numel(), float((entries**2).sum()), float((entries**4).sum()), int((entries == 0).sum())])


def _within(increment: Tensor, size: float) -> int:
    return int((increment.abs() <= size).sum())


def _peak(name: str, sums: np.ndarray, most: float, near: int) -> Peak:
    entries, squares, fourths, zeros = sums
    kurtosis = float(fourths * entries / squares**2) if squares else None
    return Peak(
        name,
        int(entries),
        math.sqrt(squares / entries),
        most,
        kurtosis,
        None if kurtosis is None else kurtosis * float((entries - zeros) / entries),
        near / float(entries),
        float(zeros / entries),
    )


def _finite(name: str, increment: Tensor) -> Tensor:
    if not bool(torch.isfinite(increment).all()):
        raise NonFiniteError(f"the increment of {name} has NaN or infinite entries; lower the learning rate")
    return increment.detach()
