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
        if not isinstance(self.side, str) or self.side not in ("output", "input"):
            raise ChannelError(f'side={self.side!r}; give "output" or "input"')

    def solve(self, problem: LayerProblem) -> Update:
        """Return the least-norm minimiser over s: each channel moves the output by one matrix of rank one.

        On whitened inputs that is ``upper diag(s) (W root)`` (output side), or ``(upper W) diag(s) root``
        (input side); with biases the layer's input has a constant 1 appended.
        """
        w, bias, scale = problem.weight, problem.bias, problem.upper_scale
        if self.side == "input":
            above, seen, target = problem.upper @ w, problem.root, problem.whitened
            scale = scale * la.size(w) * problem.reach_scale
        elif bias is None:
            above, seen, target = problem.upper, w @ problem.root, problem.whitened
            scale = scale * la.size(w) * problem.reach_scale
        else:
            above, seen, target = problem.upper, problem.affine_weight @ problem.affine_root, problem.affine_whitened
            scale = scale * (la.size(w) * problem.reach_scale + la.norm(bias))
        s = la.rescaling(above, la.mT(seen), target, rtol=problem.rtol, scale=scale)
        if self.side == "input":
            return finish(problem, w * s[..., None, :])
        return finish(problem, s[..., None] * w, bias=None if bias is None else s * bias)

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
