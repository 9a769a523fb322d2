"""Prefix tuning: keys and values that every token attends to besides."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from typing import Any

from peft import PrefixTuningConfig, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from linnet.errors import ArgumentError, StructureError
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System, whole


@dataclass(frozen=True)
class PrefixTuning(System):
    """Put ``tokens`` trained keys and values, drawn at random, before those of the input, in every block.

    Does not start as the base model. The prefix takes as many of the model's positions; a budget gives it half of them
    at the most. What generates is wrapped by peft, and called through the wrapper; of what does not, the part without
    a head is wrapped where it stands, and token types are ignored.

    Attributes:
        tokens: length of the prefix.

    Source: Li and Liang 2021, without the network that computes the prefix; in both papers' comparisons (20 tokens in
    liu2025).
    """

    name = "Prefix tuning"
    source = "Li and Liang 2021"
    origin = "peft"
    merges = False
    batches = True
    size = "tokens"

    tokens: int = 20

    def __post_init__(self) -> None:
        whole(self.tokens, "tokens")

    def _count(self, model: nn.Module) -> int:
        config = self._config_of(self._wrapped(model)[1])
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return self.tokens * config.num_hidden_layers * 2 * heads * size

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        name, inner = self._wrapped(model)
        if any(getattr(module, "gradient_checkpointing", False) for module in inner.modules()):
            raise ArgumentError(
                "prefix tuning hands the blocks keys and values of the past, which checkpointing of gradients drops; "
                "call gradient_checkpointing_disable() on the model"
            )
        task = TaskType.CAUSAL_LM if inner.can_generate() else TaskType.FEATURE_EXTRACTION
        wrapper = get_peft_model(inner, PrefixTuningConfig(task_type=task, num_virtual_tokens=self.tokens))
        trained = [p for p in wrapper.parameters() if p.requires_grad]
        if not name:
            return Attached([{"params": trained}], model=wrapper)
        above, last = places.parent(model, name)
        undo.callback(setattr, above, last, inner)
        setattr(above, last, wrapper)
        return Attached([{"params": trained}])

    def _wrapped(self, model: nn.Module) -> tuple[str, PreTrainedModel]:
        """Return the transformer that is given a prefix: the one that generates, or else the one without a head."""
        name, inner = places.transformer(model)
        if not (isinstance(inner, PreTrainedModel) and inner.can_generate()):
            name, inner = places.body(model)
        if not isinstance(inner, PreTrainedModel) or "past_key_values" not in signature(inner.forward).parameters:
            raise StructureError(
                f"prefix tuning needs a model of transformers that takes keys and values of the past; a "
                f"{type(inner).__name__} takes none"
            )
        return name, inner

    @staticmethod
    def _config_of(inner: PreTrainedModel) -> Any:
        return inner.config.get_text_config()

    def _most(self, model: nn.Module) -> int:
        return max(1, self._config_of(self._wrapped(model)[1]).max_position_embeddings // 2)
