"""SpFT: an arbitrary set of entries of the layer is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import ChannelError, ShapeError
from linnet.methods.base import LinearMethod, finish
from linnet.problem import LayerProblem, Update


@dataclass(frozen=True, eq=False)
class SparseFT(LinearMethod):
    """Unstructured sparse fine-tuning: only the entries under the mask are trained.

    Attributes:
        mask: booleans, (..., d_out, d_in); one mask for all problems or one a problem.

    Raises:
        ShapeError: the mask is not boolean, or (at ``solve``) does not fit the layer.
        ChannelError: a mask without a single entry.

    Source: yang2024, Sec. 2 (SpFT).
    """

    mask: Array

    def __post_init__(self) -> None:
        try:
            mask = la.to_numpy(self.mask)
        except ValueError:
            raise ShapeError("mask has rows of different lengths; booleans (..., d_out, d_in) are needed") from None
        if mask.dtype != np.bool_ or mask.ndim < 2:
            raise ShapeError(f"mask has dtype {mask.dtype}, shape {mask.shape}; booleans (..., d_out, d_in) are needed")
        if not mask.any(axis=(-2, -1)).all():
            raise ChannelError("the mask chooses no entry; choose at least one")
        object.__setattr__(self, "mask", mask)

    def _entries(self, problem: LayerProblem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows and columns of the trained entries, (..., k), and which of them are; others fill up shorter lists."""
        la.require_shape(self.mask, "mask", (problem.d_out, problem.d_in))
        flat = self.mask.reshape(*self.mask.shape[:-2], -1)
        chosen = np.argsort(~flat, axis=-1, kind="stable")[..., : self.n_parameters(problem)]
        return chosen // problem.d_in, chosen % problem.d_in, np.take_along_axis(flat, chosen, axis=-1)

    def solve(self, problem: LayerProblem) -> Update:
        """Return the least-norm minimiser over the entries: each moves one column of upper by one row of root.

        Raises:
            ShapeError: the mask does not fit the layer.
        """
        i, j, used = self._entries(problem)
        scale = problem.upper_scale * problem.reach_scale
        if i.ndim == 1:
            above, seen = problem.upper[..., :, i], la.mT(problem.root[..., j, :])
            phi = la.rescaling(above, seen, problem.whitened, rtol=problem.rtol, scale=scale)
            return finish(problem, _scatter(phi, i, j, (problem.d_out, problem.d_in)))
        # Each problem has entries of its own: products with selections pick them, in any array library.
        rows, columns = (
            la.host_like((np.arange(size)[:, None] == at[..., None, :]) & used[..., None, :], problem.gram)
            for size, at in ((problem.d_out, i), (problem.d_in, j))
        )
        above, seen = problem.upper @ rows, la.mT(problem.root) @ columns
        phi = la.rescaling(above, seen, problem.whitened, rtol=problem.rtol, scale=scale)
        return finish(problem, (rows * phi[..., None, :]) @ la.mT(columns))

    def n_parameters(self, problem: LayerProblem) -> int:
        return int(self.mask.sum(axis=(-2, -1)).max())

    def directions(self, problem: LayerProblem) -> Array:
        i, j, used = self._entries(problem)
        one_hot = np.arange(problem.d_out * problem.d_in)[:, None] == (i * problem.d_in + j)[..., None, :]
        return la.host_like(one_hot & used[..., None, :], problem.gram)

    @classmethod
    def at_budget(cls, problem: LayerProblem, budget: int, rng: np.random.Generator) -> Iterator[tuple[str, Self]]:
        entries = problem.d_out * problem.d_in
        chosen = rng.permutation(entries)[: min(budget, entries)]
        mask = np.isin(np.arange(entries), chosen).reshape(problem.d_out, problem.d_in)
        yield "SpFT, random", cls(mask)


def _scatter(phi: Array, i: np.ndarray, j: np.ndarray, shape: tuple[int, int]) -> Array:
    """Place ``phi`` (..., k) at entries (i, j) of zeros (..., m, n), in any array library."""
    xp = la.namespace(phi)
    position = np.full(shape, len(i))
    position[i, j] = np.arange(len(i))
    padded = xp.concat([phi, xp.zeros((*phi.shape[:-1], 1), dtype=phi.dtype)], axis=-1)
    return xp.reshape(padded[..., xp.asarray(position.ravel())], (*phi.shape[:-1], *shape))
