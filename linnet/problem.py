"""One layer of a network, facing the moments of a task: what every method solves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import NonFiniteError, NotPSDError, RankError
from linnet.network import DeepLinearNetwork
from linnet.task import Moments


@dataclass(frozen=True, eq=False)
class LayerProblem(la.Record):
    """Least squares in the update D of one layer: minimise E|y - f(x) - upper D h|^2, h the layer's input.

    In whitened inputs z (see ``Moments.roots``) h = A z and y - f(x) = T z + noise, so that the risk is
    |T - upper D A|_F^2 plus a constant. A and T are formed without second moments: the condition number of A
    is not squared. What methods share is computed once, on first use, and kept: the factors of A and of the
    upper product, the SVD of the whitened residual.

    Attributes:
        net: the pre-trained network.
        layer: index of the layer to fine-tune, from 0.
        moments: population or sample moments; ``n`` below or above any rank.
        rtol: relative tolerance of all ranks (on singular values), the house's policy by default.

    Raises:
        ShapeError: the moments do not fit the network, or it has no such layer.
        ArgumentError: the network or the moments are something else.
        NonFiniteError, NotPSDError: a single problem cannot be solved; batches get a ``status``.
    """

    _static: ClassVar[tuple[str, ...]] = ("layer", "rtol")

    net: DeepLinearNetwork
    layer: int
    moments: Moments
    rtol: float | None = None

    def __post_init__(self) -> None:
        la.require_kind(self.net, DeepLinearNetwork, "net", "give a DeepLinearNetwork")
        object.__setattr__(self, "layer", self.net.layer_index(self.layer))
        la.require_kind(self.moments, Moments, "moments", "give task.moments(), or Moments.from_data(x, y)")
        if self.rtol is not None and not (isinstance(self.rtol, Real) and 0 <= self.rtol < 1):
            raise RankError(f"rtol={self.rtol!r}; give a relative tolerance from 0 to below 1, or None")
        self.net.require_fit(self.moments.shape, self.moments.batch_shape)
        given, m = self.net, self.moments
        arrays = (*given.weights, *(given.biases or ()), *m._leaves())
        leaves = la.together(*arrays)
        if any(a is not b for a, b in zip(arrays, leaves, strict=True)):
            ours = given.depth + len(given.biases or ())
            weights, biases = leaves[: given.depth], leaves[given.depth : ours]
            net = type(given)._join((weights, None if given.biases is None else biases), ())
            object.__setattr__(self, "net", net)
            object.__setattr__(self, "moments", m._made_of(leaves[ours:], la.namespace(leaves[0]).asarray(m.status)))
        if not self.batch_shape and la.is_concrete(*leaves):
            code = int(self.status)
            if code == la.NONFINITE:
                raise NonFiniteError(
                    "the network or the moments hold non-finite values, or values whose products overflow; "
                    "finite ones are needed: rescale the inputs or the weights"
                )
            if code == la.NOT_PSD:
                raise NotPSDError(
                    "the second moment of the layer's input is not positive semi-definite; "
                    "build the moments with Moments.from_data or Regression.moments"
                )

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes of networks and moments, broadcast."""
        return la.broadcast_batch((self.net.batch_shape, self.moments.batch_shape), "the network and the task")

    @property
    def d_in(self) -> int:
        """Inputs of the layer."""
        return self.net.widths[self.layer]

    @property
    def d_out(self) -> int:
        """Outputs of the layer: its channels."""
        return self.net.widths[self.layer + 1]

    @property
    def is_large(self) -> bool:
        """Whether this is one problem whose layer has 1024 inputs and outputs at least, in NumPy and float64."""
        return not self.batch_shape and la.is_large(self.net.weights[self.layer])

    @property
    def has_biases(self) -> bool:
        """Whether the network carries biases."""
        return self.net.biases is not None

    # --- status ----------------------------------------------------------------------------------

    @cached_property
    def status(self) -> Array:
        """Per element of the batch: 0, or why it cannot be solved by any method."""
        xp = la.namespace(self.net.weights[0])
        designs = self._images if self.is_large and not self.is_affine else (self._input_design, self._target_design)
        return la.combine_status(xp, self._given_status, self._status_of(*designs))

    @property
    def _images(self) -> tuple[Array, ...]:
        """What all products on the way make of a few columns, (d, k) each: of a large problem that is cheaper."""
        root, *seen = (self._safe(a) for a in self.moments.roots_apart)
        columns = la.probes(root.shape[-1])
        with np.errstate(over="ignore", invalid="ignore"):
            images = [root @ columns]
            for w in self.net.weights:
                images.append(w @ images[-1])
            return (*images, la.times(seen, columns))

    @cached_property
    def _given_status(self) -> Array:
        biases = (b[..., None] for b in self.net.biases or ())
        own = self._status_of(*self.net.weights, *biases)
        return la.combine_status(la.namespace(own), own, self.moments.status)

    @staticmethod
    def _status_of(*arrays: Array) -> Array:
        xp = la.namespace(*arrays)
        return xp.astype(xp.where(la.all_finite(xp, *arrays), la.OK, la.NONFINITE), xp.int32)

    def _safe(self, a: Array) -> Array:
        """Return ``a`` with the elements that cannot be solved replaced by zeros: LAPACK must not see them."""
        return _zeroed(a, self._given_status)

    def _safe_vector(self, a: Array) -> Array:
        return self._safe(a[..., None])[..., 0]

    # --- the problem in matrices -----------------------------------------------------------------

    @cached_property
    def weight(self) -> Array:
        """Frozen weight of the layer, (..., d_out, d_in)."""
        return self._safe(self.net.weights[self.layer])

    @cached_property
    def bias(self) -> Array | None:
        """Frozen bias of the layer, (..., d_out); None for a network without biases."""
        biases = self.net.biases
        return None if biases is None else self._safe_vector(biases[self.layer])

    @cached_property
    def lower(self) -> Array:
        """Product of the layers below, (..., d_in, p)."""
        return self._safe(self.net.lower(self.layer))

    @cached_property
    def upper(self) -> Array:
        """Product of the layers above, (..., q, d_out)."""
        return self._safe(self.net.upper(self.layer))

    @property
    def is_affine(self) -> bool:
        """Whether the first whitened input is the constant 1."""
        return self.has_biases or self.moments.x_mean is not None

    @cached_property
    def _input_design(self) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows gets a status
            a = self.lower @ self._safe(self.moments.roots[0])
            return la.prepend_column(self.input_mean, a) if self.is_affine else a

    @cached_property
    def _target_design(self) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            before = self.weight @ self._input_design
            before = self.upper @ (before[..., 1:] if self.is_affine else before)
            t = self._safe(self.moments.roots[1]) - before
            return la.prepend_column(self.residual_mean, t) if self.is_affine else t

    @cached_property
    def inputs(self) -> Array:
        """A, (..., d_in, k): the layer's input is A z, z whitened inputs of unit second moment."""
        return _zeroed(self._input_design, self.status)

    @cached_property
    def target(self) -> Array:
        """T, (..., q, k): the residual y - f(x) is T z and noise that no input explains."""
        return _zeroed(self._target_design, self.status)

    @cached_property
    def cross(self) -> Array:
        """E[(y - f(x)) h^T], (..., q, d_in): the residual's second moment with the layer's input.

        The gradient of the risk with respect to the layer is -2 upper^T cross.
        """
        return self.target @ la.mT(self.inputs)

    @cached_property
    def gram(self) -> Array:
        """E[h h^T], (..., d_in, d_in)."""
        return self.inputs @ la.mT(self.inputs)

    @cached_property
    def input_mean(self) -> Array:
        """E[h], (..., d_in)."""
        below = self.net.offset_below(self.layer)
        out = 0.0 * self.lower[..., 0] if self.moments.x_mean is None else la.matvec(self.lower, self.moments.x_mean)
        return self._safe_vector(out if below is None else out + below)

    @cached_property
    def residual_mean(self) -> Array:
        """E[y - f(x)], (..., q)."""
        product, offset, m = self.net.product, self.net.offset, self.moments
        out = (
            0.0 * product[..., 0] if m.x_mean is None or m.y_mean is None else (m.y_mean - la.matvec(product, m.x_mean))
        )
        return self._safe_vector(out if offset is None else out - offset)

    # --- shared decompositions -------------------------------------------------------------------

    @cached_property
    def reach_scale(self) -> Array:
        """Sum over the layer's input of the products of its factors' sizes, (...): its rounding is relative to it."""
        return self._reach(bound=False)

    @cached_property
    def reach_bound(self) -> Array:
        """An upper bound of ``reach_scale`` that costs next to nothing, (...); infinite where it overflows."""
        return self._reach(bound=True)

    def _reach(self, bound: bool) -> Array:
        m = self.moments
        with np.errstate(over="ignore", invalid="ignore"):
            size = (la.frobenius if bound else la.size)(self._safe(m.roots[0]))
            if m.x_mean is not None:
                size = size + la.norm(self._safe_vector(m.x_mean))
            own = self.net.scale(0, self.layer, bound=bound) * size
            own = own + self.net.offset_scale(self.layer, bound=bound)
            return own if bound else _finite(own)

    @cached_property
    def _input_factors(self) -> la.Factors:
        columns = la.mT(self.inputs)
        return la.factored(columns, rtol=self.rtol, scale=lambda: self.reach_scale, bound=self.reach_bound)

    @cached_property
    def upper_scale(self) -> Array:
        """Product of the sizes of the layers above, (...): what the upper product's rounding is relative to."""
        return _finite(self.net.scale(self.layer + 1, self.net.depth))

    @cached_property
    def upper_bound(self) -> Array:
        """An upper bound of ``upper_scale`` that costs next to nothing, (...); infinite where it overflows."""
        return self.net.scale(self.layer + 1, self.net.depth, bound=True)

    @cached_property
    def _upper_factors(self) -> la.Factors:
        return la.factored(self.upper, rtol=self.rtol, scale=lambda: self.upper_scale, bound=self.upper_bound)

    @cached_property
    def upper_pinv(self) -> Array:
        """Pseudo-inverse of the upper product, (..., d_out, q)."""
        return self._upper_factors.pinv

    @cached_property
    def root(self) -> Array:
        """A root of the Gram matrix, (..., d_in, k): ``root root^T = gram``."""
        rest = self._input_factors.rest
        return self.inputs if rest is None else la.mT(rest)

    @cached_property
    def root_pinv(self) -> Array:
        """Pseudo-inverse of the root, (..., k, d_in)."""
        return la.mT(self._input_factors.inverse)

    @cached_property
    def whitened(self) -> Array:
        """cross root^+^T, (..., q, k): the residual on what the layer sees of whitened inputs."""
        return self._input_factors.coordinates(self.target)

    @cached_property
    def constant(self) -> Array:
        """The constant that stands for 1 beside the layer's input: of its size, so that units do not matter.

        Of the size of what the input is computed from, rather: an input that cancels to rounding is no unit.
        """
        xp = la.namespace(self.reach_scale)
        return xp.where(self.reach_scale > 0, self.reach_scale, 1.0)

    @cached_property
    def affine_weight(self) -> Array:
        """[weight, bias / c], (..., d_out, d_in + 1): what the layer does to its input and a constant c."""
        bias = 0.0 * self.weight[..., :, 0] if self.bias is None else self.bias
        return la.append_column(self.weight, bias / self.constant[..., None])

    @cached_property
    def _affine_columns(self) -> Array:
        columns = la.mT(self.inputs)  # (..., k, d_in), the first row the constant's
        first = la.host_like(np.arange(columns.shape[-2]) == 0, columns)
        return la.append_column(columns, self.constant[..., None] * first)

    @cached_property
    def _affine_factors(self) -> la.Factors:
        return la.factored(self._affine_columns, rtol=self.rtol, scale=self.reach_scale + self.constant)

    @cached_property
    def affine_root(self) -> Array:
        """A root of the second moment of the layer's input and a constant c, (..., d_in + 1, k)."""
        rest = self._affine_factors.rest
        return la.mT(self._affine_columns if rest is None else rest)

    @cached_property
    def affine_whitened(self) -> Array:
        """The residual on whitened inputs and constant, (..., q, k)."""
        return self._affine_factors.coordinates(self.target)

    @cached_property
    def regression(self) -> Array:
        """cross gram^+, (..., q, d_in): the residual regressed on the layer's input."""
        return self.whitened @ self.root_pinv

    @cached_property
    def residual(self) -> Array:
        """M = P_U cross root^+^T, (..., q, k): the whitened residual that the layer can reach."""
        return self._upper_factors.projected(self.whitened)

    @cached_property
    def residual_svd(self) -> tuple[Array, Array, Array]:
        """Thin SVD of ``residual``; one serves all ranks."""
        return la.svd(self.residual)

    @cached_property
    def residual_floor(self) -> Array:
        """Size below which a singular value of ``residual`` is rounding error, (...)."""
        root, seen, _ = self.moments.roots
        with np.errstate(over="ignore", invalid="ignore"):
            carried = _finite(self.net.scale(0, self.net.depth) * la.size(self._safe(root)))
        return la.rank_rtol(self.residual, self.rtol) * (la.size(self._safe(seen)) + carried)

    # --- risk ------------------------------------------------------------------------------------

    @cached_property
    def initial_risk(self) -> Any:
        """E|y - f(x)|^2 of the pre-trained network on these moments, (...)."""
        from linnet.risk import expected_risk

        return expected_risk(self.net, self.moments)

    def risk(self, update: Update) -> Any:
        """E|y - f(x)|^2 on these moments after ``update``, (...): the objective that methods minimise."""
        from linnet.risk import expected_risk

        return expected_risk(self.net.updated(update), self.moments)


def _finite(scale: Array) -> Array:
    """Return ``scale`` (...) with zero for what overflowed: it belongs to an element that has a status."""
    xp = la.namespace(scale)
    return xp.where(xp.isfinite(scale), scale, xp.zeros_like(scale))


def _zeroed(a: Array, status: Array) -> Array:
    xp = la.namespace(a)
    if la.is_concrete(status) and not bool(xp.any(status != la.OK)):
        return a
    return xp.where((status == la.OK)[..., None, None], a, xp.zeros_like(a))


@dataclass(frozen=True, eq=False)
class Update(la.Record):
    """What fine-tuning adds to one layer.

    Attributes:
        delta: added to the layer's weight, (..., d_out, d_in).
        layer: index of the layer.
        bias: added to the layer's bias, (..., d_out), or None.
        factors: (a, b) with ``delta = a b^T``, or None where the method has none.
        balance: whether ``left`` and ``right`` are the balanced factors rather than (a, b) themselves.
        status: per element of the batch: 0, or why there is no solution; ``delta`` is NaN there.
    """

    _static: ClassVar[tuple[str, ...]] = ("layer", "balance")
    _own_axes: ClassVar[Mapping[str, int]] = {"bias": 1, "status": 0}

    delta: Array
    layer: int
    bias: Array | None = None
    factors: tuple[Array, Array] | None = None
    balance: bool = False
    status: Array | None = None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes."""
        return tuple(self.delta.shape[:-2])

    @cached_property
    def _pair(self) -> tuple[Array, Array] | None:
        if self.factors is None or not self.balance:
            return self.factors
        return la.balanced_factors(*self.factors)

    @property
    def left(self) -> Array | None:
        """U of ``delta = U V^T``, (..., d_out, r); None where the method has no factors."""
        return None if self._pair is None else self._pair[0]

    @property
    def right(self) -> Array | None:
        """V of ``delta = U V^T``, (..., d_in, r); None where the method has no factors."""
        return None if self._pair is None else self._pair[1]
