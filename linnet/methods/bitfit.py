"""BitFit: only the layer's bias is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.methods.base import LinearMethod, finish
from linnet.problem import LayerProblem, Update


@dataclass(frozen=True)
class BitFit(LinearMethod):
    """A bias at the layer is trained; it moves the output's mean and nothing else."""

    def solve(self, problem: LayerProblem) -> Update:
        """Return bias ``upper^+ E[y - f(x)]``, the least-norm minimiser; ``delta`` is zero."""
        mean = problem.residual_mean
        bias = la.matvec(problem.upper_pinv, mean)
        delta = 0.0 * (bias[..., :, None] * problem.weight[..., :1, :])
        return finish(problem, delta, bias=bias)

    def n_parameters(self, problem: LayerProblem) -> int:
        return problem.d_out

    def directions(self, problem: LayerProblem) -> Array:
        n = problem.d_in + 1
        last = np.arange(problem.d_out * n)[:, None] == np.arange(problem.d_out)[None, :] * n + problem.d_in
        return la.host_like(last, problem.gram)

    @classmethod
    def at_budget(cls, problem: LayerProblem, budget: int, rng: np.random.Generator) -> Iterator[tuple[str, Self]]:
        yield "BitFit", cls()
