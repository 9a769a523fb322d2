"""Exact arithmetic: rationals with square roots of matrices carried along, balls where those leave Q.

Every matrix that the claims speak of has the form ``L^(1/2) A R^(1/2)`` with L, R rational positive
semi-definite and A rational: norms, ranks, singular values (squared), pseudo-inverses and truncations of
such a matrix need the halves only in whole pairs, so they stay rational. Only a spectral projector whose
eigenvalues are irrational leaves Q; it is enclosed by balls (arb) at ``PRECISION`` bits. A comparison is
certain or it is ``None``.

Nothing here draws, searches, or touches floating point.
"""

from __future__ import annotations

import math
import numbers
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import flint
from flint import arb, arb_mat, fmpq, fmpq_mat, fmpz

from linnet.errors import ClaimError
from linnet.trials.algebra import Matrix, Structured, UndefinedError

PRECISION = 320
"""Bits of a ball: 96 decimal digits."""

flint.ctx.prec = PRECISION


class InexactError(ClaimError):
    """An expression leaves what can be computed with certainty."""


def rational(x: Any) -> fmpq:
    """Return an int, Fraction, Decimal, decimal string or float as a rational; a float by its exact value.

    Raises:
        InexactError: ``x`` is no number, or not finite.
    """
    if isinstance(x, fmpq):
        return x
    if not isinstance(x, numbers.Rational | numbers.Real | Decimal | str):
        raise InexactError(f"a {type(x).__name__} where a number is needed")
    try:
        x = Fraction(x if isinstance(x, numbers.Rational | Decimal | str) else float(x))
    except (ValueError, OverflowError):
        raise InexactError(f"{x!r} is not a finite number") from None
    return fmpq(int(x.numerator), int(x.denominator))


MEANT = 15
"""Digits up to which a float is the decimal that its writer meant."""


def meant(x: float) -> fmpq | arb:
    """Return what the writer of a float meant: 0.99, 1e-6 and 1/3 as rationals, others as rounded as they are.

    A constant such as ``2 ** 0.5`` is known to half a unit in its last place: a ball, so that no claim is
    refuted by the rounding of a constant in it.
    """
    x = float(x)  # NumPy's floats are floats with another repr
    simple = Fraction(x).limit_denominator(1000) if math.isfinite(x) else Fraction(0)
    if math.isfinite(x) and float(simple) != x:
        simple = Fraction(repr(x))
        if len(Decimal(repr(x)).normalize().as_tuple().digits) > MEANT:
            return arb(rational(x), rational(math.ulp(x) / 2))
    return rational(simple if math.isfinite(x) else x)


def rational_sqrt(x: fmpq) -> fmpq | None:
    """Return the square root if it is rational."""
    if x < 0:
        raise UndefinedError(f"square root of the negative number {x}")
    p, q = fmpz(x.p).isqrt(), fmpz(x.q).isqrt()
    return fmpq(p, q) if p * p == x.p and q * q == x.q else None


class Exact:
    """A number: rational, or enclosed by a ball."""

    def __init__(self, value: fmpq | arb) -> None:
        self.value = value

    @staticmethod
    def of(x: Any) -> Exact:
        """Wrap a number; see ``rational``, and ``meant`` for floats."""
        if isinstance(x, Exact):
            return x
        if isinstance(x, numbers.Real) and not isinstance(x, numbers.Rational):
            return Exact(meant(float(x)))
        return Exact(x if isinstance(x, arb) else rational(x))

    def _with(self, other: Any, f: Any) -> Exact:
        a, b = self.value, Exact.of(other).value
        if isinstance(a, arb) != isinstance(b, arb):
            a, b = arb(a), arb(b)
        return Exact(f(a, b))

    def __add__(self, other: Any) -> Exact:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> Exact:
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Matrix) else self._with(other, lambda a, b: a * b)

    def __truediv__(self, other: Any) -> Exact:
        divisor = Exact.of(other)
        if divisor.sign() == 0:
            raise UndefinedError("division by zero")
        if divisor.sign() is None:
            raise InexactError("division by a ball that holds zero")
        return self._with(divisor, lambda a, b: a / b)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Any) -> Exact:
        return Exact.of(other) - self

    def __rtruediv__(self, other: Any) -> Exact:
        return Exact.of(other) / self

    def __neg__(self) -> Exact:
        return Exact(-self.value)

    def __abs__(self) -> Exact:
        value: Any = self.value
        return Exact(abs(value))

    def __pow__(self, exponent: Any) -> Exact:
        halves = 2 * exponent
        if int(halves) != halves:
            raise InexactError(f"power {exponent}; whole and half ones are exact")
        if halves < 0:
            return 1 / self**-exponent
        base, whole = (self.sqrt(), int(halves)) if halves % 2 else (self, int(exponent))
        value: Any = base.value
        return Exact(value**whole)

    @property
    def is_rational(self) -> bool:
        """Whether the number is known as a rational."""
        return isinstance(self.value, fmpq)

    def sign(self) -> int | None:
        """-1, 0 or 1; None for a ball that holds zero."""
        if isinstance(self.value, fmpq):
            return (self.value > 0) - (self.value < 0)
        if self.value > 0:
            return 1
        return -1 if self.value < 0 else None

    def sqrt(self) -> Exact:
        """Square root, rational if it can be."""
        if isinstance(self.value, fmpq):
            exact = rational_sqrt(self.value)
            return Exact(arb(self.value).sqrt() if exact is None else exact)
        return Exact(self.value.sqrt())

    def ratio(self, other: Any) -> Exact:
        """Self over other, 0 / 0 = 0."""
        divisor = Exact.of(other)
        if divisor.sign() == 0 and self.sign() == 0:
            return Exact(fmpq(0))
        return self / divisor

    def where_positive(self, yes: Any, no: Any) -> Exact:
        """``yes`` if this is positive, else ``no``."""
        sign = self.sign()
        if sign is None:
            raise InexactError("a case distinction on a ball that holds zero")
        return Exact.of(yes if sign > 0 else no)

    def __float__(self) -> float:
        if isinstance(self.value, fmpq):
            return int(self.value.p) / int(self.value.q)
        return float(self.value.mid())

    def __str__(self) -> str:
        return str(self.value) if isinstance(self.value, fmpq) else self.value.str(30)


def compare(a: Any, b: Any) -> Literal[-1, 0, 1] | None:
    """Return the sign of a - b, or None if it cannot be told."""
    return (Exact.of(a) - Exact.of(b)).sign()  # type: ignore[return-value]  # of flint, untyped


def agree(a: Any, b: Any, tolerance: float) -> bool:
    """Return whether a and b differ by at most ``tolerance`` times 1 + |a| + |b|, for certain."""
    gap = abs(_ball((Exact.of(a) - Exact.of(b)).value))
    return bool(gap < arb(tolerance) * (1 + abs(_ball(Exact.of(a).value)) + abs(_ball(Exact.of(b).value))))


class Base:
    """A rational symmetric PSD matrix whose square root flanks others."""

    def __init__(self, matrix: fmpq_mat) -> None:
        self.matrix = matrix

    @cached_property
    def root_balls(self) -> arb_mat:
        """Enclosure of the square root."""
        n = self.matrix.nrows()
        out = arb_mat(n, n)
        values = spectrum(self.matrix)
        for value, _ in values:
            if value.sign() == 1:
                part = _lagrange(self.matrix, [value], [v for v, _ in values if v is not value])
                out = out + _balls(part) * _ball(value.sqrt().value)
        return out


class ExactMatrix(Matrix):
    """``left^(1/2) core right^(1/2)``: core rational or of balls, the flanks rational PSD or absent."""

    def __init__(self, core: fmpq_mat | arb_mat, left: Base | None = None, right: Base | None = None) -> None:
        self.core, self.left, self.right = core, left, right

    @staticmethod
    def of(rows: Any) -> ExactMatrix:
        """Build from rows of numbers; see ``rational``."""
        rows = [list(r) for r in rows]
        return ExactMatrix(fmpq_mat(len(rows), len(rows[0]), [rational(x) for r in rows for x in r]))

    # --- shape and arithmetic --------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        return self.core.nrows(), self.core.ncols()

    @property
    def T(self) -> ExactMatrix:
        return ExactMatrix(self.core.transpose(), self.right, self.left)

    def __matmul__(self, other: ExactMatrix) -> ExactMatrix:
        if isinstance(other, Structured):
            return NotImplemented
        a, b = self, other
        if a.right is None and b.left is None:
            return ExactMatrix(_mul(a.core, b.core), a.left, b.right)
        # A half-power may stand on either side of its core: first so that two halves meet, then out of the way.
        if a.right is not None and b.left is None and b._is_power and _same(a.right, b.right):
            b = b._flipped
        if b.left is not None and a.right is None and a._is_power and _same(b.left, a.left):
            a = a._flipped
        if a.right is None and b._is_power:
            b = b._flipped
        if b.left is None and a._is_power:
            a = a._flipped
        if a.right is None and b.left is None:
            return ExactMatrix(_mul(a.core, b.core), a.left, b.right)
        if a.right is not None and b.left is not None and _same(a.right, b.left):
            return ExactMatrix(_mul(_mul(a.core, a.right.matrix), b.core), a.left, b.right)
        middle = _mul(_mul(a.core, a.right.root_balls), b.core) if a.right is not None else None
        if middle is not None and b.left is None:
            return ExactMatrix(middle, a.left, b.right)
        if middle is None and b.left is not None:
            return ExactMatrix(_mul(a.core, _mul(b.left.root_balls, b.core)), a.left, b.right)
        assert a.right is not None, "both flanks are there, or a case above took it"
        assert b.left is not None, "both flanks are there, or a case above took it"
        return ExactMatrix(_mul(_mul(a.core, _mul(a.right.root_balls, b.left.root_balls)), b.core), a.left, b.right)

    @property
    def _is_power(self) -> bool:
        """Whether this is base^n base^(1/2), which commutes with its flank."""
        flank = self.right if self.left is None else self.left if self.right is None else None
        if flank is None or not isinstance(self.core, fmpq_mat) or self.core.nrows() != self.core.ncols():
            return False
        return self.core * flank.matrix == flank.matrix * self.core

    @property
    def _flipped(self) -> ExactMatrix:
        return ExactMatrix(self.core, self.right, self.left)

    def __add__(self, other: ExactMatrix) -> ExactMatrix:
        if isinstance(other, Structured):
            return NotImplemented
        if _same(self.left, other.left) and _same(self.right, other.right):
            return ExactMatrix(_add(self.core, other.core), self.left, self.right)
        for a, b in ((self, other), (other, self)):
            if isinstance(a.core, fmpq_mat) and all(x == 0 for x in a.core.entries()):
                return b
            if a._is_power and _same(a.right, b.left) and _same(a.left, b.right):
                return ExactMatrix(_add(a.core, b.core), b.left, b.right)
        return ExactMatrix(_add(self._dense, other._dense))

    def __mul__(self, other: Any) -> ExactMatrix:
        value = Exact.of(other).value
        if isinstance(value, arb):
            return ExactMatrix(_balls(self.core) * value, self.left, self.right)
        core = self.core * value if isinstance(self.core, fmpq_mat) else self.core * arb(value)
        return ExactMatrix(core, self.left, self.right)

    @cached_property
    def _dense(self) -> fmpq_mat | arb_mat:
        core = self.core
        if self.left is not None:
            core = _mul(self.left.root_balls, core)
        return core if self.right is None else _mul(core, self.right.root_balls)

    # --- functions -------------------------------------------------------------------------------

    def eye(self) -> ExactMatrix:
        return ExactMatrix(_identity(self.shape[0]))

    def kron(self, other: ExactMatrix) -> ExactMatrix:
        a, b = self._plain("kron"), other._plain("kron")
        entries = [
            a[i, j] * b[k, m]
            for i in range(a.nrows()) for k in range(b.nrows()) for j in range(a.ncols()) for m in range(b.ncols())
        ]  # fmt: skip
        return ExactMatrix(fmpq_mat(a.nrows() * b.nrows(), a.ncols() * b.ncols(), entries))

    def reshape(self, rows: int, columns: int) -> ExactMatrix:
        return ExactMatrix(fmpq_mat(rows, columns, self._plain("reshape").entries()))

    def beside(self, other: ExactMatrix) -> ExactMatrix:
        if not isinstance(other, ExactMatrix) or self.shape[0] != other.shape[0]:
            raise ClaimError("beside() asks for a matrix with as many rows")
        a, b = self._plain("beside"), other._plain("beside")
        entries = [x[i, j] for i in range(a.nrows()) for x in (a, b) for j in range(x.ncols())]
        return ExactMatrix(fmpq_mat(a.nrows(), a.ncols() + b.ncols(), entries))

    def _plain(self, what: str) -> fmpq_mat:
        if self.left is not None or self.right is not None or not isinstance(self.core, fmpq_mat):
            raise InexactError(f"{what} of a matrix with irrational entries")
        return self.core

    def root(self) -> ExactMatrix:
        plain = self._plain("square root")
        return ExactMatrix(_identity(plain.nrows()), None, Base(plain))

    def sq(self) -> Exact:
        flanked = self.core if self.left is None else _mul(self.left.matrix, self.core)
        other = self.core if self.right is None else _mul(self.core, self.right.matrix)
        pairs = zip(flanked.entries(), other.entries(), strict=True)
        return Exact(sum((a * b for a, b in pairs), arb(0) if isinstance(other, arb_mat) else fmpq(0)))

    def trace(self) -> Exact:
        core = self.core
        if self.left is not None and self.right is not None and _same(self.left, self.right):
            core = _mul(core, self.left.matrix)
        elif self.left is not None or self.right is not None:
            core = self._dense
        return Exact(sum((core[i, i] for i in range(core.nrows())), arb(0) if isinstance(core, arb_mat) else fmpq(0)))

    def _rational_core(self, what: str) -> fmpq_mat:
        if not isinstance(self.core, fmpq_mat):
            raise InexactError(f"{what} of a matrix that is only known up to rounding")
        return self.core

    def rank(self) -> Exact:
        core = self._rational_core("rank")
        if self.left is not None:
            core = self.left.matrix * core
        return Exact(fmpq((core if self.right is None else core * self.right.matrix).rank()))

    def _right_gram(self) -> fmpq_mat:
        """Core right core^T."""
        core = self._rational_core("singular values")
        return core * core.transpose() if self.right is None else core * self.right.matrix * core.transpose()

    def squared_singular_values(self) -> list[Exact]:
        if not isinstance(self.core, fmpq_mat):
            return self._enclosed_squares()
        n = self._right_gram() if self.left is None else self.left.matrix * self._right_gram()
        values = [v for v, k in spectrum(n) for _ in range(k)]
        return (values + [Exact(fmpq(0))] * min(self.shape))[: min(self.shape)]

    def _enclosed_squares(self) -> list[Exact]:
        """Squared singular values of a matrix of balls, as balls; one that holds zero has no root."""
        rows, columns = self.shape
        dense = _balls(self._dense if rows <= columns else self.T._dense)
        try:
            found = [value.real for value in flint.acb_mat(dense * dense.transpose()).eig(multiple=True)]
        except ValueError:
            raise InexactError("eigenvalues of balls that are too wide") from None
        # Balls may overlap: the k-th largest value lies between the k-th largest lower and upper ends.
        lows, highs = sorted((v.lower() for v in found), reverse=True), sorted((v.upper() for v in found), reverse=True)
        return [Exact(low.union(high)) for low, high in zip(lows, highs, strict=True)]

    def pinv(self) -> ExactMatrix:
        if self.left is not None and self.right is not None:
            raise InexactError("pseudo-inverse between two square roots")
        if self.left is not None:
            return self.T.pinv().T
        core = self._rational_core("pseudo-inverse")
        if self.right is None:
            return ExactMatrix(rational_pinv(core))
        return ExactMatrix(core.transpose() * rational_pinv(self._right_gram()), self.right, None)

    def activated(self, name: str) -> ExactMatrix:
        core = self._dense
        if name == "identity":
            return self
        return _of_entries(*self.shape, [_activation(name, x) for x in core.entries()])

    def hadamard(self, other: ExactMatrix) -> ExactMatrix:
        if self.shape != other.shape:
            raise ClaimError(f"shapes do not fit: {self.shape} times, entrywise, {other.shape}")
        a, b = self._dense, other._dense
        return _of_entries(*self.shape, [x * y for x, y in zip(*_alike(a, b), strict=True)])

    def softmax(self, causal: bool = False) -> ExactMatrix:
        core, (rows, columns) = self._dense, self.shape
        entries: list[Any] = []
        for i in range(rows):
            shown = range(min(i + 1, columns) if causal else columns)
            entries += [*_softmax([core[i, j] for j in shown]), *[fmpq(0)] * (columns - len(shown))]
        return _of_entries(rows, columns, entries)

    def truncated(self, r: int) -> ExactMatrix:
        if self.left is not None and self.right is not None:
            raise InexactError("truncation between two square roots")
        if self.left is not None:
            return self.T.truncated(r).T
        n = self._right_gram()
        values = spectrum(n)
        top: list[Exact] = []
        count = 0
        for value, multiplicity in values:
            if count >= r or value.sign() == 0:
                break
            if count + multiplicity > r:
                raise UndefinedError(
                    f"SVD_{r} is not unique: singular values {count + 1} to {count + multiplicity} tie"
                )
            top.append(value)
            count += multiplicity
        if count == n.rank():
            return self
        rest = [v for v, _ in values if all(v is not t for t in top)]
        return ExactMatrix(_mul(_lagrange(n, top, rest), self.core), None, self.right)


def _activation(name: str, x: fmpq | arb) -> fmpq | arb:
    if x == 0:
        return fmpq(int(name == "cos"))
    if name in ("relu", "leaky"):
        below = x / 4 if name == "leaky" else x * 0
        if isinstance(x, fmpq):
            return x if x > 0 else below
        if not (x > 0 or x < 0):
            raise InexactError("an activation's kink inside a ball")
        return x if x > 0 else below
    ball = _ball(x)
    values = {
        "tanh": lambda: ball.tanh(),
        "gelu": lambda: ball * (1 + (ball / arb(2).sqrt()).erf()) / 2,
        "silu": lambda: ball / (1 + (-ball).exp()),
        "cos": lambda: ball.cos(),
        "sin": lambda: ball.sin(),
    }
    return values[name]()


def _softmax(row: list[Any]) -> list[fmpq | arb]:
    """Softmax of a row; equal rationals have equal, rational shares."""
    if all(isinstance(x, fmpq) and x == row[0] for x in row):
        return [fmpq(1, len(row))] * len(row)
    balls = [_ball(x) for x in row]
    top = max(range(len(row)), key=lambda j: balls[j].mid())  # any entry would do: the largest keeps the others small
    powers = [arb(1) if j == top else (x - balls[top]).exp() for j, x in enumerate(balls)]
    total = sum(powers, arb(0))
    return [p / total for p in powers]


# --- rational linear algebra ---------------------------------------------------------------------


def rational_pinv(a: fmpq_mat) -> fmpq_mat:
    """Moore-Penrose inverse of a rational matrix, by its full-rank factors."""
    m, n = a.nrows(), a.ncols()
    reduced, rank = a.rref()
    if rank == 0:
        return fmpq_mat(n, m)
    pivots, column = [], 0
    for i in range(rank):
        while reduced[i, column] == 0:
            column += 1
        pivots.append(column)
        column += 1
    c = fmpq_mat(m, rank, [a[i, j] for i in range(m) for j in pivots])
    f = fmpq_mat(rank, n, [reduced[i, j] for i in range(rank) for j in range(n)])
    ct, ft = c.transpose(), f.transpose()
    return ft * (f * ft).inv() * (ct * c).inv() * ct


def spectrum(n: fmpq_mat) -> list[tuple[Exact, int]]:
    """Return the distinct eigenvalues, descending, with multiplicities.

    ``n`` must be similar to a symmetric PSD matrix, so that they are real and not negative.

    Raises:
        UndefinedError: they are not.
    """
    found: list[tuple[Exact, int]] = []
    numerator = flint.fmpz_poly([int(c) for c in _cleared(n.charpoly())])
    for factor, multiplicity in numerator.factor()[1]:
        if factor.degree() == 1:
            found.append((Exact(fmpq(-factor[0], factor[1])), multiplicity))
        else:
            roots: Any = factor.complex_roots()
            for root, _ in roots:
                if not (root.imag.contains(0) if hasattr(root, "imag") else True):
                    raise UndefinedError("a matrix that should be symmetric has complex eigenvalues")
                found.append((Exact(root.real if hasattr(root, "real") else root), multiplicity))
    if any(v.sign() == -1 for v, _ in found):
        raise UndefinedError("a matrix that should be positive semi-definite has a negative eigenvalue")
    ordered: list[tuple[Exact, int]] = []
    for item in found:
        place = 0
        while place < len(ordered):
            order = compare(ordered[place][0], item[0])
            if order is None:
                raise InexactError("two eigenvalues are too close to be told apart")
            if order < 0:
                break
            place += 1
        ordered.insert(place, item)
    return ordered


def is_psd(n: fmpq_mat | arb_mat) -> bool:
    """Return whether a matrix is rational, symmetric positive semi-definite.

    It is, if it is symmetric and the coefficients of its characteristic polynomial alternate in sign.
    """
    if not isinstance(n, fmpq_mat) or n.nrows() != n.ncols() or n != n.transpose():
        return False
    coefficients = n.charpoly().coeffs()
    degree = n.nrows()
    return all(c * (-1) ** (degree - k) >= 0 for k, c in enumerate(coefficients))


def _cleared(poly: Any) -> list[int]:
    return [int(c) for c in poly.numer().coeffs()]


def _lagrange(n: fmpq_mat, top: list[Exact], rest: list[Exact]) -> fmpq_mat | arb_mat:
    """Spectral projector of symmetric ``n`` on the eigenvalues ``top``, all others being ``rest``."""
    out: Any = None
    one = _identity(n.nrows())
    for t in top:
        part: Any = one
        for other in [*rest, *(u for u in top if u is not t)]:
            gap = (t - other).value
            if isinstance(gap, fmpq) and isinstance(other.value, fmpq):
                part = _mul(part, (n - one * other.value) * (1 / gap))
            else:
                part = _mul(part, (_balls(n) - _balls(one) * _ball(other.value)) * (1 / _ball(gap)))
        out = part if out is None else _add(out, part)
    return fmpq_mat(n.nrows(), n.nrows()) if out is None else out


def _identity(n: int) -> fmpq_mat:
    return fmpq_mat(n, n, [fmpq(int(i == j)) for i in range(n) for j in range(n)])


def _ball(x: fmpq | arb) -> arb:
    return x if isinstance(x, arb) else arb(x)


def _balls(a: fmpq_mat | arb_mat) -> arb_mat:
    return a if isinstance(a, arb_mat) else arb_mat(a)


def _alike(a: fmpq_mat | arb_mat, b: fmpq_mat | arb_mat) -> tuple[list[Any], list[Any]]:
    """Entries of both, all rational or all balls."""
    rational_both = isinstance(a, fmpq_mat) and isinstance(b, fmpq_mat)
    return (a.entries(), b.entries()) if rational_both else (_balls(a).entries(), _balls(b).entries())


def _of_entries(rows: int, columns: int, entries: list[Any]) -> ExactMatrix:
    if all(isinstance(x, fmpq) for x in entries):
        return ExactMatrix(fmpq_mat(rows, columns, entries))
    return ExactMatrix(arb_mat(rows, columns, [_ball(x) for x in entries]))


def _mul(a: Any, b: Any) -> Any:
    return a * b if isinstance(a, fmpq_mat) and isinstance(b, fmpq_mat) else _balls(a) * _balls(b)


def _add(a: Any, b: Any) -> Any:
    return a + b if isinstance(a, fmpq_mat) and isinstance(b, fmpq_mat) else _balls(a) + _balls(b)


def _same(a: Base | None, b: Base | None) -> bool:
    return a is b or (a is not None and b is not None and a.matrix == b.matrix)
