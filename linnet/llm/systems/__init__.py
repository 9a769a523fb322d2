"""Fine-tuning systems, one a file, behind one interface; a new file in this folder is a new system, known everywhere.

All that a step needs is in the optimiser; the model is as it was when the block ends::

    with LoRA(rank=8).prepare(model) as prepared:
        optimizer = prepared.optimizer(lr=1e-3)
        for batch in batches:
            prepared.model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any

from torch import nn

from linnet.llm.systems.base import Prepared, System
from linnet.llm.systems.listing import Row, rows


def _discover() -> dict[str, type[System]]:
    found: dict[str, type[System]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, System) and not inspect.isabstract(value):
                found[name] = value
    return found


SYSTEMS: dict[str, type[System]] = _discover()
"""Every system, by the name of its class."""
globals().update(SYSTEMS)

if TYPE_CHECKING:  # which sees no class that is found by being there

    def __getattr__(name: str) -> Any: ...


def table(model: nn.Module | None = None, budget: int | None = None) -> list[Row]:
    """Return one row a system: its source, its abilities, and how much of a model it trains.

    Args:
        model: what the systems are counted for; without one, the rows say what holds of any.
        budget: number of parameters that each may train at one time; without one, each is taken as it comes.
    """
    return rows(SYSTEMS.values(), model, budget)


__all__ = ["SYSTEMS", "Prepared", "Row", "System", "table", *SYSTEMS]
