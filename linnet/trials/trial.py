"""A trial: draw, search, look at suspects exactly, shrink, and say what was found."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from linnet.trials.certificate import certificate
from linnet.trials.claim import Claim, Hypothesis
from linnet.trials.evaluate import judge
from linnet.trials.search import Candidate, Tally, admitted_shape, climb, draw
from linnet.trials.shrink import smallest

VerdictName = Literal["holds", "holds-if", "refuted", "undecided"]

TIGHT = 0.9
"""A bound whose worst ratio stays below this (or above its inverse, for lower bounds) is called loose."""


@dataclass(frozen=True)
class Budget:
    """How many instances a trial looks at; never how long it may take.

    Attributes:
        groups: batches drawn, each of its own shape and kind.
        count: instances in each.
        climbs: searches started, from the most promising batches and from random ones.
        steps: moves of each search. starts: instances that each moves at once.
        exact: small-integer instances judged in exact arithmetic, whatever float64 says of them.
        per_shape: instances drawn at each small shape when a counterexample is shrunk.
    """

    groups: int
    count: int
    climbs: int
    steps: int
    starts: int
    exact: int
    per_shape: int


BUDGETS = {
    "quick": Budget(groups=40, count=48, climbs=6, steps=40, starts=16, exact=60, per_shape=96),
    "full": Budget(groups=240, count=64, climbs=24, steps=150, starts=32, exact=300, per_shape=256),
}


@dataclass(frozen=True)
class Verdict:
    """What a trial found; a row of the ledger.

    Attributes:
        verdict: ``undecided`` means violated in float64 but not at any exact instance.
        instances: how many met the hypotheses and were evaluated, drawing and search together.
        exact: how many of small integers were decided exactly besides.
        margin: largest signed violation over its scale.
        ratio: worst observed over stated, None for equalities.
        tight: whether the ratio comes within a tenth of 1; None where there is none.
        empty: instances with both sides zero.
        certificate: exact counterexample to the claim as printed, or None.
        holds_if: extra hypotheses under which it holds.
        worst: the instance that attains the worst ratio (equalities: margin).
    """

    id: str
    verdict: VerdictName
    relation: str
    instances: int
    exact: int
    margin: float
    ratio: float | None
    tight: bool | None
    empty: int
    hypotheses: list[str]
    holds_if: list[str]
    certificate: dict[str, Any] | None
    replaced_by: str | None
    worst: dict[str, Any] | None
    seconds: float
    source: str = ""
    statement: str = field(default="", repr=False)


def run(claim: Claim, budget: Budget, seed: int) -> Verdict:
    """Put one claim on trial; the same claim, budget and seed give the same verdict on the same machine."""
    started = time.perf_counter()
    found = _attempt(claim, claim.hypotheses, budget, seed)
    verdict: VerdictName = "holds"
    holds_if: list[str] = []
    record = None
    if found.counterexample is not None:
        verdict = "refuted"
        c = found.counterexample
        record = certificate(claim, _exact_instance(claim, claim.hypotheses, c))
        if claim.rescue:
            rescued = (*claim.hypotheses, *claim.rescue)
            again = _attempt(claim, rescued, budget, seed)
            if again.counterexample is None and not again.undecided and again.tally.instances:
                verdict, found = "holds-if", replace(again, exact=again.exact + found.exact)
                holds_if = [h.text for h in claim.rescue]
    elif found.undecided or not found.tally.instances:
        verdict = "undecided"
    t = found.tally
    ratio = None if claim.relation == "==" or not np.isfinite(t.ratio) else float(t.ratio)
    return Verdict(
        id=claim.id,
        verdict=verdict,
        relation=claim.relation,
        instances=t.instances,
        exact=found.exact,
        margin=float(t.margin) if np.isfinite(t.margin) else 0.0,
        ratio=ratio,
        tight=_is_tight(claim, ratio),
        empty=t.empty,
        hypotheses=[h.text for h in claim.hypotheses],
        holds_if=holds_if,
        certificate=record,
        replaced_by=claim.replaced_by if verdict == "refuted" else None,
        worst=None if t.worst is None else _describe(t.worst),
        seconds=time.perf_counter() - started,
        source=claim.source,
        statement=claim.statement,
    )


@dataclass(frozen=True)
class _Attempt:
    tally: Tally
    exact: int
    counterexample: Candidate | None
    undecided: bool


def _attempt(claim: Claim, hypotheses: Sequence[Hypothesis], budget: Budget, seed: int) -> _Attempt:
    # The stream belongs to the claim, so that neither its neighbours nor the number of processes matter.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(claim.id.encode()),)))
    tally = Tally(claim, hypotheses)
    seen = draw(tally, budget.groups, budget.count, rng)
    seen.sort(key=lambda item: -item[2])
    for j in range(budget.climbs):
        if j % 3 == 2:  # every third climb starts anywhere, so that one basin does not take all
            shape, raw, _ = seen[int(rng.integers(len(seen)))]
        else:
            shape, raw, _ = seen[(2 * j) // 3 % len(seen)]
        climb(tally, shape, raw, budget.steps, budget.starts, rng)
    exact, exact_hit = _exact_probe(tally, budget.exact, rng)
    hit, unknown = exact_hit, False
    for suspect in tally.suspects:
        if hit is not None:
            break
        instance = _exact_instance(claim, hypotheses, suspect)
        finding = judge(claim, claim.setting.view(instance), hypotheses).finding
        if finding == "violated":
            hit = suspect
        # A violation of a hundred times the threshold that exactness cannot confirm is not dismissed.
        unknown |= finding == "unknown" and suspect.margin > 1e-7
    if hit is None:
        return _Attempt(tally, exact, None, unknown)
    return _Attempt(tally, exact, smallest(tally, hit, rng, budget.per_shape), False)


def _exact_probe(tally: Tally, wanted: int, rng: np.random.Generator) -> tuple[int, Candidate | None]:
    """Decide small-integer instances exactly: no violation is too small to be seen there."""
    claim, setting = tally.claim, tally.claim.setting
    decided = 0
    shapes = [s for s in setting.small_shapes() if tally.admits(s)]
    for attempt in range(4 * wanted):
        if decided >= wanted or not shapes:
            break
        shape = shapes[int(rng.integers(len(shapes)))] if attempt % 3 else admitted_shape(tally, rng)
        if setting.size(shape)[0] > 14:
            continue
        raw = setting.draw(shape, ("integer", "signs", "orthogonal")[attempt % 3], 1, rng)
        instance = setting.exact_instance(shape, raw, 0, tally.imposed)
        finding = judge(claim, setting.view(instance), tally.hypotheses).finding
        if finding == "violated":
            one = {k: v[0] for k, v in raw.items()}
            return decided + 1, Candidate(shape, one, np.nan, np.nan)
        decided += finding == "met"
    return decided, None


def _exact_instance(claim: Claim, hypotheses: Sequence[Hypothesis], c: Candidate) -> dict[str, Any]:
    imposed = frozenset(h.impose for h in hypotheses if h.impose)
    return claim.setting.exact_instance(c.shape, {k: v[None] for k, v in c.raw.items()}, 0, imposed)


def _is_tight(claim: Claim, ratio: float | None) -> bool | None:
    if claim.relation == "==":
        return True
    if ratio is None:
        return None
    return ratio >= TIGHT if claim.relation in ("<=", "<") else ratio <= 1 / TIGHT


def _describe(c: Candidate) -> dict[str, Any]:
    return {
        "shape": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(c.shape).items()},
        "parameters": {k: np.round(v, 6).tolist() for k, v in sorted(c.raw.items())},
    }
