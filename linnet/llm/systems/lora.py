"""LoRA: a product of two thin matrices beside every linear map."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from peft import LoraConfig, LoraModel
from torch import nn

from linnet.errors import ArgumentError
from linnet.llm.structure import ROLES, shape, turned
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System, among_roles, positive, whole
from linnet.llm.systems.injected import added, exactly, inject


@dataclass(frozen=True)
class LoRA(System):
    """W + scale B A with B (out, rank) from zero and A (rank, in) random, both trained. Starts as the base model.

    Attributes:
        rank: of the product.
        scale: factor of the product; peft's alpha is scale times rank.
        dropout: share of the inputs of A that are dropped in training.
        roles: which maps of a block.

    Source: Hu et al. 2022; in yang2024's and liu2025's comparisons.
    """

    name = "LoRA"
    source = "Hu et al. 2022"
    origin = "peft"
    merges = True
    batches = True
    size = "rank"

    rank: int = 8
    scale: float = 2.0
    dropout: float = 0.0
    roles: tuple[str, ...] = ROLES

    def __post_init__(self) -> None:
        whole(self.rank, "rank")
        positive(self.scale, "scale")
        if not 0 <= self.dropout < 1:
            raise ArgumentError(f"dropout={self.dropout!r}; give a share from 0 to below 1")
        among_roles(self.roles)

    def _count(self, model: nn.Module) -> int:
        return sum(self._beside(*shape(module)) for module in places.maps(model, self.roles, self.layout).values())

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        maps = places.maps(model, self.roles, self.layout)
        inject(LoraModel, self._config(maps), model, undo)
        return Attached([{"params": added(model)}])

    def _beside(self, rows: int, columns: int) -> int:
        """Return the number of elements beside a map of this shape."""
        return self.rank * (rows + columns)

    def _config(self, maps: dict[str, nn.Module]) -> LoraConfig:
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.scale * self.rank,  # type: ignore[arg-type]  # peft only divides it
            lora_dropout=self.dropout,
            target_modules=exactly(maps),
            fan_in_fan_out=any(map(turned, maps.values())),
        )

    def _most(self, model: nn.Module) -> int:
        return max(min(shape(module)) for module in places.maps(model, self.roles, self.layout).values())
