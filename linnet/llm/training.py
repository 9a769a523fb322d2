"""One loop that trains any system on any task, and one that evaluates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from linnet.errors import ArgumentError, NonFiniteError
from linnet.llm.data.base import Example
from linnet.llm.data.learner import Learner, at_rest


class Trainable(Protocol):
    """A model ready to be trained, such as a system makes it: ``linnet.llm.systems.base.Prepared``."""

    @property
    def model(self) -> nn.Module:
        """What to call."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""

    @property
    def optimizer(self) -> Callable[..., torch.optim.Optimizer]:
        """Makes the optimiser, called with a learning rate."""


@dataclass(frozen=True, eq=False)
class History:
    """What happened in training, step by step.

    Attributes:
        losses: (steps,), the mean loss of each batch before its step, in nats.
        gradients: (steps,), the length of the gradient before it was clipped.
        seconds: of the whole loop.
    """

    losses: np.ndarray
    gradients: np.ndarray
    seconds: float


@dataclass(frozen=True, eq=False)
class Score:
    """How a model does on examples.

    Attributes:
        losses: (n,), in nats, in the order of the examples.
        correct: (n,), bool.
    """

    losses: np.ndarray
    correct: np.ndarray

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """Mean loss of an example."""
        return float(self.losses.mean())

    @property
    def loss_error(self) -> float:
        """Standard error of the mean loss; infinite for a single example."""
        return _standard_error(self.losses)

    @property
    def accuracy(self) -> float:
        """Share of correct answers."""
        return float(self.correct.mean())

    @property
    def accuracy_error(self) -> float:
        """Standard error of the accuracy; infinite for a single example."""
        return _standard_error(self.correct.astype(float))


def train(
    prepared: Trainable | nn.Module,
    learner: Learner,
    examples: Sequence[Example],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    head_lr: float | None = None,
    warmup: float = 0.1,
    clip: float = 1.0,
    weight_decay: float = 0.0,
) -> History:
    """Train a model in place, and leave it in evaluation mode.

    The examples come in a random order, all of them before any comes again. Every example of a batch counts the same.
    The learning rate rises linearly over the first steps and then falls linearly, to ``lr / (steps - warm-up)`` at the
    last. All that is random, dropout among it, depends on the seed and not on what was drawn before.

    Args:
        prepared: what a system prepared; or a module, of which AdamW trains all that takes a gradient.
        learner: how the model is asked.
        examples: to train on.
        steps: how many.
        batch_size: examples a step, at most as many as there are.
        lr: learning rate after the warm-up.
        seed: of order and dropout.
        head_lr: learning rate of the heads of what a system prepared; ``lr`` if None.
        warmup: share of the steps over which the learning rate rises.
        clip: a longer gradient, of all parameters together, is cut to this length.
        weight_decay: decoupled, as AdamW has it.

    Raises:
        ArgumentError: a number out of its range, or nothing to train.
        NonFiniteError: a loss or a gradient is NaN or infinite; the parameters are those of the step before.
    """
    _require(examples, steps=steps, batch_size=batch_size, lr=lr, warmup=warmup, clip=clip)
    if head_lr is not None and not 0 < head_lr < math.inf:
        raise ArgumentError(f"head_lr={head_lr}; give a number above 0")
    model, parameters, make = _parts(prepared)
    device = parameters[0].device
    optimizer = make(lr, weight_decay=weight_decay, head_lr=head_lr)
    rising = math.ceil(warmup * steps)
    schedule = LambdaLR(
        optimizer, lambda step: min((step + 1) / max(rising, 1), (steps - step) / max(steps - rising, 1))
    )
    batches = _batches(len(examples), batch_size, seed)
    losses, gradients = np.empty(steps), np.empty(steps)
    began = time.perf_counter()
    with _seeded(seed, device), _training(model):
        for step in range(steps):
            batch = learner.batch([examples[i] for i in next(batches)], device)
            loss = learner.outcome(model, batch).losses.mean()
            losses[step] = loss.item()
            _require_finite(losses, step, lr, "loss")
            optimizer.zero_grad()
            loss.backward()
            gradients[step] = clip_grad_norm_(parameters, clip).item()
            _require_finite(gradients, step, lr, "gradient")
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()
    return History(losses, gradients, time.perf_counter() - began)


def evaluate(model: nn.Module, learner: Learner, examples: Sequence[Example], batch_size: int = 32) -> Score:
    """Return how a model does on examples; the model stays as it is.

    Args:
        model: to be asked, in evaluation mode for as long as it takes.
        learner: how the model is asked.
        examples: at least one. Those of similar length share a batch, which does not change their losses.
        batch_size: examples a batch.

    Raises:
        ArgumentError: no examples.
        NonFiniteError: a loss is NaN or infinite.
    """
    if not examples or batch_size < 1:
        raise ArgumentError(f"{len(examples)} examples in batches of {batch_size}; give one or more of both")
    order = np.argsort([len(example.text) for example in examples], kind="stable")
    device = next(model.parameters()).device
    losses, correct = np.empty(len(examples)), np.empty(len(examples), dtype=bool)
    with at_rest(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            outcome = learner.outcome(model, learner.batch([examples[i] for i in rows], device))
            losses[rows] = outcome.losses.double().cpu().numpy()
            correct[rows] = outcome.correct.cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise NonFiniteError(
            f"{len(bad)} of {len(losses)} losses are not finite: {losses[bad[0]]} of {examples[bad[0]].text[:60]!r}; "
            "train with a smaller learning rate, or in float32"
        )
    return Score(losses, correct)


def _parts(
    prepared: Trainable | nn.Module,
) -> tuple[nn.Module, list[nn.Parameter], Callable[..., torch.optim.Optimizer]]:
    """Return the model, what is trained, and what makes the optimiser."""
    if isinstance(prepared, nn.Module):
        parameters = [p for p in prepared.parameters() if p.requires_grad]
        model: nn.Module = prepared

        def make(lr: float, weight_decay: float, head_lr: float | None) -> Any:
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    else:
        model, parameters, make = prepared.model, list(prepared.parameters), prepared.optimizer
    if not parameters:
        raise ArgumentError("nothing takes a gradient; give a fresh() copy of the model, or prepare it by a system")
    return model, parameters, make


def _batches(n: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield rows, without end: one random order of all after the other."""
    rng = np.random.default_rng(seed)
    rows: list[int] = []
    while True:
        while len(rows) < batch_size:
            rows += rng.permutation(n).tolist()
        yield rows[:batch_size]
        rows = rows[batch_size:]


def _require(
    examples: Sequence[Example], *, steps: int, batch_size: int, lr: float, warmup: float, clip: float
) -> None:
    if steps < 1:
        raise ArgumentError(f"steps={steps}; give 1 or more")
    if not 1 <= batch_size <= len(examples):
        raise ArgumentError(f"batch_size={batch_size} of {len(examples)} examples; give 1 to {len(examples)}")
    if not 0 < lr < math.inf or not clip > 0:
        raise ArgumentError(f"lr={lr}, clip={clip}; give numbers above 0")
    if not 0 <= warmup < 1:
        raise ArgumentError(f"warmup={warmup}; give a share of the steps, from 0 to below 1")


def _require_finite(values: np.ndarray, step: int, lr: float, name: str) -> None:
    if not np.isfinite(values[step]):
        before = f"{values[step - 1]:.3g} at the step before" if step else "it is the first step"
        raise NonFiniteError(
            f"the {name} of step {step + 1} is {values[step]} ({before}); give a learning rate below {lr:g}, or float32"
        )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let PyTorch draw by this seed, and go on as before behind it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    model.train()
    try:
        yield
    finally:
        model.eval()


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
