"""Adapters that were trained apart, and fused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from linnet.llm.checks import matched
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.deltas import deltas, put
from linnet.llm.checks.scores import MEASURES, Measure
from linnet.llm.checks.workbench import Recipe, Workbench
from linnet.llm.model import resolve
from linnet.llm.systems.s2ft import S2FT
from linnet.llm.training import Score, evaluate

WEIGHTS = {"1/2 each": 0.5, "1 each": 1.0}
"""Of both adapters."""
PAIRS = {"LoRA": ("LoRA", "LoRA"), "overlapping": ("S2FT", "S2FT"), "disjoint": ("S2FT", "S2FT on others")}
"""What is fused: the first task's adapter, and the second's."""


class Fusion(Check):
    """What it costs to put two adapters into one model, for LoRA, and S2FT on the same and on other channels.

    The first two tasks of the workbench stand for the paper's commonsense and arithmetic. At equal numbers of
    parameters each adapter is trained on one of them; the fused model is the base with both increments added, times a
    weight, and is asked in the distribution of either task. The number is the mean over the tasks of the accuracy
    that it lacks beside the task's own adapter.

    The paper does "weighted fusion" and prints no weights. Both readings are tried, and the finding must hold of both:
    1/2 each, weights of a mean, and 1 each, the sum of what was learned. The increments themselves are added, which is
    a rank of both together for LoRA, not its factors.

    On the same channels ("overlapping") the second adapter trains the heads and channels of the first; on disjoint
    ones it has its own, drawn among the others. That overlapping S2FT loses more than LoRA, as in the table, is not
    promised; the numbers stand beside.
    """

    id = "llm/fusion"
    source = "yang2024, Table 5"
    finding = "Fused adapters lose less for S2FT on disjoint channels than for LoRA, and less than on overlapping ones."
    kinds = ("causal",)

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return two comparisons at two weights."""
        says = "what fusion costs on {}, at weights {}: more for {} than for S2FT on disjoint channels"
        tasks = " and ".join(bench.tasks[:2])
        return {
            measure.key(f"{other} ({at})"): measure.promise(says.format(tasks, at, whose))
            for measure in MEASURES
            for at in WEIGHTS
            for other, whose in (("LoRA", "LoRA"), ("overlapping", "S2FT on overlapping ones"))
        }

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of what fusion costs for one seed."""
        names = bench.tasks[:2]
        s2ft = matched.s2ft(bench, names[0])
        systems: dict[str, Recipe] = {
            "LoRA": matched.lora(bench, names[0]),
            "S2FT": s2ft,
            "S2FT on others": lambda seed: replace(s2ft(seed), excluded=_units(bench, s2ft(seed))),
        }
        adapters = {
            (name, label): _adapter(bench, recipe, name, seed)
            for name in names
            for label, recipe in systems.items()
            if (name, label) != (names[0], "S2FT on others")  # which the second task alone has
        }
        out = {f"{label}: alone, {name}: {k}": v for (name, label), a in adapters.items() for k, v in _numbers(a.score)}
        for at, weight in WEIGHTS.items():
            lost: dict[str, dict[Measure, float]] = {}
            for pair, labels in PAIRS.items():
                parts = [adapters[key] for key in zip(names, labels, strict=True)]
                model = bench.fresh(bench.task(names[0], seed), seed).eval()
                for part in parts:
                    put(model, part.increments, weight)
                scores = [_inside(bench, model, name, seed) for name in names]
                lost[pair] = {
                    m: sum(m.of(part.score) - m.of(s) for s, part in zip(scores, parts, strict=True)) / 2
                    for m in MEASURES
                }
                out |= {
                    f"{pair}: fused ({at}), {name}: {k}": v
                    for name, score in zip(names, scores, strict=True)
                    for k, v in _numbers(score)
                }
            for m in MEASURES:
                more = {f"{pair} ({at})": lost[pair][m] - lost["disjoint"][m] for pair in lost if pair != "disjoint"}
                out |= m.keyed(more)
        return out


@dataclass(frozen=True)
class _Adapter:
    """What was learned on a task, and how good it is there on its own."""

    increments: Mapping[str, Tensor]
    score: Score


def _adapter(bench: Workbench, recipe: Recipe, name: str, seed: int) -> _Adapter:
    with bench.trained(recipe, name, seed) as (prepared, _):
        return _Adapter(deltas(prepared.model), _inside(bench, prepared.model, name, seed))


def _inside(bench: Workbench, model: nn.Module, name: str, seed: int) -> Score:
    task = bench.task(name, seed)
    inside = next(s for s in task.evaluation.values() if s.distance == "in")
    return evaluate(model, bench.learner(task), inside.examples)


def _numbers(score: Score) -> tuple[tuple[str, float], ...]:
    return ("loss", score.loss), ("accuracy", score.accuracy)


def _units(bench: Workbench, system: S2FT) -> dict[str, list[int]] | None:
    """Return what a system would select."""
    config = system.config()
    resolve(bench.specimen(bench.tasks[0]), config)
    return config.units
