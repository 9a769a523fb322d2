"""The loss of a network as a function of what is trained, and its derivatives by products with vectors.

No Hessian is formed: products with it come from double back-propagation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from linnet.errors import ArgumentError, ShapeError
from linnet.llm.vectors import finite, flat, norm, rounding

Loss = Callable[[Sequence[Tensor]], Tensor]
"""The loss of one batch as a function of the chosen weights, without a side effect and without chance."""
Map = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""g: from what is trained to the increments of the chosen weights."""


def model_loss(model: nn.Module, names: Sequence[str], run: Callable[[Callable[..., Any]], Tensor]) -> Loss:
    """Return a model's loss as a function of some of its weights; the model itself is left alone.

    Weights that are not named are held fixed and cost no gradient. The model is to be in evaluation mode, and without
    modules that can be differentiated only once.

    Args:
        model: any module.
        names: of parameters, as ``model.named_parameters()`` has them.
        run: gets the model as a function and returns the loss, a scalar:
            ``lambda call: call(input_ids=ids, labels=ids).loss``.

    Raises:
        ArgumentError: the model has no such parameter.
    """
    fixed = {name: parameter.detach() for name, parameter in model.named_parameters()}
    require_parameters(fixed, names)

    def loss(weights: Sequence[Tensor]) -> Tensor:
        chosen = fixed | dict(zip(names, weights, strict=True))
        return run(lambda *args, **kwargs: functional_call(model, chosen, args, kwargs))

    return loss


def require_parameters(known: Any, names: Sequence[str]) -> None:
    """Refuse names that are not among the known ones.

    Raises:
        ArgumentError: a name is unknown, or there is none.
    """
    if not names:
        raise ArgumentError("no parameter is named; name at least one of model.named_parameters()")
    for name in names:
        if name not in known:
            raise ArgumentError(
                f"the model has no parameter {name!r} of its own; name those of model.named_parameters() (of tied "
                "weights it has the first name alone)"
            )


@dataclass(frozen=True)
class LowRank:
    """LoRA's g: of U_1, V_1, U_2, V_2, ... the increments scale U_i V_i^T, U (d_out, r) and V (d_in, r).

    Attributes:
        scale: what peft calls alpha / r.
    """

    scale: float = 1.0

    def __call__(self, phi: Sequence[Tensor]) -> list[Tensor]:
        """Return the increments."""
        if len(phi) % 2:
            raise ShapeError(f"{len(phi)} factors; give U and V of each layer in turn")
        return [self.scale * (u @ v.mT) for u, v in zip(phi[::2], phi[1::2], strict=True)]


@dataclass(frozen=True)
class Channels:
    """S2FT's g: of the trained slices of each layer the increments, zero elsewhere.

    Attributes:
        shapes: of the layers' weights, (d_out, d_in).
        channels: of each layer, the trained rows or columns; phi holds (s, d_in), or (d_out, s).
        axes: of each layer, 0 for rows and 1 for columns.
    """

    shapes: Sequence[tuple[int, int]]
    channels: Sequence[Sequence[int]]
    axes: Sequence[int]

    def __call__(self, phi: Sequence[Tensor]) -> list[Tensor]:
        """Return the increments."""
        out = []
        for part, shape, channels, axis in zip(phi, self.shapes, self.channels, self.axes, strict=True):
            where = torch.as_tensor(channels, dtype=torch.long, device=part.device)  # which none would not be
            out.append(part.new_zeros(shape).index_add(axis, where, part))
        return out


@dataclass(frozen=True, eq=False)
class Tangent:
    """What a small step of LoRA's factors U and V can make of an increment: A Q^T + P (B - B Q Q^T).

    P (d_out, r) and Q (d_in, r) are orthonormal bases of the columns of U and V at the trained point; of A_1, B_1, A_2,
    ... the A are (d_out, r) and the B (r, d_in). That is all of dU V^T + U dV^T, by coordinates that are orthonormal
    but for directions that move nothing: liu2025's P with P^T P = I. LoRA's own are as ill-conditioned as U and V.

    Attributes:
        left, right: P and Q of each layer.

    Source: liu2025, the linearised theta_0 + P Phi.
    """

    left: Sequence[Tensor]
    right: Sequence[Tensor]

    @classmethod
    def at(cls, factors: Sequence[tuple[Tensor, Tensor]]) -> Tangent:
        """Return the tangent space at trained factors U (d_out, r) and V (d_in, r) of each layer."""
        return cls([_range(u) for u, _ in factors], [_range(v) for _, v in factors])

    @property
    def origin(self) -> list[Tensor]:
        """The coordinates of no step."""
        return [
            zero
            for p, q in zip(self.left, self.right, strict=True)
            for zero in (p.new_zeros(len(p), q.shape[1]), q.new_zeros(p.shape[1], len(q)))
        ]

    def __call__(self, phi: Sequence[Tensor]) -> list[Tensor]:
        """Return the increments."""
        steps = zip(self.left, self.right, phi[::2], phi[1::2], strict=True)
        return [a @ q.mT + p @ (b - b @ q @ q.mT) for p, q, a, b in steps]


def _range(factor: Tensor) -> Tensor:
    """Return an orthonormal basis of a factor's columns; of fewer columns where they depend on each other."""
    u, s, _ = torch.linalg.svd(factor.detach().double(), full_matrices=False)
    kept = s > max(factor.shape, default=0) * rounding(factor) * s.max() if len(s) else s > 0
    return u[:, kept].to(factor)


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss in what is trained, at the point where its derivatives are taken.

    Without ``g`` the weights themselves are trained. With it they are ``base + g(point)``, and the Hessian is that of
    phi -> loss(base + g(phi)), the curvature of g included.

    Attributes:
        losses: of the batches; the loss is their mean.
        point: the trained tensors, of one dtype on one device.
        base: theta_0, one tensor for each that ``g`` returns.
        g: from ``point`` to the increments of ``base``.

    Raises:
        ArgumentError: no batch, nothing that is trained, integers, one of ``base`` and ``g`` without the other.
        ShapeError: ``g`` returns other shapes than the base has.

    Source: liu2025, theta = theta_0 + g(Phi).
    """

    losses: Sequence[Loss]
    point: Sequence[Tensor]
    base: Sequence[Tensor] | None = None
    g: Map | None = None

    def __post_init__(self) -> None:
        if not self.losses or not self.point:
            raise ArgumentError("an objective needs at least one loss, and one tensor that is trained")
        if (self.base is None) != (self.g is None):
            raise ArgumentError("base and g belong together: give both, or neither to train the weights themselves")
        kinds = {(t.dtype, t.device) for t in [*self.point, *(self.base or ())]}
        if len(kinds) > 1 or not self.point[0].dtype.is_floating_point:
            raise ArgumentError(f"tensors of {kinds}; give one floating dtype on one device")
        object.__setattr__(self, "point", tuple(t.detach() for t in self.point))
        if self.g is not None and self.base is not None:
            object.__setattr__(self, "base", tuple(t.detach() for t in self.base))
            with torch.no_grad():
                made = [tuple(t.shape) for t in self.g(self.point)]
            wanted = [tuple(t.shape) for t in self.base or ()]
            if made != wanted:
                raise ShapeError(f"g returns increments of shapes {made} for weights of shapes {wanted}")

    # --- vectors ----------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of trained parameters."""
        return sum(t.numel() for t in self.point)

    @property
    def like(self) -> Tensor:
        """A flat vector of zeros of the right length, dtype and device, (size,)."""
        return self.point[0].new_zeros(self.size)

    def split(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Return a flat vector (size,) in the shapes of ``point``.

        Raises:
            ShapeError: it has another length.
        """
        if tuple(vector.shape) != (self.size,):
            raise ShapeError(f"a vector of shape {tuple(vector.shape)} for {self.size} trained parameters; flatten it")
        pieces = vector.to(self.point[0]).split([t.numel() for t in self.point])
        return tuple(piece.view_as(t) for piece, t in zip(pieces, self.point, strict=True))

    # --- derivatives ------------------------------------------------------------------------------

    def weights(self, phi: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the weights that the trained tensors make."""
        if self.g is None or self.base is None:
            return phi
        return [base + increment for base, increment in zip(self.base, self.g(phi), strict=True)]

    def stepped(self, step: Tensor | None) -> list[Tensor]:
        """Return ``point + step`` in new tensors."""
        if step is None:
            return [t.clone() for t in self.point]
        return [t + s for t, s in zip(self.point, self.split(step), strict=True)]

    def value(self, step: Tensor | None = None) -> float:
        """Return the loss at ``point + step``.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        with torch.no_grad():
            weights = self.weights(self.stepped(step))
            return finite(math.fsum(float(loss(weights)) for loss in self.losses) / len(self.losses), "the loss")

    def gradient(self, step: Tensor | None = None) -> Tensor:
        """Return the gradient at ``point + step``, (size,).

        Raises:
            NonFiniteError: it has NaN or infinite entries.
        """
        out = self.like
        for loss in self.losses:
            phi = [t.requires_grad_() for t in self.stepped(step)]
            found = torch.autograd.grad(loss(self.weights(phi)), phi, materialize_grads=True)
            out += flat(found) / len(self.losses)
        finite(norm(out), "the gradient")
        return out

    def hessian(self, vector: Tensor) -> Tensor:
        """Return the Hessian's product with a vector (size,), one batch at a time.

        Attention is computed by its formula: the fused kernels know no second derivative.

        Raises:
            ShapeError: the vector has another length.
        """
        pieces, out = self.split(vector), self.like
        for loss in self.losses:
            phi = [t.requires_grad_() for t in self.stepped(None)]
            with sdpa_kernel(SDPBackend.MATH):
                first = torch.autograd.grad(loss(self.weights(phi)), phi, create_graph=True, materialize_grads=True)
                bent = [(f, p) for f, p in zip(first, pieces, strict=True) if f.requires_grad]
                if bent:  # a loss that is linear in all of them has no curvature
                    slopes, along = zip(*bent, strict=True)
                    out += flat(torch.autograd.grad(slopes, phi, along, materialize_grads=True)) / len(self.losses)
        return out

    # --- through g --------------------------------------------------------------------------------

    @cached_property
    def at_weights(self) -> Objective:
        """The same loss in the weights, at ``base + g(point)``."""
        if self.g is None:
            return self
        with torch.no_grad():
            return Objective(self.losses, self.weights(self.point))

    def pushed(self, vector: Tensor) -> Tensor:
        """Return J v, how the weights move with the trained parameters; v (size,)."""
        pieces = self.split(vector)
        if self.g is None:
            return flat(pieces)
        return flat(jvp(lambda *phi: tuple(self.g(phi)) if self.g else phi, tuple(self.point), pieces)[1])

    def pulled(self, vector: Tensor) -> Tensor:
        """Return J^T w, a gradient in the weights as one in the trained parameters; w flat."""
        pieces = self.at_weights.split(vector)
        if self.g is None:
            return flat(pieces)
        pull = vjp(lambda *phi: tuple(self.g(phi)) if self.g else phi, *self.point)[1]
        return flat(pull(pieces))

    def projected(self, vector: Tensor) -> Tensor:
        """Return J^T H J v, H the Hessian in the weights: without the curvature of g.

        Source: liu2025, eq. (50); it is the Hessian where g is linear or the gradient zero (``linnet/peft-hessian``).
        """
        return self.pulled(self.at_weights.hessian(self.pushed(vector)))

    def require_repeatable(self) -> None:
        """Refuse a loss that differs from one evaluation to the next.

        Raises:
            ArgumentError: it does, by more than rounding.
        """
        first, second = self.value(), self.value()
        if abs(first - second) > rounding(self.like) ** 0.5 * 0.1 * max(abs(first), abs(second)):
            raise ArgumentError(
                f"the loss is {first:.9g} once and {second:.9g} the next time; derivatives of it mean nothing: switch "
                "dropout off with model.eval(), and draw no random numbers in the loss"
            )


def disturbance(clean: Objective, perturbed: Objective) -> Tensor:
    """Return epsilon, the gradient that perturbing the data adds, in the weights and flat.

    Both objectives are to stand at the same point.

    Source: liu2025, eq. (41).
    """
    return perturbed.at_weights.gradient() - clean.at_weights.gradient()
