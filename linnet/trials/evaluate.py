"""Both sides of a claim at many instances in float64."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.errors import ClaimError, IllPosedError
from linnet.trials.algebra import Matrix
from linnet.trials.claim import Claim, Comparison, Hypothesis

HYPOTHESIS_TOLERANCE = 1e-9
"""Relative: how well a batch in float64 must meet an equality that is a hypothesis. Exactness decides later."""

SUSPECT = 1e-9
"""Margin in float64 from which an instance is a suspect; of a strict relation also at equality."""

DOUBT = 100 * SUSPECT
"""A violation in float64 above this that exact arithmetic can neither confirm nor clear leaves a claim undecided."""

ROUNDING = 1e-2
"""A violation in float64 above this is not rounding, even where a search for the worst rounding has ended."""

SCALE_FLOOR = 1e-3
"""Sides smaller than this share of the instance's own scale are compared on that scale: below it, rounding rules."""

RATIO_FLOOR = 100 * SUSPECT * SCALE_FLOOR
"""Stated sides below this share of the scale have no ratio: rounding would be more than a hundredth of it."""


@dataclass(frozen=True)
class Batch:
    """A claim at a batch of instances, (count,) each.

    Attributes:
        valid: whether the instance meets the hypotheses and both sides have a value.
        margin: signed violation over the scale; positive means that the claim fails there.
        suspect: whether some relation may fail there, which exact arithmetic must decide.
        ratios: of each bound, (bounds, count): observed over stated where both are non-negative and stated is
            well above rounding, else NaN; 1 where the relation is broken by no more than rounding.
        ratio: of the bound that comes closest to being broken.
        empty: whether both sides are zero (0/0), counted apart.
        drives: of each comparison, (comparisons, count), what a search should raise: grows with the ratio, stays
            informative on both sides of 1.
    """

    valid: np.ndarray
    margin: np.ndarray
    suspect: np.ndarray
    ratios: np.ndarray
    ratio: np.ndarray
    empty: np.ndarray
    drives: np.ndarray


def evaluate(claim: Claim, view: Any, hypotheses: Sequence[Hypothesis], count: int) -> Batch:
    """Evaluate a claim in float64 at a batch of ``count`` instances."""
    with np.errstate(all="ignore"):
        scale = _spread(view.scale, count)
        valid = np.isfinite(scale)
        for h in hypotheses:
            for c in h.comparisons(view):
                valid &= _meets(c, scale, count)
        margin = np.full(count, -np.inf)
        ratios: list[np.ndarray] = []
        empty = np.ones(count, dtype=bool)
        suspect = np.zeros(count, dtype=bool)
        drives: list[np.ndarray] = []
        for c in claim.comparisons(view):
            violation, size, observed, stated = _sides(c, count)
            unit = scale if c.scale is None else _spread(c.scale, count)
            m = violation / np.maximum(size, SCALE_FLOOR * unit + np.finfo(float).tiny)
            valid &= np.isfinite(m)
            margin = np.fmax(margin, m)
            suspect |= m > (-SUSPECT if c.relation in ("<", ">") else SUSPECT)
            drives.append(violation / (np.abs(observed) + np.abs(stated) + SCALE_FLOOR * unit + 1e-300))
            if c.relation == claim.relation != "==":  # the ratio belongs to the relation that the claim is known by
                tiny = 1e-12 * unit
                zero = (np.abs(observed) <= tiny) & (np.abs(stated) <= tiny)
                r = np.where((observed >= 0) & (stated > RATIO_FLOOR * unit), observed / stated, np.nan)
                r = np.where((m > 0) & (m <= SUSPECT) & np.isfinite(r), 1.0, r)
                ratios.append(r)
                empty &= zero
            elif c.relation == "==":
                empty &= False
    valid &= np.isfinite(margin)
    each = np.where(valid, np.array(ratios).reshape(len(ratios), count), np.nan)
    tighter = np.fmax if claim.relation in ("<=", "<") else np.fmin
    return Batch(
        valid=valid,
        margin=margin,
        suspect=suspect & valid,
        ratios=each,
        ratio=tighter.reduce(each, axis=0, initial=np.nan),
        empty=empty & valid,
        drives=np.where(valid & ~np.isnan(drives), drives, -np.inf),
    )


def comparisons_at(claim: Claim, view: Any) -> list[tuple[float, str, float]]:
    """Return (observed, relation, stated) for each comparison of numbers at one instance in float64.

    Nothing is returned where the hypotheses do not hold, or a side has no value.
    """
    batch = evaluate(claim, view, claim.hypotheses, 1)
    if not batch.valid[0]:
        return []
    sides = [(np.ravel(c.observed), c.relation, np.ravel(c.stated)) for c in claim.comparisons(view)]
    return [(float(a[0]), relation, float(b[0])) for a, relation, b in sides]


def _spread(x: Any, count: int) -> np.ndarray:
    if not isinstance(x, np.ndarray | numbers.Real):
        raise ClaimError(f"a side is a {type(x).__name__}; a number of the view or a matrix is needed")
    return np.broadcast_to(np.asarray(x, dtype=float), (count,)).copy()


def _sides(c: Comparison, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return signed violation, size of the sides, and the two sides as numbers (norms of matrices)."""
    if isinstance(c.observed, Matrix) or isinstance(c.stated, Matrix):
        if c.relation != "==":
            raise IllPosedError(f"matrices compared by {c.relation}; only == is defined for them")
        if not (isinstance(c.observed, Matrix) and isinstance(c.stated, Matrix)):
            raise IllPosedError("a matrix compared with a number; compare its norm, or two matrices")
        if c.observed.shape != c.stated.shape:
            raise IllPosedError(f"a {c.observed.shape} matrix compared with a {c.stated.shape} one")
        gap = _spread(np.sqrt((c.observed - c.stated).sq()), count)
        a, b = (_spread(np.sqrt(x.sq()), count) for x in (c.observed, c.stated))
        return gap, np.maximum(a, b), a + gap, a
    a, b = _spread(c.observed, count), _spread(c.stated, count)
    violation = np.abs(a - b) if c.relation == "==" else a - b if c.relation in ("<=", "<") else b - a
    return violation, np.maximum(np.abs(a), np.abs(b)), a, b


def _meets(c: Comparison, scale: np.ndarray, count: int) -> np.ndarray:
    """Whether a hypothesis holds in float64, with room for rounding."""
    violation, size, _, _ = _sides(c, count)
    # An inequality is met by its own sides: the instance's scale would let a rank of 1 pass for one of 3.
    unit = size if c.relation in ("<=", ">=") else np.maximum(size, SCALE_FLOOR * scale)
    tolerance = HYPOTHESIS_TOLERANCE * unit
    if c.relation in ("<", ">"):  # a strict hypothesis is met with room to spare, so that noise does not meet it
        return violation < -tolerance
    return violation <= tolerance
