"""What the systems share that come from peft: its layers, put in the place of a model's linear maps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TypeVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, cast_adapter_dtype
from torch import nn

from linnet.errors import ArgumentError

Tuner = TypeVar("Tuner", bound=BaseTuner)


def inject(tuner: type[Tuner], config: PeftConfig, model: nn.Module, undo: ExitStack) -> Tuner:
    """Put a tuner's layers into a frozen model, in place, and return the tuner.

    The model stays what is called: a wrapper would change how it is called, and how its outputs are made. What is
    added to a model of half precision is trained in float32.

    Raises:
        ArgumentError: there are peft layers in the model already.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ArgumentError("the model has adapters of peft already; merge or unload them first")
    made = tuner(model, config, "default")
    undo.callback(made.unload)
    cast_adapter_dtype(model, "default")
    return made


def added(model: nn.Module) -> list[nn.Parameter]:
    """Return what is trained of a model that was frozen before layers were put into it."""
    return [p for p in model.parameters() if p.requires_grad]


def exactly(names: Iterable[str]) -> str:
    """Return the pattern that modules of these full names match, and no others."""
    return "|".join(re.escape(name) for name in names)
