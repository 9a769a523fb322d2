"""Memorising and generalising at equal numbers of parameters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.scores import MEASURES
from linnet.llm.checks.workbench import Workbench, beside
from linnet.llm.structure import ROLES
from linnet.llm.systems.full import FullFT
from linnet.llm.systems.lora import LoRA
from linnet.llm.systems.spft import SpFT

RATIOS = (0.1, 0.01, 0.001)
"""Of the model's parameters, as in the figure."""


def _percent(ratio: float) -> str:
    return f"{100 * ratio:g} %"


class Memorisation(Check):
    """Training loss, and accuracy far from the training data, of SpFT, LoRA and full fine-tuning."""

    id = "llm/memorisation"
    source = "yang2024, Figure 2"
    finding = (
        "At 10 %, 1 % and 0.1 % of the parameters SpFT reaches a lower training loss than LoRA, and generalises better "
        "far from the training data than full fine-tuning, which does better than LoRA."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return three comparisons a ratio, two of them of losses too."""
        where = f"out of distribution ({bench.away})"
        out = {}
        for ratio in RATIOS:
            at = f"at {_percent(ratio)}"
            out[f"training {at}"] = Promise(f"training loss of LoRA above that of SpFT, {at}", "nats an example")
            for measure in MEASURES:
                out[measure.key(f"SpFT over full FT {at}")] = measure.promise(
                    f"{where}: SpFT, {at}, better than full fine-tuning"
                )
                out[measure.key(f"full FT over LoRA {at}")] = measure.promise(
                    f"{where}: full fine-tuning better than LoRA, {at}"
                )
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of one seed."""
        name = bench.main_task
        task = bench.task(name, seed)
        model = bench.fresh(task, seed)
        total = sum(p.numel() for p in model.parameters())
        full = bench.run(FullFT(), name, seed)
        out: dict[str, float] = {}
        runs = {"full FT": full}
        for ratio in RATIOS:
            at = f"at {_percent(ratio)}"
            roles = _roles(model, int(ratio * total))
            sparse = bench.run(SpFT.at_budget(model, int(ratio * total), seed=seed, roles=roles), name, seed)
            low_rank = bench.run(LoRA.at_budget(model, int(ratio * total), roles=roles), name, seed)
            out[f"training {at}"] = low_rank.train.loss - sparse.train.loss
            runs |= {f"SpFT {at}": sparse, f"LoRA {at}": low_rank}
            for measure in MEASURES:
                first, middle, last = (measure.at(run.scores, task, bench.away) for run in (sparse, full, low_rank))
                differences = {f"SpFT over full FT {at}": first - middle, f"full FT over LoRA {at}": middle - last}
                out |= measure.keyed(differences)
        return out | beside(runs, task)


def _roles(model: nn.Module, budget: int) -> tuple[str, ...]:
    """Return which maps both train: all, or query and value where the least of all is above the budget."""
    return ROLES if LoRA(rank=1).n_moments(model) <= budget else ("query", "value")
