"""Maps from few parameters to many, their derivatives, and the losses that they are tuned by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

from linnet.errors import ClaimError
from linnet.trials.algebra import Instance, Matrix, constant, inner, rank, scalar, sq, sqrt, tail_sq, where_positive

FORMULAS = {"linear": "P Phi", "curve": "(t^2 - s)(alpha + t beta) + N y", "lora": "U V^T"}
"""What a kind of map is called in an instance."""


STENCIL = {0: -490, 1: 270, 2: -27, 3: 2}
"""180 times the second derivative at 0 from the values at -3, ..., 3: no error for polynomials of degree up to 7."""


class Map(ABC):
    """A polynomial map g from R^k to R^d, of degree 3 at most; points are what its instances call so."""

    d: int
    k: int

    @abstractmethod
    def point(self, instance: Instance, which: str) -> Any:
        """Return one of the instance's points: "" where it is, "other", or "direction"."""

    @abstractmethod
    def column(self, point: Any) -> Matrix:
        """Return a point as a column (k, 1)."""

    @abstractmethod
    def moved(self, point: Any, direction: Any, step: int) -> Any:
        """Return point + step * direction."""

    @abstractmethod
    def value(self, point: Any) -> Matrix:
        """g as a column (d, 1)."""

    @abstractmethod
    def jacobian(self, point: Any) -> Matrix:
        """Jacobian (d, k)."""

    @abstractmethod
    def curvature(self, point: Any, weight: Matrix) -> Matrix:
        """Hessian (k, k) of weight^T g, that is sum_i weight_i D^2 g_i."""

    @abstractmethod
    def full_rank(self) -> list[Any]:
        """Comparisons that hold iff the Jacobian has rank k at every point of R^k."""

    @abstractmethod
    def embedded(self) -> list[Any]:
        """Comparisons under which g has full rank, and a rational left inverse near its image: ``recovered``."""

    @abstractmethod
    def recovered(self, theta: Matrix) -> tuple[Matrix, Any]:
        """Return Phi as a column (k, 1), computed from theta = g(Phi) alone, if g is embedded; and its unit."""

    @abstractmethod
    def misses(self, theta: Matrix) -> tuple[Any, Any]:
        """Return a number that is 0 wherever theta is in the image, and positive somewhere if k < d; and its unit."""

    @abstractmethod
    def unreached(self) -> Any:
        """Return a number that is positive only if ``misses`` is positive somewhere in R^d, and is so if k < d."""


class _Plain(Map):
    """What maps of one column of parameters share."""

    def point(self, instance: Instance, which: str) -> Any:
        return instance[which or "at"]

    def column(self, point: Any) -> Matrix:
        return point

    def moved(self, point: Any, direction: Any, step: int) -> Any:
        return point + step * direction


class Linear(_Plain):
    """g(Phi) = P Phi with any P (d, k)."""

    def __init__(self, instance: Instance) -> None:
        self.P: Matrix = instance["P"]
        self.d, self.k = self.P.shape

    def value(self, point: Any) -> Matrix:
        return self.P @ point

    def jacobian(self, point: Any) -> Matrix:
        return self.P

    def curvature(self, point: Any, weight: Matrix) -> Matrix:
        return 0 * self.P.T.eye()

    def full_rank(self) -> list[Any]:
        return [(rank(self.P), "==", self.k)]

    def embedded(self) -> list[Any]:
        return self.full_rank()

    def recovered(self, theta: Matrix) -> tuple[Matrix, Any]:
        back = self.P.pinv()
        return back @ theta, sqrt(sq(back) * sq(theta))

    def misses(self, theta: Matrix) -> tuple[Any, Any]:
        return sq(theta - self.P.projector() @ theta), sq(theta)

    def unreached(self) -> Any:
        return self.d - rank(self.P)  # what e_1, ..., e_d miss, in sum


class Curve(_Plain):
    """g(t, y) = (t^2 - s)(alpha + t beta) + N y: a plane cubic, and k - 1 straight directions.

    Let alpha, beta and N be linearly independent: with x = t^2 - s and w = t x along alpha and beta the image is
    w^2 = x^2 (x + s). For s > 0 the derivative vanishes nowhere, and the curve meets itself at t = -s^(1/2) and
    s^(1/2) (a node); for s = 0 it has a cusp; for s < 0 it is embedded, t = w / x being a left inverse.
    """

    def __init__(self, instance: Instance) -> None:
        self.alpha: Matrix = instance["alpha"]
        self.beta: Matrix = instance["beta"]
        self.N: list[Matrix] = instance.get("N", [])
        self.s: Any = scalar(instance["s"])
        self.d, self.k = self.alpha.shape[0], len(self.N) + 1

    def _coordinates(self, column: Matrix, count: int) -> list[Any]:
        return [scalar(unit(column, j).T @ column) for j in range(count)]

    @cached_property
    def frame(self) -> Matrix:
        """[alpha beta N], (d, k + 1)."""
        return _side_by_side([self.alpha, self.beta, *self.N])

    @cached_property
    def frame_inverse(self) -> Matrix:
        """Pseudo-inverse of the frame, (k + 1, d)."""
        return self.frame.pinv()

    def value(self, point: Any) -> Matrix:
        t, *y = self._coordinates(point, self.k)
        out = (self.alpha + self.beta * t) * (t * t - self.s)
        for column, length in zip(self.N, y, strict=True):
            out = out + column * length
        return out

    def jacobian(self, point: Any) -> Matrix:
        t = self._coordinates(point, 1)[0]
        return _side_by_side([self.alpha * (2 * t) + self.beta * (3 * t * t - self.s), *self.N])

    def curvature(self, point: Any, weight: Matrix) -> Matrix:
        t = self._coordinates(point, 1)[0]
        first = unit(point, 0)
        return (first @ first.T) * inner(weight, self.alpha * 2 + self.beta * (6 * t))

    def full_rank(self) -> list[Any]:
        # Modulo N the derivative by t is 2 t a + (3 t^2 - s) b. It has a zero iff t = s = 0, where a and b are
        # independent; on a line, iff the quadratic 3 b t^2 + 2 a t - s b has a real root.
        a, b, straight = self.alpha, self.beta, []
        if self.N:
            n = _side_by_side(self.N)
            a, b = (x - n.projector() @ x for x in (a, b))
            straight = [(rank(n), "==", self.k - 1)]
        rootless = -(sq(a) + 3 * self.s * sq(b))
        return [*straight, (where_positive(rank(self.frame) - self.k, self.s * self.s, rootless), ">", 0)]

    def embedded(self) -> list[Any]:
        return [(rank(self.frame), "==", self.k + 1), (self.s, "<", 0)]

    def recovered(self, theta: Matrix) -> tuple[Matrix, Any]:
        x, w, *y = self._coordinates(self.frame_inverse @ theta, self.k + 1)
        out = unit(self.alpha, 0, self.k) * (w / x)
        for j, length in enumerate(y, start=1):
            out = out + unit(self.alpha, j, self.k) * length
        size = sqrt(sq(self.frame_inverse) * sq(theta))  # rounding of x and w is relative to this
        return out, size + size / abs(x) * (1 + abs(w / x))

    def misses(self, theta: Matrix) -> tuple[Any, Any]:
        x, w = self._coordinates(self.frame_inverse @ theta, 2)
        off = w * w - x * x * (x + self.s)
        flat = sq(theta - self.frame.projector() @ theta)
        # A dependent frame spans k dimensions at most: there the span is enough, and the cubic says nothing.
        size = sqrt(sq(self.frame_inverse) * sq(theta)) + abs(self.s)
        return flat + where_positive(rank(self.frame) - self.k, off * off, 0), sq(theta) + size**4 + size**6

    def unreached(self) -> Any:
        # Off the span of the frame, e_1, ..., e_d miss d - rank in sum. Within it, where x = -(s^2 + s + 1) and w = 0,
        # the cubic is x^2 (s^2 + 1), at least 9/16.
        beyond = self.alpha * -(self.s * self.s + self.s + 1)
        return self.d - rank(self.frame) + self.misses(beyond)[0]


class Lora(Map):
    """g(U, V) = U V^T with U (m, r), V (n, r), row by row; Phi is U row by row, then V."""

    def __init__(self, instance: Instance) -> None:
        (self.m, self.r), self.n = instance["U"].shape, instance["V"].shape[0]
        self.d, self.k = self.m * self.n, self.r * (self.m + self.n)

    def point(self, instance: Instance, which: str) -> Any:
        before = f"{which}_" if which else ""
        return instance[f"{before}U"], instance[f"{before}V"]

    def column(self, point: Any) -> Matrix:
        u, v = (x.reshape(1, x.shape[0] * x.shape[1]) for x in point)
        return u.beside(v).T

    def moved(self, point: Any, direction: Any, step: int) -> Any:
        return tuple(x + step * y for x, y in zip(point, direction, strict=True))

    def value(self, point: Any) -> Matrix:
        u, v = point
        return (u @ v.T).reshape(self.d, 1)

    def jacobian(self, point: Any) -> Matrix:
        u, v = point
        # vec(dU V^T) = (I (x) V) vec(dU) and vec(U dV^T) = (U (x) I) vec(dV^T), all row by row.
        turned = [[float((a, b) == (j, i)) for j in range(self.n) for b in range(self.r)]
                  for i in range(self.r) for a in range(self.n)]  # fmt: skip
        return u.eye().kron(v).beside(u.kron(v.eye()) @ constant(u, turned))

    def curvature(self, point: Any, weight: Matrix) -> Matrix:
        u = point[0]
        # The second differential of <G, U V^T> is 2 <G, dU dV^T>.
        block = weight.reshape(self.m, self.n).kron(u.T.eye())
        above, below = (constant(u, [[0.0] * (x * self.r)] * (x * self.r)) for x in (self.m, self.n))
        return above.beside(block).T.beside(block.T.beside(below).T).T

    def full_rank(self) -> list[Any]:
        return [(0, "==", self.k)]  # the derivative at U = V = 0 is zero

    def embedded(self) -> list[Any]:
        return self.full_rank()

    def recovered(self, theta: Matrix) -> tuple[Matrix, Any]:
        raise ClaimError("U V^T does not tell U and V; name Parametrisation.embedded among the hypotheses")

    def misses(self, theta: Matrix) -> tuple[Any, Any]:
        return tail_sq(theta.reshape(self.m, self.n), self.r), sq(theta)

    def unreached(self) -> Any:
        return min(self.m, self.n) - self.r  # what the identity, with min(m, n) singular values 1, misses


MAPS: dict[str, Any] = {"linear": Linear, "curve": Curve, "lora": Lora}


class ParametrisationView:
    """theta = theta_0 + g(Phi), theta_0 = 0; a second point, and a loss grad^T theta + theta^T H theta / 2.

    Attributes:
        kind: "linear", "curve" or "lora". k, d: numbers of parameters; g: the map.
        at, other: points Phi and Phi'. direction: where second derivatives are taken along.

    The second point is there under the hypothesis ``meeting``, the loss and the direction under ``loss``.
    Source: liu2025, eq. (4), (22), (48)-(50), Theorem 1.
    """

    scale = 1
    """Most of what is compared are ranks; the others bring their own scale."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.kind: str = kind_of(instance)
        self.g: Any = MAPS[self.kind](instance)
        self.d: int = self.g.d
        self.k: int = self.g.k
        self.at: Any = self.g.point(instance, "")

    def _given(self, name: str, hypothesis: str) -> Any:
        if not any(key == name or key.startswith(f"{name}_") for key in self._instance):
            raise ClaimError(f"no {name} here; name Parametrisation.{hypothesis} among the hypotheses")
        return self._instance[name] if name in ("H", "grad") else self.g.point(self._instance, name)

    @cached_property
    def other(self) -> Any:
        """Phi', where g(Phi') = g(Phi)."""
        return self._given("other", "meeting")

    @cached_property
    def direction(self) -> Any:
        """A direction in R^k."""
        return self._given("direction", "loss")

    @cached_property
    def H(self) -> Matrix:
        """Hessian of the loss in theta, (d, d), positive semi-definite."""
        return self._given("H", "loss")

    @cached_property
    def grad(self) -> Matrix:
        """Gradient of the loss at theta_0, (d, 1)."""
        return self._given("grad", "loss")

    @property
    def U(self) -> Matrix:
        """LoRA's U, (m, r)."""
        return self._instance["U"]

    @property
    def V(self) -> Matrix:
        """LoRA's V, (n, r)."""
        return self._instance["V"]

    @cached_property
    def value(self) -> Matrix:
        """g(Phi), (d, 1)."""
        return self.g.value(self.at)

    @cached_property
    def other_value(self) -> Matrix:
        """g(Phi'), (d, 1)."""
        return self.g.value(self.other)

    @cached_property
    def J(self) -> Matrix:
        """Jacobian of g at Phi, (d, k)."""
        return self.g.jacobian(self.at)

    @cached_property
    def both_tangents(self) -> Matrix:
        """[J(Phi) J(Phi')], (d, 2k)."""
        return self.J.beside(self.g.jacobian(self.other))

    @cached_property
    def slope(self) -> Matrix:
        """Gradient of the loss at theta = g(Phi), (d, 1)."""
        return self.grad + self.H @ self.value

    @cached_property
    def psi(self) -> Matrix:
        """The direction as a column, (k, 1)."""
        return self.g.column(self.direction)

    @cached_property
    def _along(self) -> list[tuple[int, Matrix]]:
        """h and g(Phi + h direction), h = -3, ..., 3."""
        return [(h, self.g.value(self.g.moved(self.at, self.direction, h))) for h in range(-3, 4)]

    @cached_property
    def second_derivative(self) -> Any:
        """Of the loss at g(Phi + h direction) by h, at h = 0: from seven values of the loss, and no formula."""
        out: Any = 0
        for h, theta in self._along:
            out = out + STENCIL[abs(h)] * self.loss(theta)
        return out / 180

    @cached_property
    def second_derivative_scale(self) -> Any:
        """Size of what the second derivative is a sum of, the unit of its margin."""
        slope, bend, out = sqrt(sq(self.grad)), 1 + sqrt(sq(self.H)), 0
        for _, theta in self._along:
            size = sqrt(sq(theta))
            out = out + size * slope + size * size * bend
        return out

    def loss(self, theta: Matrix) -> Any:
        """Loss at theta, relative to theta_0."""
        return inner(self.grad, theta) + inner(theta, self.H @ theta) / 2

    def form(self, matrix: Matrix) -> Any:
        """psi^T matrix psi for a matrix (k, k)."""
        return scalar(self.psi.T @ matrix @ self.psi)

    @cached_property
    def projected_hessian(self) -> Matrix:
        """J^T H J, (k, k): what eq. (50) calls the Hessian."""
        return self.J.T @ self.H @ self.J

    @cached_property
    def curvature(self) -> Matrix:
        """sum_i slope_i D^2 g_i, (k, k)."""
        return self.g.curvature(self.at, self.slope)

    @cached_property
    def unreached(self) -> Any:
        """Positive if some explicit point of R^d is off the image; see the maps."""
        return self.g.unreached()


def kind_of(instance: Instance) -> str:
    """ "linear", "curve" or "lora"."""
    return next(kind for kind, formula in FORMULAS.items() if formula == instance["g"])


def unit(like: Matrix, j: int, length: int | None = None) -> Matrix:
    """e_j in the arithmetic of ``like``, with as many rows unless told."""
    return constant(like, [[float(i == j)] for i in range(like.shape[0] if length is None else length)])


def _side_by_side(columns: list[Matrix]) -> Matrix:
    out = columns[0]
    for column in columns[1:]:
        out = out.beside(column)
    return out
