"""What a claim is written in: matrices and a few functions of them, in batched float64 or exactly.

A claim reads ``sq(P_C @ D @ root)``; whether ``D`` is a batch of arrays or one matrix of rationals is
decided by whoever evaluates it. Matrices know ``@ + - *``, ``.T``, ``.pinv()``, ``.root()`` and
``.inv()``; scalars are NumPy arrays over the batch, or exact numbers.
"""

from __future__ import annotations

import contextlib
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, Self

import numpy as np

from linnet import _linalg as la
from linnet.errors import ClaimError, IllPosedError

Scalar = Any
"""A number of either arithmetic."""


Instance = dict[str, Any]
"""One instance in its natural terms: matrices by name, whole numbers, lists of whole numbers."""


class UndefinedError(ClaimError):
    """An expression has no value at this instance, such as SVD_r at a tie: the instance does not count."""


class Matrix(ABC):
    """A matrix in one of the two arithmetics."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    @property
    @abstractmethod
    def T(self) -> Self: ...

    @abstractmethod
    def __matmul__(self, other: Any) -> Self: ...

    @abstractmethod
    def __add__(self, other: Any) -> Self: ...

    @abstractmethod
    def __mul__(self, other: Scalar) -> Self: ...

    def __rmul__(self, other: Scalar) -> Self:
        return self * other

    def __sub__(self, other: Any) -> Self:
        return self + (-other)

    def __neg__(self) -> Self:
        return self * (-1)

    @abstractmethod
    def pinv(self) -> Self:
        """Moore-Penrose inverse."""

    def projector(self) -> Self:
        """Orthogonal projector on the column space."""
        return self @ self.pinv()

    def inv(self) -> Self:
        """Inverse of a square matrix that the hypotheses make invertible."""
        return self.pinv()

    @abstractmethod
    def root(self) -> Self:
        """Symmetric square root of a symmetric positive semi-definite matrix."""

    @abstractmethod
    def eye(self) -> Self:
        """Identity with as many rows as this matrix."""

    @abstractmethod
    def kron(self, other: Any) -> Self:
        """Kronecker product."""

    @abstractmethod
    def reshape(self, rows: int, columns: int) -> Self:
        """The same entries in row-major order."""

    @abstractmethod
    def beside(self, other: Any) -> Self:
        """[self other], for two matrices with as many rows."""

    @abstractmethod
    def sq(self) -> Scalar:
        """Squared Frobenius norm."""

    @abstractmethod
    def trace(self) -> Scalar:
        """Trace."""

    @abstractmethod
    def rank(self) -> Scalar:
        """Rank."""

    @abstractmethod
    def squared_singular_values(self) -> list[Scalar]:
        """Squared singular values in descending order, min(rows, columns) of them, zeros exact."""

    @abstractmethod
    def activated(self, name: str) -> Self:
        """An activation of every entry; see ``activate``."""

    @abstractmethod
    def hadamard(self, other: Any) -> Self:
        """Entrywise product."""

    @abstractmethod
    def softmax(self, causal: bool = False) -> Self:
        """Softmax of every row; see ``softmax``."""

    @abstractmethod
    def truncated(self, r: int) -> Self:
        """Best rank-``r`` approximation; undefined where the r-th and next singular values tie."""


class Structured(Matrix):
    """A matrix kept in some other form than its entries; of two operands it is the one that knows what to do."""


def sq(x: Matrix) -> Scalar:
    """Squared Frobenius norm |x|_F^2."""
    return x.sq()


def trace(x: Matrix) -> Scalar:
    """Trace of a square matrix."""
    return x.trace()


def inner(x: Matrix, y: Matrix) -> Scalar:
    """Frobenius inner product <x, y>."""
    return (x @ y.T).trace()


def scalar(x: Matrix) -> Scalar:
    """The entry of a 1 x 1 matrix, such as u^T H v."""
    if x.shape != (1, 1):
        raise ClaimError(f"scalar() of a {x.shape[0]} x {x.shape[1]} matrix; a 1 x 1 one is needed")
    return x.trace()


def rank(x: Matrix) -> Scalar:
    """Rank, by the house's policy in float64 and exactly otherwise."""
    return x.rank()


def svd_r(x: Matrix, r: int) -> Any:
    """SVD_r(x), the best rank-``r`` approximation."""
    return x.truncated(r)


ACTIVATIONS = ("identity", "relu", "leaky", "tanh", "gelu", "silu", "cos", "sin")


def activate(x: Matrix, name: str) -> Any:
    """Activation of every entry: identity, relu, leaky (slope 1/4 below zero), tanh, gelu (x Phi(x)).

    And silu (x / (1 + e^-x)), cos, sin.
    """
    if name not in ACTIVATIONS:
        raise ClaimError(f"activation {name!r}; give one of {', '.join(ACTIVATIONS)}")
    return x.activated(name)


def hadamard(x: Matrix, y: Matrix) -> Any:
    """Entrywise product of two matrices of one shape."""
    return x.hadamard(y)


def softmax(x: Matrix, causal: bool = False) -> Any:
    """Softmax of every row: e^(x_ij) over the row's sum of them; ``causal``: of the entries j <= i, others 0."""
    return x.softmax(causal)


def tail_sq(x: Matrix, r: int) -> Scalar:
    """|x - SVD_r(x)|_F^2, the sum of the squared singular values after the r-th; defined at ties too."""
    values = x.squared_singular_values()
    total = values[0] * 0
    for value in values[r:]:
        total = value + total
    return total


def op_norm_sq(x: Matrix) -> Scalar:
    """Squared spectral norm |x|_op^2."""
    return x.squared_singular_values()[0]


def op_norm(x: Matrix) -> Scalar:
    """Spectral norm |x|_op."""
    return sqrt(op_norm_sq(x))


def cond_sq(x: Matrix) -> Scalar:
    """kappa_*(x)^2: largest over smallest positive squared singular value; 0 for a zero matrix."""
    values = x.squared_singular_values()
    least = values[0]
    for v in values[1:]:
        least = where_positive(v, v, least)
    return ratio(values[0], least)


def singular_values(x: Matrix) -> list[Scalar]:
    """Singular values in descending order, min(rows, columns) of them."""
    return [sqrt(v) for v in x.squared_singular_values()]


def effective_rank(x: Matrix) -> Scalar:
    """r_e(M) = tr M / |M|_op of a positive semi-definite matrix; 0 of zero."""
    return ratio(trace(x), op_norm(x))


def condition(x: Matrix) -> Scalar:
    """kappa_*(x): largest over smallest positive singular value; 0 of zero."""
    return ratio(op_norm(x), least_singular(x))


def least_singular(x: Matrix) -> Scalar:
    """Smallest positive singular value; 0 of zero."""
    values = singular_values(x)
    least = values[0]
    for v in values[1:]:
        least = where_positive(v, v, least)
    return least


def gap_after(x: Matrix, r: int) -> tuple[Scalar, Scalar]:
    """Return the ``r``-th and the next singular value, zeros where there are no more."""
    s = singular_values(x)
    s = s + [s[0] * 0] * (r + 1 - len(s))
    return s[r - 1], s[r]


def where_positive(condition: Scalar, yes: Scalar, no: Scalar) -> Scalar:
    """``yes`` where ``condition`` > 0, else ``no``."""
    if hasattr(condition, "where_positive"):
        return condition.where_positive(yes, no)
    return np.where(np.asarray(condition) > 0, yes, no)


def positive_part(x: Scalar) -> Scalar:
    """max(0, x)."""
    return where_positive(x, x, x * 0)


def ratio(a: Scalar, b: Scalar) -> Scalar:
    """a / b, with 0 / 0 = 0."""
    if hasattr(a, "ratio") or hasattr(b, "ratio"):
        return (a if hasattr(a, "ratio") else b * 0 + a).ratio(b)
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a == 0) & (b == 0), 0.0, a / b)


def sqrt(x: Scalar) -> Scalar:
    """Square root of a number that is not negative."""
    return x.sqrt() if hasattr(x, "sqrt") and not isinstance(x, np.ndarray) else np.sqrt(np.maximum(x, 0.0))


CLEAR = 1e-4
"""Relative size from which a singular value is clearly not zero in float64.

Between this and the cut of the rank policy a rank is anybody's guess, and so is whatever depends on it:
such instances have no value in float64 and are left to exact arithmetic. Without this line a search that
raises a margin would end at the cut itself, where it finds rounding instead of violations.
"""


CANCELLED = 1e-8
"""Relative size below which what is left of a product or a sum is in doubt: its digits have cancelled."""


class FloatMatrix(Matrix):
    """A batch of float64 matrices (..., m, n); what has no value becomes NaN and does not count.

    ``size`` (...) bounds what the matrix was computed from: the norms of its factors multiplied, of its
    terms added. What is small against it may be rounding alone.
    """

    __array_ufunc__ = None  # a NumPy scalar on the left must ask this class

    def __init__(self, values: np.ndarray, size: Callable[[], np.ndarray] | None = None) -> None:
        self.values = values
        self._size_of = size

    @cached_property
    def size(self) -> np.ndarray:
        """Norms (Schatten 4) of the factors multiplied, of the terms added; its own norm if it was given.

        Only decompositions ask for it: it is computed then.
        """
        return np.asarray(la.size(self.values) if self._size_of is None else self._size_of())

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[-2], self.values.shape[-1]

    @property
    def T(self) -> FloatMatrix:
        return FloatMatrix(la.mT(self.values), lambda: self.size)

    def __matmul__(self, other: FloatMatrix) -> FloatMatrix:
        if isinstance(other, Structured):
            return NotImplemented
        return FloatMatrix(self.values @ self._like(other, "@", 1, 0), lambda: self.size * other.size)

    def __add__(self, other: FloatMatrix) -> FloatMatrix:
        if isinstance(other, Structured):
            return NotImplemented
        return FloatMatrix(self.values + self._like(other, "+"), lambda: self.size + other.size)

    def __sub__(self, other: FloatMatrix) -> FloatMatrix:
        if isinstance(other, Structured):
            return NotImplemented
        return FloatMatrix(self.values - self._like(other, "-"), lambda: self.size + other.size)

    def _like(self, other: Any, operation: str, mine: int | None = None, its: int | None = None) -> np.ndarray:
        """Values of the other operand; NumPy would stretch shapes that do not fit."""
        if not isinstance(other, FloatMatrix):
            raise IllPosedError(f"a matrix {operation} a {type(other).__name__}; a matrix is needed on both sides")
        fits = self.shape == other.shape if mine is None or its is None else self.shape[mine] == other.shape[its]
        if not fits:
            raise IllPosedError(f"shapes do not fit: {self.shape} {operation} {other.shape}")
        return other.values

    def __mul__(self, other: Scalar) -> FloatMatrix:
        factor = np.asarray(other, dtype=float)
        return FloatMatrix(self.values * factor[..., None, None], lambda: self.size * np.abs(factor))

    def pinv(self) -> FloatMatrix:
        parts = self._parts
        return FloatMatrix(np.where(self._knows(parts.s)[..., None, None], parts.pinv, np.nan))

    def projector(self) -> FloatMatrix:
        # Not as a product: its rounding would be taken to be relative to the condition number.
        parts = self._parts
        return FloatMatrix(np.where(self._knows(parts.s)[..., None, None], parts.projector, np.nan))

    @property
    def _has_value(self) -> np.ndarray:
        """Whether no entry is NaN, which ``_parts`` takes for zeros."""
        return np.isfinite(self.values).all(axis=(-2, -1))

    def _knows(self, s: np.ndarray) -> np.ndarray:
        """Whether the rank is beyond doubt, ``s`` the singular values; see ``clear``."""
        return clear(s, self.size) & self._has_value

    @cached_property
    def _parts(self) -> la.Range:
        return la.decompose(_finite(self.values), scale=np.nan_to_num(self.size))

    def root(self) -> FloatMatrix:
        safe = _finite(self.values)
        parts = la.spectrum((safe + la.mT(safe)) / 2, scale=np.nan_to_num(self.size))
        size = np.sqrt(self.size)
        known = clear(np.sqrt(parts.values), size) & self._has_value
        return FloatMatrix(np.where(known[..., None, None], parts.power(0.5), np.nan), lambda: size)

    def eye(self) -> FloatMatrix:
        return FloatMatrix(np.eye(self.shape[0]))

    def kron(self, other: FloatMatrix) -> FloatMatrix:
        a, b = self.values, other.values
        out = a[..., :, None, :, None] * b[..., None, :, None, :]
        rows, columns = a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1]
        return FloatMatrix(out.reshape(*out.shape[:-4], rows, columns), lambda: self.size * other.size)

    def reshape(self, rows: int, columns: int) -> FloatMatrix:
        return FloatMatrix(self.values.reshape(*self.values.shape[:-2], rows, columns), lambda: self.size)

    def beside(self, other: FloatMatrix) -> FloatMatrix:
        left, right = self.values, self._like(other, "beside", 0, 0)
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        parts = [np.broadcast_to(x, batch + x.shape[-2:]) for x in (left, right)]
        return FloatMatrix(np.concatenate(parts, axis=-1), lambda: self.size + other.size)

    def sq(self) -> np.ndarray:
        return np.asarray(la.sq(self.values))

    def trace(self) -> np.ndarray:
        return np.trace(self.values, axis1=-2, axis2=-1)

    def rank(self) -> np.ndarray:
        parts = self._parts
        return np.where(self._knows(parts.s), parts.rank, np.nan)

    def squared_singular_values(self) -> list[np.ndarray]:
        return self._squares

    @cached_property
    def _squares(self) -> list[np.ndarray]:
        s = self._parts.s
        s = np.where(self._knows(s)[..., None], s, np.nan)
        return list(np.moveaxis(s * s, -1, 0))

    def activated(self, name: str) -> FloatMatrix:
        from scipy.special import expit, ndtr

        v = self.values
        with np.errstate(over="ignore", invalid="ignore"):
            out = {
                "identity": lambda: v,
                "relu": lambda: np.maximum(v, 0.0),
                "leaky": lambda: np.where(v > 0, v, v / 4),
                "tanh": lambda: np.tanh(v),
                "gelu": lambda: v * ndtr(v),
                "silu": lambda: v * expit(v),
                "cos": lambda: np.cos(v),
                "sin": lambda: np.sin(v),
            }[name]()
        return FloatMatrix(out, None if name == "cos" else lambda: self.size)  # cos(0) = 1: not bounded by its argument

    def hadamard(self, other: FloatMatrix) -> FloatMatrix:
        return FloatMatrix(self.values * self._like(other, "times, entrywise,"), lambda: self.size * other.size)

    def softmax(self, causal: bool = False) -> FloatMatrix:
        shown = np.tril(np.ones(self.shape, dtype=bool)) if causal else np.ones(self.shape, dtype=bool)
        v = np.where(shown, _finite(self.values), -np.inf)
        e = np.exp(v - v.max(axis=-1, keepdims=True))
        out = e / e.sum(axis=-1, keepdims=True)
        return FloatMatrix(np.where(self._has_value[..., None, None], out, np.nan))

    def truncated(self, r: int) -> FloatMatrix:
        u, s, vt = la.svd(_finite(self.values))
        out = (u[..., :, :r] * s[..., None, :r]) @ vt[..., :r, :]
        tie = la.has_tie(s, r, CLEAR**2 * s[..., 0])
        if 0 < r < s.shape[-1]:  # a gap that is neither clear nor a tie decides nothing either
            tie |= (s[..., r - 1] - s[..., r] < CLEAR * s[..., 0]) & (s[..., r - 1] > CLEAR**2 * s[..., 0])
        return FloatMatrix(np.where((tie | ~self._has_value)[..., None, None], np.nan, out))


def constant(like: Matrix, rows: Sequence[Sequence[float | Fraction]]) -> Matrix:
    """Return a fixed matrix in the arithmetic of ``like``."""
    if isinstance(like, FloatMatrix):
        return FloatMatrix(np.asarray(rows, dtype=float))
    from linnet.trials.exact import ExactMatrix

    return ExactMatrix.of(rows)


_doubts_count = contextvars.ContextVar("_doubts_count", default=True)


@contextlib.contextmanager
def ranks_by_policy() -> Iterator[None]:
    """Let the rank policy decide what is in doubt too: for given data, where nothing searches for doubt."""
    token = _doubts_count.set(False)
    try:
        yield
    finally:
        _doubts_count.reset(token)


def clear(s: np.ndarray, size: Any = 0.0) -> np.ndarray:
    """Whether a rank is beyond doubt: each singular value (..., k) is an exact zero or clearly positive.

    That is: against the largest, and the largest against the ``size`` of what it was computed from.
    """
    if s.shape[-1] == 0 or not _doubts_count.get():
        return np.ones(s.shape[:-1], dtype=bool)
    top = s.max(axis=-1)
    return ((s == 0) | (s >= CLEAR * top[..., None])).all(axis=-1) & ((top == 0) | (top >= CANCELLED * size))


def _finite(a: np.ndarray) -> np.ndarray:
    """Zero the elements that have no value, which LAPACK would refuse; they stay NaN elsewhere."""
    good = np.isfinite(a).all(axis=(-2, -1), keepdims=True)
    return a if good.all() else np.where(good, a, 0.0)
