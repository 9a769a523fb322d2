"""A claim at one exact instance: decided by exact arithmetic, in nothing that draws, searches or rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from linnet.errors import ClaimError
from linnet.trials.algebra import Matrix, UndefinedError
from linnet.trials.claim import Claim, Comparison, Hypothesis
from linnet.trials.exact import InexactError, agree, compare

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
    """Decide a claim at one exact instance, hypotheses first."""
    try:
        for h in hypotheses:
            for c in h.comparisons(view):
                verdict = _certain(c, strict=True)
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


EQUAL = ("<=", ">=")
"""Relations of bounds that can be attained."""


def bounds(claim: Claim, view: Any) -> list[Comparison]:
    """The comparisons whose ratios count: those by the relation that the claim is known by."""
    return [c for c in claim.comparisons(view) if c.relation == claim.relation]


def attains(claim: Claim, instance: Any, index: int, hypotheses: Sequence[Hypothesis]) -> bool:
    """Whether a bound is, for certain, an equality of positive numbers at an instance that meets the claim."""
    view = claim.setting.view(instance)
    if claim.relation not in EQUAL or judge(claim, view, hypotheses).finding != "met":
        return False
    found = bounds(claim, view)
    if not 0 <= index < len(found):
        return False
    return compare(found[index].observed, found[index].stated) == 0 and compare(found[index].stated, 0) == 1


AGREEMENT = 1e-60
"""Sides whose difference is enclosed within this, relative to one plus them, agree: sixty digits decide."""


def _certain(c: Comparison, strict: bool = False) -> bool | None:
    """Whether a comparison of exact sides holds; None if it cannot be told.

    Balls cannot prove equality; for a relation that allows it, sixty digits of it are no violation. A
    hypothesis is met only beyond doubt (``strict``).
    """
    observed: Any
    stated: Any
    if isinstance(c.observed, Matrix):
        if c.relation != "==" or not isinstance(c.stated, Matrix):
            raise ClaimError("a matrix can only be compared with a matrix, and only by ==")
        observed, stated = (c.observed - c.stated).sq(), 0
    else:
        observed, stated = c.observed, c.stated
    sign = compare(observed, stated)
    if sign is None:
        close = not strict and c.relation in ("==", "<=", ">=") and agree(observed, stated, AGREEMENT)
        return True if close else None
    return {"==": sign == 0, "<=": sign <= 0, ">=": sign >= 0, "<": sign < 0, ">": sign > 0}[c.relation]
