"""How much trained parameters are worth: LoRA's rank, and the number of layers of full fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

from linnet.errors import StructureError
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.scores import MEASURES
from linnet.llm.checks.workbench import Workbench, beside
from linnet.llm.structure import blocks
from linnet.llm.systems.base import System
from linnet.llm.systems.lora import LoRA
from linnet.llm.systems.top_layers import TopLayers

RANKS = (8, 16, 32)
LAYERS = (1, 3, 6, 12, 24)
"""The last blocks, as many of these numbers as the model has."""
TASK = "reviews"


class Rank(Check):
    """Accuracy in distribution of LoRA at several ranks, and of full fine-tuning of the last blocks.

    The tables have accuracies, clean and under attack, on sentiment among other tasks; here it is the clean accuracy on
    sentiment. That rank changes little is an equivalence within
    a margin. That layers change more compares the gain from one block to the most with that from rank 8 to 32, signs
    included. The paper multiplies parameters by 4 with the rank, and by 24 with the layers; that is not corrected for,
    and the numbers of parameters stand beside.

    A model of fewer than three blocks is compared at one block and at all.
    """

    id = "llm/rank"
    source = "liu2025, Figure 3, Tables 8 and 9"
    finding = (
        "LoRA's rank, 8, 16 or 32, has a minimal impact; training more of the last layers in full (1, 3, 6, 12, 24) "
        "improves more."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return an equivalence for each higher rank, and a comparison with layers."""
        first, most = RANKS[0], layers(bench)[-1]
        out = {}
        for measure in MEASURES:
            for rank in RANKS[1:]:
                says = f"gain of LoRA from rank {first} to {rank}"
                out[measure.key(f"rank {rank}")] = measure.promise(says, little=True)
            says = f"gain from 1 to {most} layers in full: more than that of LoRA from rank {first} to {RANKS[-1]}"
            out[measure.key("layers")] = measure.promise(says)
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the gains of one seed."""
        task, most = bench.task(TASK, seed), layers(bench)[-1]
        systems: dict[str, System] = {f"rank {rank}": LoRA(rank=rank) for rank in RANKS}
        systems |= {f"{k} layers": TopLayers(layers=k) for k in layers(bench)}
        runs = {label: bench.run(system, TASK, seed, distances=("in",)) for label, system in systems.items()}
        out: dict[str, float] = {}
        for measure in MEASURES:
            good = {label: measure.at(run.scores, task, "in") for label, run in runs.items()}
            gains = {f"rank {rank}": good[f"rank {rank}"] - good[f"rank {RANKS[0]}"] for rank in RANKS[1:]}
            gains["layers"] = good[f"{most} layers"] - good["1 layers"] - gains[f"rank {RANKS[-1]}"]
            out |= measure.keyed(gains)
        return out | beside(runs, task)


def layers(bench: Workbench) -> tuple[int, ...]:
    """Return the numbers of layers that are compared.

    Raises:
        StructureError: the model has one layer.
    """
    n = len(blocks(bench.specimen(TASK)))
    if n < 2:
        raise StructureError(f"{bench.language.name} has {n} block; to compare numbers of layers takes two")
    fitting = tuple(k for k in LAYERS if k <= n)
    return fitting if len(fitting) > 1 else (1, n)
