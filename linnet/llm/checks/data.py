"""How much examples are worth."""

from __future__ import annotations

from collections.abc import Mapping

from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.scores import MEASURES, Measure
from linnet.llm.checks.workbench import Workbench, beside
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
    """Accuracy in distribution of LoRA (rank 8) and full fine-tuning, from few examples to many.

    The paper's scores are accuracies and the like, on five tasks; here it is the accuracy on sentiment, whose classes
    make "examples a class" mean the same. The number of steps is that of the budget at all sizes, so that
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
        says = {}
        for size in sizes(bench):
            if size != TURN:
                better, worse = ("LoRA", "full fine-tuning") if size < TURN else ("full fine-tuning", "LoRA")
                says[f"{size} a class"] = f"at {size} examples a class: {better} better than {worse}"
        most = sizes(bench)[-1]
        says["gain"] = f"gain from {SIZES[0]} to {most} examples a class: more for full fine-tuning than for LoRA"
        return {measure.key(key): measure.promise(words) for measure in MEASURES for key, words in says.items()}

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of one seed."""
        out: dict[str, float] = {}
        ahead: dict[tuple[Measure, int], float] = {}
        for size in sizes(bench):
            task = bench.task(TASK, seed, train=len(CLASSES) * size)
            runs = {
                label: bench.run(system, TASK, seed, train=len(task.train), distances=("in",))
                for label, system in SYSTEMS.items()
            }
            for measure in MEASURES:
                full, lora = (measure.at(runs[label].scores, task, "in") for label in ("full FT", "LoRA"))
                ahead[measure, size] = full - lora
            out |= beside({f"{label}, {size}": run for label, run in runs.items()}, task)
        for measure in MEASURES:
            by_size = {size: ahead[measure, size] for size in sizes(bench)}
            found = {f"{n} a class": -value if n < TURN else value for n, value in by_size.items() if n != TURN}
            out |= measure.keyed(found | {"gain": by_size[sizes(bench)[-1]] - by_size[SIZES[0]]})
        return out


def sizes(bench: Workbench) -> tuple[int, ...]:
    """Return the sizes of which a training sees every example; two at least."""
    seen = bench.budget.steps * bench.budget.batch_size
    return tuple(size for i, size in enumerate(SIZES) if i < 2 or len(CLASSES) * size <= seen)
