"""A trial: draw, search, look at suspects exactly, shrink, and say what was found."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from linnet.errors import ClaimError, IllPosedError
from linnet.trials import rates
from linnet.trials.certificate import certificate, equality
from linnet.trials.claim import ORDERS, Claim, Hypothesis
from linnet.trials.climb import climb
from linnet.trials.evaluate import DOUBT, ROUNDING
from linnet.trials.extremal import Attained, along_the_family, cases_of_equality
from linnet.trials.judge import judge
from linnet.trials.search import Candidate, Tally, admitted_shape, draw
from linnet.trials.settings.base import Ladder, Raw
from linnet.trials.shrink import smallest

VerdictName = Literal["holds", "holds-if", "refuted", "rate", "ill-posed", "undecided"]

EXPECTED = 16
"""Means are taken over so many times more realisations than exponents are fitted with, of twice as many instances."""

TIGHT = 0.9
"""A bound whose worst ratio stays below this (or above its inverse, for lower bounds) is called loose."""


@dataclass(frozen=True)
class Budget:
    """How many instances a trial looks at; never how long it may take.

    Attributes:
        groups: batches drawn, each of its own shape and kind.
        count: instances in each.
        climbs: searches started, from the most promising batches and from small ones.
        steps: generations of each. lineages: instances that each starts from at once.
        offspring: children of each lineage in a generation.
        exact: small-integer instances judged in exact arithmetic, whatever float64 says of them.
        per_shape: instances drawn at each small shape when a counterexample is shrunk.
        ladders, replicates: of claims about growing samples: instances, and realisations of each at each size.
    """

    groups: int
    count: int
    climbs: int
    steps: int
    lineages: int
    offspring: int
    exact: int
    per_shape: int
    ladders: int = 8
    replicates: int = 64


QUICK = Budget(groups=24, count=48, climbs=4, steps=20, lineages=8, offspring=12, exact=48, per_shape=64)
FULL = Budget(
    groups=120, count=64, climbs=12, steps=40, lineages=10, offspring=16, exact=240, per_shape=256,
    ladders=32, replicates=256,
)  # fmt: skip
BUDGETS = {"quick": QUICK, "full": FULL, "thorough": replace(FULL, groups=320, climbs=60)}
"""``thorough`` is for violations that ask for a coincidence: see ``linnet verify --self-test``."""


@dataclass(frozen=True)
class Verdict:
    """What a trial found; a row of the ledger.

    Attributes:
        verdict: ``undecided`` means violated in float64 but not at any exact instance.
        instances: how many met the hypotheses and were evaluated, drawing and search together.
        exact: how many of small integers were decided exactly besides.
        margin: largest signed violation over its scale; of a claim that holds, without the suspects that
            exact arithmetic cleared, of which there were ``cleared``.
        ratio: worst observed over stated, None for equalities; of several bounds the loosest one's.
        tight: whether the ratio comes within a tenth of 1; None where there is none.
        empty: instances with both sides zero.
        certificate: exact counterexample to the claim as printed, or None.
        holds_if: extra hypotheses under which it holds.
        worst: the instance that attains the worst ratio (equalities: margin).
        reason: of an ill-posed claim: what does not fit; of an undecided one, if float64 and exact arithmetic differ by
            more than rounding: how. nearest: id of its nearest sensible reading.
        ratios: of each bound, the worst ratio by random draws, by search, and along the claim's extremal family or
            at an exact case of equality.
        sharper: of a bound that holds but is loose: id of the sharp form.
        equalities: exact instances at which bounds are attained.
        histogram: how many drawn and how many searched instances had a ratio (equalities: a margin) in each bin;
            an edge of None is infinite.
        fit: of claims about growing samples or widths, what was fitted; else None.
    """

    id: str
    verdict: VerdictName
    relation: str
    instances: int
    exact: int
    margin: float
    cleared: int
    ratio: float | None
    tight: bool | None
    empty: int
    hypotheses: list[str]
    holds_if: list[str]
    certificate: dict[str, Any] | None
    replaced_by: str | None
    worst: dict[str, Any] | None
    seconds: float
    fit: dict[str, Any] | None = None
    ratios: list[dict[str, float]] | None = None
    equalities: list[dict[str, Any]] | None = None
    sharper: str | None = None
    histogram: dict[str, Any] | None = None
    reason: str | None = None
    nearest: str | None = None
    source: str = ""
    statement: str = field(default="", repr=False)


def run(claim: Claim, budget: Budget, seed: int) -> Verdict:
    """Put one claim on trial; the same claim, budget and seed give the same verdict on the same machine.

    Raises:
        ClaimError: it does not evaluate.
    """
    try:
        return _run(claim, budget, seed)
    except IllPosedError as err:
        if claim.nearest is None:  # then it is a slip in the claim file
            raise
        return _ill_posed(claim, str(err))


def _ill_posed(claim: Claim, reason: str) -> Verdict:
    return Verdict(
        id=claim.id,
        verdict="ill-posed",
        relation=claim.relation,
        instances=0,
        exact=0,
        margin=0.0,
        cleared=0,
        ratio=None,
        tight=None,
        empty=0,
        hypotheses=[h.text for h in claim.hypotheses],
        holds_if=[],
        certificate=None,
        replaced_by=None,
        worst=None,
        seconds=0.0,
        reason=reason,
        nearest=claim.nearest,
        source=claim.source,
        statement=claim.statement,
    )


def _run(claim: Claim, budget: Budget, seed: int) -> Verdict:
    if isinstance(claim.setting, Ladder):
        return _run_ladder(claim, budget, seed)
    started = time.perf_counter()
    if claim.relation in ORDERS:
        raise ClaimError(f"{claim.id}: an order ({claim.relation}) of {claim.setting.name}, in which nothing grows")
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
    reason = None
    if verdict == "undecided" and found.disagreement is not None:
        reason = (
            f"float64 violates it by {found.disagreement:.2g} where exact arithmetic does not, which is too much for "
            "rounding: one of the two computes something else, or the sides need a scale (Comparison)"
        )
    family = along_the_family(claim) if verdict == "holds" else Attained()
    if family.broken is not None:
        verdict, record = "refuted", certificate(claim, family.broken)
    cases = {}
    if verdict in ("holds", "holds-if"):
        cases = cases_of_equality(t, budget.exact // 5, budget.per_shape, _stream(claim, seed))
    if verdict == "refuted":  # elsewhere suspects were cleared, or know nothing
        ratios = None
        ratio = float(t.suspected_ratio) if claim.relation != "==" and np.isfinite(t.suspected_ratio) else None
    else:
        ratios = _ratios(claim, found, {**family.ratios, **dict.fromkeys(cases, 1.0)})
        ratio = _loosest(claim, ratios)
    return Verdict(
        id=claim.id,
        verdict=verdict,
        relation=claim.relation,
        instances=t.instances,
        exact=found.exact,
        margin=_settled_margin(found, verdict),
        cleared=len(found.cleared) if verdict in ("holds", "holds-if") else 0,
        ratio=ratio,
        tight=_is_tight(claim, ratio),
        ratios=ratios,
        equalities=[equality(claim, c, i, bool(holds_if)) for i, c in sorted(cases.items())] or None,
        empty=t.empty,
        histogram=t.histogram,
        reason=reason,
        hypotheses=[h.text for h in claim.hypotheses],
        holds_if=holds_if,
        certificate=record,
        replaced_by=claim.replaced_by if verdict == "refuted" else None,
        sharper=claim.replaced_by if verdict == "holds" and _is_tight(claim, ratio) is False else None,
        worst=None if t.worst is None else _describe(t.worst.shape, t.worst.raw),
        seconds=time.perf_counter() - started,
        source=claim.source,
        statement=claim.statement,
    )


def _stream(claim: Claim, seed: int) -> np.random.Generator:
    """The stream belongs to the claim, so that neither its neighbours nor the number of processes matter."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(claim.id.encode()),)))


def _run_ladder(claim: Claim, budget: Budget, seed: int) -> Verdict:
    """Try a claim about growing samples or widths."""
    started = time.perf_counter()
    order = claim.relation in ORDERS

    def attempt(hypotheses: tuple[Hypothesis, ...]) -> rates.Outcome:
        runner = rates.Runner(claim, hypotheses, _stream(claim, seed))
        if order:
            return rates.try_order(runner, budget.ladders, budget.replicates, 2 * budget.steps)
        return rates.try_expectation(runner, 2 * budget.ladders, EXPECTED * budget.replicates, budget.steps // 2)

    found = attempt(claim.hypotheses)
    record, holds_if = found.broken, []
    verdict: VerdictName = "undecided" if not found.courses else "rate" if order else "holds"
    if record is not None:
        verdict = "refuted"
        if claim.rescue:
            again = attempt((*claim.hypotheses, *claim.rescue))
            if again.broken is None and again.courses:
                verdict, found, holds_if = "holds-if", again, [h.text for h in claim.rescue]
    fit = None if not order or found.exponent is None else {
        "exponent": found.exponent,
        "interval": list(found.interval or ()),
        "stated": found.claimed,
        "constant": found.constant if np.isfinite(found.constant) else None,
        "ladders": found.courses,
    }  # fmt: skip
    if not order:
        fit = {"deviation": found.deviation, "means": found.courses}
    return Verdict(
        id=claim.id,
        verdict=verdict,
        relation=claim.relation,
        instances=found.realisations,
        exact=0,
        margin=0.0 if order or not np.isfinite(found.margin) else found.margin,
        cleared=0,
        ratio=None if claim.relation == "==" or not np.isfinite(found.constant) else found.constant,
        tight=None,
        empty=0,
        hypotheses=[h.text for h in claim.hypotheses],
        holds_if=holds_if,
        certificate=record,
        replaced_by=claim.replaced_by if verdict == "refuted" else None,
        worst=None if found.worst is None else _describe(found.worst.shape, found.worst.raw, batched=True),
        seconds=time.perf_counter() - started,
        fit=fit,
        source=claim.source,
        statement=claim.statement,
    )


@dataclass(frozen=True)
class _Attempt:
    tally: Tally
    exact: int
    counterexample: Candidate | None
    unknown: tuple[Candidate, ...] = ()
    drawn: np.ndarray = field(default_factory=lambda: np.empty(0))
    cleared: tuple[Candidate, ...] = ()

    @property
    def undecided(self) -> bool:
        """Whether some violation of a hundred times the threshold was neither confirmed nor cleared exactly."""
        unknown = any(c.margin > DOUBT for c in self.unknown)
        return self.tally.doubtful or unknown or self.disagreement is not None

    @property
    def disagreement(self) -> float | None:
        """The largest violation in float64 that exact arithmetic clears, but that is too large to be rounding.

        It speaks against float64, not for the claim: a wrong solver would look like that. What was merely drawn
        is well-conditioned; a search ends where rounding is worst.
        """
        gross = [c.margin for c in self.cleared if c.margin > (DOUBT if c.drawn else ROUNDING)]
        return max(gross, default=None)


def _attempt(claim: Claim, hypotheses: Sequence[Hypothesis], budget: Budget, seed: int) -> _Attempt:
    rng = _stream(claim, seed)
    tally = Tally(claim, hypotheses)
    seen = draw(tally, budget.groups, budget.count, rng)
    drawn = tally.ratios.copy()
    # As many climbs as comparisons at least; those from the highest batch take the comparisons in turn too.
    for j, (shape, raw) in enumerate(_starts(claim, seen, max(budget.climbs, tally.comparisons), rng)):
        focus = j if j % 4 else j // 4
        climb(tally, shape, raw, budget.steps, budget.lineages, budget.offspring, focus, rng)
    exact, exact_hit = _exact_probe(tally, budget.exact, rng)
    hit = exact_hit
    unknown: list[Candidate] = []
    cleared: list[Candidate] = []
    for suspect in tally.suspects:
        if hit is not None:
            break
        instance = _exact_instance(claim, hypotheses, suspect)
        finding = judge(claim, claim.setting.view(instance), hypotheses).finding
        if finding == "violated":
            hit = suspect
        elif finding == "unknown" or (finding == "outside" and suspect.margin > ROUNDING):
            unknown.append(suspect)  # a hypothesis met by rounding alone neither confirms nor clears what is so large
        elif finding == "met":
            cleared.append(suspect)
    if hit is None:
        return _Attempt(tally, exact, None, tuple(unknown), drawn, tuple(cleared))
    return _Attempt(tally, exact, smallest(tally, hit, rng, budget.per_shape), (), drawn)


def _starts(
    claim: Claim, seen: Sequence[tuple[Any, Raw, float]], climbs: int, rng: np.random.Generator
) -> Iterator[tuple[Any, Raw]]:
    """Where to climb from: the highest batch in turn with three small ones, where a climb gets farthest."""
    small = sorted(seen, key=lambda item: claim.setting.size(item[0]))[: max(1, len(seen) // 2)]
    for j in range(climbs):
        pool = seen if j % 4 == 0 or not small else small
        if not pool:
            break
        item = pool[0 if j % 4 == 0 else int(rng.integers(len(pool)))]
        seen, small = ([other for other in rest if other is not item] for rest in (seen, small))
        yield item[0], item[1]


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


def _settled_margin(found: _Attempt, verdict: VerdictName) -> float:
    t = found.tally
    left = max([t.calm, t.unjudged, *(c.margin for c in found.unknown)])
    margin = left if verdict in ("holds", "holds-if") else t.margin
    return float(margin) if np.isfinite(margin) else 0.0


def _ratios(claim: Claim, found: _Attempt, attained: Mapping[int, float]) -> list[dict[str, float]] | None:
    """The worst ratios of each bound by how they were found; of equalities there are none."""
    out = []
    for i, searched in enumerate(found.tally.ratios):
        drawn = found.drawn[i] if i < len(found.drawn) else np.nan
        by = {"drawn": drawn, "searched": searched, "extremal": attained.get(i, np.nan)}
        out.append({how: float(r) for how, r in by.items() if np.isfinite(r)})
    return out if any(out) else None


def _loosest(claim: Claim, ratios: list[dict[str, float]] | None) -> float | None:
    """Of each bound the ratio that comes closest to breaking it; of those the one that stays farthest."""
    close, far = (max, min) if claim.relation in ("<=", "<") else (min, max)
    known = [close(by.values()) for by in ratios or () if by]
    # What is never observed (0 is at most a sum of squares) says nothing of a bound's tightness.
    return far((r for r in known if r > 0), default=None)


def _is_tight(claim: Claim, ratio: float | None) -> bool | None:
    if claim.relation == "==":
        return True
    if ratio is None:
        return None
    return ratio >= TIGHT if claim.relation in ("<=", "<") else ratio <= 1 / TIGHT


def _describe(shape: Any, raw: Raw, batched: bool = False) -> dict[str, Any]:
    return {
        "shape": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(shape).items()},
        "parameters": {k: np.round(v[0] if batched else v, 6).tolist() for k, v in sorted(raw.items())},
    }
