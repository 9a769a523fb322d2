"""LoRA: an update of rank r, both factors trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from linnet import _linalg as la
from linnet import large
from linnet.errors import RankError
from linnet.methods.base import Method, finish
from linnet.problem import LayerProblem, Update


@dataclass(frozen=True)
class LoRA(Method):
    """delta = U V^T with U (d_out, rank) and V (d_in, rank), both trained.

    Attributes:
        rank: from 0 to min(d_out, d_in) of the layer.
        ties: what to do where the rank-th and next singular values tie, so that several updates of
            different norms minimise the risk: "refuse", or take the "first" that the SVD returns.
    """

    rank: int
    ties: Literal["refuse", "first"] = "refuse"

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int | np.integer) or self.rank < 0:
            raise RankError(f"rank {self.rank!r}; give a whole number >= 0")
        if not isinstance(self.ties, str) or self.ties not in ("refuse", "first"):
            raise RankError(f'ties={self.ties!r}; give "refuse" or "first"')

    def solve(self, problem: LayerProblem) -> Update:
        """Return the minimum-norm update, in closed form.

        Among all pairs (U, V) that minimise the risk, the one of least ``|U|_F^2 + |V|_F^2`` has
        ``U V^T = upper^+ SVD_r(M) root^+`` with M the reachable whitened residual; ``update.left`` and
        ``update.right`` are that pair. Of one layer 1024 wide or wider, in NumPy and float64, the risk is within
        1e-6 of the least, unless ``problem.residual_svd`` was asked for before; see ``linnet.large``.

        Raises:
            RankError: the rank exceeds the layer's, or (single problem) the singular values tie.

        Source: yang2024, Lemma F.9.
        """
        r = int(self.rank)
        if r > min(problem.d_out, problem.d_in):
            raise RankError(
                f"rank {r} for a {problem.d_out} x {problem.d_in} layer; give 0 to {min(problem.d_out, problem.d_in)}"
            )
        found = None if "residual_svd" in vars(problem) else large.lora(problem, r)
        if found is not None:
            return finish(problem, found[0] @ found[1].T, factors=found, balance=True)
        u, s, vt = problem.residual_svd
        xp = la.namespace(s)
        left = problem.upper_pinv @ (u[..., :, :r] * s[..., None, :r])
        right = la.mT(vt[..., :r, :] @ problem.root_pinv)
        short = r - left.shape[-1]  # r may exceed q
        if short > 0:
            left = xp.concat([left, xp.zeros((*left.shape[:-1], short), dtype=left.dtype)], axis=-1)
            right = xp.concat([right, xp.zeros((*right.shape[:-1], short), dtype=right.dtype)], axis=-1)
        status = None
        if self.ties == "refuse":
            status = xp.where(la.has_tie(s, r, lambda: problem.residual_floor), la.TIE, la.OK)
        return finish(problem, left @ la.mT(right), factors=(left, right), balance=True, status=status)

    def n_parameters(self, problem: LayerProblem) -> int:
        return int(self.rank) * (problem.d_out + problem.d_in)

    @classmethod
    def at_budget(cls, problem: LayerProblem, budget: int, rng: np.random.Generator) -> Iterator[tuple[str, Self]]:
        most = min(problem.d_out, problem.d_in)
        yield "LoRA", cls(int(np.clip(round(budget / (problem.d_out + problem.d_in)), 1, most)))
