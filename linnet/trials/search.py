"""Drawing instances, and climbing from many of them towards a violation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linnet.trials.claim import Claim, Hypothesis
from linnet.trials.evaluate import Batch, evaluate
from linnet.trials.settings.base import Raw

KEPT = 48
"""Most suspicious instances kept for exact arithmetic."""

SUSPECT = 1e-9
"""Margin in float64 from which an instance is a suspect; strict relations also at equality."""


LIMIT = 32.0
"""Largest entry that a search visits: claims are homogeneous, and far out there is only rounding."""


@dataclass(frozen=True)
class Candidate:
    """One instance worth a second look: free parameters without batch axis."""

    shape: Any
    raw: Raw
    margin: float
    ratio: float


@dataclass
class Tally:
    """What a trial has seen so far."""

    claim: Claim
    hypotheses: Sequence[Hypothesis]
    instances: int = 0
    empty: int = 0
    margin: float = -np.inf
    ratio: float = np.nan
    worst: Candidate | None = None
    suspects: list[Candidate] = field(default_factory=list)

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
        if not batch.valid.any():
            return batch
        margin = np.where(batch.valid, batch.margin, -np.inf)
        drive = np.where(batch.valid & ~batch.empty, batch.drive, -np.inf)
        best = int(np.argmax(margin if self.claim.relation == "==" else drive))
        if self.worst is None or self._beats(batch, best):
            self.worst = self._candidate(shape, raw, batch, best)
        self.margin = max(self.margin, float(margin.max()))
        if np.isfinite(batch.ratio).any():
            pick = np.nanmax if self.claim.relation in ("<=", "<") else np.nanmin
            both = [r for r in (self.ratio, float(pick(batch.ratio))) if np.isfinite(r)]
            self.ratio = float(pick(both))
        threshold = -SUSPECT if self.claim.relation in ("<", ">") else SUSPECT
        order = np.argsort(-margin)[:4]
        for i in order:
            if margin[i] > threshold:
                self.suspects.append(self._candidate(shape, raw, batch, int(i)))
        self.suspects.sort(key=lambda c: -c.margin)
        del self.suspects[KEPT:]
        return batch

    def _beats(self, batch: Batch, i: int) -> bool:
        assert self.worst is not None
        if np.isfinite(batch.ratio[i]) and np.isfinite(self.worst.ratio):
            gain = float(batch.ratio[i]) - self.worst.ratio
            return gain > 0 if self.claim.relation in ("<=", "<") else gain < 0
        return float(batch.margin[i]) > self.worst.margin

    def _candidate(self, shape: Any, raw: Raw, batch: Batch, i: int) -> Candidate:
        return Candidate(shape, {k: v[i].copy() for k, v in raw.items()}, float(batch.margin[i]), float(batch.ratio[i]))


def draw(tally: Tally, groups: int, count: int, rng: np.random.Generator) -> list[tuple[Any, Raw, float]]:
    """Draw ``groups`` batches of ``count`` over random shapes and all kinds; return them with their drive."""
    setting = tally.claim.setting
    seen = []
    for g in range(groups):
        shape = admitted_shape(tally, rng)
        raw = setting.draw(shape, setting.kinds[g % len(setting.kinds)], count, rng)
        batch = tally.look(shape, raw, count)
        live = batch.drive[np.isfinite(batch.drive) & ~batch.empty]
        seen.append((shape, raw, float(live.max()) if live.size else -np.inf))
    return seen


def admitted_shape(tally: Tally, rng: np.random.Generator) -> Any:
    """Draw a shape that the hypotheses allow."""
    shape = tally.claim.setting.random_shape(rng)
    for _ in range(200):
        if tally.admits(shape):
            break
        shape = tally.claim.setting.random_shape(rng)
    return shape


def climb(tally: Tally, shape: Any, raw: Raw, steps: int, count: int, rng: np.random.Generator) -> None:
    """Climb from ``count`` starts at once towards a violation, by random moves that adapt their length.

    A move perturbs some entries of some matrices, rounds or zeroes a few: so the search also walks
    onto the ties and rank losses where a gradient has no value. Every move is a valid instance.
    """
    names = sorted(raw)
    raw = {k: np.resize(raw[k], (count, *raw[k].shape[1:])) for k in names}
    batch = tally.look(shape, raw, count)
    drive = np.where(batch.valid, batch.drive, -np.inf)
    length = np.full(count, 0.3)
    for _ in range(steps):
        trial: Raw = {}
        move = rng.random(count)
        touched = rng.random((len(names), count)) < 0.5
        for j, k in enumerate(names):
            old = raw[k]
            size = 0.1 + np.abs(old).max(axis=(-2, -1), keepdims=True)
            mask = rng.random(old.shape) < rng.choice([0.15, 0.5, 1.0], size=(count, 1, 1))
            step = length[:, None, None] * size * rng.normal(size=old.shape) * mask
            new = old + step
            snap = (move > 0.85)[:, None, None] & mask
            new = np.where(snap, np.where((move > 0.93)[:, None, None], 0.0, np.round(old)), new)
            trial[k] = np.clip(np.where(touched[j][:, None, None], new, old), -LIMIT, LIMIT)
        batch = tally.look(shape, trial, count)
        better = batch.valid & (batch.drive > drive)
        for k in names:
            raw[k] = np.where(better[:, None, None], trial[k], raw[k])
        drive = np.where(better, batch.drive, drive)
        length = np.clip(np.where(better, length * 1.6, length * 0.9), 1e-4, 1.0)
