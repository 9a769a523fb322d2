"""From a violation to the smallest exact counterexample: fewest dimensions, then smallest integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from linnet.trials.algebra import Matrix
from linnet.trials.claim import Claim, Hypothesis
from linnet.trials.exact import Exact, compare
from linnet.trials.judge import judge
from linnet.trials.search import Candidate, Tally
from linnet.trials.settings.base import Raw

TRIED, LOWERED = 24, 5
"""At one small shape: suspects judged exactly for each bound on the entries, and counterexamples lowered."""

Weight = tuple[float, ...]
"""Order of counterexamples of one shape; the smallest is the easiest to read."""


def weigh(claim: Claim, hypotheses: Sequence[Hypothesis], shape: Any, raw: Raw) -> Weight | None:
    """Return the weight of free parameters (no batch axis) that violate the claim for certain, else None.

    In order: a strict relation broken by mere equality; irrational sides; digits behind the point; the
    size of the entries, their maximum, negative ones.
    """
    imposed = frozenset(h.impose for h in hypotheses if h.impose)
    instance = claim.setting.exact_instance(shape, {k: v[None] for k, v in raw.items()}, 0, imposed)
    found = judge(claim, claim.setting.view(instance), hypotheses)
    if found.finding != "violated" or found.comparison is None:
        return None
    sides = (found.comparison.observed, found.comparison.stated)
    if isinstance(sides[0], Matrix):
        sides = ((sides[0] - sides[1]).sq(), 0)
    equal = float(compare(*sides) == 0)
    irrational = float(not all(Exact.of(side).is_rational for side in sides))
    return (equal, irrational, *plainness(raw))


def plainness(raw: Raw) -> Weight:
    """Order of free parameters: digits behind the point, size of the entries, their maximum, negative ones."""
    entries = np.concatenate([v.ravel() for _, v in sorted(raw.items())])
    return (
        float(np.sum(entries != np.round(entries))),
        float(np.sum(np.abs(entries))),
        float(np.max(np.abs(entries), initial=0)),
        float(np.sum(entries < 0)),
    )


def small_integers(
    sizes: Mapping[str, tuple[int, int]], bound: int, count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw matrices with entries from {-bound, ..., bound}, many of them zero."""
    return {
        k: rng.integers(-bound, bound + 1, size=(count, *mn)) * (rng.random((count, *mn)) < 0.7) * 1.0
        for k, mn in sizes.items()
    }


def smallest(tally: Tally, found: Candidate, rng: np.random.Generator, per_shape: int) -> Candidate:
    """Return the smallest counterexample that can be found, at most as large as ``found``.

    Shapes are visited from the smallest; at each, ``per_shape`` instances of small integers are drawn,
    with entries from {-1, 0, 1} and then {-2, ..., 2}. At the first shape with a counterexample, the
    entries of the best few are lowered one by one while the violation stays.
    """
    claim, hypotheses = tally.claim, tally.hypotheses
    setting = claim.setting
    limit = setting.size(found.shape)
    probe = Tally(claim, hypotheses)
    for shape in setting.small_shapes():
        if setting.size(shape) > limit:
            break
        if not probe.admits(shape):
            continue
        hits: list[tuple[Weight, Raw]] = []
        for bound in (1, 2):
            raw = small_integers(setting.parameters(shape), bound, per_shape, rng)
            batch = probe.look(shape, raw, per_shape)
            suspects = [{k: v[i] for k, v in raw.items()} for i in np.nonzero(batch.suspect)[0]]
            for one in sorted(suspects, key=plainness)[:TRIED]:
                weight = weigh(claim, hypotheses, shape, one)
                if weight is not None:
                    hits.append((weight, one))
        if hits:
            hits.sort(key=lambda hit: hit[0])
            lowered = [lower(claim, hypotheses, shape, one) for _, one in hits[:LOWERED]]
            best = min(lowered, key=lambda hit: hit[0])[1]
            return Candidate(shape, best, found.margin, found.ratio)
    rounded = _rounded(claim, hypotheses, found)
    return Candidate(found.shape, lower(claim, hypotheses, found.shape, rounded)[1], found.margin, found.ratio)


def lower(claim: Claim, hypotheses: Sequence[Hypothesis], shape: Any, raw: Raw) -> tuple[Weight, Raw]:
    """Move entries towards 0, then 1, while the weight falls; whole matrices first."""
    raw = {k: v.copy() for k, v in raw.items()}
    weight = weigh(claim, hypotheses, shape, raw)
    assert weight is not None

    def attempt(name: str, value: np.ndarray) -> bool:
        nonlocal weight
        assert weight is not None
        trial = raw | {name: value}
        if plainness(trial) >= weight[2:] and weight[:2] == (0.0, 0.0):
            return False
        new = weigh(claim, hypotheses, shape, trial)
        if new is None or new >= weight:
            return False
        raw[name], weight = value, new
        return True

    for k in sorted(raw):
        attempt(k, np.zeros_like(raw[k]))
        attempt(k, np.eye(*raw[k].shape))
    changed = True
    while changed:
        changed = False
        for k in sorted(raw):
            for index in np.ndindex(*raw[k].shape):
                now = raw[k][index]
                for goal in (0.0, 1.0, -1.0, abs(now), float(np.trunc(now)), float(np.trunc(now / 2))):
                    value = raw[k].copy()
                    value[index] = goal
                    if goal != now and attempt(k, value):
                        changed = True
                        break
    return weight, raw


def _rounded(claim: Claim, hypotheses: Sequence[Hypothesis], found: Candidate) -> Raw:
    """Round to the coarsest binary fractions at which the violation is certain."""
    for digits in range(0, 53, 2):
        scale = 2.0**digits
        raw = {k: np.round(v * scale) / scale for k, v in found.raw.items()}
        if weigh(claim, hypotheses, found.shape, raw) is not None:
            return raw
    return found.raw
