"""Decompositions, and the only place that decides a rank.

Every function takes leading batch axes and cuts by mask, not by slicing, so that the same code is right for
a batch, under ``jit`` and ``vmap``, and at exact rank loss.

**Rank policy.** A singular value (where only a second moment is known, its eigenvalue) counts as zero if it is at most

    max( RANK_FACTOR * max(m, n) * eps * largest,   CANCEL_FACTOR * sqrt(max(m, n)) * eps * scale ),

where ``scale`` is the product of the sizes (Schatten 4-norms) of the factors that the matrix was multiplied
together from: a product whose factors cancel is zero although its own largest singular value says otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from linnet._linalg.arrays import (
    NONFINITE,
    NOT_PSD,
    OK,
    all_finite,
    frobenius,
    matvec,
    mT,
    require_finite,
    require_shape,
    sq,
)
from linnet._linalg.large import MARGIN, cholesky, inverted, is_large, length, probes, solved
from linnet._linalg.libraries import Array, as_float, eps, eye, is_concrete, is_numpy, namespace, to_numpy
from linnet.errors import NotPSDError

QUIET = np.errstate(over="ignore", invalid="ignore", divide="ignore")
"""For estimates that may overflow at extreme scales, where what then fails is decomposed, or gets a status."""

RANK_FACTOR = 10.0
"""Multiple of ``max(m, n) * eps`` below which a relative singular value is rounding error."""

CANCEL_FACTOR = 20.0
"""Multiple of ``sqrt(max(m, n)) * eps * scale`` below which what is left of a product is rounding error."""

PIECE = 1 << 22
"""Entries of the designs that are decomposed at a time."""

TRUST = 1e-4
"""Reciprocal condition number down to which normal equations are solved as they stand: they lose at most the
square root of its inverse, a factor of 100, against an SVD of the design."""

TIE_FACTOR = 4096.0
"""Multiple of eps below which the relative gap of two singular values is a tie (9e-13 in float64)."""


def psd_status(xp: Any, a: Array, definite: Array | None = None) -> Array:
    """Return OK, NONFINITE or NOT_PSD for each matrix of the batch; ``a`` (..., d, d).

    Lower triangles that are known to be those of positive ``definite`` matrices are not looked at again.
    """
    finite = all_finite(xp, a)
    safe = xp.where(finite[..., None, None], a, xp.zeros_like(a))
    size = xp.max(xp.abs(safe), axis=(-2, -1)) if safe.shape[-1] else xp.zeros_like(safe[..., 0, :1])[..., 0]
    tol = 8 * rank_rtol(a) * size * a.shape[-1]
    skew = xp.max(xp.abs(safe - mT(safe)), axis=(-2, -1)) > tol
    if definite is not None and bool(xp.all(definite)):
        low = xp.zeros_like(skew)
    else:
        low = _below(xp, (safe + mT(safe)) / 2, tol)
        low = low if definite is None else low & ~definite
    status = xp.where(low | skew, xp.full_like(size, NOT_PSD), xp.full_like(size, OK))
    return xp.astype(xp.where(finite, status, xp.full_like(size, NONFINITE)), xp.int32)


def _below(xp: Any, a: Array, tol: Array) -> Array:
    """Return whether symmetric ``a`` (..., d, d) has an eigenvalue below ``-tol`` (...)."""
    if is_numpy(xp):
        try:  # a tenth of the price of eigenvalues, and nearly always enough
            shifted, at = a.copy(), np.arange(a.shape[-1])
            shifted[..., at, at] += np.maximum(tol, np.finfo(a.dtype).tiny)[..., None]
            _ = cholesky(shifted) if is_large(a) else np.linalg.cholesky(shifted)
            return np.zeros(a.shape[:-2], dtype=bool)
        except np.linalg.LinAlgError:
            pass
    return xp.min(xp.linalg.eigvalsh(a), axis=-1) < -tol


def require_psd(a: Array, name: str) -> None:
    """Refuse one concrete, unbatched matrix that is not symmetric PSD up to rounding.

    Raises:
        NotPSDError: asymmetric, or an eigenvalue is negative beyond rounding.
    """
    if a.ndim != 2 or not is_concrete(a) or int(psd_status(namespace(a), a)) == OK:
        return
    host = to_numpy(a)
    skew = float(np.max(np.abs(host - host.T)))
    least = float(np.linalg.eigvalsh((host + host.T) / 2)[0])
    what = f"smallest eigenvalue {least:.3g}" if least < 0 else f"asymmetric by {skew:.3g}"
    raise NotPSDError(
        f"{name} is not symmetric positive semi-definite ({what}); a covariance is needed: "
        f"check its estimate, or project it with ln.nearest_psd"
    )


def rank_rtol(a: Array, rtol: float | None = None) -> float:
    """Return the relative tolerance of the rank policy for ``a`` (..., m, n)."""
    return RANK_FACTOR * max(a.shape[-2], a.shape[-1], 1) * eps(a) if rtol is None else rtol


def zero_cut(a: Array, largest: Array, rtol: float | None, scale: Array | None) -> Array:
    """Return the size at or below which a singular value of ``a`` counts as zero, by the rank policy."""
    cut = rank_rtol(a, rtol) * largest
    if scale is None:
        return cut
    xp = namespace(cut)
    floor = CANCEL_FACTOR * max(a.shape[-2:]) ** 0.5 * eps(a) * scale
    return xp.maximum(cut, xp.where(xp.isfinite(floor), floor, 0.0))


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigendecomposition of a PSD matrix with its rank decided: values (..., d) ascending, zeros exact."""

    values: Array
    vectors: Array
    status: Array

    def power(self, exponent: float) -> Array:
        """Return the matrix power on the range: -0.5 is the pseudo-inverse of the root."""
        xp = namespace(self.values)
        positive = self.values > 0
        powers = xp.where(positive, xp.where(positive, self.values, 1.0) ** exponent, 0.0)
        return (self.vectors * powers[..., None, :]) @ mT(self.vectors)

    @property
    def rank(self) -> Array:
        xp = namespace(self.values)
        return xp.sum(xp.astype(self.values > 0, xp.int64), axis=-1)


def spectrum(a: Array, *, rtol: float | None = None, scale: Array | None = None) -> Spectrum:
    """Decompose symmetric PSD ``a`` (..., d, d); eigenvalues at or below the cut become exact zeros.

    ``scale`` (...) is the product of the sizes of the factors of ``a``, where it is a product.
    """
    xp = namespace(a)
    w, v = _decomposed(lambda m: tuple(xp.linalg.eigh(m)), a)
    if a.shape[-1] == 0:
        return Spectrum(w, v, xp.zeros(a.shape[:-2], dtype=xp.int32))
    top = w[..., -1]
    cut = zero_cut(a, top, rtol, scale)
    negative = w[..., 0] < -100 * cut
    return Spectrum(xp.where(w > cut[..., None], w, 0.0), v, xp.astype(xp.where(negative, NOT_PSD, OK), xp.int32))


def qr(a: Array) -> tuple[Array, Array]:
    """Thin QR decomposition: q (..., m, k) with orthonormal columns, r (..., k, n)."""
    q, r = _decomposed(lambda m: tuple(namespace(m).linalg.qr(m)), a)
    return q, r


def svd(a: Array) -> tuple[Array, Array, Array]:
    """Thin singular value decomposition: u (..., m, k), s (..., k) descending, vt (..., k, n)."""
    xp = namespace(a)
    u, s, vt = _decomposed(lambda m: tuple(xp.linalg.svd(m, full_matrices=False)), a)
    return u, s, vt


def _decomposed(lapack: Callable[[Array], tuple[Array, ...]], a: Array) -> tuple[Array, ...]:
    """Decompose a batch; one non-finite element, for which LAPACK refuses them all, gets NaN instead."""
    xp = namespace(a)
    finite: Any = None
    if is_concrete(a):
        try:
            return lapack(a)
        except (np.linalg.LinAlgError, RuntimeError):
            finite = all_finite(xp, a)
            if bool(xp.all(finite)):
                raise
    finite = all_finite(xp, a) if finite is None else finite
    parts = lapack(xp.where(finite[..., None, None], a, xp.zeros_like(a)))
    return tuple(xp.where(finite[(..., *(None,) * (part.ndim - finite.ndim))], part, float("nan")) for part in parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Range:
    """Thin SVD of a matrix with its rank decided: singular values at or below the cut are exact zeros."""

    u: Array
    s: Array
    vt: Array

    @property
    def inverse(self) -> Array:
        """Inverses of the singular values, zero for zero; (..., k)."""
        xp = namespace(self.s)
        positive = self.s > 0
        return xp.where(positive, 1.0 / xp.where(positive, self.s, 1.0), 0.0)

    @property
    def pinv(self) -> Array:
        return mT(self.vt) @ (self.inverse[..., :, None] * mT(self.u))

    @property
    def basis(self) -> Array:
        """Orthonormal basis of the column space, null columns set to zero; (..., m, k)."""
        xp = namespace(self.s)
        return self.u * xp.astype(self.s > 0, self.u.dtype)[..., None, :]

    @property
    def projector(self) -> Array:
        """Orthogonal projector on the column space; (..., m, m)."""
        b = self.basis
        return b @ mT(b)

    @property
    def rank(self) -> Array:
        xp = namespace(self.s)
        return xp.sum(xp.astype(self.s > 0, xp.int64), axis=-1)


@QUIET
def decompose(a: Array, *, rtol: float | None = None, scale: Array | None = None) -> Range:
    """Decompose ``a`` (..., m, n) by the rank policy; ``scale`` (...), the sizes of its factors multiplied."""
    xp = namespace(a)
    u, s, vt = svd(a)
    if s.shape[-1] == 0:
        return Range(u, s, vt)
    cut = zero_cut(a, s[..., 0], rtol, scale)
    return Range(u, xp.where(s > cut[..., None], s, 0.0), vt)


def pinv(a: Array, *, rtol: float | None = None, scale: Array | None = None) -> Array:
    """Moore-Penrose inverse by the rank policy."""
    return decompose(a, rtol=rtol, scale=scale).pinv


@dataclasses.dataclass(frozen=True, eq=False)
class Factors:
    """``a = basis rest`` with the rank of ``a`` (..., m, n) decided.

    Attributes:
        basis: orthonormal basis of the column space, (..., m, k), or None for the identity; where rank is
            lost its spare columns are zero.
        rest: (..., k, n), or None beside the identity: ``a`` itself.
        inverse: pseudo-inverse of ``rest``, (..., n, k).
    """

    basis: Array | None
    rest: Array | None
    inverse: Array

    @property
    def pinv(self) -> Array:
        """Pseudo-inverse of ``a``, (..., n, m)."""
        return self.inverse if self.basis is None else self.inverse @ mT(self.basis)

    def coordinates(self, b: Array) -> Array:
        """Return ``b basis``, (..., l, k); b (..., l, m)."""
        return b if self.basis is None else b @ self.basis

    def projected(self, b: Array) -> Array:
        """Return the part of ``b`` (..., m, l) in the column space."""
        return b if self.basis is None else self.basis @ (mT(self.basis) @ b)


Scale = Array | Callable[[], Array] | None
"""Sizes of the factors of a matrix multiplied, (...), or what computes them where they are asked for."""


@QUIET
def factored(a: Array, *, rtol: float | None = None, scale: Scale = None, bound: Array | None = None) -> Factors:
    """Factor ``a`` (..., m, n) by the rank policy; ``scale`` (...), the sizes of its factors multiplied.

    A matrix whose inverse proves it to be of full rank is inverted, or factored by Householder's QR, as
    accurately as an SVD and at a quarter of the price; the others of a batch, and what cannot be looked at,
    are decomposed. Where an upper ``bound`` of the scale is enough for the proof, the scale is not asked for.
    """
    if not is_concrete(a, bound) or 0 in a.shape[-2:]:
        return _factored_by_svd(a, rtol, _value(scale))
    xp = namespace(a)
    m, n = a.shape[-2:]
    basis = rest = None
    if m == n:
        inverse, regular = _inverse(a)
    elif m < n:
        q, r = xp.linalg.qr(mT(a))
        inverse, regular = _inverse(r)
        inverse = q @ mT(inverse)
    else:
        basis, rest = xp.linalg.qr(a)
        inverse, regular = _inverse(rest)
    # 1 / |inverse| is at most the least singular value, |a| at least the largest.
    largest, least = frobenius(a), sq(inverse)

    def doubtful(scale: Array | None) -> np.ndarray:
        cut = zero_cut(a, largest, rtol, scale)
        return to_numpy(~(regular & (4 * least * cut * cut < 1)))

    if bound is not None and bool(xp.all(xp.isfinite(bound))) and not doubtful(bound).any():
        return Factors(basis, rest, inverse)
    floor = _value(scale)
    bad = doubtful(floor)
    if not bad.any():
        return Factors(basis, rest, inverse)
    if basis is None:
        basis, rest = eye(a, m), a
    floor = xp.zeros(bad.shape, dtype=a.dtype) if floor is None else floor

    def slow(a: Array, floor: Array) -> tuple[Array, ...]:
        found = _factored_by_svd(a, rtol, floor[..., 0, 0])
        return found.basis, found.rest, found.inverse

    return Factors(*patched((basis, rest, inverse), bad, slow, (a, floor[..., None, None])))


def _value(scale: Scale) -> Array | None:
    return scale() if callable(scale) else scale


def _factored_by_svd(a: Array, rtol: float | None, scale: Array | None) -> Factors:
    found = decompose(a, rtol=rtol, scale=scale)
    inverse = found.inverse
    return Factors(found.basis, found.s[..., :, None] * found.vt, mT(found.vt) * inverse[..., None, :])


def _inverse(a: Array) -> tuple[Array, Array]:
    """Return the inverse of each matrix of a batch, zero where there is none, and (...) where there is one."""
    xp = namespace(a)
    if is_large(a):
        inverse = inverted(a)
        return (np.zeros_like(a), np.asarray(False)) if inverse is None else (inverse, np.asarray(True))
    try:
        inverse = xp.linalg.inv(a)
        regular = all_finite(xp, inverse)
    except (np.linalg.LinAlgError, RuntimeError):  # NumPy and torch refuse a batch for one singular matrix
        regular = xp.linalg.slogdet(a)[0] != 0
        try:
            inverse = xp.linalg.inv(xp.where(regular[..., None, None], a, eye(a, a.shape[-1])))
        except (np.linalg.LinAlgError, RuntimeError):  # torch's two factorisations differ on what is singular
            return xp.zeros_like(a), regular & False
        regular = regular & all_finite(xp, inverse)
    if bool(xp.all(regular)):
        return inverse, regular
    return xp.where(regular[..., None, None], inverse, xp.zeros_like(inverse)), regular


def patched(
    parts: tuple[Array, ...],
    bad: np.ndarray,
    slow: Callable[..., tuple[Array, ...]],
    inputs: tuple[Array, ...],
    piece: int = PIECE,
) -> tuple[Array, ...]:
    """Return ``parts`` with the elements of the batch under ``bad`` (...) replaced by ``slow(*inputs)``.

    All parts and inputs are matrices (..., i, j) over batch axes that broadcast to those of ``bad``; ``slow``
    sees at most ``piece`` elements at a time.
    """
    xp = namespace(*parts)
    (where,) = np.nonzero(bad.ravel())

    def flat(a: Array) -> Array:
        return xp.reshape(xp.broadcast_to(a, (*bad.shape, *a.shape[-2:])), (-1, *a.shape[-2:]))

    given = [flat(a) for a in inputs]
    found = [[flat(a)] for a in parts]
    for start in range(0, len(where), piece):
        chosen = xp.asarray(where[start : start + piece])
        for pile, value in zip(found, slow(*(a[chosen] for a in given)), strict=True):
            pile.append(value)
    position = np.arange(bad.size)
    position[where] = bad.size + np.arange(len(where))
    take = xp.asarray(position)
    return tuple(xp.reshape(xp.concat(p, axis=0)[take], (*bad.shape, *p[0].shape[-2:])) for p in found)


@dataclasses.dataclass(frozen=True, eq=False)
class Root:
    """``a = root root^T`` for symmetric PSD ``a``.

    Attributes:
        root: (..., d, d).
        definite: whether the lower triangle of ``a`` is that of a positive definite matrix for certain, (...); None
            where values cannot be looked at.
    """

    root: Array
    definite: Array | None
    _inverse: Array | None = None

    @cached_property
    def inverse(self) -> Array:
        """``inverse root`` is 1 on the range of the root, 0 off it; (..., d, d)."""
        return _inverse(self.root)[0] if self._inverse is None else self._inverse


@QUIET
def psd_root(a: Array, *, second: Array | None = None) -> Root:
    """Return a root of the symmetric PSD matrix ``a`` (..., d, d).

    Its rank is decided in the units of each variable: large ones do not hide small ones. Those are the roots of
    ``second`` (..., d), by default the diagonal of ``a``: the second moments that ``a`` is a difference of, which
    its rounding errors are relative to.
    """
    xp = namespace(a)
    diagonal = xp.linalg.diagonal(a) if second is None else second
    unit = xp.sqrt(xp.where(diagonal > 0, diagonal, 1.0))
    if not is_concrete(a) or a.shape[-1] == 0:
        root, inverse = _psd_root_by_eigh(a, unit[..., None])
        return Root(root, None, inverse)
    try:
        root = cholesky(a) if is_large(a) else xp.linalg.cholesky(a)
    except np.linalg.LinAlgError:  # for one singular matrix NumPy refuses a batch, which must not change the others
        root = _roots_of_the_regular(a, unit)
    except RuntimeError:  # torch
        root, inverse = _psd_root_by_eigh(a, unit[..., None])
        return Root(root, unit[..., 0] < 0, inverse)
    # In those units the trace is d at most. So the product of all eigenvalues but the least is e at most, and the
    # least is at least the determinant over e. Where that is too little, it is at least 1 / |inverse unit|^2.
    threshold = 4 * (a.shape[-1] + CANCEL_FACTOR / RANK_FACTOR) * rank_rtol(a)
    least = xp.exp(2 * xp.sum(xp.log(xp.linalg.diagonal(root) / unit), axis=-1) - 1)
    definite = least > threshold
    if bool(xp.all(definite)):
        return Root(root, definite)
    if is_large(a):
        images = solved(root, unit[:, None] * probes(len(a)))
        if images is not None and threshold * (MARGIN * length(images)) ** 2 < 1:
            return Root(root, xp.ones_like(definite))
    inverse, regular = _inverse(root)
    definite = regular & (threshold * sq(inverse * unit[..., None, :]) < 1)  # of all that were so before, too
    bad = to_numpy(~definite)
    if bad.any():
        root, inverse = patched((root, inverse), bad, _psd_root_by_eigh, (a, unit[..., None]))
    return Root(root, definite, inverse)


def _roots_of_the_regular(a: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Cholesky factors of those matrices of a batch that are safely of full rank; zero for the others."""
    root = np.zeros_like(a)
    scaled = a / (unit[..., :, None] * unit[..., None, :])
    scaled = np.where(np.isfinite(scaled).all(axis=(-2, -1), keepdims=True), scaled, 0.0)
    # Below this the rank policy asks for a decomposition anyhow; above it Cholesky's method does not fail.
    regular = np.linalg.eigvalsh(scaled)[..., 0] > 2 * rank_rtol(a)
    with contextlib.suppress(np.linalg.LinAlgError):
        root[regular] = np.linalg.cholesky(a[regular])
    return root


def _psd_root_by_eigh(a: Array, unit: Array) -> tuple[Array, Array]:
    xp = namespace(a)
    found = spectrum(a / (unit * mT(unit)), scale=xp.ones_like(unit[..., 0, 0]) if unit.shape[-2] else None)
    positive = found.values > 0
    size = xp.sqrt(xp.where(positive, found.values, 1.0))[..., None, :]
    vectors = found.vectors * xp.astype(positive, a.dtype)[..., None, :]  # what is NaN stays NaN
    return unit * vectors * size, mT(vectors / size) / mT(unit)


@QUIET
def rescaling(a: Array, b: Array, target: Array, *, rtol: float | None = None, scale: Array | None = None) -> Array:
    """Return the least-norm x (..., k) that minimises ``|a diag(x) b^T - target|_F``.

    The normal equations are k by k, the entrywise product of two Gram matrices; they square the condition
    number. Where that costs little (see ``TRUST``) they are inverted; elsewhere, and where values cannot be
    looked at, the design of m n rows is decomposed.

    Args:
        a: (..., m, k).
        b: (..., n, k).
        target: (..., m, n).
        rtol: relative tolerance of the design's rank, by default the house's.
        scale: product of the sizes of the factors of the design.
    """
    xp = namespace(a, b, target)
    if not is_concrete(a, b, target, scale):
        return _rescaling_by_svd(a, b, target, rtol, scale)[..., 0]
    normal = (mT(a) @ a) * (mT(b) @ b)
    inverse, regular = _inverse(normal)
    error = sq(normal) * sq(inverse) * TRUST**2
    if scale is not None:
        error = xp.maximum(error, eps(normal) ** 2 * scale**4 * sq(inverse))
    x = matvec(inverse, xp.sum(a * (target @ b), axis=-2))[..., None]
    bad = np.broadcast_to(to_numpy(~(regular & (error < 1))), x.shape[:-2])
    if not bad.any():
        return x[..., 0]
    floor = xp.zeros(bad.shape, dtype=a.dtype) if scale is None else scale

    def slow(a: Array, b: Array, target: Array, floor: Array) -> tuple[Array, ...]:
        return (_rescaling_by_svd(a, b, target, rtol, floor[..., 0, 0]),)

    entries = a.shape[-2] * b.shape[-2] * max(a.shape[-1], 1)
    return patched((x,), bad, slow, (a, b, target, floor[..., None, None]), max(1, PIECE // entries))[0][..., 0]


def _rescaling_by_svd(a: Array, b: Array, target: Array, rtol: float | None, scale: Array | None) -> Array:
    xp = namespace(a, b, target)
    design = a[..., :, None, :] * b[..., None, :, :]
    rows = a.shape[-2] * b.shape[-2]
    design = xp.reshape(design, (*design.shape[:-3], rows, a.shape[-1]))
    return pinv(design, rtol=rtol, scale=scale) @ xp.reshape(target, (*target.shape[:-2], rows, 1))


def has_tie(s: Array, r: int, zero: Array | Callable[[], Array]) -> Array:
    """Return whether the best rank-``r`` approximation is not unique; s (..., k) descending.

    ``zero`` (...) is the size below which a singular value is rounding error, or computes it where it is asked for:
    zeros do not tie.
    """
    xp = namespace(s)
    if r <= 0 or r >= s.shape[-1]:
        return xp.zeros(s.shape[:-1], dtype=xp.bool)
    gap = s[..., r - 1] - s[..., r]
    tolerance = TIE_FACTOR * float(xp.finfo(s.dtype).eps) * s[..., 0]
    close = (s[..., r - 1] > tolerance) & (gap <= tolerance)
    if callable(zero):
        if is_concrete(s) and not bool(xp.any(close)):
            return close
        zero = zero()
    return close & (s[..., r - 1] > zero)


def balanced_factors(a: Array, b: Array) -> tuple[Array, Array]:
    """Return U, V with ``U V^T = a b^T`` and least ``|U|_F^2 + |V|_F^2``; a (..., m, r), b (..., n, r)."""
    xp = namespace(a, b)
    if a.shape[-1] == 0:
        return a, b
    qa, ra = xp.linalg.qr(a)
    qb, rb = xp.linalg.qr(b)
    u, s, vt = svd(ra @ mT(rb))
    root = xp.sqrt(s)[..., None, :]
    left, right = qa @ (u * root), qb @ (mT(vt) * root)
    missing = a.shape[-1] - left.shape[-1]
    if missing > 0:  # more columns than min(m, n): the factors keep their r columns, the last ones zero
        left = xp.concat([left, xp.zeros((*left.shape[:-1], missing), dtype=left.dtype)], axis=-1)
        right = xp.concat([right, xp.zeros((*right.shape[:-1], missing), dtype=right.dtype)], axis=-1)
    return left, right


def nearest_psd(a: Array) -> Array:
    """Return the nearest symmetric PSD matrix in Frobenius norm; a (..., d, d).

    Raises:
        ShapeError: not square.
        NonFiniteError: one matrix with a non-finite value.
    """
    a = as_float(a, "matrix")
    n = a.shape[-1] if a.ndim else 0
    require_shape(a, "matrix", (n, n))
    if a.ndim == 2:
        require_finite(matrix=a)
    xp = namespace(a)
    w, v = _decomposed(lambda m: tuple(xp.linalg.eigh(m)), (a + mT(a)) / 2)
    return (v * xp.where(w > 0, w, 0.0)[..., None, :]) @ mT(v)
