"""One row a system: where it is from, what it can do, and how much of a model it trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from linnet.errors import BudgetError, StructureError
from linnet.llm.systems.base import System, described


@dataclass(frozen=True)
class Row:
    """What a table says of a system.

    Attributes:
        name: as the field writes it.
        source: the paper that it is from.
        origin: whose code trains: torch's optimiser on the weights themselves, peft's layers, or linnet's.
        merges: whether it can be written into the weights, so that it costs nothing at inference.
        batches: whether rows of one batch can have different adapters, at the price of small dense products.
        dense: whether all weights of the matrices that it trains can change freely in the course of training.
        instance: the instance that was counted: the system as it comes, or the largest within the budget.
        n_parameters: number of elements that it can change in the given model; None without one, or if it does not fit.
        n_moments: number of those whose moments are held at one time; likewise.
        why_not: why it does not fit the model or the budget; empty if it does.
    """

    name: str
    source: str
    origin: str
    merges: bool
    batches: bool
    dense: bool
    instance: str = ""
    n_parameters: int | None = None
    n_moments: int | None = None
    why_not: str = ""


def rows(systems: Iterable[type[System]], model: nn.Module | None = None, budget: int | None = None) -> list[Row]:
    """Return a row for each system; see :func:`linnet.llm.systems.table`."""
    return [_row(kind, model, budget) for kind in systems]


def _row(kind: type[System], model: nn.Module | None, budget: int | None) -> Row:
    facts = (kind.name, kind.source, kind.origin, kind.merges, kind.batches, kind.dense)
    if model is None:
        return Row(*facts)
    try:
        system = kind() if budget is None else kind.at_budget(model, budget)
        return Row(*facts, described(system), system.n_parameters(model), system.n_moments(model))
    except (BudgetError, StructureError) as error:
        return Row(*facts, why_not=str(error))
