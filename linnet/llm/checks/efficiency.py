"""What a training step costs: memory and time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from linnet.llm.checks import matched
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.workbench import Workbench
from linnet.llm.cost import Step, alive_bytes, in_turn, peak_bytes, ratio, saved_bytes
from linnet.llm.systems.base import System

LENGTH = 512
"""Tokens, the fewest of yang2024, Figure 5; fewer where the model reads no more."""
ROUNDS = 5
"""At most; no more than the budget has steps."""
FULL, LORA, MINE = "full FT", "LoRA", "S2FT"
MEMORY, TIME = 1.4, 1.5
"""Full fine-tuning over S2FT, the least of yang2024's ranges: 1.4 to 3.0, 1.5 to 2.7."""


class Efficiency(Check):
    """Peak memory and time of a step: full fine-tuning, and LoRA, over S2FT of as many parameters.

    The paper measures LLaMA2-7B and 13B on a GPU, texts of 512 and 1024 tokens, one and two at a time. Here the model
    at hand is measured, on the device at hand, on one text of 512 random tokens or as many as it reads. Its shape is
    another one, and the verdict speaks of it: a vocabulary, which all methods multiply with, takes more of a small
    model's step, and a device decides what a product costs. The paper's shapes are measured by ``benchmarks/llm.py``,
    where there is a GPU.

    A step is forward pass, backward pass, and AdamW. The least of the paper's ranges over full fine-tuning is promised.
    Of LoRA the paper says that S2FT is about 10 % better at both. What is judged of that is whether S2FT takes less;
    how much less stands beside the verdict, as the mean, to be held against 0.1.

    Times are compared within rounds in which each method has a turn. Peak memory is all that belongs to a method, the
    weights among it; what is alive besides does not count. It hardly depends on the seed, which draws S2FT's channels.
    """

    id = "llm/efficiency"
    source = "yang2024, Figure 5"
    alone = True
    finding = (
        "Compared with full fine-tuning, S2FT takes 1.4 to 3.0 times less memory and trains 1.5 to 2.7 times faster; "
        "it improves on LoRA by about 10 % in both."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return the least that the paper found over full fine-tuning, and the sign of what it found over LoRA."""
        unit = "times that of S2FT"
        return {
            "memory of full FT": Promise(f"peak memory of full fine-tuning over that of S2FT, less {MEMORY}", unit),
            "time of full FT": Promise(f"time of a step of full fine-tuning over that of S2FT, less {TIME}", unit),
            "memory of LoRA": Promise("peak memory of LoRA over that of S2FT, less 1 (the paper: about 0.1)", unit),
            "time of LoRA": Promise("time of a step of LoRA over that of S2FT, less 1 (the paper: about 0.1)", unit),
        }

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the ratios of one seed, less what is promised."""
        loss, rounds = _loss(bench, seed), min(ROUNDS, bench.budget.steps)
        steps: dict[str, Step] = {}
        out: dict[str, float] = {"length": length(bench), "batch": 1, "rounds": rounds}
        with contextlib.ExitStack() as kept:
            for label, system in systems(bench, seed).items():
                before = alive_bytes(bench.device)
                step = steps[label] = Step(kept.enter_context(_model(bench, system, seed)), loss)
                value, saved = saved_bytes(step.forward, step.model)
                step.finish(value)  # makes the states of the optimiser
                del value
                out |= {
                    f"{label}: parameters": sum(p.numel() for p in step.parameters),
                    f"{label}: bytes saved for the backward pass": saved,
                    f"{label}: peak bytes": peak_bytes(step, bench.device) - before,
                }
            taken = in_turn(steps, rounds, bench.device, seed, unmeasured=0)  # each has taken two steps
        out |= {f"{label}: seconds": float(np.median(values)) for label, values in taken.items()}
        peak = {label: out[f"{label}: peak bytes"] for label in steps}
        return out | {
            "memory of full FT": peak[FULL] / peak[MINE] - MEMORY,
            "time of full FT": ratio(taken, FULL, MINE) - TIME,
            "memory of LoRA": peak[LORA] / peak[MINE] - 1,
            "time of LoRA": ratio(taken, LORA, MINE) - 1,
        }


def length(bench: Workbench) -> int:
    """Return how many tokens a step reads."""
    positions = getattr(bench.language.model.config, "max_position_embeddings", LENGTH)
    return min(LENGTH, positions, bench.language.tokenizer.model_max_length)


def systems(bench: Workbench, seed: int) -> dict[str, System | None]:
    """Return what is compared, by its label: LoRA within the budget, S2FT as much as LoRA trains; None trains all."""
    lora = matched.lora(bench, bench.main_task)
    return {FULL: None, LORA: lora, MINE: matched.s2ft(bench, bench.main_task)(seed)}


@contextlib.contextmanager
def _model(bench: Workbench, system: System | None, seed: int) -> Iterator[nn.Module]:
    """Give a fresh model under a system."""
    task = bench.task(bench.main_task, seed)
    if system is None:
        # Not FullFT: to restore the model it keeps a copy of all weights, which is no part of a step.
        yield bench.fresh(task, seed)
        return
    with bench.prepared(system, task, seed) as prepared:
        yield prepared.model


def _loss(bench: Workbench, seed: int) -> Callable[[nn.Module], torch.Tensor]:
    """Return what the loss is of a text of random tokens: of a causal model every next one, of an encoder its class."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(bench.language.model.config.vocab_size, (1, length(bench)), generator=draw).to(bench.device)
    if bench.language.kind == "causal":
        return lambda model: model(input_ids=ids, labels=ids, use_cache=False).loss
    mask, label = torch.ones_like(ids), torch.zeros(1, dtype=torch.long, device=bench.device)
    return lambda model: cross_entropy(model(input_ids=ids, attention_mask=mask).logits, label)
