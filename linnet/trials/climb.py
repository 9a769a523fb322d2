"""Climbing from an instance towards a violation: CMA-ES over its free entries, and steps onto ties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linnet.trials.search import Tally
from linnet.trials.settings.base import Raw

LIMIT = 32.0
"""Largest entry that a climb visits: claims are homogeneous, and far out there is only rounding."""

SNAPPED = 4
"""Every so many of a lineage's offspring is its best instance with some entries rounded or zeroed."""

LAZY = 16
"""Entries from which covariances are decomposed every second step only, and so on: they change slowly there."""

FIRST_STEP = 0.3
"""Length of the first step, relative to the largest entry of each matrix."""


def climb(
    tally: Tally, shape: Any, raw: Raw, steps: int, lineages: int, offspring: int, focus: int, rng: np.random.Generator
) -> None:
    """Climb from ``lineages`` instances of a batch (the first ones), each with ``offspring`` children a step.

    Of a claim with several comparisons the one numbered ``focus`` is raised: next to one that is met with equality
    everywhere, the largest would hide the others.

    Each lineage is a covariance matrix adaptation (Hansen, The CMA Evolution Strategy: A Tutorial, 2016)
    over the entries that the claim depends on; every second one keeps the zeros of its start, and with them
    its lost ranks. Some children are the best one so far, rounded or zeroed in places: so the climb also
    reaches ties where a gradient has no value. Every child is a valid instance.
    """
    box = _Box(raw)
    starts = np.resize(box.flat(raw), (lineages, box.size))
    free = _depends_on(tally, shape, box, starts[0], focus, rng)
    keeps_zeros = np.arange(lineages)[:, None] % 2 == 1
    climbers = _Lineages(starts, free & ((starts != 0) | ~keeps_zeros), box.unit(starts), offspring)
    for _ in range(steps):
        children = climbers.children(rng)
        rows = children.reshape(-1, box.size)
        heights = tally.height(tally.look(shape, box.raw(rows), len(rows)), focus)
        climbers.learn(children, heights.reshape(lineages, offspring))


class _Box:
    """The entries of all matrices as one row."""

    def __init__(self, raw: Raw) -> None:
        self.shapes = {k: raw[k].shape[1:] for k in sorted(raw)}
        self.ends = np.cumsum([int(np.prod(s)) for s in self.shapes.values()])
        self.size = int(self.ends[-1])

    def flat(self, raw: Raw) -> np.ndarray:
        return np.concatenate([raw[k].reshape(len(raw[k]), -1) for k in self.shapes], axis=1)

    def raw(self, rows: np.ndarray) -> Raw:
        parts = np.split(rows, self.ends[:-1], axis=1)
        return {k: part.reshape(-1, *s) for (k, s), part in zip(self.shapes.items(), parts, strict=True)}

    def slices(self) -> Sequence[slice]:
        return [slice(int(a), int(b)) for a, b in zip([0, *self.ends[:-1]], self.ends, strict=True)]

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Size of each entry's matrix."""
        out = np.empty_like(rows)
        for part in self.slices():
            out[..., part] = 0.1 + np.abs(rows[..., part]).max(axis=-1, initial=0, keepdims=True)
        return out


def _depends_on(
    tally: Tally, shape: Any, box: _Box, row: np.ndarray, focus: int, rng: np.random.Generator
) -> np.ndarray:
    """Return which entries belong to matrices that the claim depends on: a mask over the row."""
    parts = box.slices()
    rows = np.tile(row, (len(parts) + 1, 1))
    for i, part in enumerate(parts):
        rows[i, part] += FIRST_STEP * box.unit(row)[part] * rng.normal(size=part.stop - part.start)
    heights = tally.height(tally.look(shape, box.raw(rows), len(rows)), focus)
    free = np.zeros(box.size, dtype=bool)
    for i, part in enumerate(parts):
        free[part] = heights[i] != heights[-1]
    return free if free.any() else ~free


class _Lineages:
    """CMA-ES with the customary constants, many at once, in coordinates scaled by ``unit``, on the ``free`` entries.

    Arrays run over lineages first; ``d`` entries are free in some lineage, ``mask`` says in which.
    """

    def __init__(self, starts: np.ndarray, free: np.ndarray, unit: np.ndarray, offspring: int) -> None:
        free = free | ~free.any(axis=1, keepdims=True)
        self.best, self.top = starts.copy(), np.full(len(starts), -np.inf)
        self.free = np.nonzero(free.any(axis=0))[0]
        self.mask, self.unit = free[:, self.free], unit[:, self.free]
        lineages, d = self.mask.shape
        own = self.mask.sum(axis=1).astype(float)  # dimensions of each lineage
        parents = offspring // 2
        weights = np.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
        self.weights = weights / weights.sum()
        mass = self.mass = 1 / np.sum(self.weights**2)
        self.pull = (mass + 2) / (own + mass + 5)
        self.damp = 1 + 2 * np.maximum(0.0, np.sqrt((mass - 1) / (own + 1)) - 1) + self.pull
        self.path_rate = (4 + mass / own) / (own + 4 + 2 * mass / own)
        self.rank_one = 2 / ((own + 1.3) ** 2 + mass)
        self.rank_mu = np.minimum(1 - self.rank_one, 2 * (mass - 2 + 1 / mass) / ((own + 2) ** 2 + mass))
        self.expected = np.sqrt(own) * (1 - 1 / (4 * own) + 1 / (21 * own * own))
        self.offspring, self.length = offspring, np.full(lineages, FIRST_STEP)
        self.mean = starts[:, self.free] / self.unit
        self.cov, self.axes = (np.tile(np.eye(d), (lineages, 1, 1)) for _ in range(2))
        self.widths = np.ones((lineages, d))
        self.path, self.length_path = np.zeros((lineages, d)), np.zeros((lineages, d))
        self.age, self.pause = 0, max(1, d // LAZY)

    def children(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the next children, (lineages, offspring, entries)."""
        lineages, d = self.mask.shape
        draws = (rng.normal(size=(lineages, self.offspring, d)) * self.widths[:, None]) @ np.swapaxes(self.axes, 1, 2)
        mask, best = self.mask[:, None], self.best[:, None, self.free]
        moved = (self.mean[:, None] + self.length[:, None, None] * draws) * self.unit[:, None]
        moved = np.where(mask, moved, best)
        snapped = slice(SNAPPED - 1, None, SNAPPED)
        shape = moved[:, snapped].shape
        chosen = mask & (rng.random(shape) < rng.choice([0.15, 0.5, 1.0], size=(*shape[:2], 1)))
        onto = np.where(rng.random((*shape[:2], 1)) < 0.5, np.round(best), 0.0)
        moved[:, snapped] = np.where(chosen, onto, best)
        out = np.repeat(self.best[:, None], self.offspring, axis=1)
        out[:, :, self.free] = moved
        return np.clip(out, -LIMIT, LIMIT)

    def learn(self, children: np.ndarray, heights: np.ndarray) -> None:
        """Move towards the best children and adapt."""
        order = np.argsort(-heights, axis=1, kind="stable")[:, : len(self.weights)]
        heights = np.take_along_axis(heights, order, axis=1)
        children = np.take_along_axis(children, order[..., None], axis=1)
        alive = np.isfinite(heights[:, 0])  # others found no valid child: they look closer by
        self.length = np.where(alive, self.length, 0.7 * self.length)
        if not alive.any():
            return
        better = alive & (heights[:, 0] > self.top)
        self.best[better], self.top[better] = children[better, 0], heights[better, 0]
        weights = np.where(np.isfinite(heights), self.weights, 0.0)
        weights[~alive] = 0.0
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        moves = (children[..., self.free] / self.unit[:, None] - self.mean[:, None]) / self.length[:, None, None]
        # A snapped child may lie far off: it must not blow up the covariance.
        lengths = np.maximum(np.linalg.norm(moves, axis=2, keepdims=True), 1e-300)
        moves = moves * self.mask[:, None] * np.minimum(1.0, 2 * self.expected[:, None, None] / lengths)
        move = (weights[:, None] @ moves)[:, 0]
        self.mean = self.mean + self.length[:, None] * move
        if alive.all():
            self._adapt(slice(None), move, moves, weights)
        else:
            self._adapt(alive, move[alive], moves[alive], weights[alive])

    def _adapt(self, who: Any, move: np.ndarray, moves: np.ndarray, weights: np.ndarray) -> None:
        """Adapt paths, covariances and step lengths of some lineages."""
        axes, widths = self.axes[who], self.widths[who]
        pull, path_rate = self.pull[who, None], self.path_rate[who, None]
        inward = (np.swapaxes(axes, 1, 2) @ move[..., None]) / widths[..., None]
        whitened = (axes @ inward)[..., 0]
        self.length_path[who] = (1 - pull) * self.length_path[who] + np.sqrt(pull * (2 - pull) * self.mass) * whitened
        path = (1 - path_rate) * self.path[who] + np.sqrt(path_rate * (2 - path_rate) * self.mass) * move
        self.path[who] = path
        one, mu = self.rank_one[who, None, None], self.rank_mu[who, None, None]
        self.cov[who] = (
            (1 - one - mu) * self.cov[who]
            + one * (path[:, :, None] * path[:, None, :])
            + mu * (np.swapaxes(moves, 1, 2) * weights[:, None]) @ moves
        )
        grown = np.linalg.norm(self.length_path[who], axis=1) / self.expected[who] - 1
        step = np.exp(np.minimum(self.pull[who] / self.damp[who] * grown, 50.0))
        self.length[who] = np.clip(self.length[who] * step, 1e-6, 1.0)
        self.age += 1
        if self.age % self.pause == 0:
            values, self.axes[who] = np.linalg.eigh(self.cov[who])
            self.widths[who] = np.sqrt(np.clip(values, 1e-12, 1e6))
