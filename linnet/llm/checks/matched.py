"""Systems of equal numbers of parameters, so that checks compare, and share, the same trainings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from linnet.errors import StructureError
from linnet.llm.checks.workbench import Workbench
from linnet.llm.structure import ROLES
from linnet.llm.systems.base import System
from linnet.llm.systems.lora import LoRA
from linnet.llm.systems.s2ft import S2FT

SHARE = 0.01
"""Of the model's parameters, where a check does not vary it: the middle one of yang2024, Figure 2."""


def budget(bench: Workbench, name: str) -> int:
    """Return how many parameters a system may train on a task."""
    return int(SHARE * sum(p.numel() for p in bench.specimen(name).parameters()))


def lora(bench: Workbench, name: str) -> LoRA:
    """Return LoRA of the budget on all maps, or on query and value where rank 1 of all is above it."""
    model, most = bench.specimen(name), budget(bench, name)
    roles = ROLES if LoRA(rank=1).n_moments(model) <= most else ("query", "value")
    return LoRA.at_budget(model, most, roles=roles)


def s2ft(bench: Workbench, name: str, **fields: Any) -> Callable[[int], S2FT]:
    """Return S2FT of as many parameters as LoRA's, whose units are drawn by the seed; with other fields of the system.

    LoRA comes in whole ranks, S2FT in whole heads and single channels: it is fitted to LoRA, and never trains more.
    """
    most = lora(bench, name).n_moments(bench.specimen(name))
    return lambda seed: S2FT(most=most, seed=seed, **fields)


def allowed(bench: Workbench, name: str, systems: dict[str, System]) -> dict[str, System]:
    """Return those of some systems that find in the model what they train: BitFit needs biases."""
    out = {}
    for label, system in systems.items():
        try:
            system.n_moments(bench.specimen(name))
        except StructureError:
            continue
        out[label] = system
    return out
