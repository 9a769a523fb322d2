"""Both sides of a claim at many instances in float64, or at one exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from linnet.errors import ClaimError
from linnet.trials.algebra import FloatMatrix, Matrix, UndefinedError
from linnet.trials.claim import Claim, Comparison, Hypothesis, Relation

HYPOTHESIS_TOLERANCE = 1e-9
"""Relative: how well a batch in float64 must meet an equality that is a hypothesis. Exactness decides later."""

SCALE_FLOOR = 1e-6
"""Sides smaller than this share of the instance's own scale are compared on that scale: below it, rounding rules."""


@dataclass(frozen=True)
class Batch:
    """A claim at a batch of instances, (count,) each.

    Attributes:
        valid: whether the instance meets the hypotheses and both sides have a value.
        margin: signed violation over the scale; positive means that the claim fails there.
        ratio: observed over stated where both are non-negative and stated is positive, else NaN.
        empty: whether both sides are zero (0/0), counted apart.
        drive: what a search should raise: grows with ratio, stays informative on both sides of 1.
    """

    valid: np.ndarray
    margin: np.ndarray
    ratio: np.ndarray
    empty: np.ndarray
    drive: np.ndarray


def evaluate(claim: Claim, view: Any, hypotheses: Sequence[Hypothesis], count: int) -> Batch:
    """Evaluate a claim in float64 at a batch of ``count`` instances."""
    with np.errstate(all="ignore"):
        scale = _spread(view.scale, count)
        valid = np.isfinite(scale)
        for h in hypotheses:
            for c in h.comparisons(view):
                valid &= _meets(c, scale, count)
        margin = np.full(count, -np.inf)
        ratio = np.full(count, np.nan)
        empty = np.ones(count, dtype=bool)
        drive = np.full(count, -np.inf)
        for c in claim.comparisons(view):
            violation, size, observed, stated = _sides(c, count)
            m = violation / np.maximum(size, SCALE_FLOOR * scale + np.finfo(float).tiny)
            valid &= np.isfinite(m)
            margin = np.fmax(margin, m)
            drive = np.fmax(drive, violation / (np.abs(observed) + np.abs(stated) + SCALE_FLOOR * scale + 1e-300))
            if c.relation != "==":
                tiny = 1e-12 * scale
                zero = (np.abs(observed) <= tiny) & (np.abs(stated) <= tiny)
                r = np.where((observed >= 0) & (stated > tiny), observed / stated, np.nan)
                ratio = _tighter(ratio, np.where(zero, np.nan, r), c.relation)
                empty &= zero
            else:
                empty &= False
    valid &= np.isfinite(margin)
    return Batch(valid, margin, np.where(valid, ratio, np.nan), empty & valid, np.where(valid, drive, -np.inf))


def _tighter(a: np.ndarray, b: np.ndarray, relation: Relation) -> np.ndarray:
    """The ratio that comes closer to breaking the relation."""
    return np.fmax(a, b) if relation in ("<=", "<") else np.fmin(a, b)


def _spread(x: Any, count: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(x, dtype=float), (count,)).copy()


def _sides(c: Comparison, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return signed violation, size of the sides, and the two sides as numbers (norms of matrices)."""
    if isinstance(c.observed, FloatMatrix) or isinstance(c.stated, FloatMatrix):
        if c.relation != "==":
            raise ClaimError(f"matrices compared by {c.relation}; only == is defined for them")
        if not (isinstance(c.observed, FloatMatrix) and isinstance(c.stated, FloatMatrix)):
            raise ClaimError("a matrix compared with a number; compare its norm, or two matrices")
        if c.observed.shape != c.stated.shape:
            raise ClaimError(f"a {c.observed.shape} matrix compared with a {c.stated.shape} one")
        gap = _spread(np.sqrt((c.observed - c.stated).sq()), count)
        a, b = (_spread(np.sqrt(x.sq()), count) for x in (c.observed, c.stated))
        return gap, np.maximum(a, b), a + gap, a
    a, b = _spread(c.observed, count), _spread(c.stated, count)
    violation = np.abs(a - b) if c.relation == "==" else a - b if c.relation in ("<=", "<") else b - a
    return violation, np.maximum(np.abs(a), np.abs(b)), a, b


def _meets(c: Comparison, scale: np.ndarray, count: int) -> np.ndarray:
    """Whether a hypothesis holds in float64, with room for rounding."""
    violation, size, _, _ = _sides(c, count)
    tolerance = HYPOTHESIS_TOLERANCE * np.maximum(size, SCALE_FLOOR * scale)
    if c.relation in ("<", ">"):  # a strict hypothesis is met with room to spare, so that noise does not meet it
        return violation < -tolerance
    return violation <= tolerance


# --- exactly -------------------------------------------------------------------------------------

Finding = Literal["met", "violated", "outside", "unknown"]
"""At an exact instance: the claim is met, violated, not applicable, or cannot be told."""


@dataclass(frozen=True)
class Judgement:
    """A claim at one exact instance.

    Attributes:
        finding: what is certain of it.
        comparison: the violated comparison, or None.
        reason: for "outside" and "unknown": why.
    """

    finding: Finding
    comparison: Comparison | None = None
    reason: str = ""


def judge(claim: Claim, view: Any, hypotheses: Sequence[Hypothesis]) -> Judgement:
    """Decide a claim at one exact instance, hypotheses first; sharing nothing with ``evaluate``."""
    from linnet.trials.exact import InexactError

    try:
        for h in hypotheses:
            for c in h.comparisons(view):
                verdict = _certain(c)
                if verdict is not True:
                    return Judgement("outside" if verdict is False else "unknown", reason=h.text)
        unsure = False
        for c in claim.comparisons(view):
            verdict = _certain(c)
            if verdict is False:
                return Judgement("violated", c)
            unsure |= verdict is None
    except UndefinedError as err:
        return Judgement("outside", reason=str(err))
    except InexactError as err:
        return Judgement("unknown", reason=str(err))
    return Judgement("unknown" if unsure else "met", reason="the sides agree to all digits computed" if unsure else "")


AGREEMENT = 1e-60
"""Sides whose difference is enclosed within this, relative to them, agree: sixty digits decide."""


def _certain(c: Comparison) -> bool | None:
    """Whether a comparison of exact sides holds; None if it cannot be told."""
    from linnet.trials.exact import agree, compare

    if isinstance(c.observed, Matrix):
        observed, stated = (c.observed - c.stated).sq(), 0
    else:
        observed, stated = c.observed, c.stated
    sign = compare(observed, stated)
    if sign is None:
        # Balls cannot prove equality; for a relation that allows it, sixty digits of it are no violation.
        return True if c.relation in ("==", "<=", ">=") and agree(observed, stated, AGREEMENT) else None
    return {"==": sign == 0, "<=": sign <= 0, ">=": sign >= 0, "<": sign < 0, ">": sign > 0}[c.relation]
