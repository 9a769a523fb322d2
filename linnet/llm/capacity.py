"""How far trained increments move the outputs of a network, beside the bounds that are stated for it.

Bounds exist of one linear layer with its activation, liu2025, eq. (26), and of a stack of them, the feed-forward
network of a model without gates: eq. (29) and (30), which are false, and ``linnet/capacity``, which is proved. Softmax
attention, gates and normalisation are no such stacks; of a block that has them, and so of a whole transformer, the
displacement is measured and nothing bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor, nn
from torch.func import functional_call

from linnet.errors import ArgumentError, NonFiniteError, ShapeError
from linnet.llm.krylov import extremes
from linnet.llm.objective import require_parameters

EXACT = 4096
"""The smaller side of the largest matrix whose norm is computed from all of its singular values."""

ROUNDING = 1e-9
"""A bound counts as violated where the displacement exceeds it by more than this, relatively."""


# --- Lipschitz constants --------------------------------------------------------------------------


def _silu() -> float:
    """Sup of |s'|, s(x) = x sigmoid(x): s'' = 0 where x tanh(x/2) = 2, and there s' = 1/2 + x/4."""
    return 0.5 + float(brentq(lambda x: x * math.tanh(x / 2) - 2, 2.0, 3.0, xtol=1e-14)) / 4


def _gelu() -> float:
    """Sup of |s'|, s(x) = x Phi(x): s'' = (2 - x^2) phi(x), and s' = Phi(x) + x phi(x) at x = 2^(1/2)."""
    return (1 + math.erf(1.0)) / 2 + math.exp(-1.0) / math.sqrt(math.pi)


def _gelu_tanh() -> float:
    """Sup of |s'|, s(x) = x (1 + tanh u) / 2, u = (2/pi)^(1/2) (x + 0.044715 x^3): found by minimisation."""
    unit = math.sqrt(2 / math.pi)

    def slope(x: float) -> float:
        t = math.tanh(unit * (x + 0.044715 * x**3))
        return (1 + t + x * (1 - t * t) * unit * (1 + 3 * 0.044715 * x * x)) / 2

    return -float(
        minimize_scalar(lambda x: -slope(x), bounds=(1.0, 2.0), method="bounded", options={"xatol": 1e-10}).fun
    )


LIPSCHITZ: dict[str, float] = {
    **dict.fromkeys(("identity", "linear", "relu", "leaky_relu", "tanh"), 1.0),
    **dict.fromkeys(("silu", "swish", "quick_gelu"), _silu()),  # quick_gelu is silu(a x) / a
    **dict.fromkeys(("gelu", "gelu_python"), _gelu()),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"), _gelu_tanh()),
}
"""Least Lipschitz constants of activations with s(0) = 0, by the names that configurations of transformers use."""

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("identity", "linear"), lambda x: x),
    "relu": nn.functional.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "tanh": torch.tanh,
    **dict.fromkeys(("silu", "swish"), nn.functional.silu),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    **dict.fromkeys(("gelu", "gelu_python"), nn.functional.gelu),
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
        lambda x: nn.functional.gelu(x, approximate="tanh"),
    ),
}


def lipschitz(activation: str) -> float:
    """Return the least Lipschitz constant of an activation.

    Raises:
        ArgumentError: it is not known here, or does not map 0 to 0.
    """
    if activation not in LIPSCHITZ:
        raise ArgumentError(f"no Lipschitz constant for {activation!r}; known are {', '.join(sorted(LIPSCHITZ))}")
    return LIPSCHITZ[activation]


# --- norms ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Norm:
    """A spectral norm between two certain bounds, which rounding alone separates where it is computed exactly.

    Attributes:
        lower, upper: the bounds.
    """

    lower: float
    upper: float


def spectral_norm(matrix: Tensor, *, exact: int = EXACT, seed: int = 0) -> Norm:
    """Return the spectral norm of a matrix (m, n), computed in double precision.

    From the largest eigenvalue of the smaller Gram matrix if the smaller side is at most ``exact``. Beyond that the
    lower bound is Lanczos' and the upper one the smaller of the Frobenius norm and (|A|_1 |A|_inf)^(1/2), certain
    and wide.

    Raises:
        ShapeError: it is no matrix.
        NonFiniteError: it has NaN or infinite entries.
    """
    if matrix.ndim != 2:
        raise ShapeError(f"the spectral norm of a tensor of shape {tuple(matrix.shape)}; give a matrix")
    a = matrix.detach().double()
    if a.shape[0] > a.shape[1]:
        a = a.mT
    if not bool(torch.isfinite(a).all()):
        raise NonFiniteError("a weight or an increment has NaN or infinite entries; its norm bounds nothing")
    slack = 4 * max(a.shape) * torch.finfo(a.dtype).eps
    if a.shape[0] <= exact:
        value = math.sqrt(max(0.0, float(torch.linalg.eigvalsh(a @ a.mT)[-1])))
        return Norm(value * (1 - slack), value * (1 + slack))
    ends = extremes(lambda v: a @ (a.mT @ v), a.new_zeros(a.shape[0]), steps=60, seed=seed)
    sums = float(a.abs().sum(0).max()) * float(a.abs().sum(1).max())
    upper = min(float(torch.linalg.matrix_norm(a)), math.sqrt(sums))
    return Norm(math.sqrt(max(0.0, ends.largest)) * (1 - slack), upper * (1 + slack))


# --- what is returned -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """A bound of the displacement, and how it fares over a batch.

    Attributes:
        name: "layer"; of a stack "product", "printed", "capacity", "capacity, norms" or "capacity, inputs".
        source: where it is stated.
        constant: it is this times |x|; None where it is another for each token.
        ratio: displacement over bound, the largest over the tokens; 0 if nothing moves.
        violated: tokens that move by more than the bound allows and rounding explains.
    """

    name: str
    source: str
    constant: float | None
    ratio: float
    violated: int


@dataclass(frozen=True)
class Displacement:
    """How far increments move one output, over the tokens of a batch.

    Attributes:
        name: of the layer, stack or block.
        kind: a "layer" and its activation; a "stack" of such layers; a "block"; the whole "network".
        tokens: how many were measured.
        largest, mean: of |f(x) - f_0(x)|, on the inputs that the frozen network gives it.
        relative: the largest of |f(x) - f_0(x)| / |x|; None where the input is no vector.
        size: mean of |f_0(x)|.
        carried: mean of the distance between its outputs in the tuned and in the frozen network, where increments
            below it count too; None if that was not measured.
        bounds: those that apply.
        unbounded: why no bound of liu2025 applies, if none does.

    Source: liu2025, Theorem 2.
    """

    name: str
    kind: Literal["layer", "stack", "block", "network"]
    tokens: int
    largest: float
    mean: float
    relative: float | None
    size: float
    carried: float | None = None
    bounds: tuple[Bound, ...] = ()
    unbounded: tuple[str, ...] = ()

    def bound(self, name: str) -> Bound:
        """Return the bound of that name.

        Raises:
            ArgumentError: there is none.
        """
        for found in self.bounds:
            if found.name == name:
                return found
        raise ArgumentError(
            f"{self.name} has no bound {name!r}; it has {', '.join(b.name for b in self.bounds) or 'none'}"
            + "".join(f" ({why})" for why in self.unbounded)
        )


# --- stacks ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer, its increment, and the activation after it.

    Attributes:
        weight: W, (d_out, d_in).
        increment: Phi, of the same shape.
        activation: by name.
        bias, bias_increment: (d_out,), or None for zero.

    Raises:
        ShapeError: the shapes do not fit.
        ArgumentError: the activation is unknown.
    """

    weight: Tensor
    increment: Tensor
    activation: str = "identity"
    bias: Tensor | None = None
    bias_increment: Tensor | None = None

    def __post_init__(self) -> None:
        lipschitz(self.activation)
        if self.weight.ndim != 2 or self.weight.shape != self.increment.shape:
            raise ShapeError(
                f"an increment of shape {tuple(self.increment.shape)} for a weight of shape {tuple(self.weight.shape)}"
            )
        for name in ("weight", "increment", "bias", "bias_increment"):
            value = getattr(self, name)
            if value is not None and name.startswith("bias") and value.shape != self.weight.shape[:1]:
                raise ShapeError(f"{name} of shape {tuple(value.shape)} for {self.weight.shape[0]} outputs")
            object.__setattr__(self, name, None if value is None else value.detach().double())

    @property
    def L(self) -> float:
        """Lipschitz constant of the activation."""
        return LIPSCHITZ[self.activation]

    @property
    def affine(self) -> bool:
        """Whether it has a bias, or the increment of one."""
        return self.bias is not None or self.bias_increment is not None

    def moved(self, inputs: Tensor) -> Tensor:
        """Return what the increment does to inputs (tokens, d_in), before the activation."""
        out = inputs @ self.increment.mT
        return out if self.bias_increment is None else out + self.bias_increment

    def __call__(self, inputs: Tensor, *, tuned: bool) -> Tensor:
        """Return the outputs (tokens, d_out) of the frozen or of the tuned layer."""
        out = inputs @ self.weight.mT
        out = out if self.bias is None else out + self.bias
        return _FUNCTIONS[self.activation](out + self.moved(inputs) if tuned else out)

    def matrices(self, constant: bool, last: bool) -> tuple[Tensor, Tensor]:
        """Return W and Phi as one sees them that has the constant 1 beside the inputs, and passes it on unless last."""
        pair = []
        for matrix, bias in ((self.weight, self.bias), (self.increment, self.bias_increment)):
            if not constant:
                pair.append(matrix)
                continue
            column = matrix.new_zeros(len(matrix)) if bias is None else bias
            pair.append(torch.cat([matrix, column[:, None]], dim=1))
            if not last:
                corner = matrix.new_zeros(1, matrix.shape[1] + 1)
                corner[0, -1] = float(matrix is self.weight)
                pair[-1] = torch.cat([pair[-1], corner])
        return pair[0], pair[1]


def layer_displacement(layer: Layer, inputs: Tensor, *, name: str = "layer") -> Displacement:
    """Return how far an increment moves one layer's output after its activation, beside eq. (26), L |Phi| |x|.

    A frozen bias does not matter; the increment of one is taken for a column of Phi, to which x has the entry 1.

    Args:
        layer: and its activation.
        inputs: (..., d_in), of the frozen network.
        name: for the result.

    Raises:
        ShapeError: the inputs do not fit.

    Source: liu2025, eq. (26), ``liu2025/theorem-2-layer``.
    """
    x = _tokens(inputs, layer.weight.shape[1])
    moved = (layer(x, tuned=True) - layer(x, tuned=False)).norm(dim=1)
    phi, length = layer.increment, x.norm(dim=1)
    seen = length
    if layer.bias_increment is not None:
        phi, seen = torch.cat([phi, layer.bias_increment[:, None]], dim=1), (length**2 + 1).sqrt()
    constant = layer.L * spectral_norm(phi).upper
    return _displaced(
        name, "layer", moved, length, layer(x, tuned=False), (_bound("layer", "eq. (26)", moved, constant, seen),)
    )


def stack_displacement(layers: Sequence[Layer], inputs: Tensor, *, name: str = "stack") -> Displacement:
    """Return how far increments move the output of layers one after the other, beside the bounds of such networks.

    With biases the inputs have the constant 1 beside them, each layer passes it on, and a bias is a column of its
    weight: that is a network without biases, of activations whose constant is max(L, 1).

    Bounds, with |.| the spectral norm: "product", liu2025, eq. (29); "printed", eq. (6) and (30), with the least M and
    L; "capacity" and "capacity, norms", the two of ``linnet/capacity``; and "capacity, inputs", the line of its proof
    in which |Phi_k| |h| has not yet replaced |Phi_k h|, h the frozen network's input of layer k, token by token.

    Args:
        layers: from the first one.
        inputs: (..., d_in), of the frozen network.
        name: for the result.

    Raises:
        ArgumentError: no layer.
        ShapeError: neighbouring widths, or the inputs, do not fit.

    Source: liu2025, Theorem 2; docs/proofs/capacity.md.
    """
    if not layers:
        raise ArgumentError("a stack without layers; give at least one")
    for lower, upper in pairwise(layers):
        if upper.weight.shape[1] != lower.weight.shape[0]:
            raise ShapeError(
                f"a layer with {lower.weight.shape[0]} outputs below one with {upper.weight.shape[1]} inputs"
            )
    x = _tokens(inputs, layers[0].weight.shape[1])
    constant = any(layer.affine for layer in layers)
    norms, slopes = [], []
    for k, layer in enumerate(layers):
        w, phi = layer.matrices(constant, last=k == len(layers) - 1)
        norms.append(tuple(spectral_norm(m).upper for m in (w, phi, w + phi)))
        slopes.append(max(layer.L, 1.0) if constant else layer.L)
    frozen, tuned, steps = x, x, []
    for layer in layers:
        steps.append(layer.moved(frozen).norm(dim=1))
        frozen, tuned = layer(frozen, tuned=False), layer(tuned, tuned=True)
    moved, length = (tuned - frozen).norm(dim=1), x.norm(dim=1)
    seen = (length**2 + 1).sqrt() if constant else length
    weights, increments, together = zip(*norms, strict=True)
    constants = stack_constants(weights, increments, together, slopes)
    bounds = [_bound(kind, SOURCES[kind], moved, value, seen) for kind, value in constants.items()]
    allowed, above = torch.zeros_like(moved), 1.0
    for layer, step in reversed(list(zip(layers, steps, strict=True))):
        allowed = allowed + above * layer.L * step
        # Without the constant, which is no part of a difference.
        above *= layer.L * spectral_norm(layer.weight + layer.increment).upper
    bounds.append(_bound("capacity, inputs", SOURCES["capacity, inputs"], moved, None, allowed))
    return _displaced(name, "stack", moved, length, frozen, tuple(bounds))


SOURCES = {
    "product": "liu2025, eq. (29); false in general",
    "printed": "liu2025, eq. (6) and (30); false in general",
    "capacity": "linnet/capacity, first bound",
    "capacity, norms": "linnet/capacity, second bound",
    "capacity, inputs": "proof of linnet/capacity",
}
"""Where the bounds of a stack are stated."""


def stack_constants(
    weights: Sequence[float], increments: Sequence[float], tuned: Sequence[float], slopes: Sequence[float]
) -> dict[str, float]:
    """Return the bounds of |f(x) - f_0(x)| / |x| for a stack, by name.

    Args:
        weights: norms of W_k, from the first layer.
        increments: norms of Phi_k.
        tuned: norms of W_k + Phi_k.
        slopes: Lipschitz constants L_k.

    Source: liu2025, eq. (6) ("printed") and (29) ("product"); docs/proofs/capacity.md.
    """
    depth, most, steepest = len(weights), max(weights), max(slopes)

    def through(norms: Sequence[float], start: int, stop: int) -> float:
        return math.prod(s * w for s, w in zip(slopes[start:stop], norms[start:stop], strict=True))

    def total(above: Sequence[float], below: Sequence[float] | None) -> float:
        return math.fsum(
            through(above, k + 1, depth) * slopes[k] * increments[k] * (1.0 if below is None else through(below, 0, k))
            for k in range(depth)
        )

    return {
        "product": total(weights, None),
        "printed": math.fsum((most * steepest) ** (depth - 1 - k) * steepest * increments[k] for k in range(depth)),
        "capacity": total(tuned, weights),
        "capacity, norms": total([w + d for w, d in zip(weights, increments, strict=True)], weights),
    }


def _tokens(inputs: Tensor, width: int) -> Tensor:
    if inputs.shape[-1] != width:
        raise ShapeError(f"inputs of {inputs.shape[-1]} entries for a layer of {width}")
    if not inputs.numel():
        raise ArgumentError("no token to measure on; give a batch, and a mask that leaves some of it")
    return inputs.detach().double().reshape(-1, width)


def _bound(name: str, source: str, moved: Tensor, constant: float | None, length: Tensor) -> Bound:
    allowed = length if constant is None else constant * length
    over = (moved > allowed * (1 + ROUNDING)) & (moved > 0)
    ratios = torch.where(moved > 0, moved / allowed, 0.0)
    return Bound(name, source, constant, float(ratios.max()), int(over.sum()))


def _displaced(
    name: str,
    kind: Literal["layer", "stack", "block", "network"],
    moved: Tensor,
    length: Tensor | None,
    frozen: Tensor,
    bounds: tuple[Bound, ...] = (),
    unbounded: tuple[str, ...] = (),
    carried: float | None = None,
) -> Displacement:
    if not len(moved):
        raise ArgumentError("no token to measure on; give a batch, and a mask that leaves some of it")
    if not bool(torch.isfinite(moved).all()):
        raise NonFiniteError(f"outputs of {name} are NaN or infinite; look at the increments, or compute in float32")
    relative = None if length is None else float(torch.where(length > 0, moved / length, 0.0).max())
    return Displacement(
        name,
        kind,
        len(moved),
        float(moved.max()),
        float(moved.mean()),
        relative,
        float(lengths(frozen).mean()),
        carried,
        bounds,
        unbounded,
    )


# --- networks -------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Watch:
    """What hooks see of the frozen network: rows, and the outputs of blocks, kept for the tuned one."""

    mask: Tensor | None
    rows: list[Displacement] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    within: bool = False

    def tokens(self, tensor: Tensor) -> Tensor:
        """Return the tokens under the mask, (tokens, d); all rows of what has no axis for tokens."""
        if self.mask is None or tensor.ndim != self.mask.ndim + 1:
            return tensor.reshape(-1, tensor.shape[-1])
        if tensor.shape[:-1] != self.mask.shape:
            raise ShapeError(f"a mask of shape {tuple(self.mask.shape)} for values of shape {tuple(tensor.shape)}")
        return tensor[self.mask.to(device=tensor.device, dtype=torch.bool)]


@torch.no_grad()
def network_displacements(
    model: nn.Module,
    increments: Mapping[str, Tensor],
    run: Callable[[Callable[..., Any]], Any],
    *,
    layers: Mapping[str, str] | None = None,
    stacks: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    blocks: Sequence[str] = (),
    mask: Tensor | None = None,
) -> list[Displacement]:
    """Return how far increments move a model's layers, stacks and blocks, and its output.

    Layers and stacks are computed again in double precision, on the inputs that the frozen model gives them; blocks and
    the model itself in the model's own precision, which their displacements are to be read beside.

    Args:
        model: frozen, in evaluation mode.
        increments: by the name of the parameter; parameters without one stay.
        run: gets the model as a function, and returns what it returns, without a cache of keys and values:
            ``lambda call: call(input_ids=ids, use_cache=False)``.
        layers: modules with a ``weight`` (d_out, d_in) to the activation that follows them; by default every nn.Linear
            that has an increment, without one ("identity").
        stacks: name of each stack to its layers and their activations, from the first one: such as
            ``{"0": [("layer.0.intermediate.dense", "gelu"), ("layer.0.output.dense", "identity")]}``.
        blocks: modules whose first output is a tensor (..., d).
        mask: (batch, length), of the tokens that count; all by default. What has no axis for tokens, such as the
            pooled output of a classifier, counts whole.

    Returns:
        Rows of the layers, the stacks and the blocks in the order in which the model runs them; the network's last.

    Raises:
        ArgumentError: a name is unknown, or the model keeps a cache.
        ShapeError: an increment does not fit its parameter, or the mask the tokens.

    Source: liu2025, Theorem 2.
    """
    parameters = dict(model.named_parameters())
    require_parameters(parameters, list(increments))
    for name, increment in increments.items():
        if increment.shape != parameters[name].shape:
            raise ShapeError(
                f"an increment of shape {tuple(increment.shape)} for {name} of shape {tuple(parameters[name].shape)}"
            )
    tuned = {name: parameters[name] + increment.to(parameters[name]) for name, increment in increments.items()}
    if layers is None:
        layers = {
            name: "identity"
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in increments
        }
    watch, handles = _Watch(mask), []
    try:
        for name, activation in layers.items():
            hook = _of_stack(watch, name, [_layer(model, name, activation, increments)], single=True)
            handles.append(_module(model, name).register_forward_hook(hook))
        for name, members in (stacks or {}).items():
            if not members:
                raise ArgumentError(f"stack {name!r} without layers; give at least one")
            chain = [_layer(model, member, activation, increments) for member, activation in members]
            hook = _of_stack(watch, name, chain, single=False)
            handles.append(_module(model, members[0][0]).register_forward_hook(hook))
        for name in blocks:
            part = {k.removeprefix(f"{name}."): v for k, v in tuned.items() if k.startswith(f"{name}.")}
            hook = _of_block(watch, name, part)
            handles.append(_module(model, name).register_forward_hook(hook, with_kwargs=True))
        before = watch.tokens(first_tensor(run(model)))
    finally:
        for handle in handles:
            handle.remove()
    carried: dict[str, float] = {}

    def compare(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            carried[name] = float(lengths(watch.tokens(first_tensor(output)) - watch.outputs[name]).mean())

        return hook

    handles = [_module(model, name).register_forward_hook(compare(name)) for name in blocks]
    try:
        after = watch.tokens(first_tensor(run(lambda *args, **kwargs: functional_call(model, tuned, args, kwargs))))
    finally:
        for handle in handles:
            handle.remove()
    rows = [replace(row, carried=carried.get(row.name)) if row.kind == "block" else row for row in watch.rows]
    distance = lengths(after - before)
    why = reasons(model)
    rows.append(_displaced("network", "network", distance, None, before, (), why, float(distance.mean())))
    return rows


def reasons(module: nn.Module) -> tuple[str, ...]:
    """Return why no bound of liu2025 applies to a module, as its parts are called.

    Source: of attention, Kim, Papamakarios and Mnih 2021.
    """
    kinds = [type(part).__name__.lower() for part in module.modules()]
    parts = [name.rsplit(".", 1)[-1].lower() for name, _ in module.named_modules()]
    found = []
    if any("attention" in kind for kind in kinds):
        found.append("softmax attention has no Lipschitz constant over all inputs")
    if any(part.startswith("gate") or "_gate" in part for part in parts):
        found.append("a gate multiplies two functions of the input, and the product has no Lipschitz constant")
    if any("norm" in kind for kind in kinds):
        found.append("normalisation is no linear layer with an activation on entries")
    found.append("connections past a layer, if there are any, are no part of the network that is bounded")
    return tuple(found)


def lengths(tokens: Tensor) -> Tensor:
    """Return the Euclidean lengths of tokens (..., d), summed in double precision."""
    return torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float64)


def first_tensor(output: Any) -> Tensor:
    """Return what a module's output is about: the output itself, its ``logits`` or ``last_hidden_state``, or the first.

    Raises:
        ArgumentError: there is no tensor in it.
    """
    for name in ("logits", "last_hidden_state"):
        if isinstance(getattr(output, name, None), Tensor):
            return getattr(output, name)
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ArgumentError(f"an output of type {type(output).__name__} holds no tensor that could be compared")
    return output


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ArgumentError(f"the model has no module {name!r}; name one of model.named_modules()") from None


def _layer(model: nn.Module, name: str, activation: str, increments: Mapping[str, Tensor]) -> Callable[[], Layer]:
    """Return what makes the layer when it is needed: all of them at once, in double precision, would be large."""
    module = _module(model, name)
    if not isinstance(module, nn.Linear):
        raise ArgumentError(f"{name} is a {type(module).__name__}; the bounds are of linear layers (nn.Linear)")
    lipschitz(activation)

    def make() -> Layer:
        weight, bias = module.weight, module.bias
        increment, moved = increments.get(f"{name}.weight"), increments.get(f"{name}.bias")
        return Layer(
            weight,
            torch.zeros_like(weight) if increment is None else increment.to(weight.device),
            activation,
            bias,
            None if moved is None else moved.to(weight.device),
        )

    return make


def _of_stack(watch: _Watch, name: str, chain: list[Callable[[], Layer]], *, single: bool) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        if watch.within:
            return
        x, layers = watch.tokens(args[0]), [make() for make in chain]
        made = layer_displacement(layers[0], x, name=name) if single else stack_displacement(layers, x, name=name)
        watch.rows.append(made)

    return hook


def _of_block(watch: _Watch, name: str, tuned: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if watch.within:
            return
        if any(kwargs.get(key) is not None for key in ("past_key_value", "past_key_values")):
            raise ArgumentError(f"{name} keeps a cache of keys and values; call the model with use_cache=False")
        before, watch.within = watch.tokens(first_tensor(output)), True
        try:
            after = watch.tokens(first_tensor(functional_call(module, tuned, args, kwargs)))
        finally:
            watch.within = False
        given = next((a for a in [*args, *kwargs.values()] if isinstance(a, Tensor) and a.is_floating_point()), None)
        length = None if given is None else lengths(watch.tokens(given))
        moved = lengths(after - before)
        length = length if length is not None and len(length) == len(moved) else None
        watch.outputs[name] = before
        watch.rows.append(_displaced(name, "block", moved, length, before, (), reasons(module)))

    return hook
