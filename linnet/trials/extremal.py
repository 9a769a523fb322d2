"""How closely a bound is attained: along a family that its claim constructs, or at exact cases of equality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

import numpy as np

from linnet.errors import ClaimError
from linnet.trials.algebra import Instance
from linnet.trials.claim import Claim
from linnet.trials.exact import Exact, InexactError
from linnet.trials.judge import EQUAL, attains, bounds, judge
from linnet.trials.search import Tally
from linnet.trials.shrink import plainness, small_integers

STEPS = (10, 10**2, 10**3, 10**4)
"""Values of the family's parameter."""

NEAR, JUDGED, LARGEST = 1e-9, 12, 2
"""Distance of a ratio from 1 in float64 that asks for exact arithmetic; instances of one shape that get it; their
largest entry.
"""


@dataclass(frozen=True)
class Attained:
    """What was found of each bound, by its place in the claim: how many there are may depend on the shape.

    Attributes:
        ratios: the ratio that comes closest along the claim's family, 1 where a case of equality is known.
        cases: exact instances at which bounds are equalities, with both sides positive.
        broken: an instance of the family that breaks the claim.
    """

    ratios: Mapping[int, float] = field(default_factory=dict)
    cases: Mapping[int, Instance] = field(default_factory=dict)
    broken: Instance | None = None


def along_the_family(claim: Claim) -> Attained:
    """Follow the family that the claim constructs; nothing if it constructs none.

    Raises:
        ClaimError: the family leaves the hypotheses, or cannot be judged.
    """
    if claim.extremal is None:
        return Attained()
    closest: dict[int, float] = {}
    pick = max if claim.relation in ("<=", "<") else min
    for t in STEPS:
        instance = claim.setting.given(claim.extremal(Fraction(t)))
        view = claim.setting.view(instance)
        found = judge(claim, view, claim.hypotheses)
        if found.finding == "violated":
            return Attained(closest, broken=instance)
        if found.finding != "met":
            raise ClaimError(f"{claim.id}: its extremal family at t = {t} is {found.finding}: {found.reason}")
        for i, c in enumerate(bounds(claim, view)):
            try:
                observed, stated = float(Exact.of(c.observed)), float(Exact.of(c.stated))
            except InexactError:
                continue
            if stated > 0 and observed >= 0:
                closest[i] = pick(closest.get(i, observed / stated), observed / stated)
    return Attained(closest)


def cases_of_equality(tally: Tally, shapes: int, per_shape: int, rng: np.random.Generator) -> dict[int, Instance]:
    """Look for the smallest exact instance at which each bound is an equality between positive sides.

    Args:
        tally: of the trial: its claim, its hypotheses, and how many bounds there are.
        shapes: how many of the smallest shapes are visited. per_shape: instances of small integers at each.
        rng: draws them.
    """
    claim, setting = tally.claim, tally.claim.setting
    cases: dict[int, Instance] = {}
    wanted = set(range(len(tally.ratios))) if claim.relation in EQUAL else set()
    probe = Tally(claim, tally.hypotheses)
    for shape in islice(filter(probe.admits, setting.small_shapes()), shapes):
        if not wanted:
            break
        raw = small_integers(setting.parameters(shape), LARGEST, per_shape, rng)
        ratios = probe.look(shape, raw, per_shape).ratios
        for i in sorted(i for i in wanted if i < len(ratios)):
            near = np.nonzero(np.abs(ratios[i] - 1) < NEAR)[0]
            chosen = sorted(({k: v[j] for k, v in raw.items()} for j in near), key=plainness)[:JUDGED]
            for one in chosen:
                instance = setting.exact_instance(shape, {k: v[None] for k, v in one.items()}, 0, probe.imposed)
                if attains(claim, instance, i, tally.hypotheses):
                    cases[i] = instance
                    break
        wanted -= set(cases)
    return cases
