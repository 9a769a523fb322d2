"""Curvature of a loss, by products with vectors; and what a disturbed gradient costs a trained network.

No Hessian is formed. Products with it come from double back-propagation, extreme eigenvalues from Lanczos' method with
full reorthogonalisation, linear systems from conjugate gradients; each answer brings the residual that bounds its
error. The Hessian of a real network is indefinite, so that a quadratic model of its loss has no minimum: what is then
read instead, a damped loss or one restricted to a subspace, is asked for and stated, never assumed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from linnet.errors import ArgumentError, NonFiniteError, NotPSDError, ShapeError

Loss = Callable[[Sequence[Tensor]], Tensor]
"""The loss of one batch as a function of the chosen weights, without a side effect and without chance."""
Map = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""g: from what is trained to the increments of the chosen weights."""
Operator = Callable[[Tensor], Tensor]
"""A symmetric matrix, as what it makes of a flat vector."""

FLAT = 1e3
"""An eigenvalue counts as zero below this many units of rounding of the largest."""

LOOK = 10
"""Steps of Lanczos' method between two looks at whether it may stop."""


# --- the loss -------------------------------------------------------------------------------------


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
            where = torch.as_tensor(channels, device=part.device)
            out.append(part.new_zeros(shape).index_add(axis, where, part))
        return out


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
            return _finite(math.fsum(float(loss(weights)) for loss in self.losses) / len(self.losses), "the loss")

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
        _finite(norm(out), "the gradient")
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


# --- vectors --------------------------------------------------------------------------------------


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def dot(a: Tensor, b: Tensor) -> float:
    """Return the inner product of two vectors, summed in double precision."""
    return float((a * b).sum(dtype=torch.float64))


def norm(a: Tensor) -> float:
    """Return the length of a vector, summed in double precision."""
    return math.sqrt(dot(a, a))


def rounding(like: Tensor) -> float:
    """Return the unit of rounding of a tensor's dtype."""
    return float(torch.finfo(like.dtype).eps)


def normal(like: Tensor, seed: int) -> Tensor:
    """Return a standard normal vector, the same on every device."""
    drawn = torch.randn(len(like), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(like)


def _finite(number: float, name: str) -> float:
    if not math.isfinite(number):
        raise NonFiniteError(f"{name} is {number}; lower the learning rate that led here, or compute in float32")
    return number


# --- Krylov spaces --------------------------------------------------------------------------------


class Krylov:
    """An orthonormal basis of span{b, A b, A^2 b, ...}, over one b or several, and A within it.

    Every new direction is orthogonalised twice against all others. Memory: a vector for each of the ``limit`` steps.

    Attributes:
        steps: directions so far, each at the price of a product.
    """

    def __init__(self, operator: Operator, starts: Sequence[Tensor], limit: int) -> None:
        self._operator = operator
        self._rows = starts[0].new_empty((min(limit, len(starts[0])), len(starts[0])))
        self._ahead = deque(starts)
        self._entries = np.zeros((len(self._rows), len(self._rows)))
        self.steps = 0

    @property
    def basis(self) -> Tensor:
        """Q as rows, (steps, d)."""
        return self._rows[: self.steps]

    @property
    def matrix(self) -> np.ndarray:
        """Q^T A Q, (steps, steps)."""
        return self._entries[: self.steps, : self.steps]

    def _across(self, vector: Tensor) -> Tensor:
        for _ in range(2):
            vector = vector - self.basis.mT @ (self.basis @ vector)
        return vector

    def grow(self) -> bool:
        """Add a direction; False if the space is complete, or the limit reached."""
        while self._ahead and self.steps < len(self._rows):
            vector = self._ahead.popleft()
            size = norm(vector)
            across = self._across(vector)
            left = norm(across)
            if left <= 10 * rounding(vector) * size:
                continue
            j = self.steps
            self._rows[j] = across / left
            self.steps += 1
            image = self._operator(self._rows[j])
            column = (self.basis @ image).double().cpu().numpy()
            self._entries[: j + 1, j] = self._entries[j, : j + 1] = column
            self._ahead.append(image)
            return True
        return False

    def beyond(self) -> float:
        """Return how far A leads out of the space of one start: |A Q e - Q Q^T A Q e| for the last direction e."""
        return norm(self._across(self._ahead[-1])) if self._ahead else 0.0


@dataclass(frozen=True)
class Extremes:
    """The two ends of a symmetric matrix' spectrum, by Lanczos' method from a random start.

    Attributes:
        smallest, largest: the outermost Ritz values: the true ends lie outside of them, or at them.
        smallest_residual, largest_residual: |A x - theta x| for unit x, computed anew: an eigenvalue lies within it.
        steps: products with the matrix.
        size: of the matrix.
        zero: an eigenvalue of at most this size may be one of zero, rounded.
    """

    smallest: float
    largest: float
    smallest_residual: float
    largest_residual: float
    steps: int
    size: int
    zero: float

    @property
    def definite(self) -> Literal["positive definite", "singular", "indefinite"]:
        """What the smallest eigenvalue found says; within its residual, or rounding, it counts as zero."""
        if abs(self.smallest) <= max(self.smallest_residual, self.zero):
            return "singular"
        return "positive definite" if self.smallest > 0 else "indefinite"

    def missed(self, probability: float = 1e-3) -> float:
        """Return how far beyond these an end may lie, but for a ``probability`` over the random start of each.

        After k steps from a unit start whose part along the end's eigenvector is b_1, an end is missed by more than a
        share e of the spectrum's width only if |b_1| < 1 / cosh((2 k - 1) artanh e^(1/2)): so says the Chebyshev
        polynomial of the fourth kind and degree k - 1 on the rest of the spectrum. For a start that is uniform on the
        sphere in d dimensions |b_1| < c has a probability of at most (2 d / pi)^(1/2) c. It is shared among the times
        at which the steps might have stopped, and the width is what was seen of it and twice what was missed.

        Infinite where the steps are too few to say.

        Source: compare Kuczynski and Wozniakowski 1992.
        """
        if self.steps >= self.size:
            return 0.0
        looks = max(1, self.steps // LOOK)
        far = math.acosh(max(1.0, math.sqrt(2 * self.size / math.pi) * looks / probability))
        share = math.tanh(far / (2 * self.steps - 1)) ** 2
        return share * (self.largest - self.smallest) / (1 - 2 * share) if share < 0.5 else math.inf


def extremes(
    operator: Operator, like: Tensor, *, steps: int = 100, tolerance: float | None = None, seed: int = 0
) -> Extremes:
    """Return the extreme eigenvalues of a symmetric matrix.

    Args:
        operator: the matrix.
        like: a vector of its length, dtype and device.
        steps: at most so many products.
        tolerance: residual of both ends over the largest eigenvalue in size, at which to stop; by default the square
            root of the unit of rounding.
        seed: of the random start.

    Raises:
        ArgumentError: no step.
        NonFiniteError: a product has NaN or infinite entries.
    """
    if steps < 1:
        raise ArgumentError(f"{steps} steps; give at least 1")
    tolerance = rounding(like) ** 0.5 if tolerance is None else tolerance
    space = Krylov(operator, [normal(like, seed)], steps)
    while space.grow():
        if space.steps % LOOK:
            continue
        values, vectors = _eigen(space)
        if space.beyond() * max(abs(vectors[-1, [0, -1]])) <= tolerance * max(abs(values[[0, -1]])):
            break
    values, vectors = _eigen(space)
    residuals = []
    for i in (0, -1):
        x = space.basis.mT @ torch.as_tensor(vectors[:, i]).to(like)
        residuals.append(norm(operator(x) - values[i] * x) / norm(x))
    zero = FLAT * rounding(like) * float(max(abs(values[[0, -1]])))
    return Extremes(float(values[0]), float(values[-1]), residuals[0], residuals[1], space.steps, len(like), zero)


def _eigen(space: Krylov) -> tuple[np.ndarray, np.ndarray]:
    _finite(float(np.sum(space.matrix)), "a product with the Hessian")
    values, vectors = np.linalg.eigh(space.matrix)
    return values, vectors


@dataclass(frozen=True, eq=False)
class Solution:
    """An approximate solution of A x = b.

    Attributes:
        x: (d,).
        residual: b - A x, (d,), computed anew at the end.
        relative: its length over that of b.
        steps: products with A.
        converged: whether ``relative`` came down to the tolerance.
    """

    x: Tensor
    residual: Tensor
    relative: float
    steps: int
    converged: bool


def solve(
    operator: Operator, b: Tensor, *, tolerance: float | None = None, steps: int = 500, scale: float = 0.0
) -> Solution:
    """Solve A x = b for a positive semi-definite A by conjugate gradients; b in the range of A.

    Where the residual that is carried along says that it is small and the true one is not, the method starts again from
    there, as long as that halves it.

    Args:
        operator: A, damping included.
        b: (d,).
        tolerance: of the relative residual; by default 1e-10 in float64, 1e-5 in float32.
        steps: at most so many products.
        scale: the largest eigenvalue, which rounding is relative to: a direction that is curved by no more than that
            ends the search, as of a b that is not quite in the range.

    Raises:
        NotPSDError: a direction of negative curvature came up.
        NonFiniteError: a product has NaN or infinite entries.
    """
    if tolerance is None:
        tolerance = 1e-10 if b.dtype == torch.float64 else 1e-5
    x, residual, size, taken = torch.zeros_like(b), b, norm(b), 0
    left = size
    while left > tolerance * size and taken < steps:
        step, used = _descend(operator, residual, tolerance * size, steps - taken, scale)
        residual_there = b - operator(x + step)
        taken += used + 1
        left_there = _finite(norm(residual_there), "a product with the Hessian")
        if left_there < left:
            x, residual = x + step, residual_there
        if left_there > left / 2:
            left = min(left, left_there)
            break
        left = left_there
    return Solution(x, residual, left / size if size else 0.0, taken, left <= tolerance * size)


def _descend(operator: Operator, b: Tensor, goal: float, steps: int, scale: float) -> tuple[Tensor, int]:
    """Return x and the number of products of conjugate gradients from zero, until the carried residual is small."""
    x, residual, way = torch.zeros_like(b), b, b
    square, unit = dot(b, b), rounding(b) * scale
    for taken in range(1, steps + 1):
        image = operator(way)
        length = dot(way, way)
        curvature = _finite(dot(way, image), "a product with the Hessian") / length
        if curvature < -FLAT * max(unit, rounding(b) * norm(image) / math.sqrt(length)):
            raise NotPSDError(
                f"the curvature along a direction is negative, {curvature:.3g}, so that the quadratic has no minimum; "
                "add damping above that, or ask for the restricted reading"
            )
        if curvature <= 10 * unit:
            return x, taken
        far = square / (curvature * length)
        x, residual = x + far * way, residual - far * image
        before, square = square, dot(residual, residual)
        if math.sqrt(square) <= goal / 2:
            return x, taken
        way = residual + square / before * way
    return x, steps


@dataclass(frozen=True)
class Estimate:
    """A mean over random probes.

    Attributes:
        mean: the estimate.
        standard_error: of it.
        probes: how many.
    """

    mean: float
    standard_error: float
    probes: int


def trace(operator: Operator, like: Tensor, *, probes: int = 32, seed: int = 0) -> Estimate:
    """Estimate the trace of a symmetric matrix from random signs z, E[z^T A z] = tr A.

    Raises:
        ArgumentError: fewer than two probes, which have no standard error.

    Source: Hutchinson 1990.
    """
    if probes < 2:
        raise ArgumentError(f"{probes} probes; give at least 2, for a standard error")
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(probes):
        signs = (torch.randint(0, 2, (len(like),), generator=generator) * 2 - 1).to(like)
        found.append(_finite(dot(signs, operator(signs)), "a product with the Hessian"))
    return Estimate(float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(probes)), probes)


# --- sensitivity ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sensitivity:
    """What a disturbed gradient costs one method, on the quadratic model of the loss where its training ended.

    The model is L(u) = loss + nabla^T u + u^T A u / 2 in the trained parameters, A their Hessian and what was added to
    it; the disturbed objective is L(u) + epsilon^T u. With S = A^+, and each value less that of the same objective at
    u = 0:

    - ``extra`` = epsilon^T S epsilon / 2: reading (a), the clean loss that epsilon adds to the least;
    - ``left`` = -(nabla + epsilon)^T S (nabla + epsilon) / 2: reading (b), the least disturbed loss;
    - ``clean`` = ``extra`` + ``optimum``: for reading (c), the clean loss after adapting to the disturbed objective;
    - ``optimum`` = -nabla^T S nabla / 2: the least clean loss.

    An ``_error`` is a bound on the distance to the model's exact value, from the residual r of the linear system:
    r^T S r / 2 <= |r|^2 / (2 m), with m the smallest eigenvalue that was found less its residual. It is as good as m:
    see ``Extremes.missed``. In the restricted reading it is no bound, but the change that the last half of the
    directions brought.

    Attributes:
        reading: "plain"; "damped"; or "restricted", the model on those directions of a Krylov space of nabla and
            epsilon along which it is curved by more than ``cutoff``: another subspace for each method, so that what is
            true of the same loss in nested spaces need not be true of these.
        parameters: how many are trained.
        loss: at the end of training.
        gradient: length of nabla, in the trained parameters.
        disturbance: length of epsilon in the weights.
        extra, left, clean, optimum: see above.
        extra_error, left_error, clean_error, optimum_error: see above.
        printed: this method's side of the printed difference: (eps_par^T H_Phi^+ eps_par) / 2 + eps_perp^T nabla in the
            weights, eps_par the part of epsilon in the range of J; of full fine-tuning that is ``extra``.
        printed_error: bound on its distance to the model's exact value.
        extra_network: ``extra`` on the network itself, penalties included, at the two minimisers of the model: where it
            differs much, the model does not reach that far.
        curvature: ends of the spectrum of A, damping included.
        hessian: whose A is: "true", or "projected" without the curvature of g.
        damping: lambda, added as lambda J^T J: a penalty lambda/2 |theta - theta*|^2 on the weights, the same for all
            methods.
        ridge: added to A as a multiple of the identity.
        cutoff: of the restricted reading, None otherwise.
        kept, dropped: directions of the restricted reading.
        residual: the larger residual of the two linear systems, over the longer of their right-hand sides; None in the
            restricted reading, which solves none.
        steps: products with A.

    Source: liu2025, Theorem 4 and eq. (41)-(53); docs/proofs/quadratic.md.
    """

    reading: Literal["plain", "damped", "restricted"]
    parameters: int
    loss: float
    gradient: float
    disturbance: float
    extra: float
    left: float
    clean: float
    optimum: float
    extra_error: float
    left_error: float
    clean_error: float
    optimum_error: float
    printed: float
    printed_error: float
    extra_network: float
    curvature: Extremes
    hessian: Literal["true", "projected"]
    damping: float
    ridge: float
    cutoff: float | None
    kept: int
    dropped: int
    residual: float | None
    steps: int


@dataclass(frozen=True)
class Comparison:
    """The readings of Theorem 4, PEFT minus full fine-tuning; ``_error`` adds those of the two.

    A difference is positive if PEFT is the more sensitive, in the sense of the reading; it is told from zero where it
    exceeds its error.

    Attributes:
        extra: (a), the extra loss on clean data that epsilon causes.
        left: (b), the loss left on the disturbed objective after adapting to it, each method's own loss included.
        clean: (c), the clean loss after adapting to the disturbed objective, each method's own loss included.
        printed: the difference as liu2025 prints it.

    Source: liu2025, Theorem 4.
    """

    extra: float
    left: float
    clean: float
    printed: float
    extra_error: float
    left_error: float
    clean_error: float
    printed_error: float


def compared(peft: Sensitivity, full: Sensitivity) -> Comparison:
    """Return the readings of Theorem 4.

    Where both methods start from the same network they are those of ``linnet/sensitivity``; after training, each has
    its own optimum, Hessian and epsilon, and nothing is proved of the sign. Ridges may differ: LoRA may need one where
    full fine-tuning needs none.

    Raises:
        ArgumentError: the two were read differently.
    """
    if (peft.reading, peft.damping, peft.cutoff) != (full.reading, full.damping, full.cutoff):
        raise ArgumentError(
            f"PEFT was read {peft.reading} (damping {peft.damping}, cutoff {peft.cutoff}), full fine-tuning "
            f"{full.reading} (damping {full.damping}, cutoff {full.cutoff}); read both alike"
        )
    start = peft.loss - full.loss
    return Comparison(
        peft.extra - full.extra,
        start + peft.left - full.left,
        start + peft.clean - full.clean,
        peft.printed - full.extra,
        peft.extra_error + full.extra_error,
        peft.left_error + full.left_error,
        peft.clean_error + full.clean_error,
        peft.printed_error + full.extra_error,
    )


def sensitivity(
    objective: Objective,
    epsilon: Tensor,
    *,
    damping: float = 0.0,
    ridge: float = 0.0,
    cutoff: float | None = None,
    hessian: Literal["true", "projected"] = "true",
    steps: int = 500,
    spectrum_steps: int = 60,
    tolerance: float | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Return what a disturbed gradient costs, where the objective stands.

    Args:
        objective: at the trained point; with ``g`` that of a PEFT method.
        epsilon: in the weights and flat, at ``base + g(point)``: see :func:`disturbance`.
        damping: lambda of lambda J^T J.
        ridge: added to the Hessian in the trained parameters; LoRA's factors have directions that do not move the
            weights, which damping leaves alone.
        cutoff: asks for the restricted reading: directions of curvature above it.
        hessian: the true one, or J^T H J.
        steps: at most so many products for each linear system, or for the restricted reading's space.
        spectrum_steps: at most so many for the ends of the spectrum.
        tolerance: of the linear systems, see :func:`solve`.
        seed: of Lanczos' start.

    Raises:
        NotPSDError: A is indefinite, and the reading not the restricted one.
        ArgumentError: the loss is not repeatable, or a negative damping, ridge or cutoff.
        ShapeError: epsilon has another length than the weights.
    """
    if min(damping, ridge, cutoff or 0.0) < 0:
        raise ArgumentError(f"damping {damping}, ridge {ridge}, cutoff {cutoff}; none may be negative")
    objective.require_repeatable()
    bent = objective.hessian if hessian == "true" else objective.projected

    def operator(v: Tensor) -> Tensor:
        out = bent(v)
        if damping:
            out = out + damping * objective.pulled(objective.pushed(v))
        return out + ridge * v if ridge else out

    ends = extremes(operator, objective.like, steps=spectrum_steps, seed=seed)
    slope, pulled = objective.gradient(), objective.pulled(epsilon)
    if cutoff is None:
        _require_semidefinite(ends, damping, ridge)
        found = _solved(operator, slope, pulled, ends, tolerance, steps)
    else:
        found = _restricted(operator, slope, pulled, cutoff, steps)
    across, across_error = _across(objective, epsilon, pulled, tolerance, steps)

    def network(step: Tensor) -> float:
        penalty = ridge * dot(step, step)
        if damping:
            moved = objective.weights(objective.stepped(step))
            penalty += damping * sum(norm(a - b) ** 2 for a, b in zip(moved, objective.at_weights.point, strict=True))
        return objective.value(step) + penalty / 2

    return Sensitivity(
        reading="restricted" if cutoff is not None else "damped" if damping or ridge else "plain",
        parameters=objective.size,
        loss=objective.value(),
        gradient=norm(slope),
        disturbance=norm(epsilon),
        extra=found.halves[0],
        left=-found.halves[2],
        clean=found.halves[0] - found.halves[1],
        optimum=-found.halves[1],
        extra_error=found.errors[0],
        left_error=found.errors[2],
        clean_error=found.errors[0] + found.errors[1],
        optimum_error=found.errors[1],
        printed=found.halves[0] + across,
        printed_error=found.errors[0] + across_error,
        extra_network=network(found.disturbed) - network(found.undisturbed),
        curvature=ends,
        hessian=hessian,
        damping=damping,
        ridge=ridge,
        cutoff=cutoff,
        kept=found.kept,
        dropped=found.dropped,
        residual=found.residual,
        steps=found.steps + ends.steps,
    )


@dataclass(frozen=True, eq=False)
class _Read:
    """Half of e^T S e, nabla^T S nabla and (nabla + e)^T S (nabla + e), their errors, and both minimisers."""

    halves: tuple[float, float, float]
    errors: tuple[float, float, float]
    undisturbed: Tensor
    disturbed: Tensor
    residual: float | None
    steps: int
    kept: int = 0
    dropped: int = 0


def _solved(
    operator: Operator, slope: Tensor, pulled: Tensor, ends: Extremes, tolerance: float | None, steps: int
) -> _Read:
    by_eps = solve(operator, pulled, tolerance=tolerance, steps=steps, scale=ends.largest)
    by_slope = solve(operator, slope, tolerance=tolerance, steps=steps, scale=ends.largest)
    floor = ends.smallest - ends.smallest_residual
    if floor <= ends.zero:
        # Singular: the residuals lie in the range, and so does a Krylov space that starts there.
        inside = Krylov(operator, [pulled + slope], max(2, ends.steps))
        while inside.grow():
            pass
        values = _eigen(inside)[0] if inside.steps else np.ones(1)
        positive = values[values > ends.zero]
        floor = float(positive.min()) if len(positive) else math.inf
    halves, errors = [], []
    for b, x, residual in (
        (pulled, by_eps.x, by_eps.residual),
        (slope, by_slope.x, by_slope.residual),
        (slope + pulled, by_eps.x + by_slope.x, by_eps.residual + by_slope.residual),
    ):
        # b^T x - x^T A x / 2 with A x = b - r: below the exact value by r^T S r / 2.
        halves.append((dot(b, x) + dot(residual, x)) / 2)
        errors.append(dot(residual, residual) / (2 * floor))
    return _Read(
        (halves[0], halves[1], halves[2]),
        (errors[0], errors[1], errors[2]),
        -by_slope.x,
        -by_slope.x - by_eps.x,
        max(norm(by_eps.residual), norm(by_slope.residual)) / (max(norm(pulled), norm(slope)) or 1.0),
        by_eps.steps + by_slope.steps,
    )


def _restricted(operator: Operator, slope: Tensor, pulled: Tensor, cutoff: float, steps: int) -> _Read:
    starts = [v for v in (pulled, slope) if norm(v) > 0] or [pulled]
    space = Krylov(operator, starts, steps)
    while space.grow():
        pass
    sides = np.stack([(space.basis @ v).double().cpu().numpy() for v in (pulled, slope, slope + pulled)], axis=1)

    def halves(count: int) -> tuple[np.ndarray, np.ndarray, int]:
        values, vectors = np.linalg.eigh(space.matrix[:count, :count])
        kept = values > cutoff
        along = vectors[:, kept].T @ sides[:count]
        return (
            np.sum(along**2 / values[kept, None], axis=0) / 2,
            vectors[:, kept] @ (along / values[kept, None]),
            int(kept.sum()),
        )

    _finite(float(np.sum(space.matrix)), "a product with the Hessian")
    found, x, kept = halves(space.steps)
    change = abs(found - halves((space.steps + 1) // 2)[0])
    to_slope, to_both = (-(space.basis.mT @ torch.as_tensor(x[:, i]).to(slope)) for i in (1, 2))
    return _Read(
        (float(found[0]), float(found[1]), float(found[2])),
        (float(change[0]), float(change[1]), float(change[2])),
        to_slope,
        to_both,
        None,
        space.steps,
        kept,
        space.steps - kept,
    )


def _across(
    objective: Objective, epsilon: Tensor, pulled: Tensor, tolerance: float | None, steps: int
) -> tuple[float, float]:
    """Return eps_perp^T nabla in the weights and a bound on its error, eps_perp what no phi can follow."""
    if objective.g is None:
        return 0.0, 0.0
    slope = objective.at_weights.gradient()

    def gram(v: Tensor) -> Tensor:
        return objective.pulled(objective.pushed(v))

    along = solve(gram, pulled, tolerance=tolerance, steps=steps)
    across = epsilon.to(slope) - objective.pushed(along.x)
    # What is missing of eps_par is J (J^T J)^+ r; against nabla it is r^T (J^T J)^+ J^T nabla.
    step = solve(gram, objective.pulled(slope), tolerance=tolerance, steps=steps)
    return dot(across, slope), 2 * norm(along.residual) * norm(step.x)


def _require_semidefinite(ends: Extremes, damping: float, ridge: float) -> None:
    if ends.smallest < -ends.zero:  # the true end lies there, or below
        raise NotPSDError(
            f"the Hessian is indefinite: an eigenvalue lies within {ends.smallest_residual:.2g} of {ends.smallest:.4g} "
            f"(the largest found is {ends.largest:.4g}; damping {damping:g}, ridge {ridge:g}), so that the quadratic "
            f"model has no minimum; add a ridge or damping above {-ends.smallest:.2g} more, or give a cutoff for the "
            "restricted reading"
        )
