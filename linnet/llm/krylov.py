"""Symmetric matrices that are known by their products with vectors: ends of the spectrum, linear systems, traces.

Extreme eigenvalues come from Lanczos' method with full reorthogonalisation, solutions from conjugate gradients; each
answer brings the residual that bounds its error.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from linnet.errors import ArgumentError, NotPSDError
from linnet.llm.vectors import dot, finite, norm, normal, rounding

Operator = Callable[[Tensor], Tensor]
"""A symmetric matrix, as what it makes of a flat vector."""

FLAT = 1e3
"""An eigenvalue counts as zero below this many units of rounding of the largest."""

LOOK = 10
"""Steps of Lanczos' method between two looks at whether it may stop."""


class Krylov:
    """An orthonormal basis of span{b, A b, A^2 b, ...}, over one b or several, and A within it.

    Every new direction is orthogonalised twice against all others. Memory: a vector for each of the ``limit`` steps.

    Attributes:
        steps: directions so far, each at the price of a product.
    """

    def __init__(self, operator: Operator, starts: Sequence[Tensor], limit: int) -> None:
        self._operator = operator
        self._rows = starts[0].new_empty((min(limit, len(starts[0])), len(starts[0])))
        self._ahead = deque(starts)
        self._entries = np.zeros((len(self._rows), len(self._rows)))
        self.steps = 0

    @property
    def basis(self) -> Tensor:
        """Q as rows, (steps, d)."""
        return self._rows[: self.steps]

    @property
    def matrix(self) -> np.ndarray:
        """Q^T A Q, (steps, steps)."""
        return self._entries[: self.steps, : self.steps]

    def _across(self, vector: Tensor) -> Tensor:
        for _ in range(2):
            vector = vector - self.basis.mT @ (self.basis @ vector)
        return vector

    def grow(self) -> bool:
        """Add a direction; False if the space is complete, or the limit reached."""
        while self._ahead and self.steps < len(self._rows):
            vector = self._ahead.popleft()
            size = norm(vector)
            across = self._across(vector)
            left = norm(across)
            if left <= 10 * rounding(vector) * size:
                continue
            j = self.steps
            self._rows[j] = across / left
            self.steps += 1
            image = self._operator(self._rows[j])
            column = (self.basis @ image).double().cpu().numpy()
            self._entries[: j + 1, j] = self._entries[j, : j + 1] = column
            self._ahead.append(image)
            return True
        return False

    def beyond(self) -> float:
        """Return how far A leads out of the space of one start: |A Q e - Q Q^T A Q e| for the last direction e."""
        return norm(self._across(self._ahead[-1])) if self._ahead else 0.0


@dataclass(frozen=True)
class Extremes:
    """The two ends of a symmetric matrix' spectrum, by Lanczos' method from a random start.

    Attributes:
        smallest, largest: the outermost Ritz values: the true ends lie outside of them, or at them.
        smallest_residual, largest_residual: |A x - theta x| for unit x, computed anew: an eigenvalue lies within it.
        steps: products with the matrix.
        size: of the matrix.
        zero: an eigenvalue of at most this size may be one of zero, rounded.
    """

    smallest: float
    largest: float
    smallest_residual: float
    largest_residual: float
    steps: int
    size: int
    zero: float

    @property
    def definite(self) -> Literal["positive definite", "singular", "indefinite"]:
        """What the smallest eigenvalue found says; within its residual, or rounding, it counts as zero."""
        if abs(self.smallest) <= max(self.smallest_residual, self.zero):
            return "singular"
        return "positive definite" if self.smallest > 0 else "indefinite"

    def missed(self, probability: float = 1e-3) -> float:
        """Return how far beyond these an end may lie, but for a ``probability`` over the random start of each.

        After k steps from a unit start whose part along the end's eigenvector is b_1, an end is missed by more than a
        share e of the spectrum's width only if |b_1| < 1 / cosh((2 k - 1) artanh e^(1/2)): so says the Chebyshev
        polynomial of the fourth kind and degree k - 1 on the rest of the spectrum. For a start that is uniform on the
        sphere in d dimensions |b_1| < c has a probability of at most (2 d / pi)^(1/2) c. It is shared among the times
        at which the steps might have stopped, and the width is what was seen of it and twice what was missed.

        Infinite where the steps are too few to say.

        Source: compare Kuczynski and Wozniakowski 1992.
        """
        if self.steps >= self.size:
            return 0.0
        looks = max(1, self.steps // LOOK)
        far = math.acosh(max(1.0, math.sqrt(2 * self.size / math.pi) * looks / probability))
        share = math.tanh(far / (2 * self.steps - 1)) ** 2
        return share * (self.largest - self.smallest) / (1 - 2 * share) if share < 0.5 else math.inf


def extremes(
    operator: Operator, like: Tensor, *, steps: int = 100, tolerance: float | None = None, seed: int = 0
) -> Extremes:
    """Return the extreme eigenvalues of a symmetric matrix.

    Args:
        operator: the matrix.
        like: a vector of its length, dtype and device.
        steps: at most so many products.
        tolerance: residual of both ends over the largest eigenvalue in size, at which to stop; by default the square
            root of the unit of rounding.
        seed: of the random start.

    Raises:
        ArgumentError: no step.
        NonFiniteError: a product has NaN or infinite entries.
    """
    if steps < 1:
        raise ArgumentError(f"{steps} steps; give at least 1")
    tolerance = rounding(like) ** 0.5 if tolerance is None else tolerance
    space = Krylov(operator, [normal(like, seed)], steps)
    while space.grow():
        if space.steps % LOOK:
            continue
        values, vectors = eigen(space)
        if space.beyond() * max(abs(vectors[-1, [0, -1]])) <= tolerance * max(abs(values[[0, -1]])):
            break
    values, vectors = eigen(space)
    residuals = []
    for i in (0, -1):
        x = space.basis.mT @ torch.as_tensor(vectors[:, i]).to(like)
        residuals.append(norm(operator(x) - values[i] * x) / norm(x))
    zero = FLAT * rounding(like) * float(max(abs(values[[0, -1]])))
    return Extremes(float(values[0]), float(values[-1]), residuals[0], residuals[1], space.steps, len(like), zero)


def eigen(space: Krylov) -> tuple[np.ndarray, np.ndarray]:
    """Return Ritz values, ascending, and their vectors in the basis of a space.

    Raises:
        NonFiniteError: a product with the matrix has NaN or infinite entries.
    """
    finite(float(np.sum(space.matrix)), "a product with the Hessian")
    values, vectors = np.linalg.eigh(space.matrix)
    return values, vectors


@dataclass(frozen=True, eq=False)
class Solution:
    """An approximate solution of A x = b.

    Attributes:
        x: (d,).
        residual: b - A x, (d,), computed anew at the end.
        relative: its length over that of b.
        steps: products with A.
        converged: whether ``relative`` came down to the tolerance.
    """

    x: Tensor
    residual: Tensor
    relative: float
    steps: int
    converged: bool


def solve(
    operator: Operator, b: Tensor, *, tolerance: float | None = None, steps: int = 500, scale: float = 0.0
) -> Solution:
    """Solve A x = b for a positive semi-definite A by conjugate gradients; b in the range of A.

    Where the residual that is carried along says that it is small and the true one is not, the method starts again from
    there, as long as that halves it.

    Args:
        operator: A, damping included.
        b: (d,).
        tolerance: of the relative residual; by default 1e-10 in float64, 1e-5 in float32.
        steps: at most so many products.
        scale: the largest eigenvalue, which rounding is relative to: a direction that is curved by no more than that
            ends the search, as of a b that is not quite in the range.

    Raises:
        NotPSDError: a direction of negative curvature came up.
        NonFiniteError: a product has NaN or infinite entries.
    """
    if tolerance is None:
        tolerance = 1e-10 if b.dtype == torch.float64 else 1e-5
    x, residual, size, taken = torch.zeros_like(b), b, norm(b), 0
    left = size
    while left > tolerance * size and taken < steps:
        step, used = _descend(operator, residual, tolerance * size, steps - taken, scale)
        residual_there = b - operator(x + step)
        taken += used + 1
        left_there = finite(norm(residual_there), "a product with the Hessian")
        if left_there < left:
            x, residual = x + step, residual_there
        if left_there > left / 2:
            left = min(left, left_there)
            break
        left = left_there
    return Solution(x, residual, left / size if size else 0.0, taken, left <= tolerance * size)


def _descend(operator: Operator, b: Tensor, goal: float, steps: int, scale: float) -> tuple[Tensor, int]:
    """Return x and the number of products of conjugate gradients from zero, until the carried residual is small."""
    x, residual, way = torch.zeros_like(b), b, b
    square, unit = dot(b, b), rounding(b) * scale
    for taken in range(1, steps + 1):
        image = operator(way)
        length = dot(way, way)
        curvature = finite(dot(way, image), "a product with the Hessian") / length
        if curvature < -FLAT * max(unit, rounding(b) * norm(image) / math.sqrt(length)):
            raise NotPSDError(
                f"the curvature along a direction is negative, {curvature:.3g}, so that the quadratic has no minimum; "
                "add damping above that, or ask for the restricted reading"
            )
        if curvature <= 10 * unit:
            return x, taken
        far = square / (curvature * length)
        x, residual = x + far * way, residual - far * image
        before, square = square, dot(residual, residual)
        if math.sqrt(square) <= goal / 2:
            return x, taken
        way = residual + square / before * way
    return x, steps


@dataclass(frozen=True)
class Estimate:
    """A mean over random probes.

    Attributes:
        mean: the estimate.
        standard_error: of it.
        probes: how many.
    """

    mean: float
    standard_error: float
    probes: int


def trace(operator: Operator, like: Tensor, *, probes: int = 32, seed: int = 0) -> Estimate:
    """Estimate the trace of a symmetric matrix from random signs z, E[z^T A z] = tr A.

    Raises:
        ArgumentError: fewer than two probes, which have no standard error.

    Source: Hutchinson 1990.
    """
    if probes < 2:
        raise ArgumentError(f"{probes} probes; give at least 2, for a standard error")
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(probes):
        signs = (torch.randint(0, 2, (len(like),), generator=generator) * 2 - 1).to(like)
        found.append(finite(dot(signs, operator(signs)), "a product with the Hessian"))
    return Estimate(float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(probes)), probes)
