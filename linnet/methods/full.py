"""Full fine-tuning of one layer."""

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
class FullFT(LinearMethod):
    """All weights of the layer are trained."""

    def solve(self, problem: LayerProblem) -> Update:
        """Return ``upper^+ cross gram^+``, the least-norm minimiser.

        Source: yang2024, proof of Lemma F.17.
        """
        return finish(problem, problem.upper_pinv @ problem.regression)

    def n_parameters(self, problem: LayerProblem) -> int:
        return problem.d_out * problem.d_in

    def ends(self, problem: LayerProblem) -> tuple[Array, Array]:
        return la.eye(problem.gram, problem.d_out), la.eye(problem.gram, problem.d_in)

    def directions(self, problem: LayerProblem) -> Array:
        return la.eye(problem.gram, problem.d_out * problem.d_in)

    @classmethod
    def at_budget(cls, problem: LayerProblem, budget: int, rng: np.random.Generator) -> Iterator[tuple[str, Self]]:
        """The one method that no budget fits: it is the yardstick."""
        yield "full FT", cls()
