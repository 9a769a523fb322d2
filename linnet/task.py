"""Tasks: shifted linear regressions, their second moments, and samples of them.

From ``Moments`` on, population and sample are the same code. It works on roots of the second moments, not on
the moments themselves: multiplied out, those square the condition number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import ArgumentError, LinnetError, NonFiniteError, NotPSDError, ShapeError
from linnet.network import DeepLinearNetwork


@dataclass(frozen=True, eq=False)
class Moments(la.Record):
    """Second moments about zero (not centred) of inputs and targets: all that least squares sees.

    Attributes:
        xx: E[x x^T], (..., p, p).
        yx: E[y x^T], (..., q, p).
        yy: E[y y^T], (..., q, q).
        x_mean: E[x], (..., p); None means zero.
        y_mean: E[y], (..., q); None means zero.
        n: number of samples averaged, None for a population.
        status: per element of the batch: 0, or why it cannot be used.
        factors: roots of the second moments, where the maker has better ones than the moments give; see ``roots``.

    Raises:
        ShapeError: lengths that do not fit.
        NonFiniteError, NotPSDError: for a single (unbatched) set of moments; batches get a ``status``.
    """

    _static: ClassVar[tuple[str, ...]] = ("n",)
    _own_axes: ClassVar[Mapping[str, int | tuple[int, ...]]] = {
        "x_mean": 1,
        "y_mean": 1,
        "status": 0,
        "factors": (2, 2, 0),
    }

    xx: Array
    yx: Array
    yy: Array
    x_mean: Array | None = None
    y_mean: Array | None = None
    n: int | None = None
    status: Array | None = None
    factors: tuple[Array, Array, Array] | None = None

    def __post_init__(self) -> None:
        xx, yx, yy = (la.as_float(getattr(self, k), k) for k in ("xx", "yx", "yy"))
        xm, ym = (
            None if v is None else la.as_float(v, k) for k, v in (("x_mean", self.x_mean), ("y_mean", self.y_mean))
        )
        if (xm is None) != (ym is None):
            raise ShapeError("moments have one mean of two; give x_mean and y_mean, or neither")
        la.require_shape(yx, "yx", ("q", "p"))
        q, p = yx.shape[-2:]
        _require_width(p, q)
        la.require_shape(xx, "xx", (p, p))
        la.require_shape(yy, "yy", (q, q))
        if xm is not None:
            la.require_shape(xm, "x_mean", (p,))
            la.require_shape(ym, "y_mean", (q,))
        for k, v in zip(("xx", "yx", "yy", "x_mean", "y_mean"), la.together(xx, yx, yy, xm, ym), strict=True):
            object.__setattr__(self, k, v)
        if self.status is None:
            xp = la.namespace(self.xx)
            means = [None if m is None else m[..., None] for m in (self.x_mean, self.y_mean)]
            finite = la.all_finite(xp, self.xx, self.yx, self.yy, *means)
            bad = xp.astype(xp.where(finite, la.OK, la.NONFINITE), xp.int32)
            status = la.combine_status(xp, bad, la.psd_status(xp, self.xx), la.psd_status(xp, self.yy))
            least, allowed = self._joint()
            joint = xp.astype(xp.where(finite & (least < -allowed), la.NOT_PSD, la.OK), xp.int32)
            object.__setattr__(self, "status", la.combine_status(xp, status, joint))
            if not self.batch_shape and la.is_concrete(status) and int(self.status or 0) != la.OK:
                la.require_finite(xx=self.xx, yx=self.yx, yy=self.yy, x_mean=self.x_mean, y_mean=self.y_mean)
                la.require_psd(self.xx, "xx")
                la.require_psd(self.yy, "yy")
                raise NotPSDError(
                    "the second moments of x and y together, less the means', are not positive semi-definite "
                    f"(smallest eigenvalue {float(least):.3g} in units of each variable); take all of xx, yx, yy and "
                    "the means from the same samples, as Moments.from_data does"
                )

    def _joint(self) -> tuple[Array, float]:
        """Return the least eigenvalue of the joint covariance of x and y, (...), and how far below zero it may be.

        In units of each variable, so that large ones do not hide small ones.
        """
        xx, yx, yy = self._centred()
        xp = la.namespace(xx)
        batch = self.batch_shape
        q, p = yx.shape[-2:]
        xx, yx, yy = (xp.broadcast_to(a, (*batch, *a.shape[-2:])) for a in (xx, yx, yy))
        joint = xp.concat([xp.concat([xx, la.mT(yx)], axis=-1), xp.concat([yx, yy], axis=-1)], axis=-2)
        power = [xp.broadcast_to(xp.linalg.diagonal(a), (*batch, n)) for a, n in ((self.xx, p), (self.yy, q))]
        variance = xp.concat(power, axis=-1)
        unit = xp.sqrt(xp.where(variance > 0, variance, 1.0))
        scaled = joint / la.outer(unit, unit)
        finite = la.all_finite(xp, scaled)
        safe = xp.where(finite[..., None, None], scaled, xp.zeros_like(scaled))
        return xp.min(xp.linalg.eigvalsh((safe + la.mT(safe)) / 2), axis=-1), 1e4 * la.rank_rtol(joint)

    def _centred(self) -> tuple[Array, Array, Array]:
        """Return xx, yx, yy less what the means make of them."""
        if self.x_mean is None or self.y_mean is None:
            return self.xx, self.yx, self.yy
        xm, ym = self.x_mean, self.y_mean
        return self.xx - la.outer(xm, xm), self.yx - la.outer(ym, xm), self.yy - la.outer(ym, ym)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes."""
        shapes = [a.shape[:-2] for a in (self.xx, self.yx, self.yy)]
        shapes += [a.shape[:-1] for a in (self.x_mean, self.y_mean) if a is not None]
        return la.broadcast_batch(shapes, "the moments")

    @property
    def shape(self) -> tuple[int, int]:
        """(q, p)."""
        q, p = self.yx.shape[-2:]
        return q, p

    @property
    def roots_apart(self) -> tuple[Array, ...]:
        """F of ``roots``, and factors of C, to be multiplied from left to right."""
        return self.roots[:2]

    def _leaves(self) -> tuple[Array | None, ...]:
        """Return all arrays but ``status`` that the moments and their roots are made of."""
        return (self.xx, self.yx, self.yy, self.x_mean, self.y_mean, *self.roots)

    def _made_of(self, leaves: Sequence[Array | None], status: Array) -> Moments:
        """Return the same moments, made of ``leaves`` of another library or precision."""
        return Moments._join((*leaves[:5], status, tuple(leaves[5:])), (self.n,))

    @classmethod
    def from_data(cls, x: Array, y: Array) -> Self:
        """Sample moments of ``x`` (..., n, p) and ``y`` (..., n, q), averaged over n >= 1 rows.

        Raises:
            ShapeError: fewer than two axes, different numbers of rows, or none.
            NonFiniteError: a single data set holds a non-finite value.
        """
        x, y = la.together(*_checked_data(x, y))
        n = x.shape[-2]
        xp = la.namespace(x, y)
        if len(x.shape) == 2 and len(y.shape) == 2:
            la.require_finite(x=x, y=y)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused, or gets a status
            second = (la.mT(x) @ x / n, la.mT(y) @ x / n, la.mT(y) @ y / n)
        finite = la.all_finite(xp, x, y, *second)
        if finite.ndim == 0 and la.is_concrete(finite) and not bool(finite):
            raise NonFiniteError("squares of x or y are beyond what floating point holds; give them in larger units")
        # By QR of the samples: the rank and the small directions of xx are lost once it is multiplied out.
        with np.errstate(over="ignore", invalid="ignore"):
            xm, ym = xp.mean(x, axis=-2), xp.mean(y, axis=-2)
            centred, target = (x - xm[..., None, :]) / n**0.5, (y - ym[..., None, :]) / n**0.5
            basis, root = la.qr(centred)
            # Of collinear inputs Q has columns that they do not span: what the targets have there is no input's doing.
            seen = la.factored(root).projected(la.mT(basis) @ target)
            spare = la.sq(target - basis @ seen)
        return cls._join(
            (
                *second,
                xm,
                ym,
                xp.astype(xp.where(finite, la.OK, la.NONFINITE), xp.int32),
                (la.mT(root), la.mT(seen), spare),
            ),
            (n,),
        )

    @cached_property
    def roots(self) -> tuple[Array, Array, Array]:
        """F (..., p, k), C (..., q, k) and the spare power s (...), on whitened inputs z of unit second moment.

        x = mean + F z and y = mean + C z + e with E[e z^T] = 0, E|e|^2 = s: F F^T is the covariance of x
        (its second moment, where there are no means), C F^T that of y with x. Columns of z that x does
        not have are zero in F.
        """
        if self.factors is not None:
            return self.factors
        xx, yx, yy = self._centred()
        second = la.namespace(xx).linalg.diagonal(self.xx)
        found = la.psd_root((xx + la.mT(xx)) / 2, second=second)
        root, seen = found.root, yx @ la.mT(found.inverse)
        spare = la.trace(yy) - la.sq(seen)
        return root, seen, la.namespace(spare).where(spare < 0, 0.0 * spare, spare)

    @cached_property
    def coef(self) -> Array:
        """Least-norm best linear map E[y x^T] E[x x^T]^+, (..., q, p); NaN where ``status`` says so."""
        root, seen, _ = self.roots
        if self.x_mean is not None and self.y_mean is not None:
            root, seen = la.append_column(root, self.x_mean), la.append_column(seen, self.y_mean)
        out = seen @ la.factored(root).pinv
        return la.mask_failed(out, None if self.status is None else self.status[..., None, None])


@dataclass(frozen=True, eq=False)
class Regression(la.Record):
    """A linear regression task y = coef x + intercept + e, with E[x] = mean, E[e | x] = 0.

    Attributes:
        coef: (..., q, p).
        signal_cov: covariance of x, (..., p, p), symmetric PSD.
        noise_cov: covariance of e, (..., q, q), symmetric PSD; zero by default.
        mean: mean of x, (..., p); None means zero.
        intercept: (..., q); None means zero.

    Raises:
        ShapeError: lengths that do not fit.
        NonFiniteError, NotPSDError: for a single (unbatched) task; batches get a ``status``.

    Source: yang2024, Sec. F.2, eq. (7).
    """

    _own_axes: ClassVar[Mapping[str, int]] = {"mean": 1, "intercept": 1}

    coef: Array
    signal_cov: Array
    noise_cov: Array = None  # zero
    mean: Array | None = None
    intercept: Array | None = None

    def __post_init__(self) -> None:
        coef = la.as_float(self.coef, "coef")
        la.require_shape(coef, "coef", ("q", "p"))
        q, p = coef.shape[-2:]
        _require_width(p, q)
        cov = la.as_float(self.signal_cov, "signal_cov")
        la.require_shape(cov, "signal_cov", (p, p))
        if self.noise_cov is None:
            noise = 0.0 * (coef[..., :, :1] * la.mT(coef[..., :, :1]))
        else:
            noise = la.as_float(self.noise_cov, "noise_cov")
        la.require_shape(noise, "noise_cov", (q, q))
        mean, intercept = self.mean, self.intercept
        if mean is not None:
            mean = la.as_float(mean, "mean")
            la.require_shape(mean, "mean", (p,))
        if intercept is not None:
            intercept = la.as_float(intercept, "intercept")
            la.require_shape(intercept, "intercept", (q,))
        names = ("coef", "signal_cov", "noise_cov", "mean", "intercept")
        for k, v in zip(names, la.together(coef, cov, noise, mean, intercept), strict=True):
            object.__setattr__(self, k, v)
        if not self.batch_shape:
            la.require_finite(**{k: getattr(self, k) for k in names})
            la.require_psd(self.signal_cov, "signal_cov")
            la.require_psd(self.noise_cov, "noise_cov")
            if la.is_concrete(self.coef, self.signal_cov, self.noise_cov, self.mean, self.intercept):
                xp = la.namespace(self.coef)
                vars(self)["status"] = xp.zeros((), dtype=xp.int32)  # nothing was refused: not to be asked again

    @property
    def shape(self) -> tuple[int, int]:
        """(q, p)."""
        q, p = self.coef.shape[-2:]
        return q, p

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes that all fields broadcast to."""
        shapes = [a.shape[:-2] for a in (self.coef, self.signal_cov, self.noise_cov)]
        shapes += [a.shape[:-1] for a in (self.mean, self.intercept) if a is not None]
        return la.broadcast_batch(shapes, "the task's arrays")

    @cached_property
    def status(self) -> Array:
        """Per element of the batch: 0, or why the task cannot be used."""
        xp = la.namespace(self.coef)
        finite = la.all_finite(
            xp, self.coef, *(None if v is None else v[..., None] for v in (self.mean, self.intercept))
        )
        bad = xp.astype(xp.where(finite, la.OK, la.NONFINITE), xp.int32)
        signal = la.psd_status(xp, self.signal_cov, self._root.definite)
        return la.combine_status(xp, bad, signal, la.psd_status(xp, self.noise_cov))

    @cached_property
    def _root(self) -> la.Root:
        return la.psd_root(self.signal_cov)

    @cached_property
    def root(self) -> Array:
        """F with F F^T = signal_cov, (..., p, p); NaN where ``status`` says that there is none."""
        return la.mask_failed(self._root.root, self._failed)

    @property
    def _failed(self) -> Array | None:
        return self.status[..., None, None] if self.batch_shape else None

    @cached_property
    def x_mean(self) -> Array:
        """E[x], (..., p)."""
        return 0.0 * self.coef[..., 0, :] if self.mean is None else self.mean

    @cached_property
    def y_mean(self) -> Array:
        """E[y], (..., q)."""
        out = la.matvec(self.coef, self.x_mean)
        return out if self.intercept is None else out + self.intercept

    def moments(self) -> Moments:
        """Population second moments about zero; what nobody asks for is not computed."""
        return PopulationMoments(self)

    def sample(self, n: int, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``n`` independent Gaussian samples: x (..., n, p) and y (..., n, q), in NumPy.

        Raises:
            ShapeError: n below 1.
        """
        la.require_rng(rng)
        if not la.is_whole(n) or n < 1:
            raise ShapeError(f"n = {n!r} samples; give a whole number, at least 1")
        here = self.to(np)
        q, p = here.coef.shape[-2:]
        x = rng.normal(size=(*self.batch_shape, n, p)) @ la.mT(here.root)
        if here.mean is not None:
            x = x + here.mean[..., None, :]
        y = x @ la.mT(here.coef) + rng.normal(size=(*self.batch_shape, n, q)) @ la.mT(la.psd_root(here.noise_cov).root)
        if here.intercept is not None:
            y = y + here.intercept[..., None, :]
        return la.mask_failed(x, here._failed), la.mask_failed(y, here._failed)

    def sample_moments(self, n: int, *, rng: np.random.Generator, batch: tuple[int, ...] = ()) -> Moments:
        """Draw the second moments of ``n`` independent Gaussian samples, at a price that does not depend on n.

        They are about zero and without means. Whitened inputs and noise, side by side, are n rows Q R with Q of
        orthonormal columns; moments see R alone, whose entries are independent: chi on the diagonal, of one degree
        of freedom less in every row, and standard normal above it.

        Args:
            n: number of samples.
            rng: source of all randomness.
            batch: leading axes before the task's own: as many independent samples.

        Returns:
            Moments in NumPy with leading axes ``batch`` and the task's, and with roots that nothing was squared for.

        Raises:
            ShapeError: n below 1, or ``batch`` holds no lengths.
            ArgumentError: the task has a mean or an intercept.

        Source: Bartlett's decomposition of a Wishart matrix, and its trapezoidal form below full rank.
        """
        la.require_rng(rng)
        if not la.is_whole(n) or n < 1:
            raise ShapeError(f"n = {n!r} samples; give a whole number, at least 1")
        la.require_kind(batch, Sequence, "batch", "give a tuple of lengths, such as (100,)")
        if not all(la.is_whole(b) and b >= 0 for b in batch):
            raise ShapeError(f"batch {tuple(batch)}; give whole numbers >= 0")
        if self.mean is not None or self.intercept is not None:
            raise ArgumentError(
                "moments are drawn about zero, and this task has a mean or an intercept; "
                "draw data with sample(), or leave both out: Regression(coef, signal_cov, noise_cov)"
            )
        here = self.to(np)
        q, p = here.coef.shape[-2:]
        shape, rows = (*batch, *self.batch_shape), min(n, p + q)
        r = np.triu(rng.normal(size=(*shape, rows, p + q)), 1)
        i = np.arange(rows)
        r[..., i, i] = np.sqrt(rng.chisquare(n - i, size=(*shape, rows)))
        r /= np.sqrt(n)
        # What the inputs do not have stands last, so that the columns of Q that they span stand first. On the
        # others the noise is what no input explains.
        has = np.any(here.root != 0, axis=-2)
        order = np.argsort(~has, axis=-1, kind="stable")
        has = np.take_along_axis(has, order, axis=-1)[..., None, : min(rows, p)]
        root = np.take_along_axis(here.root, order[..., None, :], axis=-1) @ la.mT(r[..., : min(rows, p), :p])
        noise = la.psd_root(here.noise_cov).root @ la.mT(r[..., p:])
        along, beyond = noise[..., : min(rows, p)], noise[..., min(rows, p) :]
        rest = np.concatenate([np.where(has, 0.0, along), beyond], axis=-1)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused where it is used
            seen = here.coef @ root + np.where(has, along, 0.0)
            second = root @ la.mT(root), seen @ la.mT(root), seen @ la.mT(seen) + rest @ la.mT(rest)
        masked = [la.mask_failed(a, here._failed) for a in (*second, root, seen)]
        status = np.broadcast_to(here.status, shape)
        return Moments._join((*masked[:3], None, None, status, (masked[3], masked[4], la.sq(rest))), (int(n),))

    @classmethod
    def from_moments(cls, moments: Moments) -> Self:
        """Task of the same moments: the best affine map, what it leaves as noise.

        Centred where the moments carry means, through the origin where they do not. Where inputs depend on
        each other, it is the map of least norm in units of each input.
        """
        la.require_kind(moments, Moments, "moments", "give Moments.from_data(x, y) or task.moments()")
        root, seen, _ = moments.roots
        xp = la.namespace(root)
        # In units of the second moments, means included: that is what the rounding of a centred input is relative to.
        second = xp.linalg.diagonal(moments.xx)
        unit = xp.sqrt(xp.where(second > 0, second, 1.0))
        seen_in_units = la.factored(root / unit[..., None], scale=xp.ones_like(unit[..., 0]))
        coef = seen @ seen_in_units.pinv / unit[..., None, :]
        _, yx, yy = moments._centred()
        noise = la.nearest_psd(yy - coef @ la.mT(yx))
        mean, ym = moments.x_mean, moments.y_mean
        intercept = None if ym is None or mean is None else ym - la.matvec(coef, mean)
        return cls(coef=coef, signal_cov=root @ la.mT(root), noise_cov=noise, mean=mean, intercept=intercept)

    @classmethod
    def from_data(cls, x: Array, y: Array) -> Self:
        """Task whose population is the sample ``x`` (..., n, p), ``y`` (..., n, q)."""
        return cls.from_moments(Moments.from_data(x, y))


class PopulationMoments(Moments):
    """The moments of a task, each computed when it is asked for."""

    task: Regression
    n: None = None

    def __new__(cls, task: Regression | None = None, **fields: Any) -> Self:
        """Given fields instead, as ``dataclasses.replace`` does, make moments that are no longer a task's."""
        if task is None and fields:
            return Moments(**fields)  # type: ignore[return-value]  # meant: no longer of this class
        return super().__new__(cls)

    def __init__(self, task: Regression) -> None:
        object.__setattr__(self, "task", task)

    @classmethod
    def _moving(cls) -> tuple[str, ...]:
        return ("task", "root", "status")

    def _split(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return (self.task, self.root, self.status), ()  # under ``jit`` both would be computed anew

    def _tree(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        # Moments have all batch axes in all fields, so that one can ``vmap`` over them; a task may share some.
        task, own = self.task, self._split()
        # The libraries put placeholders where the arrays were, which have no shape.
        if not all(a is None or hasattr(a, "shape") for a in (*task._split()[0], *own[0][1:])):
            return own
        if not (batch := self.batch_shape):
            return own
        xp = la.namespace(task.coef)

        def spread(a: Array | None, own: int) -> Array | None:
            return None if a is None else xp.broadcast_to(a, (*batch, *a.shape[a.ndim - own :]))

        matrices = (spread(a, 2) for a in (task.coef, task.signal_cov, task.noise_cov))
        vectors = (spread(a, 1) for a in (task.mean, task.intercept))
        whole = Regression._join((*matrices, *vectors), ())
        return (whole, spread(self.root, 2), spread(self.status, 0)), ()

    @classmethod
    def _join(cls, leaves: Any, static: Any) -> Self:
        task, root, status = leaves
        self = cls(task)
        vars(self).update(root=root, status=status)
        return self

    def _leaves(self) -> tuple[Array | None, ...]:
        task = self.task
        return (task.coef, task.signal_cov, task.noise_cov, task.mean, task.intercept, self.root)

    def _made_of(self, leaves: Sequence[Array | None], status: Array) -> Moments:
        return self._join((Regression._join(leaves[:5], ()), leaves[5], status), ())

    @property
    def roots_apart(self) -> tuple[Array, ...]:
        """F, and the coefficients and F, whose product is C."""
        return self.root, self.task.coef, self.root

    @property
    def factors(self) -> tuple[Array, Array, Array]:
        """The roots: a task has them."""
        return self.roots

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes of the task."""
        return self.task.batch_shape

    @property
    def shape(self) -> tuple[int, int]:
        """(q, p)."""
        return self.task.shape

    @cached_property
    def status(self) -> Array:
        """Per element of the batch: 0, or why the task cannot be used."""
        return self.task.status

    @cached_property
    def root(self) -> Array:
        """F of ``roots``, (..., p, p)."""
        return self.task.root

    @property
    def _about_origin(self) -> bool:
        return self.task.mean is None and self.task.intercept is None

    @property
    def x_mean(self) -> Array | None:
        """E[x], (..., p); None of a task about the origin."""
        return None if self._about_origin else self.task.x_mean

    @property
    def y_mean(self) -> Array | None:
        """E[y], (..., q); None of a task about the origin."""
        return None if self._about_origin else self.task.y_mean

    @cached_property
    @la.QUIET  # what overflows is refused where it is used
    def xx(self) -> Array:
        """E[x x^T], (..., p, p)."""
        return self._about_zero(self.task.signal_cov, self.x_mean, self.x_mean)

    @cached_property
    @la.QUIET
    def yx(self) -> Array:
        """E[y x^T], (..., q, p)."""
        return self._about_zero(self.task.coef @ self.task.signal_cov, self.y_mean, self.x_mean)

    @cached_property
    @la.QUIET
    def yy(self) -> Array:
        """E[y y^T], (..., q, q)."""
        coef = self.task.coef
        second = coef @ self.task.signal_cov @ la.mT(coef) + self.task.noise_cov
        return self._about_zero(second, self.y_mean, self.y_mean)

    @staticmethod
    def _about_zero(second: Array, a: Array | None, b: Array | None) -> Array:
        return second if a is None or b is None else second + la.outer(a, b)

    @cached_property
    @la.QUIET
    def roots(self) -> tuple[Array, Array, Array]:
        """F, C and the spare power; see ``Moments.roots``."""
        return self.root, self.task.coef @ self.root, la.trace(self.task.noise_cov)


@dataclass(frozen=True, eq=False)
class Shift(la.Record):
    """An in-distribution task ``train`` and an out-of-distribution task ``test`` of the same sizes.

    The builders state the size of a label shift as the root mean square of (B_o - B_i) x over the
    centred training inputs, in the units of y.

    Raises:
        ShapeError: the tasks differ in p or q.
    """

    train: Regression
    test: Regression

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            la.require_kind(getattr(self, name), Regression, name, "give a Regression")
        if self.train.coef.shape[-2:] != self.test.coef.shape[-2:]:
            raise ShapeError(
                f"train maps {self.train.coef.shape[-1]} to {self.train.coef.shape[-2]}, test "
                f"{self.test.coef.shape[-1]} to {self.test.coef.shape[-2]}; both need the same p and q"
            )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes that both tasks broadcast to."""
        return la.broadcast_batch((self.train.batch_shape, self.test.batch_shape), "the two tasks")

    @classmethod
    def none(cls, train: Regression) -> Self:
        """No shift: the test task is the training task."""
        return cls(train, train)

    @classmethod
    def label(cls, train: Regression, size: float, *, rng: np.random.Generator) -> Self:
        """The regression map moves in a random direction; the inputs stay."""
        _require_task(train, rng)
        return cls(train, _relabelled(train, rng.normal(size=(*train.batch_shape, *train.coef.shape[-2:])), size))

    @classmethod
    def covariate(cls, train: Regression, strength: float, *, rng: np.random.Generator) -> Self:
        """The inputs' covariance becomes A cov A^T, A = I + strength * (Gaussian of variance 1/p)."""
        _require_task(train, rng)
        return cls(train, _recovaried(train, strength, rng))

    @classmethod
    def both(cls, train: Regression, size: float, strength: float, *, rng: np.random.Generator) -> Self:
        """A label shift of ``size`` and a covariate shift of ``strength``."""
        moved = cls.label(train, size, rng=rng).test
        return cls(train, _recovaried(moved, strength, rng))

    @classmethod
    def in_channels(
        cls,
        train: Regression,
        net: DeepLinearNetwork,
        layer: int,
        channels: Sequence[int],
        size: float,
        *,
        rng: np.random.Generator,
    ) -> Self:
        """A label shift that the given output channels of the layer can follow: upper U_C A lower."""
        from linnet.channels import as_selection

        _require_task(train, rng)
        la.require_kind(net, DeepLinearNetwork, "net", "give a DeepLinearNetwork")
        net.require_fit(train.coef.shape[-2:], train.batch_shape)
        upper, lower = net.upper(layer), net.lower(layer)
        e = as_selection(channels, upper.shape[-1], upper)
        a = rng.normal(size=(*train.batch_shape, e.shape[-1], lower.shape[-2]))
        return cls(train, _relabelled(train, upper @ e @ la.host_like(a, upper) @ lower, size))

    @classmethod
    def reachable(
        cls, train: Regression, net: DeepLinearNetwork, layer: int, size: float, *, rng: np.random.Generator
    ) -> Self:
        """A label shift that the layer can follow: upper A lower."""
        _require_task(train, rng)
        la.require_kind(net, DeepLinearNetwork, "net", "give a DeepLinearNetwork")
        net.require_fit(train.coef.shape[-2:], train.batch_shape)
        upper, lower = net.upper(layer), net.lower(layer)
        a = rng.normal(size=(*train.batch_shape, upper.shape[-1], lower.shape[-2]))
        return cls(train, _relabelled(train, upper @ la.host_like(a, upper) @ lower, size))


def _require_task(train: Regression, rng: np.random.Generator) -> None:
    la.require_kind(train, Regression, "train", "give a Regression")
    la.require_rng(rng)


def _relabelled(task: Regression, direction: Array, size: float) -> Regression:
    la.require_kind(size, Real, "size", "give a number >= 0, in the units of y")
    direction = la.host_like(direction, task.coef) if isinstance(direction, np.ndarray) else direction
    xp = la.namespace(direction, task.coef)
    if not (math.isfinite(size) and size >= 0):
        raise ArgumentError(f"a label shift of size {size}; give a finite number >= 0, in the units of y")
    rms = xp.sqrt(la.energy(direction, task.signal_cov))
    if size > 0 and rms.ndim == 0 and la.is_concrete(rms) and not bool(rms > 0):
        raise LinnetError(
            f"no label shift of size {size} exists here: the inputs or the layer carry nothing; "
            "choose another layer or other channels, or use Shift.none"
        )
    scale = xp.where(rms > 0, size / xp.where(rms > 0, rms, 1.0), 0.0)
    leaves = (
        task.coef + scale[..., None, None] * direction,
        task.signal_cov,
        task.noise_cov,
        task.mean,
        task.intercept,
    )
    return Regression(*leaves)


def _recovaried(task: Regression, strength: float, rng: np.random.Generator) -> Regression:
    la.require_kind(strength, Real, "strength", "give a finite number")
    if not math.isfinite(strength):
        raise ArgumentError(f"a covariate shift of strength {strength}; give a finite number")
    p = task.coef.shape[-1]
    a = np.eye(p) + strength * rng.normal(size=(*task.batch_shape, p, p)) / np.sqrt(p)
    moved = la.host_like(a, task.coef)
    cov = moved @ task.signal_cov @ la.mT(moved)
    return Regression(task.coef, (cov + la.mT(cov)) / 2, task.noise_cov, task.mean, task.intercept)


def _require_width(p: int, q: int) -> None:
    if p < 1 or q < 1:
        raise ShapeError(f"{p} inputs and {q} outputs; at least one of each is needed")


def _checked_data(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = la.as_float(x, "x"), la.as_float(y, "y")
    la.require_shape(x, "x", ("n", "p"))
    la.require_shape(y, "y", ("n", "q"))
    if x.shape[-2] != y.shape[-2]:
        raise ShapeError(f"x has {x.shape[-2]} rows and y {y.shape[-2]}; they need the same samples, a row each")
    if x.shape[-2] == 0:
        raise ShapeError("x and y have no rows; give at least one sample")
    _require_width(x.shape[-1], y.shape[-1])
    return x, y
