"""DoRA: LoRA for the directions of the weight's rows, and their lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peft import LoraConfig
from torch import nn

from linnet.llm.systems.lora import LoRA


@dataclass(frozen=True)
class DoRA(LoRA):
    """Rows of W + scale B A, each brought to a length of its own, which is trained too. Starts as the base model.

    Source: Liu et al. 2024; in yang2024's comparison.
    """

    name = "DoRA"
    source = "Liu et al. 2024"
    batches = False  # the lengths that rows are divided by need a product with W for every adapter

    def _beside(self, rows: int, columns: int) -> int:
        return super()._beside(rows, columns) + rows

    def _config(self, maps: dict[str, nn.Module]) -> LoraConfig:
        return replace(super()._config(maps), use_dora=True)
