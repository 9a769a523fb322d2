"""Which heads and channels S2FT trains."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from linnet.llm.checks import matched
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.scores import MEASURES
from linnet.llm.checks.workbench import Recipe, Workbench, beside
from linnet.llm.model import calibrate
from linnet.llm.selection import CALIBRATED
from linnet.llm.systems.s2ft import S2FT

CALIBRATION = 0.01
"""Share of the training data that is looked at; one batch at least."""
WAYS = {
    "R": ("random", False),
    **{
        f"{letter} {'largest' if largest else 'smallest'}": (strategy, largest)
        for letter, strategy in (("W", "weight"), ("A", "activation"), ("S", "product"), ("G", "gradient"))
        for largest in (True, False)
    },
}
"""The nine columns of the table: strategy, and whether the largest scores are chosen."""
BETTER, WORSE = ("A smallest", "S smallest"), ("W largest", "G largest")


class Selection(Check):
    """Accuracies of S2FT at one budget, its heads and channels chosen in nine ways.

    The table has accuracies after training on commonsense, and on arithmetic. Here they are those in the distribution
    of the training examples and as far from it as the model can be asked. "A strong baseline" is read as: better than
    the mean of the other eight, as it is in both rows of the table. All ways have one learning rate, since the paper
    names one for all of its S2FT: that which suits R, which favours R.

    Gradients (G) are those of the loss; an encoder's come through a new head, drawn by the seed.
    """

    id = "llm/selection"
    source = "yang2024, Table 4"
    finding = (
        "Random selection (R) is a strong baseline; the smallest activations (A) and products of weight and "
        "activation (S) do better, the largest weights (W) and gradients (G) worse."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return five comparisons in distribution, and five out of it."""
        out: dict[str, Promise] = {}
        for measure, distance in itertools.product(MEASURES, ("in", bench.away)):
            where = "in distribution" if distance == "in" else f"out of distribution ({distance})"
            says = {"R": "R better than the mean of the eight other ways"}
            says |= {way: f"{way} better than R" for way in BETTER}
            says |= {way: f"R better than {way}" for way in WORSE}
            out |= {
                measure.key(f"{way} ({distance})"): measure.promise(f"{where}: {words}") for way, words in says.items()
            }
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of one seed."""
        name = bench.main_task
        task, tuned = bench.task(name, seed), recipe(bench, name, *WAYS["R"])
        runs = {label: bench.run(recipe(bench, name, *way), name, seed, tuned=tuned) for label, way in WAYS.items()}
        out: dict[str, float] = {}
        for measure, distance in itertools.product(MEASURES, ("in", bench.away)):
            good = {label: measure.at(run.scores, task, distance) for label, run in runs.items()}
            random = good.pop("R")
            found = {"R": random - statistics.fmean(good.values())}
            found |= {way: good[way] - random for way in BETTER}
            found |= {way: random - good[way] for way in WORSE}
            out |= measure.keyed({f"{way} ({distance})": value for way, value in found.items()})
        return out | beside(runs, task)


def recipe(bench: Workbench, name: str, strategy: str, largest: bool) -> Recipe:
    """Return S2FT at the budget, its units chosen in one way on the seed's task."""
    plain = matched.s2ft(bench, name, strategy=strategy, largest=largest)

    def of(seed: int) -> S2FT:
        system = plain(seed)
        if strategy not in CALIBRATED:
            return system
        key = ("units", name, seed, strategy, largest)
        return replace(system, units=bench.once(key, lambda: _units(bench, name, seed, system)))

    return of


def _units(bench: Workbench, name: str, seed: int, system: S2FT) -> dict[str, list[int]] | None:
    """Return what a strategy chooses after a look at a part of the training examples."""
    task, size = bench.task(name, seed), bench.budget.batch_size
    ask = bench.learner(task)
    batches = [ask.batch(task.train[i : i + size], bench.device) for i in range(0, len(task.train), size)]
    model = bench.fresh(task, seed)

    def loss(model: nn.Module, given: Mapping[str, Any]) -> Tensor:
        return ask.outcome(model, given["batch"]).losses.mean()

    if system.strategy == "gradient":
        given: list[Mapping[str, Any]] = [{"batch": batch} for batch in batches]
        return calibrate(system.config(), model, given, fraction=CALIBRATION, loss=loss).units
    return calibrate(system.config(), model, [batch.inputs for batch in batches], fraction=CALIBRATION).units
