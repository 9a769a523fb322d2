"""Parallel adapter: a bottleneck beside the feed-forward network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from linnet.llm.structure import shape
from linnet.llm.systems import bottleneck, places
from linnet.llm.systems.base import Attached, System, add, positive, whole


@dataclass(frozen=True)
class ParallelAdapter(System):
    """Add to what a feed-forward network returns what a bottleneck makes of the network's input.

    Starts as the base model: the bottlenecks' last maps start from zero.

    Attributes:
        units: width of the bottlenecks.
        scale: factor of what they add.

    Source: He et al. 2022; in yang2024's comparison.
    """

    name = "Parallel adapter"
    source = "He et al. 2022"
    merges = False
    batches = True
    size = "units"

    units: int = 16
    scale: float = 1.0

    def __post_init__(self) -> None:
        whole(self.units, "units")
        positive(self.scale, "scale")

    def _count(self, model: nn.Module) -> int:
        return sum(bottleneck.size(*self._ends(up, down)) for up, down in self._networks(model))

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        trained: list[nn.Parameter] = []
        for up, down in self._networks(model):
            adapter = bottleneck.Bottleneck(*self._ends(up, down), self.scale)
            add(down, "adapter", adapter, undo)
            undo.callback(up.register_forward_pre_hook(adapter.remember).remove)
            undo.callback(down.register_forward_hook(adapter.beside).remove)
            trained += adapter.parameters()
        return Attached([{"params": trained}])

    def _ends(self, up: nn.Module, down: nn.Module) -> tuple[int, int, int]:
        return shape(up)[1], self.units, shape(down)[0]

    def _networks(self, model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
        """Return the first and the last map of every feed-forward network."""
        first, last = (places.maps(model, (role,), self.layout).values() for role in ("up", "down"))
        return list(zip(first, last, strict=True))

    def _most(self, model: nn.Module) -> int:
        return places.width(model, self.layout)
