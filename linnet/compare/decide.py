"""Which method to take: a rule stated before the numbers are seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from linnet.compare.records import Estimate, Recommendation

Compare = Callable[[str | None, str | None], Estimate]
"""(a, b) -> paired estimate of risk(a) - risk(b); None is the pre-trained network."""

LEVEL = 0.05
RULE = (
    "Rule: the method of least estimated risk is taken if every other's paired difference to it exceeds c standard "
    "errors, c the two-sided 5 % point of Student's t, Bonferroni-corrected for the comparisons made (all other "
    "methods and the pre-trained network); else there is no clear winner. Overall: only if both distributions agree."
)


def critical(comparisons: int, freedom: int) -> float:
    """Return how many standard errors a difference must exceed to count among so many comparisons."""
    return float(stdtrit(freedom, 1 - LEVEL / (2 * max(comparisons, 1))))


def recommend(
    distribution: Literal["in", "out"],
    scope: Literal["any size", "within budget"],
    names: Sequence[str],
    risk: Callable[[str], float],
    compare: Compare,
    freedom: int,
) -> Recommendation:
    """Apply the rule to the candidates ``names``, at least one; of those with equal losses the first is the best."""
    least = min(names, key=risk)
    best = next(name for name in names if name == least or is_zero(compare(name, least)))
    c = critical(len(names), freedom)
    gaps = {name: compare(name, best) for name in names if name != best}
    ranked = sorted(gaps, key=lambda name: gaps[name].value)
    close = tuple(name for name in ranked if not beyond(gaps[name], c))
    gain = compare(None, best)
    return Recommendation(
        distribution=distribution,
        scope=scope,
        method=None if close else best,
        best=best,
        not_separated=(best, *close) if close else (),
        runner_up=ranked[0] if ranked else None,
        lead=gaps[ranked[0]] if ranked else None,
        tuning_gain=gain,
        tuning_helps=bool(np.sign(gain.value) > 0) if beyond(gain, c) else None,
        critical=c,
    )


def overall(inside: Recommendation, outside: Recommendation) -> Recommendation:
    """Return the method that wins on both distributions, if there is one."""
    agreed = inside.method is not None and inside.method == outside.method
    return Recommendation(distribution="overall", scope=inside.scope, method=inside.method if agreed else None)


def is_zero(gap: Estimate) -> bool:
    """Return whether two predictors have the same losses, sample by sample."""
    return gap.value == 0 and gap.se == 0


def beyond(gap: Estimate, c: float) -> bool:
    """Return whether a difference is more than ``c`` standard errors from zero; an exact zero never is."""
    return abs(gap.value) > c * gap.se
