"""LISA: a few blocks at a time, drawn anew every so often."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from linnet.errors import StructureError
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System, adamw, elements, release, whole


@dataclass(frozen=True)
class LISA(System):
    """Train all that lies outside the blocks (embeddings, head, last norm), and ``active`` blocks drawn at random.

    After every ``interval`` steps blocks are drawn anew, uniformly; those that were not drawn are frozen and the
    optimiser forgets their moments. A budget counts what is trained at one time. The whole model is copied, to
    restore. The draws are those of this preparation: they start from the seed again in a training that is resumed.

    Attributes:
        active: number of blocks that are trained at one time.
        interval: steps from one draw to the next.
        seed: of the draws.

    Source: Pan et al. 2024; in yang2024's comparison.
    """

    name = "LISA"
    source = "Pan et al. 2024"
    merges = True
    batches = False
    dense = True
    size = "active"

    active: int = 2
    interval: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        whole(self.active, "active")
        whole(self.interval, "interval")
        whole(self.seed, "seed", least=0)

    def _count(self, model: nn.Module) -> int:
        return elements(model.parameters())

    def _count_moments(self, model: nn.Module) -> int:
        outside, blocks = self._parts(model)
        largest = sorted((elements(block) for block in blocks), reverse=True)
        return elements(outside) + sum(largest[: self.active])

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        outside, blocks = self._parts(model)
        release(model.parameters(), undo)
        draws = _Draws(blocks, self)

        def optimizer(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
            made = adamw(groups, **settings)
            made.register_step_post_hook(draws.after)
            return made

        return Attached([{"params": outside}, {"params": [p for block in blocks for p in block]}], optimizer=optimizer)

    def _parts(self, model: nn.Module) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
        """Return the parameters outside the blocks, and those of each block."""
        blocks = [list(block.parameters()) for _, block in places.blocks(model, self.layout)]
        if self.active > len(blocks):
            raise StructureError(f"{self.active} of {len(blocks)} blocks; give 1 to {len(blocks)}")
        inside = {id(p) for block in blocks for p in block}
        return [p for p in model.parameters() if id(p) not in inside], blocks

    def _most(self, model: nn.Module) -> int:
        return len(places.blocks(model, self.layout))


class _Draws:
    """Which blocks are trained, step by step."""

    def __init__(self, blocks: list[list[nn.Parameter]], system: LISA) -> None:
        self.blocks, self.system, self.step = blocks, system, 0
        self.random = torch.Generator().manual_seed(system.seed)
        self.draw()

    def draw(self) -> None:
        drawn = set(torch.randperm(len(self.blocks), generator=self.random)[: self.system.active].tolist())
        for i, block in enumerate(self.blocks):
            for p in block:
                p.requires_grad_(i in drawn)

    def after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Post-hook of the optimiser's step."""
        self.step += 1
        if self.step % self.system.interval:
            return
        self.draw()
        for p in (p for block in self.blocks for p in block if not p.requires_grad):
            optimizer.state.pop(p, None)
