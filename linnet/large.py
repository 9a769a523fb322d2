"""LoRA of one large layer from products with a few columns: no matrix of its size is made but factors of its sides.

A layer is taken so where nothing can go wrong without being seen: square maps all the way, none near to losing rank,
without biases and means, a rank that is few beside the widths. Whatever else is large is solved as it is small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet import _linalg as la
from linnet.problem import LayerProblem

FEW = 16
"""Share of the widths, as a divisor, up to which a rank is few."""

TIE = 1e-4
"""Relative gap of two singular values below which all are found, for a tie to be told from a small gap."""

NOTHING = 1e-12
"""Relative size of a singular value from which on it is taken for zero where ties are looked for: zeros do not tie."""


def lora(problem: LayerProblem, rank: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return ``upper^+ SVD_r(M) root^+`` as factors (d_out, r) and (d_in, r), or None where the layer is not taken so.

    The risk exceeds the least that the rank allows by 1e-6 of it at most; see ``LACKING``.
    """
    if not problem.is_large or not 0 < rank < problem.d_in // FEW:
        return None
    layers, at = problem.net.weights, problem.layer
    root, *seen = problem.moments.roots_apart
    square = (problem.d_in, problem.d_in)
    if problem.is_affine or any(not la.is_large(a) or a.shape != square for a in (*layers, *seen, root)):
        return None
    # T z = C z - W root z, and C of a task is its coefficients times the root: what is common is multiplied once.
    apart = [] if seen[-1] is root else [root]
    common, seen = ([], seen) if apart else ([root], seen[:-1])
    model = [*reversed(layers), *apart]

    def residual(z: np.ndarray) -> np.ndarray:
        z = la.times(common, z)
        return la.times(seen, z) - la.times(model, z)

    def adjoint(y: np.ndarray) -> np.ndarray:
        return la.transposed_times(common, la.transposed_times(seen, y) - la.transposed_times(model, y))

    found = la.leading(residual, adjoint, square, rank, TIE)
    if found is None:
        return None
    u, s, vt = found
    if s[rank - 1] > NOTHING * s[0] and s[rank - 1] - s[rank] <= TIE * s[rank - 1]:
        return None
    left = _solved(layers[:at:-1], u[:, :rank] * s[:rank], problem.rtol)
    right = _solved((root, *layers[:at]), vt[:rank].T, problem.rtol, transposed=True)
    return None if left is None or right is None else (left, right)


def _solved(
    factors: Sequence[np.ndarray], b: np.ndarray, rtol: float | None, transposed: bool = False
) -> np.ndarray | None:
    """Solve with one factor of a product after the other; None where the product may lose rank.

    Random columns go along: what becomes of them tells the norm of the inverse.
    """
    largest = 1.0
    x = np.concatenate([b, la.probes(len(b))], axis=1)
    for a in factors:
        found = la.solved(a, x, transposed=transposed)
        if found is None:
            return None
        x = found
        largest *= la.norm_of(a) * len(a) ** 0.25  # Schatten's 4-norm is at most that much above the spectral one
    if not factors:
        return b
    inverse = la.MARGIN * la.length(x[:, b.shape[1] :])
    cut = la.zero_cut(factors[0], np.asarray(largest), rtol, np.asarray(largest))
    return x[:, : b.shape[1]] if 0 < largest < np.inf and bool(inverse * cut < 1) else None
