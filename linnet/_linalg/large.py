"""One large matrix, in NumPy and float64: where time and memory ask for other ways than those of many small ones.

Nothing here decomposes a matrix but by Cholesky, LU and triangles; singular triplets come from products with a few
columns at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from linnet._linalg.libraries import Array

LARGE = 1024
"""Least side from which a matrix is large."""

PROBES = 8
"""Random columns whose images tell a norm. The longest has a tenth of the norm at least, but for a chance of 2e-9:
each is shorter only if a standard normal variable is below 0.1. Estimates by few vectors that are not random, such as
LAPACK's, can be led astray by orders of magnitude."""

MARGIN = 10.0
"""What such an estimate is multiplied by where something is concluded from it."""

BLOCK = 24
"""Columns of a step of Lanczos' method, at least: as many copies of a multiple singular value are found."""

SPARE = 7
"""Columns of a step beyond the number of triplets that are looked for."""

LACKING = 1e-6
"""What the squares of the singular values found may lack, together, of the squares of all others; see ``_lacking``."""

RISING = 1e-4
"""Largest relative rise, since the last look, of the square of any singular value that is taken."""

ROUNDING = 1e-12
"""Of the largest square, what may be lacking in any case."""

NOTHING = 1e-24
"""Size of a square, over the largest, that is rounding."""

CHECKED = 2
"""Steps from one look at the singular values to the next."""

MOST = 2
"""Share of the side, as a divisor, up to which the search goes on."""


def is_large(a: Array) -> bool:
    """Return whether ``a`` is one matrix in NumPy and float64 whose sides are ``LARGE`` at least."""
    return isinstance(a, np.ndarray) and a.dtype == np.float64 and a.ndim == 2 and min(a.shape) >= LARGE


def cholesky(a: np.ndarray) -> np.ndarray:
    """Return the lower Cholesky factor of a symmetric matrix (n, n), with room for one matrix more.

    Raises:
        LinAlgError: it is not positive definite.
    """
    from scipy.linalg import lapack

    upper, failed = lapack.dpotrf(np.array(a, order="C").T, clean=True, overwrite_a=True)  # LAPACK reads columns
    if failed:
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return upper.T


def inverted(a: np.ndarray) -> np.ndarray | None:
    """Return the inverse (n, n) with room for one matrix more, where NumPy's takes three; None where there is none."""
    from scipy.linalg import lapack

    lu = LU.of(a)
    if lu is None:
        return None
    work = int(lapack.dgetri_lwork(len(a))[0])
    inverse, failed = lapack.dgetri(lu.factors, lu.pivots, lwork=work, overwrite_lu=True)
    return inverse.T if failed == 0 and np.isfinite(inverse).all() else None


@dataclass(frozen=True)
class LU:
    """The transpose of a matrix ``a`` (n, n), decomposed: LAPACK reads columns."""

    factors: np.ndarray
    pivots: np.ndarray

    @classmethod
    def of(cls, a: np.ndarray) -> LU | None:
        """Decompose; None where a pivot is zero, or what is not finite is met."""
        from scipy.linalg import lapack

        factors, pivots, failed = lapack.dgetrf(np.array(a, order="C").T, overwrite_a=True)
        return cls(factors, pivots) if failed == 0 and np.isfinite(factors.diagonal()).all() else None

    def solve(self, b: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        """Return ``a^-1 b``, or ``a^-T b``; b (n, k)."""
        from scipy.linalg import lapack

        return lapack.dgetrs(self.factors, self.pivots, b, trans=0 if transposed else 1)[0]


def solved(a: np.ndarray, b: np.ndarray, *, transposed: bool = False) -> np.ndarray | None:
    """Return ``a^-1 b``, or ``a^-T b``; a (n, n), a lower triangle or not, b (n, k). None where ``a`` is singular."""
    from scipy.linalg import lapack

    if any(row[i + 1 :].any() for i, row in enumerate(a)):  # the first row of most tells, and no copy is made
        lu = LU.of(a)
        return None if lu is None else lu.solve(b, transposed=transposed)
    return lapack.dtrtrs(a.T, b, lower=0, trans=0 if transposed else 1)[0] if a.diagonal().all() else None


def probes(n: int) -> np.ndarray:
    """Return random columns (n, ``PROBES``) of unit variance."""
    return np.random.default_rng(0).normal(size=(n, PROBES))


def length(x: np.ndarray) -> float:
    """Return the length of the longest column, without squares that underflow or overflow."""
    size = float(np.max(np.abs(x), initial=0.0))
    return size * float(np.linalg.norm(x / size, axis=0).max()) if 0 < size < np.inf else size


def norm_of(a: np.ndarray) -> float:
    """Return an estimate from above of the spectral norm of a matrix: two steps of powers, and the margin."""
    seen = times([a], probes(a.shape[1]))
    size = length(seen)
    if not 0 < size < np.inf:
        return size
    back = transposed_times([a], seen / size)
    return MARGIN * length(times([a], back / length(back)))


def times(chain: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return the product of a chain of matrices with x (n, k)."""
    y = x.T
    for a in reversed(chain):
        y = y @ a.T  # few rows rather than few columns: so BLAS reads a along its rows, and takes half the time
    return y.T


def transposed_times(chain: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray:
    """Return the product of the transpose of a chain of matrices with y (m, k)."""
    x = y.T
    for a in chain:
        x = x @ a
    return x.T


def leading(
    apply: Callable[[np.ndarray], np.ndarray],
    adjoint: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    k: int,
    tie: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the k largest singular triplets and the next, u (m, k + 1), s (k + 1,), vt (k + 1, n), of a map.

    By Golub and Kahan's bidiagonalisation in blocks, both bases kept orthonormal in full. The start is random, so that
    with probability one no singular value is missed, nor up to ``BLOCK`` copies of one. It ends when little is
    ``LACKING`` of the best approximation's squares: vectors of neighbouring singular values may still be mixed, of
    which the approximation takes no notice. Of the next triplet it finds out whether its value is nearer to the k-th
    than ``tie``, and no more. None where the bases have grown to a share of the sides before, and where the map
    overflows.

    Args:
        apply: the map, from (n, b) to (m, b).
        adjoint: its transpose, from (m, b) to (n, b).
        shape: (m, n).
        k: how many.
        tie: relative distance of singular values.
    """
    block = max(BLOCK, k + SPARE)
    steps = min(shape) // MOST // block
    left, right = (np.empty((steps * block, side)).T for side in shape)  # memory is taken as columns come
    small = np.zeros((steps * block, steps * block))
    beyond = np.random.default_rng(0).normal(size=(shape[1], block))
    unit, before = 0.0, np.zeros(k + 1)
    for step in range(steps):
        mine = slice(step * block, (step + 1) * block)
        right[:, mine] = _orthonormal(beyond, right[:, : mine.start])
        image = apply(right[:, mine])
        left[:, mine] = _orthonormal(image, left[:, : mine.start])
        small[: mine.stop, mine] = left[:, : mine.stop].T @ image
        beyond = _less(adjoint(left[:, mine]), right[:, : mine.stop])
        if (step + 1) % CHECKED == 0:
            if not np.isfinite(small).all():
                return None
            a, s, bt = np.linalg.svd(small[: mine.stop, : mine.stop])
            unit = unit or s[0] or 1.0
            squares = (s / unit) ** 2
            risen, before = squares[: k + 1] - before, squares[: k + 1]
            still = np.all(risen <= np.maximum(RISING * before, NOTHING * squares[0]))
            coupled = s[: k + 1] / unit * np.linalg.norm(beyond @ a[mine, : k + 1] / unit, axis=0)
            few = _lacking(before, coupled) <= max(LACKING * squares[k:].sum(), ROUNDING * squares[0])
            if still and few and _is_told(before, coupled, tie):
                return left[:, : mine.stop] @ a[:, : k + 1], s[: k + 1], bt[: k + 1] @ right[:, : mine.stop].T
    return None


def _lacking(squares: np.ndarray, coupled: np.ndarray) -> float:
    """Return what the sum of all squares but the last lacks, at most, of the largest that there are.

    The transpose of the map times the map is, in the vectors found and beyond them, diag(squares) with columns of
    lengths ``coupled`` beside it, and beyond the taken ones a block C. Let c be its norm: for each taken square q
    either the length g of its column counts, by Ky Fan's inequality and whatever the gaps are, or g^2 / (q - c), since
    C <= c, and [[Q - c, G^T], [G, 0]] <= [[Q - c, G^T], [G, G (Q - c)^-1 G^T]], which has no negative eigenvalue and
    no more positive ones than there are squares: their sum is its trace. That c is the last square and the length of
    its column at most, is supposed: that of what is beyond the bases nothing is larger.

    Args:
        squares: those of the singular values taken and of the next (k + 1,), falling.
        coupled: lengths of their columns (k + 1,).
    """
    most = squares[-1] + coupled[-1]
    gap, coupled = squares[:-1] - most, coupled[:-1]
    apart = gap > coupled
    return float(np.sum(np.where(apart, coupled**2 / np.where(apart, gap, 1.0), coupled + np.maximum(-gap, 0.0))))


def _is_told(squares: np.ndarray, coupled: np.ndarray, tie: float) -> bool:
    """Return whether it is known if the last two tie, of which the very last lacks the length of its column at most."""
    last, following = squares[-2:]
    nearer = (1 - tie) ** 2 * last
    return bool(following >= nearer or following + coupled[-1] < nearer or last <= NOTHING * squares[0])


def _less(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return x less its part in the span of a basis."""
    return x - basis @ (basis.T @ x)


def _orthonormal(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return orthonormal columns that span x beyond a basis; of what x lacks, any."""
    for _ in range(2):  # the second time for rounding, and for columns that nothing but rounding has left
        x, _ = np.linalg.qr(_less(x, basis))
    return x
