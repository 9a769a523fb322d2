"""How much trained parameters are worth: LoRA's rank, and the number of layers of full fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

from linnet.errors import StructureError
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.workbench import Workbench, beside, by_distance
from linnet.llm.structure import blocks
from linnet.llm.systems.lora import LoRA
from linnet.llm.systems.top_layers import TopLayers

RANKS = (8, 16, 32)
LAYERS = (1, 3, 6, 12, 24)
"""The last blocks, as many of these numbers as the model has."""
TASK = "reviews"
LITTLE = 0.05
"""A change of loss below it is called little, in nats an example: a factor of 1.05 in the odds of what is right."""


class Rank(Check):
    """Loss in distribution of LoRA at several ranks, and of full fine-tuning of the last blocks.

    The tables have accuracies, clean and under attack, on sentiment among other tasks; here the primary number is the
    clean loss on sentiment, with the loss on other reviews beside it. That rank changes little is an equivalence within
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
        out = {
            f"rank {rank}": Promise(
                f"loss at rank {first} less that at rank {rank} of LoRA", "nats an example", "within", LITTLE
            )
            for rank in RANKS[1:]
        }
        out["layers"] = Promise(
            f"gain of loss from 1 to {most} layers in full, above that of LoRA from rank {first} to {RANKS[-1]}",
            "nats an example",
        )
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the changes of loss of one seed."""
        task = bench.task(TASK, seed)
        runs = {f"rank {rank}": bench.run(LoRA(rank=rank), TASK, seed) for rank in RANKS}
        runs |= {f"{k} layers": bench.run(TopLayers(layers=k), TASK, seed) for k in layers(bench)}
        loss = {label: by_distance(run.scores, task, "in") for label, run in runs.items()}
        out = {f"rank {rank}": loss[f"rank {RANKS[0]}"] - loss[f"rank {rank}"] for rank in RANKS[1:]}
        out["layers"] = loss["1 layers"] - loss[f"{layers(bench)[-1]} layers"] - out[f"rank {RANKS[-1]}"]
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
