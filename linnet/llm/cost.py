"""What work costs on a device: its time, and its memory.

Times of methods that are to be compared come from turns of one round, in an order drawn anew each round: a machine
that slows down slows all of them down. Memory is that of tensors, so it is the same wherever it is counted: on a CPU
from what PyTorch allocates and frees, on a GPU from its own counters.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from linnet.errors import ArgumentError

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when PyTorch's profiler is first used, which reports on itself


class Step:
    """A step of training: forward, backward, AdamW. Call it for one.

    Args:
        model: put into training mode; what of it takes a gradient is trained.
        loss: of the model.

    Attributes:
        model: the model.
        parameters: what is trained.
    """

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> None:
        self.model, self._loss = model.train(), loss
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # The fused one needs the fewest temporary copies, for all alike.
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=True) if self.parameters else None

    def forward(self) -> torch.Tensor:
        """Return the loss."""
        return self._loss(self.model)

    def finish(self, loss: torch.Tensor) -> None:
        """Do what follows the forward pass."""
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def __call__(self) -> None:
        """Take a step."""
        self.finish(self.forward())


# --- time -----------------------------------------------------------------------------------------


def wait(device: str) -> None:
    """Return when the device has done what it was given."""
    if _is_gpu(device):
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: str) -> float:
    """Return how long work takes."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def in_turn(
    works: Mapping[str, Callable[[], object]], rounds: int, device: str, seed: int, *, unmeasured: int = 2
) -> dict[str, list[float]]:
    """Return the seconds of every work by its name, one a round.

    Args:
        works: what to measure, in turn.
        rounds: that count.
        device: where it is done.
        seed: of the order of the turns.
        unmeasured: rounds before them.

    Raises:
        ArgumentError: nothing to measure.
    """
    if not works or rounds < 1:
        raise ArgumentError(f"{len(works)} works in {rounds} rounds; give one or more of both")
    draw = np.random.default_rng(seed)
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-unmeasured, rounds):
        for name in draw.permutation(list(works)).tolist():
            found = seconds(works[name], device)
            if turn >= 0:
                taken[name].append(found)
    return taken


def ratio(taken: Mapping[str, Sequence[float]], name: str, to: str) -> float:
    """Return the median of the ratios of two works' seconds within rounds."""
    return float(np.median(np.divide(taken[name], taken[to])))


# --- memory ---------------------------------------------------------------------------------------


def storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Return the bytes of each storage beneath some tensors, by its address."""
    found: dict[int, int] = {}
    for tensor in tensors:
        parts = (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,)
        found |= {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
    return found


def saved_bytes(forward: Callable[[], torch.Tensor], model: nn.Module) -> tuple[torch.Tensor, int]:
    """Return the loss, and the bytes that autograd keeps for its gradient.

    Each storage counts once, those of the model not at all.
    """
    own = storages(itertools.chain(model.parameters(), model.buffers()))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.update(storages([tensor]))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    return loss, sum(size for address, size in kept.items() if address not in own)


def alive_bytes(device: str = "cpu") -> int:
    """Return the bytes of all tensors in the memory of a device, each storage once."""
    gc.collect()
    if _is_gpu(device):
        return torch.cuda.memory_allocated(device)
    tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor) and t.device.type == "cpu"]
    return sum(storages(tensors).values())


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """Return the most bytes that tensors take at a time while work is done: those alive before, and what it allocates.

    On a CPU the work is watched meanwhile, which takes time of its own.
    """
    if _is_gpu(device):
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        wait(device)
        return torch.cuda.max_memory_allocated(device)
    before = alive_bytes()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Ev Idx"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return before + max(itertools.accumulate((change for *_, change in changes), initial=0))


def free(device: str) -> None:
    """Let go of what nothing refers to."""
    gc.collect()
    if _is_gpu(device):
        torch.cuda.empty_cache()


def _is_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"
