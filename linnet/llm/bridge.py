"""From a real network to the core: one linear layer on its own inputs, as a problem whose solutions are closed forms.

A layer of a network sees inputs h and is asked for outputs y, token by token; with y fixed, fine-tuning it is least
squares in its increment, and that is ``LayerProblem`` with one layer. What the core predicts of full fine-tuning, LoRA
and S2FT on these activations, and on others, stands beside what gradient descent on the same objective reaches.

Two targets are offered, and each says what it stands for:

- a step against the loss' gradient in the outputs, y = z - step g. Replace the curvature of the loss in the outputs by
  1/step for every token, and the loss of an increment is, but for a constant, the squared distance to y over 2 step;
  the two have the same gradient at the frozen weights, whatever the network above. Whether y itself lowers the loss is
  measured.
- a teacher, y = W* h + b*, the fully fine-tuned layer on the same inputs. Full fine-tuning then leaves nothing, and
  what is compared is how much of one known increment LoRA and S2FT can follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import linnet as ln
from linnet.errors import ArgumentError, NonFiniteError, ShapeError
from linnet.methods.base import Method

Run = Callable[[nn.Module], Any]
"""Runs the model on one batch; returns the loss where one is needed: ``lambda model: model(ids, labels=ids).loss``."""

STEPS = tuple(2.0**-k for k in range(-2, 8))
"""Steps that are tried, in units of the outputs' root mean square over that of their gradient."""


# --- activations ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Activations:
    """What a linear layer sees of a set of examples, a row a token.

    Attributes:
        inputs: h, (tokens, d_in).
        outputs: z, of the frozen layer, (tokens, d_out).
        gradient: g, of each batch's loss in its outputs, (tokens, d_out), or None.
        loss: mean over the batches, or None.
    """

    inputs: Tensor
    outputs: Tensor
    gradient: Tensor | None = None
    loss: float | None = None


def collect(
    model: nn.Module,
    names: Sequence[str],
    runs: Sequence[Run],
    *,
    masks: Sequence[Tensor] | None = None,
    gradient: bool = False,
) -> dict[str, Activations]:
    """Return what linear layers see, on the CPU, and the loss' gradients in what they say, by the name of the layer.

    Gradients are taken from the outputs of the lowest layer upwards: nothing below it is differentiated.

    Args:
        model: in evaluation mode.
        names: of nn.Linear in it, which each run calls once.
        runs: one a batch.
        masks: (batch, length) for each run, of the tokens to keep; all by default.
        gradient: whether to take them; the runs then return the loss.

    Raises:
        ArgumentError: no run, no layer, no such layer, one that a run calls twice or not at all, or no loss where one
            is needed.
        ShapeError: a mask that does not fit.
        NonFiniteError: activations or gradients are NaN or infinite.
    """
    if not runs or not names or (masks is not None and len(masks) != len(runs)):
        raise ArgumentError(
            f"{len(names)} layers, {len(runs)} runs and {0 if masks is None else len(masks)} masks; give at least one "
            "layer and run, and a mask for each run"
        )
    layers = {name: _linear(model, name) for name in names}
    parts: dict[str, list[list[Tensor]]] = {name: [] for name in names}
    total = 0.0
    for i, run in enumerate(runs):
        seen, loss = _one_run(model, layers, run, i, gradient)
        outputs = [seen[name][1] for name in names]
        slopes: Sequence[Tensor] = ()
        if gradient:
            total += float(_scalar(loss, i).detach()) / len(runs)
            slopes = torch.autograd.grad(loss, outputs, materialize_grads=True)
        for k, name in enumerate(names):
            found = [seen[name][0], outputs[k].detach(), *slopes[k : k + 1]]
            parts[name].append([_rows(t, None if masks is None else masks[i]) for t in found])
    return {name: _joined(name, parts[name], total) for name in names}


def _one_run(
    model: nn.Module, layers: Mapping[str, nn.Linear], run: Run, i: int, gradient: bool
) -> tuple[dict[str, tuple[Tensor, Tensor]], Any]:
    """Return inputs and outputs of the layers in one run, and what it returns."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def watched(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # Outputs that depend on a layer below carry its gradient on; the lowest is where it ends.
            out = output if output.requires_grad else output.detach().requires_grad_(gradient)
            seen[name].append((args[0].detach(), out))
            return out

        return hook

    frozen = [p for p in model.parameters() if p.requires_grad]
    handles = [layer.register_forward_hook(watched(name)) for name, layer in layers.items()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with torch.set_grad_enabled(gradient):
            loss = run(model)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
    for name, calls in seen.items():
        if len(calls) != 1:
            raise ArgumentError(f"run {i} calls {name} {len(calls)} times; its inputs are those of one call a run")
    return {name: calls[0] for name, calls in seen.items()}, loss


def _joined(name: str, parts: list[list[Tensor]], loss: float) -> Activations:
    joined = [torch.cat(p) for p in zip(*parts, strict=True)]
    for t in joined:
        if not bool(torch.isfinite(t).all()):
            raise NonFiniteError(f"activations or gradients of {name} are NaN or infinite; compute in float32")
    if len(joined) == 2:
        return Activations(joined[0], joined[1])
    return Activations(joined[0], joined[1], joined[2], loss)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    found = dict(model.named_modules()).get(name)
    if not isinstance(found, nn.Linear):
        kind = "no module" if found is None else f"a {type(found).__name__}"
        raise ArgumentError(f"{name!r} is {kind} of the model; name an nn.Linear of model.named_modules()")
    return found


def _scalar(loss: Any, i: int) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise ArgumentError(f"run {i} returns no loss that depends on the layer; return model(..., labels=...).loss")
    return loss


def _rows(tensor: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return tensor.reshape(-1, tensor.shape[-1]).cpu()
    if tuple(mask.shape) != tuple(tensor.shape[:-1]):
        raise ShapeError(f"a mask of shape {tuple(mask.shape)} for activations of shape {tuple(tensor.shape)}")
    return tensor[mask.to(device=tensor.device, dtype=torch.bool)].cpu()


# --- targets --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Targets:
    """Outputs that are asked of a layer.

    Attributes:
        values: y, (tokens, d_out).
        step: of the gradient; None of a teacher.
        before: the loss without them.
        after: the loss if the layer said y: below ``before`` if the target means what it should.
        tried: steps and the losses they led to.
    """

    values: Tensor
    step: float | None
    before: float | None
    after: float | None
    tried: tuple[tuple[float, float], ...] = ()


def gradient_targets(
    model: nn.Module,
    name: str,
    runs: Sequence[Run],
    activations: Activations,
    *,
    masks: Sequence[Tensor] | None = None,
    steps: Sequence[float] = STEPS,
) -> Targets:
    """Return y = z - step g for the step, of those given, whose targets have the least loss.

    Args:
        model, runs, masks: as for :func:`collect`.
        name: of the layer.
        activations: of the layer, collected from them with the gradient.
        steps: in units of rms(z) / rms(g).

    Raises:
        ArgumentError: the activations have no gradient or one of zero, or no step lowers the loss.
    """
    g, z = activations.gradient, activations.outputs
    if g is None or activations.loss is None or not bool((g != 0).any()):
        raise ArgumentError(
            f"{name} has no gradient to follow; collect with gradient=True, on a loss that depends on it"
        )
    unit = float(z.double().norm() / g.double().norm())
    tried = []
    for step in steps:
        tried.append((step * unit, _loss_at(model, name, runs, z - step * unit * g, masks)))
    step, after = min(tried, key=lambda pair: pair[1])
    if not after < activations.loss:
        raise ArgumentError(
            f"no step lowers the loss of {activations.loss:.6g} (the best, {step:.3g}, leads to {after:.6g}); give "
            "smaller steps, or switch dropout off with model.eval()"
        )
    return Targets(z - step * g, step, activations.loss, after, tuple(tried))


@torch.no_grad()
def _loss_at(
    model: nn.Module, name: str, runs: Sequence[Run], targets: Tensor, masks: Sequence[Tensor] | None
) -> float:
    """Return the mean loss if the layer said the targets on the tokens that were kept."""
    layer, start, total = _linear(model, name), 0, 0.0
    for i, run in enumerate(runs):
        used = 0

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            nonlocal used
            keep = torch.ones(output.shape[:-1], dtype=torch.bool, device=output.device)
            if masks is not None:
                keep = masks[i].to(device=output.device, dtype=torch.bool)  # noqa: B023 - lives within this turn
            used = int(keep.sum())
            out = output.clone()
            out[keep] = targets[start : start + used].to(output)  # noqa: B023 - lives within this turn
            return out

        handle = layer.register_forward_hook(hook)
        try:
            total += float(run(model)) / len(runs)
        finally:
            handle.remove()
        start += used
    return total


def teacher_targets(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Targets:
    """Return what a fine-tuned layer says on inputs (tokens, d_in), in double precision.

    Raises:
        ShapeError: the weight does not fit the inputs.
    """
    if weight.ndim != 2 or weight.shape[1] != inputs.shape[-1]:
        raise ShapeError(f"a weight of shape {tuple(weight.shape)} for inputs of {inputs.shape[-1]} entries")
    out = inputs.double() @ weight.detach().double().cpu().mT
    return Targets(out if bias is None else out + bias.detach().double().cpu(), None, None, None)


# --- the problem ----------------------------------------------------------------------------------


def layer_problem(
    weight: Tensor, bias: Tensor | None, inputs: Tensor, targets: Tensor, *, rtol: float | None = None
) -> ln.LayerProblem:
    """Return a linear layer on data as the core's problem: a network of one layer, in double precision.

    Args:
        weight: (d_out, d_in).
        bias: (d_out,), frozen, or None.
        inputs: (tokens, d_in).
        targets: (tokens, d_out).
        rtol: relative tolerance of ranks, see ``LayerProblem``.

    Raises:
        ShapeError: they do not fit each other.
    """
    net = ln.DeepLinearNetwork((_host(weight),), None if bias is None else (_host(bias),))
    return ln.LayerProblem(net, 0, ln.Moments.from_data(_host(inputs), _host(targets)), rtol)


def _host(t: Tensor) -> np.ndarray:
    return t.detach().double().cpu().numpy()


@dataclass(frozen=True)
class Training:
    """How a layer is trained by gradient descent, all tokens in every step.

    Attributes:
        optimiser: "lbfgs" with a line search; or "adam", whose rate falls to zero in a straight line.
        steps: at most so many; of L-BFGS directions, of which each may need several gradients.
        rate: Adam's first learning rate, in units of the layer's root mean square entry.
        tolerance: of the gradient's length over the longest so far, at which to stop.
        seed: of LoRA's start: U = 0, V normal of variance 1 / d_in.
        device: where to train.
    """

    optimiser: Literal["lbfgs", "adam"] = "lbfgs"
    steps: int = 300
    rate: float = 0.01
    tolerance: float = 1e-9
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Trained:
    """Where gradient descent ended.

    Attributes:
        delta: increment of the weight, (d_out, d_in).
        gradient: its length at the end, in what is trained, over the longest on the way.
        gradients: how many were computed.
        seconds: of training.
    """

    delta: np.ndarray
    gradient: float
    gradients: int
    seconds: float


def train(
    method: Method, weight: Tensor, bias: Tensor | None, inputs: Tensor, targets: Tensor, training: Training
) -> Trained:
    """Train one layer on the mean squared distance to its targets, in double precision.

    Tokens are first replaced by their QR factors: Q^T turns inputs and residuals alike and leaves a constant, so that
    objective and gradient are those of all tokens at the price of d_in of them.

    Args:
        method: FullFT(), LoRA(rank) or S2FT(channels, form).
        weight, bias, inputs, targets: as for :func:`layer_problem`.
        training: how.

    Raises:
        ArgumentError: another method.
        NonFiniteError: training diverged.
    """
    x, start = inputs.detach().double().to(training.device), time.perf_counter()
    missing = targets.detach().double().to(x) - x @ weight.detach().to(x).mT
    missing = missing if bias is None else missing - bias.detach().to(x)
    if len(x) > x.shape[1]:
        q, root = torch.linalg.qr(x)
        x, missing = root, q.mT @ missing
        del q
    parameters, increment, residual = _parametrised(method, x, missing, training.seed)
    scale = float(residual().detach()) or 1.0
    count, length, longest = 0, 0.0, 0.0

    def closure() -> Tensor:
        nonlocal count, length, longest
        optimiser.zero_grad()
        loss = residual() / scale
        loss.backward()
        count += 1
        length = float(torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None]).norm())
        longest = max(longest, length)
        return loss

    optimiser: torch.optim.Optimizer
    if training.optimiser == "adam":
        rate = training.rate * float(weight.detach().double().pow(2).mean().sqrt())
        optimiser = torch.optim.Adam(parameters, lr=rate)
        closure()
        for step in range(training.steps):
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 - step / training.steps)
            optimiser.step()
            closure()
            if length <= training.tolerance * longest:
                break
    else:
        optimiser = torch.optim.LBFGS(
            parameters,
            max_iter=10,
            history_size=20,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        closure()
        for _ in range(max(1, training.steps // 10)):
            before = [p.detach().clone() for p in parameters]
            optimiser.step(closure)
            closure()
            still = all(torch.equal(p.detach(), b) for p, b in zip(parameters, before, strict=True))
            if still or length <= training.tolerance * longest:
                break
    delta = increment().detach()
    if not bool(torch.isfinite(delta).all()):
        raise NonFiniteError(f"training diverged; lower the rate, {training.rate}, or take L-BFGS")
    return Trained(_host(delta), length / longest if longest else 0.0, count, time.perf_counter() - start)


def _parametrised(
    method: Method, x: Tensor, missing: Tensor, seed: int
) -> tuple[list[Tensor], Callable[[], Tensor], Callable[[], Tensor]]:
    """Return what the method trains, the increment it makes, and the squared distance that is left, but a constant."""
    d_out, d_in = missing.shape[1], x.shape[1]
    if isinstance(method, ln.FullFT):
        delta = x.new_zeros(d_out, d_in).requires_grad_()
        return [delta], lambda: delta, lambda: (x @ delta.mT - missing).square().sum()
    if isinstance(method, ln.LoRA):
        drawn = torch.randn(d_in, method.rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        u = x.new_zeros(d_out, method.rank).requires_grad_()
        v = (drawn.to(x) / d_in**0.5).requires_grad_()
        return [u, v], lambda: u @ v.mT, lambda: ((x @ v) @ u.mT - missing).square().sum()
    if isinstance(method, ln.S2FT):
        where, rows = torch.as_tensor(np.asarray(method.channels), device=x.device), method.form == "rows"
        part = x.new_zeros((len(where), d_in) if rows else (d_out, len(where))).requires_grad_()
        seen, wanted = (x, missing[:, where]) if rows else (x[:, where], missing)
        return (
            [part],
            lambda: x.new_zeros(d_out, d_in).index_add(0 if rows else 1, where, part),
            lambda: (seen @ part.mT - wanted).square().sum(),  # and what no trained row can change
        )
    raise ArgumentError(f"{type(method).__name__} is not trained here; give FullFT(), LoRA(rank) or S2FT(channels)")


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BridgeRow:
    """One method on one set of activations. Risks are mean squared distances per token, summed over the outputs.

    An excess risk is the risk less what the best affine map of these very tokens leaves: where tokens are few beside
    the inputs, that is little, and says nothing of others.

    Attributes:
        method: by the caller's name.
        parameters: how many are trained.
        data: "train", or the caller's name of other activations.
        tokens: of these data.
        unexplained: what the best affine map leaves.
        before: excess risk of the frozen layer.
        predicted: excess risk of the closed form, solved on "train".
        reached: excess risk of what gradient descent came to on "train".
        gradient: length of its gradient at the end, over the longest on the way: how near it came to standing still.
        gradients: how many it took.
        seconds_predicted, seconds_reached: what solving and training took; decompositions that the methods share count
            where they are first needed.
        apart: |delta reached - delta predicted|_F / |delta predicted|_F. Where inputs are almost dependent, increments
            far apart say almost the same.
    """

    method: str
    parameters: int
    data: str
    tokens: int
    unexplained: float
    before: float
    predicted: float
    reached: float
    gradient: float
    gradients: int
    seconds_predicted: float
    seconds_reached: float
    apart: float


def bridge(
    weight: Tensor,
    bias: Tensor | None,
    data: tuple[Tensor, Tensor],
    methods: Mapping[str, Method],
    *,
    others: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    training: Training = Training(),
    rtol: float | None = None,
) -> list[BridgeRow]:
    """Return what the core predicts of fine-tuning one layer, beside what gradient descent reaches.

    Args:
        weight: frozen, (d_out, d_in).
        bias: frozen, (d_out,), or None.
        data: inputs (tokens, d_in) and targets (tokens, d_out) to train on.
        methods: by name: FullFT(), LoRA(rank) and S2FT(channels, form) of the core.
        others: the same of further tokens, held out or out of distribution, by name.
        training: how gradient descent goes.
        rtol: relative tolerance of ranks in the closed forms. Activations computed in single precision have directions
            that are rounding; the closed forms follow them, gradient descent hardly: 1e-6 leaves them out.

    Returns:
        A row for each method and set of activations, "train" first.

    Raises:
        ArgumentError: a method that is not trained here, or other data called "train".
        ShapeError: data that do not fit the layer.
    """
    if others and "train" in others:
        raise ArgumentError('"train" names the data that are trained on; call the others something else')
    problem = layer_problem(weight, bias, *data, rtol=rtol)
    moments = {"train": problem.moments}
    moments |= {name: ln.Moments.from_data(_host(x), _host(y)) for name, (x, y) in (others or {}).items()}
    rows = []
    for name, method in methods.items():
        start = time.perf_counter()
        update = method.solve(problem)
        seconds = time.perf_counter() - start
        trained = train(method, weight, bias, *data, training)
        tuned = {
            "predicted": problem.net.updated(update),
            "reached": problem.net.updated(ln.Update(trained.delta, layer=0)),
        }
        size = float(np.linalg.norm(np.asarray(update.delta)))
        for where, m in moments.items():
            risks = {key: float(ln.excess_risk(net, m)) for key, net in tuned.items()}
            rows.append(
                BridgeRow(
                    method=name,
                    parameters=method.n_parameters(problem),
                    data=where,
                    tokens=int(m.n or 0),
                    unexplained=float(m.roots[2]),
                    before=float(ln.excess_risk(problem.net, m)),
                    **risks,
                    gradient=trained.gradient,
                    gradients=trained.gradients,
                    seconds_predicted=seconds,
                    seconds_reached=trained.seconds,
                    apart=float(np.linalg.norm(trained.delta - np.asarray(update.delta))) / (size or 1.0),
                )
            )
    return rows
