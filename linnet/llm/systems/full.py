"""Full fine-tuning: every weight."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from linnet.llm.systems.base import Attached, System, elements, release, whole


@dataclass(frozen=True)
class FullFT(System):
    """Train all parameters of the model. A copy of them is kept, to restore."""

    name = "Full FT"
    source = "liu2025, yang2024 (the reference of both)"
    origin = "torch"
    merges = True
    batches = False
    dense = True

    def _count(self, model: nn.Module) -> int:
        return elements(model.parameters())

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        return Attached([{"params": release(model.parameters(), undo)}])

    @classmethod
    def at_budget(cls, model: nn.Module, n_parameters: int, **fields: Any) -> Self:
        """Return full fine-tuning, whatever the budget: it is what the others are measured against."""
        whole(n_parameters, "n_parameters")
        return cls(**fields)
