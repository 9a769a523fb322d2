"""How closely a bound is attained along the family of instances that its claim constructs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from linnet.errors import ClaimError
from linnet.trials.claim import Claim
from linnet.trials.exact import Exact, InexactError
from linnet.trials.judge import judge

STEPS = (10, 10**2, 10**3, 10**4)
"""Values of the family's parameter."""


def attained(claim: Claim) -> tuple[float | None, dict[str, Any] | None]:
    """Return the ratio that comes closest along the family, and the first instance of it that breaks the claim.

    Raises:
        ClaimError: the family leaves the hypotheses, or cannot be judged.
    """
    if claim.extremal is None:
        return None, None
    worst: float | None = None
    pick = max if claim.relation in ("<=", "<") else min
    for t in STEPS:
        instance = claim.setting.given(claim.extremal(Fraction(t)))
        view = claim.setting.view(instance)
        found = judge(claim, view, claim.hypotheses)
        if found.finding == "violated":
            return worst, instance
        if found.finding != "met":
            raise ClaimError(f"{claim.id}: its extremal family at t = {t} is {found.finding}: {found.reason}")
        for c in claim.comparisons(view):
            if c.relation != claim.relation:
                continue
            try:
                observed, stated = float(Exact.of(c.observed)), float(Exact.of(c.stated))
            except InexactError:
                continue
            if stated > 0 and observed >= 0:
                worst = observed / stated if worst is None else pick(worst, observed / stated)
    return worst, None
