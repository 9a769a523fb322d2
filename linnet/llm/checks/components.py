"""Which matrices of a block are worth training."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping

from linnet.errors import StructureError
from linnet.llm.checks import matched
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.scores import MEASURES
from linnet.llm.checks.workbench import Workbench, beside
from linnet.llm.selection import cost
from linnet.llm.structure import ROLES, find
from linnet.llm.systems.s2ft import S2FT

GROUPS = {
    "Query, Key": ("query", "key"),
    "Value, Up, Gate": ("value", "up", "gate"),
    "Output, Down": ("output", "down"),
}
"""From the least effective to the most, as the paper orders them."""


class Components(Check):
    """Accuracy in distribution of S2FT on one matrix of every block, at one budget.

    The order is one of groups, and is read as an order of their means. The budget is a whole number of heads in every
    block, that which comes nearest to the share of the other checks, so that every matrix trains exactly as many
    parameters: a head's rows of query, key or value, its columns of output, and as many rows or columns of the
    feed-forward network as a head has. Two things remain uneven. Where queries are grouped, a head of key or value
    serves several query heads, so that the same parameters reach more of the attention; and it is another part of the
    matrix, one of three heads of SmolLM2's key against one of nine of its query. And a model without a gate (BERT) has
    no Gate in its group.
    """

    id = "llm/components"
    source = "yang2024, Figure 4"
    finding = (
        "At a fixed budget the effectiveness of components is in the order Query, Key < Value, Up, Gate < Output, Down."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return two comparisons, of neighbouring groups."""
        return {
            measure.key(f"{worse} < {better}"): measure.promise(
                f"in distribution: the mean of {better} better than that of {worse}"
            )
            for measure in MEASURES
            for worse, better in itertools.pairwise(GROUPS)
        }

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of the groups' means for one seed."""
        name = bench.main_task
        task, most = bench.task(name, seed), budget(bench, name)
        runs = {
            role: bench.run(S2FT(most=most, targets=(role,), seed=seed), name, seed, distances=("in",))
            for role in roles(bench, name)
        }
        out: dict[str, float] = {}
        for measure in MEASURES:
            good = {role: measure.at(run.scores, task, "in") for role, run in runs.items()}
            means = {
                label: statistics.fmean(good[role] for role in group if role in good) for label, group in GROUPS.items()
            }
            pairs = itertools.pairwise(GROUPS)
            out |= measure.keyed({f"{worse} < {better}": means[better] - means[worse] for worse, better in pairs})
        return out | beside({role.capitalize(): run for role, run in runs.items()}, task)


def roles(bench: Workbench, name: str) -> list[str]:
    """Return the matrices that a model has."""
    found = {role for s in find(bench.specimen(name)) for role in s.projections}
    return [role for role in ROLES if role in found]


def budget(bench: Workbench, name: str) -> int:
    """Return the parameters of so many heads of every block that they come nearest to the common budget.

    Raises:
        StructureError: the model has no attention whose heads are known.
    """
    model = bench.specimen(name)
    attention = [s for s in find(model) if s.kind == "attention"]
    if not attention:
        raise StructureError(f"{bench.language.name} has no heads of attention, whose size the budget is")
    one = sum(cost(model, s, ("output",)) for s in attention)
    most = min(s.units // s.shared for s in attention)
    return one * min(max(1, round(matched.budget(bench, name) / one)), most)
