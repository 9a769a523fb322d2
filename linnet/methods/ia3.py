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
        """Return the least-norm minimiser over s: normal equations, one unknown a channel.

        They are the entrywise product of upper^T upper with the second moment of what the layer emits
        (output side), or of W^T upper^T upper W with that of what it receives (input side).
        """
        w, gram = problem.weight, problem.gram
        xp = la.namespace(w)
        gradient = la.mT(problem.upper) @ problem.cross
        above = la.mT(problem.upper) @ problem.upper
        if self.side == "input":
            s = la.solve_psd(la.mT(w) @ above @ w * gram, xp.sum(w * gradient, axis=-2), rtol=problem.rtol)
            return finish(problem, w * s[..., None, :])
        emitted, moved = w @ gram @ la.mT(w), xp.sum(w * gradient, axis=-1)
        bias = problem.net.biases[problem.layer] if problem.net.biases is not None else None
        if bias is not None:
            mean = la.matvec(w, problem.input_mean)
            emitted = emitted + la.outer(mean, bias) + la.outer(bias, mean) + la.outer(bias, bias)
            moved = moved + bias * la.matvec(la.mT(problem.upper), problem.residual_mean)
        s = la.solve_psd(above * emitted, moved, rtol=problem.rtol)
        return finish(problem, s[..., :, None] * w, bias=None if bias is None else s * bias)

    def n_parameters(self, problem: LayerProblem) -> int:
        return problem.d_out if self.side == "output" else problem.d_in

    def directions(self, problem: LayerProblem) -> Array:
        w = problem.weight
        if self.side == "output" and problem.net.biases is not None:
            xp = la.namespace(w)
            w = xp.concat([w, problem.net.biases[problem.layer][..., :, None]], axis=-1)
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
