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

FIRST_STEP = 0.3
"""Length of the first step, relative to the largest entry of each matrix."""


def climb(
    tally: Tally, shape: Any, raw: Raw, steps: int, lineages: int, offspring: int, rng: np.random.Generator
) -> None:
    """Climb from ``lineages`` instances of a batch (the first ones), each with ``offspring`` children a step.

    Each lineage is a covariance matrix adaptation (Hansen, The CMA Evolution Strategy: A Tutorial, 2016)
    over the entries that the claim depends on; every second one keeps the zeros of its start, and with them
    its lost ranks. Some children are the best one so far, rounded or zeroed in places: so the climb also
    reaches ties where a gradient has no value. Every child is a valid instance.
    """
    box = _Box(raw)
    starts = np.resize(box.flat(raw), (lineages, box.size))
    free = _depends_on(tally, shape, box, starts[0], rng)
    climbers = [_Lineage(x, free & ((x != 0) | (i % 2 == 0)), box.unit(x), offspring) for i, x in enumerate(starts)]
    for _ in range(steps):
        children = np.concatenate([c.children(rng) for c in climbers])
        heights = tally.height(tally.look(shape, box.raw(children), len(children)))
        for i, c in enumerate(climbers):
            mine = slice(i * offspring, (i + 1) * offspring)
            c.learn(children[mine], heights[mine])


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

    def unit(self, row: np.ndarray) -> np.ndarray:
        """Size of each entry's matrix."""
        out = np.empty(self.size)
        for part in self.slices():
            out[part] = 0.1 + np.abs(row[part]).max(initial=0)
        return out


def _depends_on(tally: Tally, shape: Any, box: _Box, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return which entries belong to matrices that the claim depends on: a mask over the row."""
    parts = box.slices()
    rows = np.tile(row, (len(parts) + 1, 1))
    for i, part in enumerate(parts):
        rows[i, part] += FIRST_STEP * box.unit(row)[part] * rng.normal(size=part.stop - part.start)
    heights = tally.height(tally.look(shape, box.raw(rows), len(rows)))
    free = np.zeros(box.size, dtype=bool)
    for i, part in enumerate(parts):
        free[part] = heights[i] != heights[-1]
    return free if free.any() else ~free


class _Lineage:
    """One CMA-ES with the customary constants, in coordinates scaled by ``unit``, on the ``free`` entries."""

    def __init__(self, start: np.ndarray, free: np.ndarray, unit: np.ndarray, offspring: int) -> None:
        if not free.any():
            free = np.ones_like(free)
        self.best, self.top = start.copy(), -np.inf
        self.free, self.unit = np.nonzero(free)[0], unit
        d = len(self.free)
        parents = offspring // 2
        weights = np.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
        self.weights = weights / weights.sum()
        mass = 1 / np.sum(self.weights**2)
        self.mass = mass
        self.pull = (mass + 2) / (d + mass + 5)
        self.damp = 1 + 2 * max(0.0, np.sqrt((mass - 1) / (d + 1)) - 1) + self.pull
        self.path_rate = (4 + mass / d) / (d + 4 + 2 * mass / d)
        self.rank_one = 2 / ((d + 1.3) ** 2 + mass)
        self.rank_mu = min(1 - self.rank_one, 2 * (mass - 2 + 1 / mass) / ((d + 2) ** 2 + mass))
        self.expected = np.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d))
        self.offspring, self.length = offspring, FIRST_STEP
        self.mean = start[self.free] / unit[self.free]
        self.cov, self.path, self.length_path = np.eye(d), np.zeros(d), np.zeros(d)
        self.axes, self.widths = np.eye(d), np.ones(d)

    def children(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the next children, full rows."""
        d = len(self.free)
        draws = rng.normal(size=(self.offspring, d)) * self.widths @ self.axes.T
        out = np.tile(self.best, (self.offspring, 1))
        out[:, self.free] = (self.mean + self.length * draws) * self.unit[self.free]
        for i in range(SNAPPED - 1, self.offspring, SNAPPED):
            chosen = self.free[rng.random(d) < rng.choice([0.15, 0.5, 1.0])]
            row = self.best.copy()
            row[chosen] = np.round(row[chosen]) if rng.random() < 0.5 else 0.0
            out[i] = row
        return np.clip(out, -LIMIT, LIMIT)

    def learn(self, children: np.ndarray, heights: np.ndarray) -> None:
        """Move towards the best children and adapt."""
        order = np.argsort(-heights, kind="stable")
        if not np.isfinite(heights[order[0]]):
            self.length *= 0.7
            return
        if heights[order[0]] > self.top:
            self.best, self.top = children[order[0]].copy(), float(heights[order[0]])
        chosen = order[: len(self.weights)]
        weights = np.where(np.isfinite(heights[chosen]), self.weights, 0.0)
        weights = weights / weights.sum()
        moves = (children[chosen][:, self.free] / self.unit[self.free] - self.mean) / self.length
        # A snapped child may lie far off: it must not blow up the covariance.
        moves *= np.minimum(1.0, 2 * self.expected / np.maximum(np.linalg.norm(moves, axis=1), 1e-300))[:, None]
        move = weights @ moves
        self.mean = self.mean + self.length * move
        whitened = self.axes @ ((self.axes.T @ move) / self.widths)
        self.length_path = (1 - self.pull) * self.length_path + np.sqrt(
            self.pull * (2 - self.pull) * self.mass
        ) * whitened
        self.path = (1 - self.path_rate) * self.path + np.sqrt(self.path_rate * (2 - self.path_rate) * self.mass) * move
        self.cov = (
            (1 - self.rank_one - self.rank_mu) * self.cov
            + self.rank_one * np.outer(self.path, self.path)
            + self.rank_mu * (moves.T * weights) @ moves
        )
        grown = np.linalg.norm(self.length_path) / self.expected - 1
        self.length = float(np.clip(self.length * np.exp(min(self.pull / self.damp * grown, 50.0)), 1e-6, 1.0))
        values, self.axes = np.linalg.eigh((self.cov + self.cov.T) / 2)
        self.widths = np.sqrt(np.clip(values, 1e-12, 1e6))
