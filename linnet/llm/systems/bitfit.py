"""BitFit: the biases."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from linnet.errors import StructureError
from linnet.llm.systems.base import Attached, System, elements, release


@dataclass(frozen=True)
class BitFit(System):
    """Train every parameter called ``bias``, of linear maps and of norms, and nothing else.

    Source: Ben Zaken, Ravfogel and Goldberg, 2022; in liu2025's comparison.
    """

    name = "BitFit"
    source = "Ben Zaken et al. 2022"
    origin = "torch"
    merges = True
    batches = True

    def _count(self, model: nn.Module) -> int:
        return elements(self._parameters(model))

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        return Attached([{"params": release(self._parameters(model), undo)}])

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        found = [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not found:
            raise StructureError(
                f"a {type(model).__name__} has no biases, and so nothing that BitFit could train (LLaMA has none, "
                "BERT, GPT-2 and OPT have); compare it on a model with biases, or leave it out"
            )
        return found
