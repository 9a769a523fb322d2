"""Arrays of any library: what is refused, what failed within a batch, and arithmetic over the last axes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from linnet._linalg.libraries import Array, is_concrete, is_numpy, namespace, to_numpy
from linnet.errors import ArgumentError, MaskedWarning, NonFiniteError, ShapeError

OK, NONFINITE, NOT_PSD, TIE = 0, 1, 2, 3

STATUS_TEXT = {
    OK: "solved",
    NONFINITE: "an input is not finite",
    NOT_PSD: "a second moment is not positive semi-definite",
    TIE: "the r-th and (r+1)-th singular values tie",
}


def all_finite(xp: Any, *arrays: Array | None) -> Array:
    """Return, for each element of the batch, whether all arrays (their last two axes) are finite."""
    ok: Any = None
    for a in arrays:
        if a is None:
            continue
        good = xp.all(xp.isfinite(a), axis=(-2, -1))
        ok = good if ok is None else ok & good
    return ok


def require_kind(value: Any, kind: type | tuple[type, ...], name: str, hint: str) -> None:
    """Refuse an argument of another class than ``kind``; ``hint`` says what to give.

    Raises:
        ArgumentError: it is.
    """
    if not isinstance(value, kind):
        raise ArgumentError(f"{name} is a {type(value).__name__}; {hint}")


def require_rng(rng: Any) -> None:
    """Refuse anything but NumPy's generator.

    Raises:
        ArgumentError: it is something else.
    """
    require_kind(rng, np.random.Generator, "rng", "give np.random.default_rng(seed)")


def is_whole(value: Any) -> bool:
    """Return whether ``value`` is a whole number, truth values aside."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def require_finite(**arrays: Array | None) -> None:
    """Refuse non-finite values in concrete arrays.

    Raises:
        NonFiniteError: an array holds NaN or an infinity.
    """
    for name, a in arrays.items():
        if a is None or not is_concrete(a):
            continue
        xp = namespace(a)
        finite = xp.isfinite(a)
        if not bool(xp.all(finite)):
            where = tuple(int(i[0]) for i in np.nonzero(~to_numpy(finite)))
            raise NonFiniteError(
                f"{name} has {int(xp.sum(xp.astype(~finite, xp.int64)))} non-finite values, the first at index "
                f"{where}; finite numbers are needed: drop or impute those entries"
            )


def require_shape(a: Array, name: str, expected: tuple[int | str, ...]) -> None:
    """Refuse an array whose last axes differ from ``expected`` (a string names a free length).

    Raises:
        ShapeError: too few axes, or a length that does not fit.
    """
    k = len(expected)
    good = a.ndim >= k and all(
        isinstance(want, str) or have == want for have, want in zip(a.shape[a.ndim - k :], expected, strict=False)
    )
    if not good:
        want = ", ".join(str(e) for e in expected)
        raise ShapeError(f"{name} has shape {tuple(a.shape)}; (..., {want}) is needed")


def broadcast_batch(shapes: Iterable[tuple[int, ...]], what: str) -> tuple[int, ...]:
    """Return the shape that batch axes broadcast to.

    Raises:
        ShapeError: they do not.
    """
    shapes = [tuple(s) for s in shapes]
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        found = " and ".join(str(s) for s in dict.fromkeys(shapes) if s)
        raise ShapeError(
            f"{what} have batch axes {found}; they must broadcast together: equal lengths, or 1 where they differ"
        ) from None


def combine_status(xp: Any, *status: Array) -> Array:
    """Return the first status that is not OK, element by element."""
    out = status[0]
    for s in status[1:]:
        out = xp.where(out == OK, s, out)
    return out


def mask_failed(value: Array, status: Array | None) -> Array:
    """Return ``value`` (...) with NaN where an element of a batch has a ``status`` other than OK."""
    if status is None or (status.ndim == 0 and value.ndim == 0):
        return value  # what stands alone was refused when it was built
    xp = namespace(value)
    good = xp.asarray(status) == OK
    if is_concrete(good) and bool(xp.all(good)):
        return value
    return xp.where(good, value, float("nan"))


def warn_masked(status: Array, what: str) -> None:
    """Say, for a concrete batch, how many elements failed and why."""
    if not is_concrete(status):
        return
    host = to_numpy(status)
    bad = int(np.count_nonzero(host))
    if bad:
        reasons = ", ".join(f"{STATUS_TEXT[int(c)]} ({int(np.sum(host == c))})" for c in np.unique(host[host != OK]))
        warnings.warn(
            f"{bad} of {host.size} {what} could not be solved: {reasons}; they hold NaN, see .status",
            MaskedWarning,
            stacklevel=4,
        )


def mT(a: Array) -> Array:
    """Transpose the last two axes."""
    return a.mT if hasattr(a, "mT") else np.swapaxes(a, -1, -2)


def inner(a: Array, b: Array) -> Array:
    """Frobenius inner product over the last two axes."""
    xp = namespace(a, b)
    if is_numpy(xp):
        return np.einsum("...ij,...ij->...", a, b)
    return xp.sum(a * b, axis=(-2, -1))


def trace(a: Array) -> Array:
    """Trace over the last two axes."""
    xp = namespace(a)
    return xp.sum(xp.linalg.diagonal(a), axis=-1)


def sq(a: Array) -> Array:
    """Squared Frobenius norm over the last two axes."""
    return inner(a, a)


def energy(a: Array, cov: Array) -> Array:
    """Return ``tr(a cov a^T) = |a cov^(1/2)|_F^2``, never negative; a (..., m, n), cov (..., n, n)."""
    xp = namespace(a, cov)
    value = inner(a @ cov, a)
    return xp.where(value < 0, xp.zeros_like(value), value)


def matvec(a: Array, v: Array) -> Array:
    """Matrix times vector over the last axes; a (..., m, n), v (..., n)."""
    return (a @ v[..., None])[..., 0]


def outer(u: Array, v: Array) -> Array:
    """Outer product over the last axis."""
    return u[..., :, None] * v[..., None, :]


def append_column(a: Array, v: Array) -> Array:
    """Return ``[a, v]``; a (..., m, n), v (..., m), batch axes broadcast."""
    xp = namespace(a, v)
    batch = np.broadcast_shapes(a.shape[:-2], v.shape[:-1])
    return xp.concat(
        [xp.broadcast_to(a, (*batch, *a.shape[-2:])), xp.broadcast_to(v, (*batch, v.shape[-1]))[..., :, None]], axis=-1
    )


def prepend_column(v: Array, a: Array) -> Array:
    """Return ``[v, a]``; v (..., m), a (..., m, n), batch axes broadcast."""
    xp = namespace(a, v)
    batch = np.broadcast_shapes(a.shape[:-2], v.shape[:-1])
    return xp.concat(
        [xp.broadcast_to(v, (*batch, v.shape[-1]))[..., :, None], xp.broadcast_to(a, (*batch, *a.shape[-2:]))], axis=-1
    )


def norm(v: Array) -> Array:
    """Euclidean norm over the last axis."""
    xp = namespace(v)
    with np.errstate(over="ignore", invalid="ignore"):
        return xp.sqrt(xp.sum(v * v, axis=-1))


def frobenius(a: Array) -> Array:
    """Frobenius norm over the last two axes."""
    xp = namespace(a)
    with np.errstate(over="ignore", invalid="ignore"):
        return xp.sqrt(sq(a))


def size(a: Array) -> Array:
    """Schatten 4-norm ``(tr (a^T a)^2)^(1/4)``, (...): near the spectral norm, yet without a decomposition."""
    xp = namespace(a)
    with np.errstate(over="ignore", invalid="ignore"):
        return xp.sqrt(xp.sqrt(sq(mT(a) @ a if a.shape[-1] <= a.shape[-2] else a @ mT(a))))
