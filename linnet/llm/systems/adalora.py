"""AdaLoRA: LoRA in the form of an SVD, whose least important triplets are given up in the course of training."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaLoraConfig, AdaLoraModel
from torch import nn

from linnet.errors import ArgumentError
from linnet.llm.structure import ROLES, shape, turned
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System, adamw, among_roles, positive, whole
from linnet.llm.systems.injected import added, exactly, inject


@dataclass(frozen=True)
class AdaLoRA(System):
    """W + (scale / rank) P diag(e) Q with P (out, rank), e from zero and Q (rank, in); starts as the base model.

    The optimiser does the rest: before a step it adds the gradient of the penalty that keeps P and Q orthogonal, after
    it it sets to zero the entries of e that matter least over all maps, fewer and fewer being left, until the share
    ``kept`` of them is. The penalty is no part of the model's loss.

    Attributes:
        rank: triplets of every map at the start; they all count, as they are all trained.
        kept: share of them that is left at the end, rounded to whole triplets a map, of which there is one at least.
        steps: number of steps of the whole training, over which triplets are given up.
        warmup: share of the steps before any is given up.
        settle: share of the steps after all were.
        interval: steps from one giving up to the next.
        penalty: weight of the orthogonality.
        scale: divided by the rank, the factor of the product.
        roles: which maps of a block.

    Source: Zhang et al. 2023; in liu2025's comparison (there of rank 8, scale 32).
    """

    name = "AdaLoRA"
    source = "Zhang et al. 2023"
    origin = "peft"
    merges = True
    batches = True
    size = "rank"

    rank: int = 8
    kept: float = 0.5
    steps: int = 1000
    warmup: float = 0.1
    settle: float = 0.3
    interval: int = 1
    penalty: float = 0.5
    scale: float = 32.0
    roles: tuple[str, ...] = ROLES

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "interval"):
            whole(getattr(self, name), name)
        if not 0 < self.kept <= 1:
            raise ArgumentError(f"kept={self.kept!r}; give a share above 0, 1 for all")
        if self.warmup < 0 or self.settle < 0 or not self.warmup + self.settle < 1:
            raise ArgumentError(
                f"warmup={self.warmup!r} and settle={self.settle!r} are shares of the steps, together below 1"
            )
        if not 0 <= self.penalty < float("inf"):
            raise ArgumentError(f"penalty={self.penalty!r}; give a number, 0 or more")
        positive(self.scale, "scale")
        among_roles(self.roles)

    def _count(self, model: nn.Module) -> int:
        maps = places.maps(model, self.roles, self.layout).values()
        return sum(self.rank * (sum(shape(module)) + 1) for module in maps)

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        maps = places.maps(model, self.roles, self.layout)
        config = AdaLoraConfig(
            init_r=self.rank,
            target_r=self._left,
            total_step=self.steps,
            tinit=int(self.warmup * self.steps),
            tfinal=int(self.settle * self.steps),
            deltaT=self.interval,
            orth_reg_weight=self.penalty,
            lora_alpha=self.scale,  # type: ignore[arg-type]  # peft only multiplies with it
            target_modules=exactly(maps),
            fan_in_fan_out=any(map(turned, maps.values())),
        )
        tuner = inject(AdaLoraModel, config, model, undo)
        for name, p in model.named_parameters():
            if ".ranknum." in name:  # a divisor, which peft 0.21 trains wherever it has changed its precision
                p.requires_grad_(False)

        def optimizer(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
            made = adamw(groups, **settings)
            _Allocation(self, tuner).join(made)
            return made

        return Attached([{"params": added(model)}], optimizer=optimizer)

    @property
    def _left(self) -> int:
        return max(1, round(self.kept * self.rank))

    def _most(self, model: nn.Module) -> int:
        return max(min(shape(module)) for module in places.maps(model, self.roles, self.layout).values())


class _Allocation:
    """What happens around a step: the penalty before it, giving up after it."""

    def __init__(self, system: AdaLoRA, tuner: AdaLoraModel) -> None:
        self.system, self.tuner, self.step = system, tuner, 0
        factors = [(name, p) for name, p in tuner.model.named_parameters() if p.requires_grad]
        self.left = [p for name, p in factors if ".lora_B." in name]
        self.right = [p for name, p in factors if ".lora_A." in name]

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_pre_hook(self.before)
        optimizer.register_step_post_hook(self.after)

    @torch.enable_grad()
    def before(self, *_: Any) -> None:
        grams = [p.T @ p for p in self.left] + [q @ q.T for q in self.right]
        off = [torch.linalg.matrix_norm(gram - torch.eye(len(gram)).to(gram)) for gram in grams]
        (self.system.penalty * torch.stack(off).mean()).backward()

    def after(self, *_: Any) -> None:
        self.step += 1
        # peft cannot give up none of the triplets.
        if self.system._left < self.system.rank:
            self.tuner.update_and_allocate(self.step)
