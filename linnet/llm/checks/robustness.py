"""What is left of accuracy under attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.matched import allowed
from linnet.llm.checks.scores import ACCURACY
from linnet.llm.checks.workbench import Workbench
from linnet.llm.data.attack import Level, attack
from linnet.llm.systems.adalora import AdaLoRA
from linnet.llm.systems.base import System
from linnet.llm.systems.bitfit import BitFit
from linnet.llm.systems.full import FullFT
from linnet.llm.systems.ia3 import IA3
from linnet.llm.systems.lora import LoRA
from linnet.llm.systems.prefix import PrefixTuning
from linnet.llm.training import evaluate

TASK = "reviews"


class Robustness(Check):
    """Accuracy of full fine-tuning and PEFT, on reviews as they are and on the worst edits of them that are found.

    The paper's AdvGLUE and adversarial SQuAD hold texts that others attacked once for all; here every model is attacked
    itself, by letters and by words (:mod:`linnet.llm.data.attack`), with as many questions asked. The accuracy under
    attack is that of all examples attacked, those that were wrong in the first place among them, the mean over both
    levels. Clean accuracies that differ by less than 0.05 are called comparable; the paper's best PEFT method is 0.013
    ahead. Clean accuracy is that of all examples in the distribution.
    """

    id = "llm/robustness"
    source = "liu2025, Tables 3 to 5"
    finding = (
        "Clean accuracies of PEFT and full fine-tuning are comparable; under attack full fine-tuning is more accurate "
        "than LoRA, AdaLoRA, Prefix, IA3 and BitFit."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return an equivalence and a comparison for each method that the model allows."""
        out = {}
        for label in methods(bench):
            out[f"{label}: clean"] = Promise(
                f"clean accuracy of full fine-tuning less that of {label}",
                "share of the examples",
                "within",
                ACCURACY.little,
            )
            out[f"{label}: attacked"] = Promise(
                f"accuracy under attack of full fine-tuning above that of {label}", "share of the examples"
            )
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of accuracy of one seed."""
        clean, attacked = {}, {}
        out: dict[str, float] = {}
        for label, system in {"full FT": FullFT(), **methods(bench)}.items():
            clean[label], levels = _accuracies(bench, system, seed)
            attacked[label] = sum(levels.values()) / len(levels)
            out[f"{label}: accuracy clean"] = clean[label]
            out |= {f"{label}: accuracy under attack by {level}s": value for level, value in levels.items()}
        for label in methods(bench):
            out[f"{label}: clean"] = clean["full FT"] - clean[label]
            out[f"{label}: attacked"] = attacked["full FT"] - attacked[label]
        return out


def methods(bench: Workbench) -> dict[str, System]:
    """Return what is compared to full fine-tuning."""
    every: dict[str, System] = {
        "LoRA": LoRA(),
        "AdaLoRA": AdaLoRA(steps=bench.budget.steps),
        "Prefix": PrefixTuning(),
        "IA3": IA3(),
        "BitFit": BitFit(),
    }
    return allowed(bench, TASK, every)


def _accuracies(bench: Workbench, system: System, seed: int) -> tuple[float, dict[Level, float]]:
    """Return a trained system's clean accuracy, and that under attack on each level."""
    inside = next(s for s in bench.task(TASK, seed).evaluation.values() if s.distance == "in").examples
    budget = bench.budget
    under: dict[Level, float] = {}
    with bench.trained(system, TASK, seed) as (prepared, ask):
        for level in get_args(Level):
            some = inside[: budget.attacked]
            speaker = bench.specimen(TASK)  # full fine-tuning moves embeddings
            found = attack(prepared.model, ask, some, level, queries=budget.queries, seed=seed, speaker=speaker)
            under[level] = sum(a.correct[1] for a in found) / len(found)
        return evaluate(prepared.model, ask, inside).accuracy, under
