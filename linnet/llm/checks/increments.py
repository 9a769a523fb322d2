"""How the entries of what training added are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from linnet.errors import StructureError
from linnet.llm import structure
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.deltas import deltas
from linnet.llm.checks.matched import allowed
from linnet.llm.checks.workbench import Workbench
from linnet.llm.spectrum import Peak, peaks
from linnet.llm.structure import Projection, bare
from linnet.llm.systems.base import System
from linnet.llm.systems.bitfit import BitFit
from linnet.llm.systems.full import FullFT
from linnet.llm.systems.lora import LoRA
from linnet.llm.systems.prefix import PrefixTuning

NEAR = 0.1
"""An entry counts as near zero below this share of the root mean square entry of full fine-tuning."""
PEFT: dict[str, System] = {"LoRA": LoRA(), "Prefix": PrefixTuning(), "BitFit": BitFit()}


class Increments(Check):
    """Entries of increments, of PEFT beside full fine-tuning, in one unit.

    As in the figure, increments are those of the last block's query: of its weight for full fine-tuning and LoRA (rank
    8; the product, scaled), of its bias for BitFit, where it has one. For Prefix they are the prompt's keys and values
    in all blocks. These start at random, and what training added to them is taken; they themselves, which the figure
    may show, are as wide as they were drawn, and stand beside.

    "Steeper around zero, with a standard deviation close to zero" is read in the unit of the figure, which is common to
    all: a smaller root mean square, and more of the entries within a tenth of full fine-tuning's. Kurtosis, which
    compares shapes each in its own unit, stands beside, and so does LoRA in the other blocks.
    """

    id = "llm/increments"
    source = "liu2025, Figure 1"
    finding = (
        "The increments of PEFT (LoRA, Prefix, BitFit) are more sharply peaked at zero than those of full fine-tuning, "
        "which are spread the widest."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return two comparisons for each method that the model allows."""
        out = {}
        for label in methods(bench):
            out[f"{label} narrower"] = Promise(
                f"root mean square entry of full fine-tuning over that of {label}, as a logarithm", "natural logarithm"
            )
            out[f"{label} more peaked"] = Promise(
                f"entries within {NEAR:g} root mean squares of full fine-tuning: {label}'s share above its own",
                "share of the entries",
            )
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return ratios and differences of one seed."""
        name = bench.main_task
        base, last = bench.specimen(name), queries(bench)[-1]
        full = _of_full(bench, seed)
        rms = _peak(full[last.module]).rms
        out = _numbers("full FT", full[last.module], rms)
        for label, system in methods(bench).items():
            if label == "Prefix":
                entries, values = _of_prefix(bench, system, seed)
                out["Prefix: root mean square of keys and values"] = _peak(values).rms
            else:
                with bench.trained(system, name, seed) as (prepared, _):
                    if label == "LoRA":
                        found = deltas(prepared.model)
                        lora = {q.module: _part(found[q.module], q) for q in queries(bench)}
                        entries = lora[last.module]
                        out["LoRA narrower, all blocks"] = _mean_log(full, lora)
                    else:
                        entries = _part(_bias(prepared.model, last) - _bias(base, last), last)
            numbers = _numbers(label, entries, rms)
            out |= numbers
            out[f"{label} narrower"] = math.log(rms / numbers[f"{label}: root mean square"])
            out[f"{label} more peaked"] = numbers[f"{label}: near zero"] - out["full FT: near zero"]
        return out


def queries(bench: Workbench) -> list[Projection]:
    """Return where the queries are, block by block.

    Raises:
        StructureError: there are none.
    """
    found = [s.inward["query"] for s in structure.find(bench.specimen(bench.main_task)) if s.kind == "attention"]
    if not found:
        raise StructureError(f"{bench.language.name} has no query, whose increments are compared")
    return found


def methods(bench: Workbench) -> dict[str, System]:
    """Return what is compared to full fine-tuning."""
    base = bench.specimen(bench.main_task)
    biased = bare(base.get_submodule(queries(bench)[-1].module)).bias is not None
    found = allowed(bench, bench.main_task, PEFT)
    return {label: system for label, system in found.items() if biased or label != "BitFit"}


def _of_full(bench: Workbench, seed: int) -> dict[str, Tensor]:
    """Return what full fine-tuning adds to the queries, by the name of the module."""
    base = bench.specimen(bench.main_task)
    with bench.trained(FullFT(), bench.main_task, seed) as (prepared, _):
        return {q.module: _part(_weight(prepared.model, q) - _weight(base, q), q) for q in queries(bench)}


def _of_prefix(bench: Workbench, system: System, seed: int) -> tuple[Tensor, Tensor]:
    """Return what training adds to a prompt's keys and values, and these."""

    def values(parameters: list[nn.Parameter], heads: list[nn.Parameter]) -> Tensor:
        known = {id(p) for p in heads}
        return torch.cat([p.detach().flatten() for p in parameters if id(p) not in known])

    name = bench.main_task
    with bench.prepared(system, bench.task(name, seed), seed) as untrained:
        start = values(untrained.parameters, untrained.heads)
    with bench.trained(system, name, seed) as (prepared, _):
        end = values(prepared.parameters, prepared.heads)
    return end - start, end


def _mean_log(full: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return sum(math.log(_peak(full[name]).rms / _peak(entries).rms) for name, entries in other.items()) / len(other)


def _numbers(label: str, entries: Tensor, rms: float) -> dict[str, float]:
    peak = _peak(entries)
    out = {
        f"{label}: root mean square": peak.rms,
        f"{label}: near zero": float((entries.abs() < NEAR * rms).double().mean()),
    }
    return out if peak.kurtosis is None else out | {f"{label}: kurtosis": peak.kurtosis}


def _peak(entries: Tensor) -> Peak:
    return peaks({"": entries})[-1]


def _weight(model: nn.Module, at: Projection) -> Tensor:
    return structure.weight(model.get_submodule(at.module)).detach()


def _bias(model: nn.Module, at: Projection) -> Tensor:
    bias: Tensor = bare(model.get_submodule(at.module)).bias
    return bias.detach()


def _part(increment: Tensor, at: Projection) -> Tensor:
    """Return a copy of the rows that are the query's."""
    return increment[at.start : at.stop].clone()
