"""LoRA with one factor frozen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import ShapeError
from linnet.methods.base import LinearMethod, finish
from linnet.problem import LayerProblem, Update


@dataclass(frozen=True, eq=False)
class FrozenFactorLoRA(LinearMethod):
    """delta = U V^T with one factor fixed and the other trained.

    Attributes:
        left: U, (..., d_out, r), if it is the frozen one.
        right: V, (..., d_in, r), if it is the frozen one.

    Raises:
        ShapeError: both or neither is given; at ``solve``, a factor does not fit the layer.
    """

    left: Array | None = None
    right: Array | None = None

    def __post_init__(self) -> None:
        if (self.left is None) == (self.right is None):
            raise ShapeError("give one frozen factor: left=U (d_out, r), or right=V (d_in, r)")
        for name in ("left", "right"):
            value = getattr(self, name)
            if value is not None:
                value = la.as_float(value, name)
                la.require_shape(value, name, ("d", "r"))
                la.require_finite(**{name: value})
                object.__setattr__(self, name, value)

    def _factor(self, problem: LayerProblem) -> Array:
        name, size = ("left", problem.d_out) if self.left is not None else ("right", problem.d_in)
        factor = la.beside(self.left if self.left is not None else self.right, problem.gram)
        la.require_shape(factor, name, (size, "r"))
        return factor

    def solve(self, problem: LayerProblem) -> Update:
        """Return the update whose trained factor is the least-norm minimiser.

        U fixed: ``V^T = (upper U)^+ cross gram^+``. V fixed: ``U = upper^+ cross V (V^T gram V)^+``.

        Raises:
            ShapeError: the frozen factor does not fit the layer.

        Source: yang2024, Lemma F.12 for U a selection; the same argument for any U, and for V.
        """
        factor = self._factor(problem)
        xp = la.namespace(factor)
        if self.left is not None:
            seen = la.factored(
                problem.upper @ factor,
                rtol=problem.rtol,
                scale=lambda: problem.upper_scale * la.size(factor),
                bound=problem.upper_bound * la.frobenius(factor),
            )
            right_t = seen.pinv @ problem.regression
            delta = factor @ right_t
            pair = (xp.broadcast_to(factor, (*delta.shape[:-1], factor.shape[-1])), la.mT(right_t))
        else:
            # On whitened inputs, root^T V in place of V^T gram V: the condition number is not squared.
            seen = la.factored(
                la.mT(problem.root) @ factor,
                rtol=problem.rtol,
                scale=lambda: problem.reach_scale * la.size(factor),
                bound=problem.reach_bound * la.frobenius(factor),
            )
            left = problem.upper_pinv @ (problem.whitened @ la.mT(seen.pinv))
            delta = left @ la.mT(factor)
            pair = (left, xp.broadcast_to(factor, (*delta.shape[:-2], *factor.shape[-2:])))
        return finish(problem, delta, factors=pair)

    def n_parameters(self, problem: LayerProblem) -> int:
        factor = self._factor(problem)
        return factor.shape[-1] * (problem.d_in if self.left is not None else problem.d_out)

    def ends(self, problem: LayerProblem) -> tuple[Array, Array]:
        factor = self._factor(problem)
        if self.left is not None:
            return factor, la.eye(factor, problem.d_in)
        return la.eye(factor, problem.d_out), factor

    def directions(self, problem: LayerProblem) -> Array:
        factor = self._factor(problem)
        if self.left is not None:  # phi = V^T, row-major
            return kron(factor, la.eye(factor, problem.d_in))
        return kron(la.eye(factor, problem.d_out), factor)  # phi = U, row-major

    @classmethod
    def at_budget(cls, problem: LayerProblem, budget: int, rng: np.random.Generator) -> Iterator[tuple[str, Self]]:
        if cls is not FrozenFactorLoRA:
            return
        r = int(np.clip(round(budget / problem.d_in), 1, problem.d_out))
        yield "LoRA, U frozen", cls(left=rng.normal(size=(problem.d_out, r)) / np.sqrt(r))
        r = int(np.clip(round(budget / problem.d_out), 1, problem.d_in))
        yield "LoRA, V frozen", cls(right=rng.normal(size=(problem.d_in, r)) / np.sqrt(r))


def kron(a: Array, b: Array) -> Array:
    """Kronecker product over the last two axes; batch axes broadcast."""
    xp = la.namespace(a, b)
    out = a[..., :, None, :, None] * b[..., None, :, None, :]
    return xp.reshape(out, (*out.shape[:-4], a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1]))
