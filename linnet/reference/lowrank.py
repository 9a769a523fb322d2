"""The twin of LoRA: the optimum of the rank-constrained problem, and a certificate of minimum norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from linnet._linalg import to_numpy
from linnet.problem import LayerProblem, Update
from linnet.reference.dense import ZERO, Twin, Whitened, twin_risk, whiten


@dataclass(frozen=True)
class Certificate:
    """Why an update of rank r is a minimiser of least norm. All numbers vanish up to rounding.

    Attributes:
        excess: its risk above the optimum, over the pre-trained network's risk.
        left_leak: the part of delta that the upper layers cannot see, relative.
        right_leak: the part of delta that no input reaches, relative.
        factor_gap: |U|_F^2 + |V|_F^2 above twice the nuclear norm of delta, relative; and |U V^T - delta|.
        rank_excess: the (r+1)-th singular value of delta, relative.

    With no leak on either side, ``delta = A delta B`` for the projectors A, B on what is seen; any competitor X
    of equal risk has ``A X B = delta`` where the optimum is unique, and a projection shrinks the nuclear norm.
    """

    excess: float
    left_leak: float
    right_leak: float
    factor_gap: float
    rank_excess: float

    @property
    def worst(self) -> float:
        """The largest of the five in absolute value."""
        return max(map(abs, (self.excess, self.left_leak, self.right_leak, self.factor_gap, self.rank_excess)))


def optimal_risk(problem: LayerProblem, rank: int) -> float:
    """Return the least E|y - f(x)|^2 over updates of at most ``rank``, in squared units of y.

    Orthonormal bases of what the layer can reach come from pivoted QR, the singular values of the target
    between them from the eigenvalues of its Gram matrix.

    Args:
        problem: one layer problem, unbatched.
        rank: from 0 up.

    Raises:
        ShapeError: ``problem`` is a batch.

    Source: yang2024, Lemma F.9, by the theorem of Eckart and Young.
    """
    w = _without_bias(whiten(problem))
    left, right = _column_basis(w.upper, w.size[0]), _column_basis(w.reach.T, w.size[1])
    core = left.T @ w.target @ right
    unseen = float(np.sum((w.target - left @ core @ right.T) ** 2))
    gram = core @ core.T if core.shape[0] <= core.shape[1] else core.T @ core
    values = scipy.linalg.eigvalsh(gram) if gram.size else np.zeros(0)
    tail = values[: max(len(values) - rank, 0)]
    return w.floor + unseen + float(np.sum(np.maximum(tail, 0.0)))


def low_rank(problem: LayerProblem, rank: int) -> Twin:
    """Return the least-norm minimiser among updates of at most ``rank``, where it is unique.

    The truncated core is pulled back through the two bases by LAPACK's least squares.

    Args:
        problem: one layer problem, unbatched.
        rank: from 0 up.

    Raises:
        ShapeError: ``problem`` is a batch.

    Source: yang2024, Lemma F.9.
    """
    w = _without_bias(whiten(problem))
    left, right = _column_basis(w.upper, w.size[0]), _column_basis(w.reach.T, w.size[1])
    delta = np.zeros((problem.d_out, problem.d_in))
    if left.size and right.size and rank > 0:
        u, s, vt = scipy.linalg.svd(left.T @ w.target @ right, full_matrices=False, lapack_driver="gesvd")
        best = (u[:, :rank] * s[:rank]) @ vt[:rank]
        half = np.linalg.lstsq(left.T @ w.upper, best, rcond=ZERO)[0]
        delta = np.linalg.lstsq((w.reach @ right).T, half.T, rcond=ZERO)[0].T
    return Twin(delta, None, twin_risk(problem, delta))


def certify_low_rank(problem: LayerProblem, update: Update, rank: int) -> Certificate:
    """Measure how far ``update`` is from a minimiser of least nuclear norm among those of ``rank``.

    Args:
        problem: one layer problem, unbatched.
        update: with ``delta`` (d_out, d_in), ``left`` (d_out, rank) and ``right`` (d_in, rank).
        rank: from 0 to min(d_out, d_in).

    Raises:
        ShapeError: ``problem`` is a batch.

    Source: yang2024, Lemma F.9.
    """
    w = _without_bias(whiten(problem))
    delta, u, v = (to_numpy(a).astype(float) for a in (update.delta, update.left, update.right))
    row, column = _column_basis(w.upper.T, w.size[0]), _column_basis(w.reach, w.size[1])
    size = float(np.linalg.norm(delta))
    scale = size if size > 0 else 1.0
    values = np.linalg.svd(delta, compute_uv=False)
    nuclear = float(np.sum(values))
    factors = float(np.sum(u**2) + np.sum(v**2))
    before = twin_risk(problem, np.zeros_like(delta))
    return Certificate(
        excess=(twin_risk(problem, delta) - optimal_risk(problem, rank)) / (before if before > 0 else 1.0),
        left_leak=float(np.linalg.norm(delta - row @ (row.T @ delta))) / scale,
        right_leak=float(np.linalg.norm(delta - (delta @ column) @ column.T)) / scale,
        factor_gap=max(abs(factors - 2 * nuclear), float(np.linalg.norm(u @ v.T - delta))) / scale,
        rank_excess=float(values[rank]) / scale if rank < len(values) else 0.0,
    )


def equal_risk_competitor(problem: LayerProblem, update: Update, rng: np.random.Generator) -> np.ndarray:
    """Return another update of the same rank and risk, (d_out, d_in).

    Its factors differ by random amounts in what the upper layers cannot see and what no input reaches; where
    there is no such freedom it is ``update.delta`` itself.

    Raises:
        ShapeError: ``problem`` is a batch.
    """
    w = _without_bias(whiten(problem))
    u, v = to_numpy(update.left).astype(float), to_numpy(update.right).astype(float)
    row, column = _column_basis(w.upper.T, w.size[0]), _column_basis(w.reach, w.size[1])
    a, b = rng.normal(size=u.shape), rng.normal(size=v.shape)
    return (u + a - row @ (row.T @ a)) @ (v + b - column @ (column.T @ b)).T


def _without_bias(w: Whitened) -> Whitened:
    return Whitened(w.upper, w.reach[:-1], w.target, w.floor, w.size)


def _column_basis(a: np.ndarray, size: float) -> np.ndarray:
    """Orthonormal basis of the column space by pivoted QR; ``size`` bounds the norm of the factors of ``a``."""
    if a.size == 0:
        return np.zeros((a.shape[0], 0))
    q, r, _ = scipy.linalg.qr(a, mode="economic", pivoting=True)
    diagonal = np.abs(np.diagonal(r))
    return q[:, : int(np.sum(diagonal > ZERO * max(size, diagonal[0])))]
