"""Drawing instances, and remembering which of them stand out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linnet.trials.claim import Claim, Hypothesis
from linnet.trials.evaluate import DOUBT, ROUNDING, Batch, evaluate
from linnet.trials.settings.base import Raw

KEPT, KEPT_OF_A_BATCH = 48, 8
"""Most suspicious instances kept for exact arithmetic, of all and of one batch."""

IDLE = 1e-9
"""Drive up to which the sides of an inequality are equal."""


RATIO_EDGES = np.round(np.linspace(0, 1, 21), 2)
"""Bins of ratios; what lies above 1 has one of its own."""

MARGIN_EDGES = np.array([float(f"1e{k}") for k in range(-18, 1)])
"""Bins of the margins of equalities; the first takes what is smaller, the last what is larger."""


@dataclass(frozen=True)
class Candidate:
    """One instance worth a second look: free parameters without batch axis; drawn, or found by a search."""

    shape: Any
    raw: Raw
    margin: float
    ratio: float
    drawn: bool = False


@dataclass
class Tally:
    """What a trial has seen so far.

    Attributes:
        instances, empty: how many counted, and how many of those had both sides zero.
        margin: largest margin. calm: largest that is below suspicion. unjudged: largest among the
            suspects that were crowded out of ``suspects`` by worse ones. doubtful: whether one of those is too large
            to be rounding.
        ratios: the worst ratio of each bound, beside suspects. suspected_ratio: the worst of all, suspects too.
        worst: the instance of the worst ratio (equalities: margin), suspects too.
        comparisons: how many the claim makes, at most.
        drawing: whether what is looked at now was drawn, and not reached by a search.
        bins: how many ratios (equalities: margins) were found in each bin, drawn and searched apart.
    """

    claim: Claim
    hypotheses: Sequence[Hypothesis]
    instances: int = 0
    empty: int = 0
    margin: float = -np.inf
    ratios: np.ndarray = field(default_factory=lambda: np.empty(0))
    suspected_ratio: float = np.nan
    worst: Candidate | None = None
    suspects: list[Candidate] = field(default_factory=list)
    calm: float = -np.inf
    unjudged: float = -np.inf
    doubtful: bool = False
    comparisons: int = 0
    drawing: bool = False
    bins: dict[bool, np.ndarray] = field(default_factory=dict)

    @property
    def imposed(self) -> frozenset[str]:
        """Names of the hypotheses that the setting builds in."""
        return frozenset(h.impose for h in self.hypotheses if h.impose)

    def admits(self, shape: Any) -> bool:
        """Whether the hypotheses allow a shape."""
        return all(h.shape is None or h.shape(shape) for h in self.hypotheses)

    def look(self, shape: Any, raw: Raw, count: int) -> Batch:
        """Evaluate a batch and remember what stands out."""
        view = self.claim.setting.float_view(shape, raw, self.imposed)
        batch = evaluate(self.claim, view, self.hypotheses, count)
        self.instances += int(batch.valid.sum())
        self.empty += int(batch.empty.sum())
        self.comparisons = max(self.comparisons, len(batch.drives))
        if not batch.valid.any():
            return batch
        self._count(batch)
        margin = np.where(batch.valid, batch.margin, -np.inf)
        drive = np.where(batch.valid & ~batch.empty, batch.drives.max(axis=0), -np.inf)
        best = int(np.argmax(margin if self.claim.relation == "==" else drive))
        if self.worst is None or self._beats(batch, best):
            self.worst = self._candidate(shape, raw, batch, best)
        self.margin = max(self.margin, float(margin.max()))
        worse = np.fmax if self.claim.relation in ("<=", "<") else np.fmin
        ratios = worse.reduce(np.where(batch.suspect, np.nan, batch.ratios), axis=1, initial=np.nan)
        longest = max(len(self.ratios), len(ratios))  # how many bounds there are may depend on the shape
        self.ratios = worse(*(np.pad(r, (0, longest - len(r)), constant_values=np.nan) for r in (self.ratios, ratios)))
        self.suspected_ratio = float(worse.reduce(batch.ratio, initial=self.suspected_ratio))
        self.calm = max(self.calm, float(np.where(batch.suspect, -np.inf, margin).max()))
        worst = np.argsort(-margin, kind="stable")[: int(batch.suspect.sum())]
        for i in worst[:KEPT_OF_A_BATCH]:  # what one batch brings is mostly of one kind: leave room for others
            self.suspects.append(self._candidate(shape, raw, batch, int(i)))
        self.suspects.sort(key=lambda c: (not c.drawn, -c.margin))
        crowded = [(float(m), self.drawing) for m in margin[worst[KEPT_OF_A_BATCH:]]]
        crowded += [(c.margin, c.drawn) for c in self.suspects[KEPT:]]
        self.unjudged = max([self.unjudged, *(m for m, _ in crowded)])
        self.doubtful |= any(m > (DOUBT if drawn else ROUNDING) for m, drawn in crowded)
        del self.suspects[KEPT:]
        return batch

    def _count(self, batch: Batch) -> None:
        if self.claim.relation == "==":
            found = np.clip(batch.margin[batch.valid], MARGIN_EDGES[0], MARGIN_EDGES[-1])
            counts = np.histogram(found, MARGIN_EDGES)[0]
        else:
            found = batch.ratio[np.isfinite(batch.ratio)]
            if self.claim.relation in (">=", ">"):
                found = 1 / np.maximum(found, np.finfo(float).tiny)
            counts = np.histogram(found, [*RATIO_EDGES, np.inf])[0]
            counts[-2:] += np.array([1, -1]) * int(np.sum(found == 1))  # met with equality: no violation
        self.bins[self.drawing] = self.bins.get(self.drawing, 0) + counts

    @property
    def histogram(self) -> dict[str, Any] | None:
        """The bins as plain data; of lower bounds stated over observed, so that 1 is attained everywhere."""
        if not self.bins:
            return None
        of, edges = ("margin", MARGIN_EDGES) if self.claim.relation == "==" else ("ratio", [*RATIO_EDGES, None])
        none = np.zeros(len(edges) - 1, dtype=int)
        drawn, searched = (self.bins.get(drawing, none).tolist() for drawing in (True, False))
        return {"of": of, "edges": [e if e is None else float(e) for e in edges], "drawn": drawn, "searched": searched}

    def height(self, batch: Batch, focus: int | None = None) -> np.ndarray:
        """What a climb raises: the drive of one comparison, by default the largest, but not where sides are equal.

        Many bounds are met with equality where nothing happens (no channel reaches the output, nothing is
        shifted). No small move leads from there to a violation, and a climb that values it never leaves.
        """
        drives = batch.drives if focus is None else batch.drives[[focus % len(batch.drives)]]
        if self.claim.relation != "==":
            drives = np.where(np.abs(drives) > IDLE, drives, -np.inf)
        return np.where(batch.valid & ~batch.empty, drives.max(axis=0), -np.inf)

    def _beats(self, batch: Batch, i: int) -> bool:
        assert self.worst is not None
        if np.isfinite(batch.ratio[i]) and np.isfinite(self.worst.ratio):
            gain = float(batch.ratio[i]) - self.worst.ratio
            return gain > 0 if self.claim.relation in ("<=", "<") else gain < 0
        return float(batch.margin[i]) > self.worst.margin

    def _candidate(self, shape: Any, raw: Raw, batch: Batch, i: int) -> Candidate:
        one = {k: v[i].copy() for k, v in raw.items()}
        return Candidate(shape, one, float(batch.margin[i]), float(batch.ratio[i]), self.drawing)


def draw(tally: Tally, groups: int, count: int, rng: np.random.Generator) -> list[tuple[Any, Raw, float]]:
    """Draw ``groups`` batches of ``count`` over random shapes and all kinds; return them, the highest first.

    Within a batch too the highest come first.
    """
    setting = tally.claim.setting
    seen = []
    tally.drawing = True
    for g in range(groups):
        shape = admitted_shape(tally, rng)
        raw = setting.draw(shape, setting.kinds[g % len(setting.kinds)], count, rng)
        batch = tally.look(shape, raw, count)
        height = tally.height(batch)
        order = np.argsort(-height, kind="stable")
        seen.append((shape, {k: v[order] for k, v in raw.items()}, float(height[order[0]])))
    tally.drawing = False
    seen.sort(key=lambda item: -item[2])
    return seen


def admitted_shape(tally: Tally, rng: np.random.Generator) -> Any:
    """Draw a shape that the hypotheses allow."""
    shape = tally.claim.setting.random_shape(rng)
    for _ in range(200):
        if tally.admits(shape):
            break
        shape = tally.claim.setting.random_shape(rng)
    return shape
