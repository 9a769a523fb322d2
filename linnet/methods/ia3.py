"""IA3: the layer's channels are rescaled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import ChannelError
from linnet.methods.base import LinearMethod, finish
from linnet.problem import LayerProblem, Update


@dataclass(frozen=True)
class IA3(LinearMethod):
    """A diagonal scaling 1 + s of what the layer emits or receives; s is trained.

    Attributes:
        side: "output" scales the rows (and the layer's bias: keys and values), delta = diag(s) W;
            "input" scales the columns (feed-forward layers), delta = W diag(s).
    """

    side: Literal["output", "input"] = "output"

    def __post_init__(self) -> None:
        if self.side not in ("output", "input"):
            raise ChannelError(f'side={self.side!r}; give "output" or "input"')

    def solve(self, problem: LayerProblem) -> Update:
        """Return the least-norm minimiser over s: each channel moves the output by one matrix of rank one.

        On whitened inputs that is ``upper diag(s) (W root)`` (output side), or ``(upper W) diag(s) root``
        (input side); with biases the layer's input has a constant 1 appended.
        """
        w, bias = problem.weight, problem.bias
        if self.side == "input":
            s = self._scaling(problem, problem.upper @ w, problem.gram, problem.cross, None)
            return finish(problem, w * s[..., None, :])
        if bias is None:
            return finish(problem, self._scaling(problem, problem.upper, problem.gram, problem.cross, w)[..., None] * w)
        s = self._scaling(problem, problem.upper, problem.affine_gram, problem.affine_cross, problem.affine_weight)
        return finish(problem, s[..., None] * w, bias=s * bias)

    def _scaling(self, problem: LayerProblem, above: Array, gram: Array, cross: Array, weight: Array | None) -> Array:
        """Least-norm s for ``above diag(s) weight`` on an input of second moment ``gram``; no weight, no mixing."""
        affine = gram.shape[-1] > problem.d_in
        reach = problem.reach_scale + problem.constant if affine else problem.reach_scale
        scale = problem.upper_scale * la.size(problem.weight if weight is None else weight) * reach

        def whitened() -> tuple[Array, Array]:
            root, target = (
                (problem.affine_root, problem.affine_whitened) if affine else (problem.root, problem.whitened)
            )
            return root if weight is None else root @ la.mT(weight), target

        second = gram if weight is None else weight @ gram @ la.mT(weight)
        moved = cross if weight is None else cross @ la.mT(weight)
        return la.rescaling(above, second, moved, whitened, rtol=problem.rtol, scale=scale)

    def n_parameters(self, problem: LayerProblem) -> int:
        return problem.d_out if self.side == "output" else problem.d_in

    def directions(self, problem: LayerProblem) -> Array:
        w = problem.weight
        if self.side == "output" and problem.bias is not None:
            w = la.append_column(w, problem.bias)
        return _rescaling_basis(w) if self.side == "output" else _column_rescaling_basis(w)

    @classmethod
    def at_budget(cls, problem: LayerProblem, budget: int, rng: np.random.Generator) -> Iterator[tuple[str, Self]]:
        yield "IA3", cls()


def _rescaling_basis(w: Array) -> Array:
    """P with P s = vec(diag(s) w), (..., m * n, m)."""
    xp = la.namespace(w)
    m, n = w.shape[-2:]
    out = la.eye(w, m)[:, None, :] * w[..., :, :, None]
    return xp.reshape(out, (*w.shape[:-2], m * n, m))


def _column_rescaling_basis(w: Array) -> Array:
    """P with P s = vec(w diag(s)), (..., m * n, n)."""
    xp = la.namespace(w)
    m, n = w.shape[-2:]
    out = la.eye(w, n)[None, :, :] * w[..., :, :, None]
    return xp.reshape(out, (*w.shape[:-2], m * n, n))
