"""One layer of a network, facing the moments of a task: what every method solves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import NonFiniteError, NotPSDError, RankError, ShapeError
from linnet.network import DeepLinearNetwork
from linnet.task import Moments


@dataclass(frozen=True, eq=False)
class LayerProblem(la.Record):
    """Least squares in the update D of one layer: minimise E|y - f(x) - upper D h|^2, h the layer's input.

    What methods share is computed once, on first use, and kept: the decomposition of the Gram matrix
    of h, of the upper product, of the whitened residual.

    Attributes:
        net: the pre-trained network.
        layer: index of the layer to fine-tune, from 0.
        moments: population or sample moments; ``n`` below or above any rank.
        rtol: relative tolerance of all ranks, the house's policy by default.

    Raises:
        ShapeError: the moments do not fit the network, or it has no such layer.
        NonFiniteError, NotPSDError: a single problem cannot be solved; batches get a ``status``.
    """

    _static: ClassVar[tuple[str, ...]] = ("layer", "rtol")

    net: DeepLinearNetwork
    layer: int
    moments: Moments
    rtol: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", self.net.layer_index(self.layer))
        if not isinstance(self.moments, Moments):
            raise ShapeError(
                f"moments is a {type(self.moments).__name__}; give task.moments(), or Moments.from_data(x, y)"
            )
        if self.rtol is not None and not 0 <= self.rtol < 1:
            raise RankError(f"rtol={self.rtol}; give a relative tolerance from 0 to below 1, or None")
        p, q = self.net.widths[0], self.net.widths[-1]
        if self.moments.yx.shape[-2:] != (q, p):
            raise ShapeError(
                f"the network maps {p} to {q}, the moments {self.moments.yx.shape[-1]} to "
                f"{self.moments.yx.shape[-2]}; both need the same p and q"
            )
        leaves = la.together(
            *self.net.weights,
            *(self.net.biases or ()),
            self.moments.xx,
            self.moments.yx,
            self.moments.yy,
            self.moments.x_mean,
            self.moments.y_mean,
        )
        k, b = self.net.depth, len(self.net.biases or ())
        net = DeepLinearNetwork._join((leaves[:k], leaves[k : k + b] if self.net.biases is not None else None), ())
        status = la.namespace(leaves[0]).asarray(self.moments.status)
        object.__setattr__(self, "net", net)
        object.__setattr__(self, "moments", Moments._join((*leaves[k + b :], status), (self.moments.n,)))
        if not self.batch_shape and la.is_concrete(*leaves):
            code = int(self.status)
            if code == la.NONFINITE:
                raise NonFiniteError("the network or the moments hold non-finite values; finite ones are needed")
            if code == la.NOT_PSD:
                raise NotPSDError(
                    "the second moment of the layer's input is not positive semi-definite; "
                    "build the moments with Moments.from_data or Regression.moments"
                )

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes of networks and moments, broadcast."""
        return la.broadcast_batch((self.net.batch_shape, self.moments.batch_shape), "the network and the moments")

    @property
    def d_in(self) -> int:
        """Inputs of the layer."""
        return self.net.widths[self.layer]

    @property
    def d_out(self) -> int:
        """Outputs of the layer: its channels."""
        return self.net.widths[self.layer + 1]

    @property
    def has_biases(self) -> bool:
        """Whether the network carries biases."""
        return self.net.biases is not None

    # --- status ----------------------------------------------------------------------------------

    @cached_property
    def status(self) -> Array:
        """Per element of the batch: 0, or why it cannot be solved by any method."""
        xp = la.namespace(self.net.weights[0])
        return la.combine_status(xp, self._finite_status, self._spectrum.status)

    @cached_property
    def _finite_status(self) -> Array:
        xp = la.namespace(self.net.weights[0])
        finite = la.all_finite(xp, *self.net.weights, *(b[..., None] for b in self.net.biases or ()))
        own = xp.astype(xp.where(finite, la.OK, la.NONFINITE), xp.int32)
        return la.combine_status(xp, own, self.moments.status)

    def _safe(self, a: Array) -> Array:
        """Return ``a`` with the elements that cannot be solved replaced by zeros: LAPACK must not see them."""
        xp = la.namespace(a)
        status = self._finite_status
        if la.is_concrete(status) and not bool(xp.any(status != la.OK)):
            return a
        return xp.where((status == la.OK)[..., None, None], a, xp.zeros_like(a))

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

    @cached_property
    def _cross_and_gram(self) -> tuple[Array, Array]:
        m = self.moments
        carried = self._safe(m.xx) @ la.mT(self.lower)  # E[x h^T] before offsets
        gram = self.lower @ carried
        target = self._safe(m.yx) @ la.mT(self.lower)  # E[y h^T] before offsets
        below = self.net.offset_below(self.layer)
        if below is not None:
            shift = la.matvec(self.lower, m.x_mean) if m.x_mean is not None else 0.0 * below
            carried = carried + (0.0 if m.x_mean is None else la.outer(m.x_mean, below))
            gram = gram + la.outer(shift, below) + la.outer(below, shift) + la.outer(below, below)
            target = target + (0.0 if m.y_mean is None else la.outer(m.y_mean, below))
        cross = target - self.upper @ (self.weight @ (self.lower @ carried))
        offset = self.net.offset
        if offset is not None:
            cross = cross - la.outer(offset, self.input_mean)
        return self._safe(cross), self._safe((gram + la.mT(gram)) / 2)

    @property
    def cross(self) -> Array:
        """E[(y - f(x)) h^T], (..., q, d_in): the residual's second moment with the layer's input.

        The gradient of the risk with respect to the layer is -2 upper^T cross.
        """
        return self._cross_and_gram[0]

    @property
    def gram(self) -> Array:
        """E[h h^T], (..., d_in, d_in)."""
        return self._cross_and_gram[1]

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
        """Product of the sizes of the factors of the layer's input, (...): what its rounding is relative to."""
        return self.net.scale(0, self.layer) * self._input_size

    @cached_property
    def _input_size(self) -> Array:
        xp = la.namespace(self.gram)
        return xp.sqrt(la.size(self._safe(self.moments.xx)))

    @cached_property
    def _gram_scale(self) -> Array:
        lower = self.net.scale(0, self.layer) if self.layer <= 1 else la.size(self.lower)
        return self.reach_scale * lower * self._input_size

    @cached_property
    def _spectrum(self) -> la.Spectrum:
        return la.spectrum(self.gram, rtol=self.rtol, scale=self._gram_scale)

    @cached_property
    def upper_scale(self) -> Array:
        """Product of the sizes of the layers above, (...): what the upper product's rounding is relative to."""
        return self.net.scale(self.layer + 1, self.net.depth)

    @cached_property
    def upper_range(self) -> la.Range:
        """Decomposition of the upper product: its pseudo-inverse, the projector on its range."""
        return la.decompose(self.upper, rtol=self.rtol, scale=self.upper_scale)

    @cached_property
    def upper_pinv(self) -> Array:
        """Pseudo-inverse of the upper product, (..., d_out, q)."""
        return self.upper_range.pinv

    @cached_property
    def root(self) -> Array:
        """gram^(1/2), symmetric, (..., d_in, d_in)."""
        return self._spectrum.power(0.5)

    @cached_property
    def root_pinv(self) -> Array:
        """Pseudo-inverse of the root, (..., d_in, d_in)."""
        return self._spectrum.power(-0.5)

    @cached_property
    def whitened(self) -> Array:
        """cross root^+, (..., q, d_in): the residual on whitened inputs."""
        return self.cross @ self.root_pinv

    @cached_property
    def constant(self) -> Array:
        """The constant that stands for 1 beside the layer's input: of its size, so that units do not matter."""
        xp = la.namespace(self.gram)
        power = la.trace(self.gram)
        return xp.sqrt(xp.where(power > 0, power, 1.0))

    @cached_property
    def affine_gram(self) -> Array:
        """Second moment of the layer's input and a constant c, (..., d_in + 1, d_in + 1)."""
        xp, c = la.namespace(self.gram), self.constant
        mean = self.input_mean * c[..., None]
        top = la.append_column(self.gram, mean)
        last = la.append_column(mean[..., None, :], (c * c)[..., None])
        return xp.concat([top, xp.broadcast_to(last, (*top.shape[:-2], 1, top.shape[-1]))], axis=-2)

    @cached_property
    def affine_cross(self) -> Array:
        """E[(y - f(x)) (h, c)^T], (..., q, d_in + 1)."""
        return la.append_column(self.cross, self.residual_mean * self.constant[..., None])

    @cached_property
    def _affine_spectrum(self) -> la.Spectrum:
        return la.spectrum(self.affine_gram, rtol=self.rtol, scale=self._gram_scale)

    @cached_property
    def affine_weight(self) -> Array:
        """[weight, bias / c], (..., d_out, d_in + 1): what the layer does to its input and a constant c."""
        bias = 0.0 * self.weight[..., :, 0] if self.bias is None else self.bias
        return la.append_column(self.weight, bias / self.constant[..., None])

    @cached_property
    def affine_root(self) -> Array:
        """Root of the second moment of the layer's input and a constant c, (..., d_in + 1, d_in + 1)."""
        return self._affine_spectrum.power(0.5)

    @cached_property
    def affine_whitened(self) -> Array:
        """The residual on whitened inputs and constant, (..., q, d_in + 1)."""
        return self.affine_cross @ self._affine_spectrum.power(-0.5)

    @cached_property
    def regression(self) -> Array:
        """cross gram^+, (..., q, d_in): the residual regressed on the layer's input."""
        return self.whitened @ self.root_pinv

    @cached_property
    def residual(self) -> Array:
        """M = P_U cross root^+, (..., q, d_in): the whitened residual that the layer can reach."""
        u = self.upper_range.basis
        return u @ (la.mT(u) @ self.whitened)

    @cached_property
    def residual_svd(self) -> tuple[Array, Array, Array]:
        """Thin SVD of ``residual``; one serves all ranks."""
        return la.svd(self.residual)

    @cached_property
    def residual_floor(self) -> Array:
        """Size below which a singular value of ``residual`` is rounding error, (...)."""
        xp = la.namespace(self.residual)
        m = self.moments
        signal = la.trace(self._safe(m.yy))
        output = la.sq(self._safe(self.net.product)) * xp.sqrt(la.sq(self._safe(m.xx)))
        return la.rank_rtol(self.residual, self.rtol) * xp.sqrt(signal + output)

    # --- risk ------------------------------------------------------------------------------------

    @cached_property
    def initial_risk(self) -> Array:
        """E|y - f(x)|^2 of the pre-trained network on these moments, (...)."""
        from linnet.risk import moment_risk

        return moment_risk(self.net, self.moments)

    def risk(self, update: Update) -> Array:
        """E|y - f(x)|^2 on these moments after ``update``, (...): the objective that methods minimise."""
        from linnet.risk import moment_risk

        return la.as_result(moment_risk(self.net.updated(update), self.moments))


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

    delta: Array
    layer: int
    bias: Array | None = None
    factors: tuple[Array, Array] | None = None
    balance: bool = False
    status: Array | None = None

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
