"""Series adapter: a bottleneck after attention and after the feed-forward network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from linnet.llm.structure import shape
from linnet.llm.systems import bottleneck, places
from linnet.llm.systems.base import Attached, System, add, whole


@dataclass(frozen=True)
class SeriesAdapter(System):
    """Let a bottleneck follow the last map of attention and of the feed-forward network, before the skip connection.

    Starts as the base model: the bottlenecks' last maps start from zero.

    Attributes:
        units: width of the bottlenecks.

    Source: Houlsby et al. 2019; in yang2024's comparison.
    """

    name = "Series adapter"
    source = "Houlsby et al. 2019"
    merges = False
    batches = True
    size = "units"

    units: int = 8

    def __post_init__(self) -> None:
        whole(self.units, "units")

    def _count(self, model: nn.Module) -> int:
        widths = [shape(module)[0] for module in self._followed(model).values()]
        return sum(bottleneck.size(width, self.units, width) for width in widths)

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        trained: list[nn.Parameter] = []
        for module in self._followed(model).values():
            width = shape(module)[0]
            adapter = bottleneck.Bottleneck(width, self.units, width)
            add(module, "adapter", adapter, undo)
            undo.callback(module.register_forward_hook(adapter.after).remove)
            trained += adapter.parameters()
        return Attached([{"params": trained}])

    def _followed(self, model: nn.Module) -> dict[str, nn.Module]:
        return places.maps(model, ("output", "down"), self.layout)

    def _most(self, model: nn.Module) -> int:
        return places.width(model, self.layout)
