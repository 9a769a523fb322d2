"""Tasks: shifted linear regressions, their second moments, and samples of them.

From ``Moments`` on, population and sample are the same code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import LinnetError, NotPSDError, ShapeError
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

    Raises:
        ShapeError: lengths that do not fit.
        NonFiniteError, NotPSDError: for a single (unbatched) set of moments; batches get a ``status``.
    """

    _static: ClassVar[tuple[str, ...]] = ("n",)

    xx: Array
    yx: Array
    yy: Array
    x_mean: Array | None = None
    y_mean: Array | None = None
    n: int | None = None
    status: Array | None = None

    def __post_init__(self) -> None:
        xx, yx, yy = (la.as_float(getattr(self, k), k) for k in ("xx", "yx", "yy"))
        xm, ym = (
            None if v is None else la.as_float(v, k) for k, v in (("x_mean", self.x_mean), ("y_mean", self.y_mean))
        )
        if (xm is None) != (ym is None):
            raise ShapeError("moments have one mean of two; give x_mean and y_mean, or neither")
        la.require_shape(yx, "yx", ("q", "p"))
        q, p = yx.shape[-2:]
        la.require_shape(xx, "xx", (p, p))
        la.require_shape(yy, "yy", (q, q))
        if xm is not None:
            la.require_shape(xm, "x_mean", (p,))
            la.require_shape(ym, "y_mean", (q,))
        for k, v in zip(("xx", "yx", "yy", "x_mean", "y_mean"), la.together(xx, yx, yy, xm, ym), strict=True):
            object.__setattr__(self, k, v)
        if self.status is None:
            if not self.batch_shape:
                la.require_finite(xx=self.xx, yx=self.yx, yy=self.yy, x_mean=self.x_mean, y_mean=self.y_mean)
                la.require_psd(self.xx, "xx")
                la.require_psd(self.yy, "yy")
                self._require_joint()
            xp = la.namespace(self.xx)
            finite = la.all_finite(
                xp,
                self.xx,
                self.yx,
                self.yy,
                *(None if m is None else m[..., None] for m in (self.x_mean, self.y_mean)),
            )
            bad = xp.astype(xp.where(finite, la.OK, la.NONFINITE), xp.int32)
            object.__setattr__(
                self, "status", la.combine_status(xp, bad, la.psd_status(xp, self.xx), la.psd_status(xp, self.yy))
            )

    def _require_joint(self) -> None:
        """Refuse moments that no law has: a residual's covariance that is not PSD, or a mean too large."""
        if not la.is_concrete(self.xx, self.yx, self.yy, self.x_mean, self.y_mean):
            return
        xx, yx, yy = (la.to_numpy(a) for a in (self.xx, self.yx, self.yy))
        if self.x_mean is not None and self.y_mean is not None:
            xm, ym = la.to_numpy(self.x_mean), la.to_numpy(self.y_mean)
            xx, yx, yy = xx - np.outer(xm, xm), yx - np.outer(ym, xm), yy - np.outer(ym, ym)
        # In units of each variable, so that large ones do not hide small ones.
        unit = np.sqrt([*np.diagonal(la.to_numpy(self.xx)), *np.diagonal(la.to_numpy(self.yy))])
        unit[unit == 0] = 1.0
        joint = np.block([[xx, yx.T], [yx, yy]]) / np.outer(unit, unit)
        least = float(np.linalg.eigvalsh((joint + joint.T) / 2)[0])
        if least < -1e4 * la.rank_rtol(joint.astype(la.to_numpy(self.xx).dtype)):
            raise NotPSDError(
                f"the second moments of x and y together, less the means', are not positive semi-definite (smallest "
                f"eigenvalue {least:.3g} in units of each variable); take all of xx, yx, yy and the means from the "
                "same samples, as Moments.from_data does"
            )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes."""
        shapes = [a.shape[:-2] for a in (self.xx, self.yx, self.yy)]
        shapes += [a.shape[:-1] for a in (self.x_mean, self.y_mean) if a is not None]
        return la.broadcast_batch(shapes, "the moments")

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
        finite = la.all_finite(xp, x, y)
        return cls._join(
            (
                la.mT(x) @ x / n,
                la.mT(y) @ x / n,
                la.mT(y) @ y / n,
                xp.mean(x, axis=-2),
                xp.mean(y, axis=-2),
                xp.astype(xp.where(finite, la.OK, la.NONFINITE), xp.int32),
            ),
            (n,),
        )

    @cached_property
    def coef(self) -> Array:
        """Least-norm best linear map E[y x^T] E[x x^T]^+, (..., q, p)."""
        return self.yx @ la.spectrum(self.xx).power(-1.0)


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

    coef: Array
    signal_cov: Array
    noise_cov: Array = None  # zero
    mean: Array | None = None
    intercept: Array | None = None

    def __post_init__(self) -> None:
        coef = la.as_float(self.coef, "coef")
        la.require_shape(coef, "coef", ("q", "p"))
        q, p = coef.shape[-2:]
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
        return la.combine_status(xp, bad, la.psd_status(xp, self.signal_cov), la.psd_status(xp, self.noise_cov))

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
        """Population second moments about zero."""
        yx = self.coef @ self.signal_cov
        yy = yx @ la.mT(self.coef) + self.noise_cov
        if self.mean is None and self.intercept is None:
            return Moments._join((self.signal_cov, yx, yy, None, None, self.status), (None,))
        xm, ym = self.x_mean, self.y_mean
        return Moments._join(
            (self.signal_cov + la.outer(xm, xm), yx + la.outer(ym, xm), yy + la.outer(ym, ym), xm, ym, self.status),
            (None,),
        )

    def sample(self, n: int, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``n`` independent Gaussian samples: x (..., n, p) and y (..., n, q), in NumPy.

        Raises:
            ShapeError: n below 1.
        """
        if n < 1:
            raise ShapeError(f"n = {n} samples; give at least 1")
        here = self.to(np)
        q, p = here.coef.shape[-2:]
        x = rng.normal(size=(*self.batch_shape, n, p)) @ la.spectrum(here.signal_cov).power(0.5)
        if here.mean is not None:
            x = x + here.mean[..., None, :]
        y = x @ la.mT(here.coef) + rng.normal(size=(*self.batch_shape, n, q)) @ la.spectrum(here.noise_cov).power(0.5)
        if here.intercept is not None:
            y = y + here.intercept[..., None, :]
        return x, y

    @classmethod
    def from_moments(cls, moments: Moments) -> Self:
        """Task of the same moments: the best affine map, what it leaves as noise.

        Centred where the moments carry means, through the origin where they do not.
        """
        if moments.x_mean is None or moments.y_mean is None:
            xx, yx, yy, mean, ym = moments.xx, moments.yx, moments.yy, None, None
        else:
            mean, ym = moments.x_mean, moments.y_mean
            xx, yx, yy = (
                moments.xx - la.outer(mean, mean),
                moments.yx - la.outer(ym, mean),
                moments.yy - la.outer(ym, ym),
            )
        s = la.spectrum((xx + la.mT(xx)) / 2)
        coef = yx @ s.power(-1.0)
        noise = la.nearest_psd(yy - coef @ la.mT(yx))
        intercept = None if ym is None or mean is None else ym - la.matvec(coef, mean)
        return cls(coef=coef, signal_cov=s.power(1.0), noise_cov=noise, mean=mean, intercept=intercept)

    @classmethod
    def from_data(cls, x: Array, y: Array) -> Self:
        """Task whose population is the sample ``x`` (..., n, p), ``y`` (..., n, q)."""
        return cls.from_moments(Moments.from_data(x, y))


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
        if self.train.coef.shape[-2:] != self.test.coef.shape[-2:]:
            raise ShapeError(
                f"train maps {self.train.coef.shape[-1]} to {self.train.coef.shape[-2]}, test "
                f"{self.test.coef.shape[-1]} to {self.test.coef.shape[-2]}; both need the same p and q"
            )

    @classmethod
    def none(cls, train: Regression) -> Self:
        """No shift: the test task is the training task."""
        return cls(train, train)

    @classmethod
    def label(cls, train: Regression, size: float, *, rng: np.random.Generator) -> Self:
        """The regression map moves in a random direction; the inputs stay."""
        return cls(train, _relabelled(train, rng.normal(size=(*train.batch_shape, *train.coef.shape[-2:])), size))

    @classmethod
    def covariate(cls, train: Regression, strength: float, *, rng: np.random.Generator) -> Self:
        """The inputs' covariance becomes A cov A^T, A = I + strength * (Gaussian of variance 1/p)."""
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

        upper, lower = net.upper(layer), net.lower(layer)
        e = as_selection(channels, upper.shape[-1], upper)
        a = rng.normal(size=(*train.batch_shape, e.shape[-1], lower.shape[-2]))
        return cls(train, _relabelled(train, upper @ e @ la.host_like(a, upper) @ lower, size))

    @classmethod
    def reachable(
        cls, train: Regression, net: DeepLinearNetwork, layer: int, size: float, *, rng: np.random.Generator
    ) -> Self:
        """A label shift that the layer can follow: upper A lower."""
        upper, lower = net.upper(layer), net.lower(layer)
        a = rng.normal(size=(*train.batch_shape, upper.shape[-1], lower.shape[-2]))
        return cls(train, _relabelled(train, upper @ la.host_like(a, upper) @ lower, size))


def _relabelled(task: Regression, direction: Array, size: float) -> Regression:
    direction = la.host_like(direction, task.coef) if isinstance(direction, np.ndarray) else direction
    xp = la.namespace(direction, task.coef)
    if not (math.isfinite(size) and size >= 0):
        raise LinnetError(f"a label shift of size {size}; give a finite number >= 0, in the units of y")
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
    p = task.coef.shape[-1]
    a = np.eye(p) + strength * rng.normal(size=(*task.batch_shape, p, p)) / np.sqrt(p)
    moved = la.host_like(a, task.coef)
    cov = moved @ task.signal_cov @ la.mT(moved)
    return Regression(task.coef, (cov + la.mT(cov)) / 2, task.noise_cov, task.mean, task.intercept)


def _checked_data(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = la.as_float(x, "x"), la.as_float(y, "y")
    la.require_shape(x, "x", ("n", "p"))
    la.require_shape(y, "y", ("n", "q"))
    if x.shape[-2] != y.shape[-2]:
        raise ShapeError(f"x has {x.shape[-2]} rows and y {y.shape[-2]}; they need the same samples, a row each")
    if x.shape[-2] == 0:
        raise ShapeError("x and y have no rows; give at least one sample")
    return x, y
