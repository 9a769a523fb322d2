"""How much examples are worth."""

from __future__ import annotations

from collections.abc import Mapping

from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.workbench import Workbench, beside, by_distance
from linnet.llm.data.reviews import CLASSES
from linnet.llm.systems.base import System
from linnet.llm.systems.full import FullFT
from linnet.llm.systems.lora import LoRA

SIZES = (5, 10, 20, 50, 100, 200)
"""Training examples of each class, as in the table."""
TURN = 20
"""Where the paper sees both alike; nothing is promised there."""
TASK = "reviews"
SYSTEMS: dict[str, System] = {"LoRA": LoRA(), "full FT": FullFT()}


class Data(Check):
    """Loss in distribution of LoRA (rank 8) and full fine-tuning, from few examples to many.

    The paper's scores are accuracies and the like, on five tasks; here the primary number is the loss, on sentiment,
    whose classes make "examples a class" mean the same. The number of steps is that of the budget at all sizes, so that
    few examples are seen more often; sizes of which they could not see all are left out. Both systems have a learning
    rate of their own at each size. At 20 examples the paper sees no difference, and none is asked for.
    """

    id = "llm/data"
    source = "liu2025, Figure 2 and Table 7"
    finding = (
        "Below 20 examples a class LoRA is ahead of full fine-tuning, above 20 full fine-tuning is; from 5 to 200 full "
        "fine-tuning gains more."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return a comparison for each size but the turning point, and one of what all the examples gain."""
        out = {}
        for size in sizes(bench):
            if size != TURN:
                worse, better = ("full fine-tuning", "LoRA") if size < TURN else ("LoRA", "full fine-tuning")
                out[f"{size} a class"] = Promise(
                    f"loss at {size} examples a class: {worse} above {better}", "nats an example"
                )
        out["gain"] = Promise(
            f"loss at {SIZES[0]} less that at {sizes(bench)[-1]} a class: full fine-tuning's gain above LoRA's",
            "nats an example",
        )
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of losses of one seed."""
        out: dict[str, float] = {}
        losses: dict[tuple[str, int], float] = {}
        for size in sizes(bench):
            task = bench.task(TASK, seed, train=len(CLASSES) * size)
            runs = {f"{label}, {size}": bench.run(s, TASK, seed, train=len(task.train)) for label, s in SYSTEMS.items()}
            for label in SYSTEMS:
                losses[label, size] = by_distance(runs[f"{label}, {size}"].scores, task, "in")
            if size != TURN:
                ahead = losses["full FT", size] - losses["LoRA", size]
                out[f"{size} a class"] = ahead if size < TURN else -ahead
            out |= beside(runs, task)
        gains = {label: losses[label, SIZES[0]] - losses[label, sizes(bench)[-1]] for label in SYSTEMS}
        return out | {"gain": gains["full FT"] - gains["LoRA"]}


def sizes(bench: Workbench) -> tuple[int, ...]:
    """Return the sizes of which a training sees every example; two at least."""
    seen = bench.budget.steps * bench.budget.batch_size
    return tuple(size for i, size in enumerate(SIZES) if i < 2 or len(CLASSES) * size <= seen)
