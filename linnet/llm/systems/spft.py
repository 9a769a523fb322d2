"""SpFT: single weights, drawn at random."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from peft import ShiraConfig, ShiraModel
from peft.tuners.shira.mask_functions import random_mask
from torch import nn

from linnet.errors import StructureError
from linnet.llm.structure import ROLES, shape, turned
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System, among_roles, whole
from linnet.llm.systems.injected import added, exactly, inject


@dataclass(frozen=True)
class SpFT(System):
    """Train ``rank (out + in)`` entries of every linear map, as many as LoRA of that rank; the rest is frozen.

    The entries are drawn uniformly, for each map anew. The increments stand beside the weights, from zero: the model
    starts as the base model. peft's layers, which know no GPT-2.

    Attributes:
        rank: what LoRA's would be; not that of the increment, which is of full rank as a rule.
        roles: which maps of a block.
        seed: of the draw.

    Source: yang2024, Section 2 and Appendix C; the layers are those of Bhardwaj et al. 2024 (SHiRA).
    """

    name = "SpFT"
    source = "yang2024"
    origin = "peft"
    merges = True
    batches = False
    size = "rank"

    rank: int = 1
    roles: tuple[str, ...] = ROLES
    seed: int = 0

    def __post_init__(self) -> None:
        whole(self.rank, "rank")
        among_roles(self.roles)
        whole(self.seed, "seed", least=0)

    def _count(self, model: nn.Module) -> int:
        return sum(self.rank * sum(shape(module)) for module in self._maps(model).values())

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        maps = self._maps(model)
        if self.rank > (most := self._most(model)):
            raise StructureError(f"rank {self.rank} would train more entries than a map has; give 1 to {most}")
        draw = torch.Generator().manual_seed(self.seed)

        def mask(module: nn.Module, rank: int, **_: Any) -> torch.Tensor:
            # One seed for all would train the same entries in every map of a shape.
            own = int(torch.randint(2**62, (), generator=draw))
            return random_mask(module, rank, random_seed=own)

        config = ShiraConfig(r=self.rank, target_modules=exactly(maps))
        config.mask_fn = mask  # type: ignore[assignment]  # peft's own type for it cannot be met
        inject(ShiraModel, config, model, undo)
        return Attached([{"params": added(model)}])

    def _maps(self, model: nn.Module) -> dict[str, nn.Module]:
        maps = places.maps(model, self.roles, self.layout)
        if any(map(turned, maps.values())):
            raise StructureError(
                f"SpFT trains entries of torch's linear maps; those of a {type(model).__name__} keep their weights "
                "transposed (Conv1D), which peft's sparse layers cannot hold; leave it out for this model"
            )
        return maps

    def _most(self, model: nn.Module) -> int:
        sizes = [shape(module) for module in self._maps(model).values()]
        return min(rows * columns // (rows + columns) for rows, columns in sizes)
