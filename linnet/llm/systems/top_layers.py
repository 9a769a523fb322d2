"""Top-k layers: the last blocks, in full."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from linnet.errors import StructureError
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System, elements, release, whole


@dataclass(frozen=True)
class TopLayers(System):
    """Train all parameters of the last blocks, and of nothing else.

    Attributes:
        layers: how many, counted from the output.

    Source: liu2025, Section 4.4 (there k is 1, 3, 6, 12, 24).
    """

    name = "Top-k layers"
    source = "liu2025"
    origin = "torch"
    merges = True
    batches = False
    dense = True
    size = "layers"

    layers: int = 1

    def __post_init__(self) -> None:
        whole(self.layers, "layers")

    def _count(self, model: nn.Module) -> int:
        return elements(self._parameters(model))

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        return Attached([{"params": release(self._parameters(model), undo)}])

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        blocks = places.blocks(model, self.layout)
        if self.layers > len(blocks):
            raise StructureError(f"the last {self.layers} of {len(blocks)} blocks; give 1 to {len(blocks)}")
        return list({id(p): p for _, block in blocks[-self.layers :] for p in block.parameters()}.values())

    def _most(self, model: nn.Module) -> int:
        return len(places.blocks(model, self.layout))
