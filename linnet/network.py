"""Deep linear networks: frozen layers below and above the one that is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import RankError, ShapeError

if TYPE_CHECKING:
    from linnet.problem import Update
    from linnet.task import Regression


@dataclass(frozen=True, eq=False)
class DeepLinearNetwork(la.Record):
    """A deep linear network x -> W_{L-1}(... (W_0 x + b_0) ...) + b_{L-1}, layers counted from 0.

    Attributes:
        weights: one array a layer, ``weights[l]`` (..., d_{l+1}, d_l); d_0 = p inputs, d_L = q outputs.
        biases: one array a layer, ``biases[l]`` (..., d_{l+1}), or None for a network without biases.

    Raises:
        ShapeError: no layer, or neighbouring widths that do not fit.
        NonFiniteError: a single (unbatched) network has a non-finite weight.

    Source: yang2024, Sec. F.2.
    """

    _own_axes: ClassVar[Mapping[str, int]] = {"biases": 1}

    weights: tuple[Array, ...]
    biases: tuple[Array, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Sequence) or len(self.weights) == 0:
            given = "none" if isinstance(self.weights, Sequence) else f"a {type(self.weights).__name__}"
            raise ShapeError(f"a network needs a list with at least one weight matrix; {given} was given")
        weights = [la.as_float(w, f"weights[{i}]") for i, w in enumerate(self.weights)]
        for i, w in enumerate(weights):
            la.require_shape(w, f"weights[{i}]", (f"d_{i + 1}", f"d_{i}" if i == 0 else weights[i - 1].shape[-2]))
            if 0 in w.shape[-2:]:
                raise ShapeError(f"weights[{i}] has shape {tuple(w.shape)}; every width must be at least 1")
        biases: list[Array] = []
        if self.biases is not None:
            la.require_kind(self.biases, Sequence, "biases", "give a list with one array a layer, or None")
            if len(self.biases) != len(weights):
                raise ShapeError(
                    f"{len(self.biases)} biases for {len(weights)} layers; give one a layer (zeros where there is none)"
                )
            biases = [la.as_float(b, f"biases[{i}]") for i, b in enumerate(self.biases)]
            for i, b in enumerate(biases):
                la.require_shape(b, f"biases[{i}]", (weights[i].shape[-2],))
        moved = la.together(*weights, *biases)
        object.__setattr__(self, "weights", tuple(moved[: len(weights)]))
        object.__setattr__(self, "biases", tuple(moved[len(weights) :]) if self.biases is not None else None)
        if not self.batch_shape:
            la.require_finite(**{f"weights[{i}]": w for i, w in enumerate(self.weights)})
            la.require_finite(**{f"biases[{i}]": b for i, b in enumerate(self.biases or ())})

    # --- shape -----------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.weights)

    @property
    def widths(self) -> tuple[int, ...]:
        """(p, d_1, ..., q)."""
        return (self.weights[0].shape[-1], *(w.shape[-2] for w in self.weights))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes that all weights broadcast to."""
        shapes = [w.shape[:-2] for w in self.weights] + [b.shape[:-1] for b in self.biases or ()]
        return la.broadcast_batch(shapes, "the network's weights")

    def layer_index(self, layer: int) -> int:
        """Return ``layer`` if the network has it.

        Raises:
            ShapeError: it has not.
        """
        if not la.is_whole(layer) or not 0 <= layer < self.depth:
            raise ShapeError(f"layer {layer!r} of a network of {self.depth} layers; give 0 to {self.depth - 1}")
        return int(layer)

    def require_fit(self, shape: tuple[int, ...], batch: tuple[int, ...]) -> None:
        """Refuse a task of coefficients (q, p) and batch axes that this network has no answer to.

        Raises:
            ShapeError: another number of inputs or outputs, or batch axes that do not broadcast.
        """
        if tuple(shape) != (self.widths[-1], self.widths[0]):
            raise ShapeError(
                f"the network maps {self.widths[0]} to {self.widths[-1]}, the task {shape[1]} to {shape[0]}; "
                "both need the same p and q"
            )
        la.broadcast_batch((self.batch_shape, batch), "the network and the task")

    # --- maps ------------------------------------------------------------------------------------

    def lower(self, layer: int) -> Array:
        """Product of the layers below: (..., d_l, p), the identity for the first."""
        return self._product(0, self.layer_index(layer))

    def upper(self, layer: int) -> Array:
        """Product of the layers above: (..., q, d_{l+1}), the identity for the last."""
        return self._product(self.layer_index(layer) + 1, self.depth)

    @cached_property
    def product(self) -> Array:
        """End-to-end matrix (..., q, p)."""
        return self._product(0, self.depth)

    @cached_property
    def offset(self) -> Array | None:
        """Output at x = 0, (..., q); None for a network without biases."""
        return self.offset_below(self.depth)

    def offset_below(self, layer: int) -> Array | None:
        """What enters ``layer`` at x = 0, (..., d_l); None without biases, or below the first layer."""
        if self.biases is None or layer == 0:
            return None
        out = self.biases[0]
        for w, b in zip(self.weights[1:layer], self.biases[1:layer], strict=True):
            out = la.matvec(w, out) + b
        return out

    def _product(self, start: int, stop: int) -> Array:
        if start >= stop:
            return la.eye(self.weights[0], self.widths[start])
        out = self.weights[start]
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused where it is used
            for w in self.weights[start + 1 : stop]:
                out = w @ out
        return out

    def scale(self, start: int, stop: int, *, bound: bool = False) -> Array:
        """Product of the sizes of layers ``start`` to ``stop - 1``, (...): bounds their product's rounding error.

        With ``bound`` an upper bound that costs next to nothing.
        """
        out = la.size(la.eye(self.weights[0], 1))
        with np.errstate(over="ignore", invalid="ignore"):
            for size in (self._norms if bound else self._sizes)[start:stop]:
                out = out * size
        return out

    def offset_scale(self, layer: int, *, bound: bool = False) -> Array:
        """Sum over the biases below ``layer`` of the products of sizes on their way, (...); see ``scale``."""
        out = 0.0 * self.scale(0, 0)
        with np.errstate(over="ignore", invalid="ignore"):
            for i, b in enumerate((self.biases or ())[:layer]):
                out = out * self.scale(i, i + 1 if i else i, bound=bound) + la.norm(b)
        return out

    @cached_property
    def _sizes(self) -> tuple[Array, ...]:
        return tuple(la.size(w) for w in self.weights)

    @cached_property
    def _norms(self) -> tuple[Array, ...]:
        return tuple(la.frobenius(w) for w in self.weights)

    def __call__(self, x: Array) -> Array:
        """Return the outputs (..., n, q) for inputs ``x`` (..., n, p)."""
        x, product = la.together(la.as_float(x, "x"), self.product)
        la.require_shape(x, "x", ("n", self.widths[0]))
        y = x @ la.mT(product)
        offset = self.offset
        return y if offset is None else y + offset[..., None, :]

    def updated(self, update: Update) -> Self:
        """Return the network with ``update`` added to its layer (batch axes broadcast).

        Raises:
            ShapeError: the update was solved for a layer of another shape.
        """
        from linnet.problem import Update

        la.require_kind(update, Update, "update", "give what a method's solve returned, or Update(delta, layer)")
        layer = self.layer_index(update.layer)
        expected = self.weights[layer].shape[-2:]
        la.require_shape(update.delta, "update.delta", tuple(expected))
        *moved, delta, shift = la.together(*self.weights, *(self.biases or ()), update.delta, update.bias)
        weights, biases = moved[: self.depth], None if self.biases is None else moved[self.depth :]
        weights[layer] = weights[layer] + delta
        if shift is not None:
            if biases is None:
                biases = [0.0 * w[..., :, 0] for w in moved[: self.depth]]
            biases[layer] = biases[layer] + shift
        return self._join((tuple(weights), None if biases is None else tuple(biases)), ())

    # --- builders --------------------------------------------------------------------------------

    @classmethod
    def random(
        cls,
        widths: Sequence[int],
        *,
        rng: np.random.Generator,
        batch: tuple[int, ...] = (),
        ranks: Sequence[int] | None = None,
        biases: bool = False,
    ) -> Self:
        """Gaussian weights of variance 1/d_l, so that outputs keep the size of inputs.

        Args:
            widths: (p, d_1, ..., q).
            rng: source of all randomness.
            batch: leading axes.
            ranks: rank of each layer; full by default. Layer l is then a product of Gaussian factors.
            biases: whether to draw standard normal biases too.

        Raises:
            ShapeError: fewer than two widths, or one below 1.
            RankError: a rank below 0 or above what the layer's shape allows.
        """
        la.require_rng(rng)
        shapes = _layer_shapes(widths)
        batch = _batch_of(batch)
        if ranks is not None:
            la.require_kind(ranks, Sequence, "ranks", "give a list with one whole number a layer, or None")
        if ranks is not None and len(ranks) != len(shapes):
            raise ShapeError(f"{len(ranks)} ranks for {len(shapes)} layers; give one a layer")
        weights = []
        for i, (m, n) in enumerate(shapes):
            if ranks is None:
                weights.append(rng.normal(size=(*batch, m, n)) / np.sqrt(n))
                continue
            r = _rank_of(ranks, i, m, n)
            left, right = rng.normal(size=(*batch, m, r)), rng.normal(size=(*batch, r, n))
            weights.append(left @ right / np.sqrt(n * max(r, 1)))
        drawn = [rng.normal(size=(*batch, m)) for m, _ in shapes] if biases else None
        return cls(tuple(weights), None if drawn is None else tuple(drawn))

    @classmethod
    def with_spectra(
        cls,
        widths: Sequence[int],
        spectra: Sequence[Sequence[float]],
        *,
        rng: np.random.Generator,
        batch: tuple[int, ...] = (),
    ) -> Self:
        """Layers with prescribed singular values and Haar-random singular bases.

        Args:
            widths: (p, d_1, ..., q).
            spectra: for each layer its singular values, at most min(d_{l+1}, d_l); missing ones are zero,
                so that ranks and multiplicities are prescribed too.
            rng: source of all randomness.
            batch: leading axes.

        Raises:
            ShapeError: not one spectrum a layer.
            RankError: more singular values than the layer's shape allows, or a negative one.
        """
        la.require_rng(rng)
        batch = _batch_of(batch)
        shapes = _layer_shapes(widths)
        la.require_kind(spectra, Sequence, "spectra", "give a list with the singular values of each layer")
        if len(spectra) != len(shapes):
            raise ShapeError(f"{len(spectra)} spectra for {len(shapes)} layers; give one a layer")
        weights = []
        for i, ((m, n), s) in enumerate(zip(shapes, spectra, strict=True)):
            values = la.as_float(s, f"spectra[{i}]")
            if values.ndim != 1 or len(values) > min(m, n) or not np.all((values >= 0) & (values < np.inf)):
                raise RankError(
                    f"spectra[{i}] = {values.tolist()} for a {m} x {n} layer; "
                    f"give at most {min(m, n)} singular values, finite, none negative"
                )
            k = len(values)
            weights.append((haar(m, rng, batch)[..., :, :k] * values) @ la.mT(haar(n, rng, batch)[..., :, :k]))
        return cls(tuple(weights))

    @classmethod
    def balanced(cls, widths: Sequence[int], product: Array, *, rng: np.random.Generator | None = None) -> Self:
        """Balanced factors of an end-to-end matrix: W_{l+1}^T W_{l+1} = W_l W_l^T for all l.

        Args:
            widths: (p, d_1, ..., q).
            product: end-to-end matrix (..., q, p), of rank at most the smallest width.
            rng: draws the orthogonal bases of the hidden layers; coordinate axes without it.

        Raises:
            ShapeError: ``product`` does not fit the widths.
            NonFiniteError: it holds NaN or an infinity.
            RankError: its rank exceeds the narrowest layer.

        Source: the balanced set of deep linear networks, on which gradient flow stays.
        """
        if rng is not None:
            la.require_rng(rng)
        shapes = _layer_shapes(widths)
        product = la.as_float(product, "product")
        la.require_shape(product, "product", (shapes[-1][0], shapes[0][1]))
        la.require_finite(product=product)
        u, s, vt = np.linalg.svd(la.to_numpy(product), full_matrices=False)
        k = min(min(widths), s.shape[-1])
        if np.any(s[..., k:] > la.rank_rtol(product) * np.maximum(s[..., :1], 1e-300)):
            raise RankError(
                f"the product has a rank above {k}, the narrowest width; widen the network or truncate the product"
            )
        batch, depth = product.shape[:-2], len(shapes)
        bases = [la.mT(vt)[..., :, :k]]
        bases += [
            np.broadcast_to(np.eye(d), (*batch, d, d))[..., :, :k] if rng is None else haar(d, rng, batch)[..., :, :k]
            for d in widths[1:-1]
        ]
        bases.append(u[..., :, :k])
        root = s[..., None, :k] ** (1.0 / depth)
        return cls(tuple((bases[i + 1] * root) @ la.mT(bases[i]) for i in range(depth)))

    @classmethod
    def pretrained(
        cls,
        widths: Sequence[int],
        task: Regression,
        *,
        rng: np.random.Generator,
        tolerance: float = 1e-6,
        init_scale: float = 1.0,
        max_evaluations: int = 200_000,
    ) -> Self:
        """Network trained on ``task`` by gradient flow from a random start.

        The flow dW_l/dt = -grad_l of the excess risk (1/2 of it) is integrated until the excess risk is
        within ``tolerance`` times the risk of the zero map of the best that the widths allow.

        Args:
            widths: (p, d_1, ..., q).
            task: unbatched population task; with means the network gets biases.
            rng: draws the start.
            tolerance: relative excess risk above the best at which to stop.
            init_scale: multiplies the random start.
            max_evaluations: bound on gradient evaluations.

        Raises:
            ConvergenceError: the bound was reached first; says which risk was reached.
            ShapeError: the task's sizes differ from the outer widths.
        """
        from linnet.pretrain import gradient_flow

        trained = gradient_flow(cls.random(widths, rng=rng), task, tolerance, init_scale, max_evaluations)
        return cls(trained.weights, trained.biases)


def haar(n: int, rng: np.random.Generator, batch: tuple[int, ...] = ()) -> np.ndarray:
    """Haar-random orthogonal matrices (..., n, n).

    Raises:
        ShapeError: ``n`` is not a whole number above 0.
    """
    la.require_rng(rng)
    if not la.is_whole(n) or n < 1:
        raise ShapeError(f"n = {n!r}; give a whole number >= 1")
    q, r = np.linalg.qr(rng.normal(size=(*batch, n, n)))
    signs: Any = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    return q * np.where(signs == 0, 1.0, signs)[..., None, :]


def _batch_of(batch: tuple[int, ...]) -> tuple[int, ...]:
    la.require_kind(batch, Sequence, "batch", "give a tuple of lengths, such as (100,)")
    if not all(la.is_whole(b) and b >= 0 for b in batch):
        raise ShapeError(f"batch {tuple(batch)}; give whole numbers >= 0")
    return tuple(int(b) for b in batch)


def _layer_shapes(widths: Sequence[int]) -> list[tuple[int, int]]:
    la.require_kind(widths, (Sequence, np.ndarray), "widths", "give a list of whole numbers: [p, d_1, ..., q]")
    widths = list(widths)
    if len(widths) < 2 or any(not la.is_whole(d) or d < 1 for d in widths):
        raise ShapeError(f"widths {widths}; give at least two whole numbers >= 1: (p, d_1, ..., q)")
    return [(int(m), int(n)) for n, m in pairwise(widths)]


def _rank_of(ranks: Sequence[int], i: int, m: int, n: int) -> int:
    r = ranks[i]
    if not la.is_whole(r) or not 0 <= r <= min(m, n):
        raise RankError(f"rank {r!r} for a {m} x {n} layer; give 0 to {min(m, n)}")
    return int(r)
