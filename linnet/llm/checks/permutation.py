"""Permutation invariance of every coupled structure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.workbench import Workbench
from linnet.llm.permutation import inverse, permute
from linnet.llm.structure import Structure, find

ROUNDING = 1e-4
"""Some families take norms in float32 whatever the weights are in; a wrong order changes outputs by their own size."""


class Permutation(Check):
    """Heads and channels of all blocks in a random order: the outputs stay, and the weights come back."""

    id = "llm/permutation"
    source = "yang2024, Section 3.1, equations (1) and (2)"
    finding = "Co-permuting the matrices on both sides of a coupled structure leaves its output as it was."

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return bounds on what a permutation changes, in exact arithmetic nothing."""
        return {
            "outputs": Promise(
                "largest change of an output, over the largest output, after every structure was permuted",
                "relative",
                "at_most",
                ROUNDING,
            ),
            "weights": Promise("weights that differ once all permutations are undone", "weights", "at_most", 0.0),
        }

    @torch.no_grad()
    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return both for one draw of all orders, in float64 where the model computes in it."""
        task = bench.task(bench.main_task, seed)
        model = bench.fresh(task, seed).double().eval()
        before = {name: p.clone() for name, p in model.named_parameters()}
        batch = bench.learner(task).batch(task.train[:4], bench.device)
        out = model(**batch.inputs).logits
        rng = np.random.default_rng(seed)
        orders = [(structure, drawn_order(structure, rng)) for structure in find(model)]
        for structure, order in orders:
            permute(model, structure, order)
        change = (model(**batch.inputs).logits - out).abs().max() / out.abs().max()
        moved = sum(int((p != before[name]).sum()) for name, p in model.named_parameters())
        for structure, order in orders:
            permute(model, structure, inverse(order))
        left = sum(int((p != before[name]).sum()) for name, p in model.named_parameters())
        return {
            "outputs": float(change),
            "weights": float(left),
            "structures": float(len(orders)),
            "weights moved": float(moved),
        }


def drawn_order(structure: Structure, rng: np.random.Generator) -> list[int]:
    """Return a random order of units: groups of heads that share a key, and heads within each."""
    size = structure.shared
    groups = rng.permutation(structure.units // size)
    return [int(group * size + i) for group in groups for i in rng.permutation(size)]
