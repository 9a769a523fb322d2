"""IA3: factors for keys, values, and the channels of the feed-forward network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from peft import IA3Config, IA3Model
from torch import nn

from linnet.llm.structure import shape, turned
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System
from linnet.llm.systems.injected import added, exactly, inject


@dataclass(frozen=True)
class IA3(System):
    """Scale outputs of key and value, and inputs of down, entry by entry; the factors are trained, from one.

    Starts as the base model. Where one matrix holds query, key and value (GPT-2), the query's outputs are scaled too.

    Source: Liu et al. 2022; in liu2025's comparison.
    """

    name = "IA3"
    source = "Liu et al. 2022"
    origin = "peft"
    merges = True
    batches = True

    def _count(self, model: nn.Module) -> int:
        outputs, inputs = self._maps(model)
        return sum(shape(module)[0] for module in outputs.values()) + sum(
            shape(module)[1] for module in inputs.values()
        )

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        outputs, inputs = self._maps(model)
        config = IA3Config(
            target_modules=exactly([*outputs, *inputs]),
            feedforward_modules=exactly(inputs),
            fan_in_fan_out=any(map(turned, [*outputs.values(), *inputs.values()])),
        )
        inject(IA3Model, config, model, undo)
        return Attached([{"params": added(model)}])

    def _maps(self, model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        """Return the maps whose outputs are scaled, and those whose inputs are."""
        return places.maps(model, ("key", "value"), self.layout), places.maps(model, ("down",), self.layout)
