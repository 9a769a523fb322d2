"""Partial back-propagation against autograd on the whole weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.workbench import Workbench
from linnet.llm.layer import S2FTLayer
from linnet.llm.linear import place, take
from linnet.llm.structure import ROLES, bare, find, turned
from linnet.llm.systems.s2ft import S2FT

STEPS = 2
"""Batches whose gradients accumulate."""


class PartialBackpropagation(Check):
    """The gradient of every trained slice of every kind of matrix, against the same slice of the full gradient."""

    id = "llm/partial-backpropagation"
    source = "yang2024, Section 3.3"
    finding = "Partial back-propagation computes the gradient of the selected slices, as full back-propagation would."

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return a bound on the difference, in exact arithmetic none."""
        return {
            "gradients": Promise(
                "largest difference of a trained slice's gradient from the full one, over the largest entry of that",
                "relative",
                "at_most",
                1e-4,  # as for permutations: a wrong gradient differs by its own size
            )
        }

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the difference for a random selection, in float64 where the model computes in it."""
        task = bench.task(bench.main_task, seed)
        ask = bench.learner(task)
        model = bench.fresh(task, seed).double().eval()
        batches = [ask.batch(task.train[2 * i : 2 * i + 2], bench.device) for i in range(STEPS)]

        def accumulate() -> None:
            for batch in batches:
                ask.outcome(model, batch).losses.mean().backward()

        has = {role for structure in find(model) for role in structure.projections}
        roles = tuple(role for role in ROLES if role in has)
        total = sum(p.numel() for p in model.parameters())
        system = S2FT.at_budget(model, total // 20, targets=roles, seed=seed)
        slices = {}
        model.train()
        with system.prepare(model):
            _no_dropout(model)
            accumulate()
            for name, module in model.named_modules():
                if isinstance(module, S2FTLayer):
                    delta = module.s2ft_delta["default"]
                    assert delta.grad is not None
                    slices[name] = module.axis, module.channels["default"], delta.grad.clone()
        model.requires_grad_(True)
        model.zero_grad()
        accumulate()
        worst = 0.0
        for name, (axis, channels, gradient) in slices.items():
            layer = bare(model.get_submodule(name))
            full = layer.weight.grad.T if turned(layer) else layer.weight.grad
            expected = take(full, axis, place(channels, full.device))
            worst = max(worst, float((gradient - expected).abs().max() / full.abs().max()))
        return {
            "gradients": worst,
            "slices": float(len(slices)),
            "trained": float(sum(g.numel() for *_, g in slices.values())),
        }


def _no_dropout(model: nn.Module) -> None:
    """Let the model be in training, so that its weights are reordered, without anything random."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
