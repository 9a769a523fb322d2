"""What a disturbed gradient costs full fine-tuning, LoRA and S2FT, where their training ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from linnet.errors import ArgumentError
from linnet.llm import structure
from linnet.llm.checks import matched
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.deltas import merged
from linnet.llm.checks.workbench import Recipe, Workbench
from linnet.llm.data.base import Example
from linnet.llm.data.learner import Batch, Learner
from linnet.llm.krylov import extremes
from linnet.llm.layer import S2FTLayer
from linnet.llm.objective import Channels, Loss, Map, Objective, Tangent, disturbance, model_loss
from linnet.llm.sensitivity import Sensitivity, compared, sensitivity
from linnet.llm.systems.base import Prepared
from linnet.llm.systems.full import FullFT

EXAMPLES = 8
"""Training examples at which derivatives are taken."""
WRONG = 0.25
"""Share of them that get another's answer: the disturbance."""
LOOKS = 30
"""Products with the Hessian that its lowest eigenvalue is sought with."""
STEPS = 100
"""Products with the Hessian for each linear system, at most."""
ABOVE = 2.0
"""The damping over the size of the most negative eigenvalue."""
READINGS = {
    "printed": "the printed formula",
    "extra": "(a) extra loss on clean data that the disturbance causes",
    "left": "(b) loss left on the disturbed objective after adapting to it",
    "clean": "(c) clean loss after adapting to the disturbed objective",
}
PEFT = ("LoRA", "S2FT")


class PerturbationSensitivity(Check):
    """The printed formula of the theorem and its three readings, at the end of training.

    All methods are compared in the same weights, those of all maps of the last block; what training made of the others
    stays. Full fine-tuning moves these weights freely, LoRA along the tangent space of its factors, S2FT on its heads
    and channels, both of as many parameters in the whole model. The disturbance is a change of data: a quarter of the
    examples gets the answer of another one, and epsilon is what that adds to the gradient.

    The theorem wants a Hessian that is positive definite. A trained network's is not, so that its quadratic model has
    no least value, and the theorem says nothing. Read instead is the model with a damping, a penalty on the distance
    that weights move, one for all methods: twice the size of the most negative eigenvalue that Lanczos' method finds
    for any of them. It stands beside, with the eigenvalues.

    From one and the same point (a) and the signs of the others are settled by ``linnet/sensitivity``; here every method
    is read where its own training led, and nothing is proved of the sign. What the theorem prints is the finding; the
    three readings are linnet's, and judged beside it. Of a difference the error that the solutions may have is taken
    off, so that one within it counts as none.
    """

    id = "llm/sensitivity"
    source = "liu2025, Theorem 4"
    finding = "PEFT is more sensitive to a perturbation than full fine-tuning."

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return four readings a method."""
        return {
            f"{label}: {reading}": Promise(
                f"{says}: that of {label} above that of full fine-tuning",
                "nats an example",
                counts=reading == "printed",
            )
            for label in PEFT
            for reading, says in READINGS.items()
        }

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of one seed."""
        name = bench.main_task
        systems: dict[str, Recipe] = {
            "full FT": FullFT(),
            "LoRA": matched.lora(bench, name),
            "S2FT": matched.s2ft(bench, name),
        }
        found = {}
        for label, recipe in systems.items():
            with bench.trained(recipe, name, seed) as (prepared, ask):
                found[label] = objectives(bench, prepared, ask, seed)
        lowest = {
            label: extremes(o.at_weights.hessian, o.at_weights.like, steps=LOOKS) for label, (o, _) in found.items()
        }
        damping = ABOVE * max(0.0, *(-ends.smallest for ends in lowest.values()))
        read = {
            label: sensitivity(o, epsilon, damping=damping, steps=STEPS, spectrum_steps=LOOKS)
            for label, (o, epsilon) in found.items()
        }
        out = {"damping": damping}
        for label, ends in lowest.items():
            out |= {f"{label}: lowest eigenvalue": ends.smallest, f"{label}: largest eigenvalue": ends.largest}
            out |= _numbers(label, read[label])
        for label in PEFT:
            difference = compared(read[label], read["full FT"])
            for reading in READINGS:
                found_there, error = getattr(difference, reading), getattr(difference, f"{reading}_error")
                out[f"{label}: {reading}"] = math.copysign(max(0.0, abs(found_there) - error), found_there)
                out |= {f"{label}: {reading}, as found": found_there, f"{label}: {reading}, error": error}
        return out


def objectives(bench: Workbench, prepared: Prepared, ask: Learner, seed: int) -> tuple[Objective, Tensor]:
    """Return the clean loss in what a trained system can change of the last block, and epsilon in its weights."""
    name = bench.main_task
    model = merged(bench, prepared, name, seed)
    modules = last_maps(model)
    names = [f"{module}.weight" for module in modules]
    weights = [model.get_parameter(each) for each in names]
    clean, wrong = (
        Objective([_loss(model, names, ask, ask.batch(some, bench.device))], weights)
        for some in disturbed(bench.task(name, seed).train[:EXAMPLES])
    )
    move = _moves(model, prepared.model, modules)
    objective = clean if move is None else Objective(clean.losses, move[0], clean.point, move[1])
    return objective, disturbance(clean, wrong)


def disturbed(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return examples, and the same of which a quarter has got the answer of another one.

    Raises:
        ArgumentError: all answers are alike.
    """
    out, count = list(examples), max(1, round(WRONG * len(examples)))
    for i, example in enumerate(examples[:count]):
        other = next((e for e in (*examples[i:], *examples) if e.answer != example.answer), None)
        if other is None:
            raise ArgumentError(f"{len(examples)} examples have the same answer; a wrong one needs two that differ")
        out[i] = replace(example, answer=other.answer, label=other.label)
    return list(examples), out


def last_maps(model: nn.Module) -> list[str]:
    """Return the names of the linear maps of the last block of a plain model."""
    found = structure.find(model)
    last = found[-1].block
    return list(dict.fromkeys(p.module for s in found if s.block == last for p in s.projections.values()))


def _loss(model: nn.Module, names: Sequence[str], ask: Learner, batch: Batch) -> Loss:
    def run(call: Callable[..., Any]) -> Tensor:
        return ask.outcome(call, batch).losses.mean()

    return model_loss(model, names, run)


def _moves(plain: nn.Module, tuned: nn.Module, modules: Sequence[str]) -> tuple[list[Tensor], Map] | None:
    """Return what a system can change, at no step from the trained point, and how it moves the parameters.

    None if it is these parameters themselves. GPT-2 keeps them as (in, out), which turns everything round.
    """
    layers = [tuned.get_submodule(module) for module in modules]
    turned = [structure.turned(layer) for layer in layers]
    parameters = [plain.get_parameter(f"{module}.weight") for module in modules]
    if any(isinstance(layer, S2FTLayer) for layer in tuned.modules()):
        places = [_channels(layer) for layer in layers]
        axes = [axis ^ turn for (axis, _), turn in zip(places, turned, strict=True)]
        g = Channels([(len(p), p.shape[1]) for p in parameters], [c for _, c in places], axes)
        sizes = [_at(p.shape, axis, len(c)) for p, axis, c in zip(parameters, axes, g.channels, strict=True)]
        return [p.new_zeros(size) for p, size in zip(parameters, sizes, strict=True)], g
    if any(isinstance(layer, BaseTunerLayer) for layer in tuned.modules()):
        pairs = [_factors(layer) for layer in layers]
        tangent = Tangent.at([(v, u) if turn else (u, v) for (u, v), turn in zip(pairs, turned, strict=True)])
        return tangent.origin, tangent
    return None


def _channels(layer: nn.Module) -> tuple[int, Sequence[int]]:
    """Return the axis of a map's (out, in) weight along which S2FT trains channels, and these; none if it is frozen."""
    if isinstance(layer, S2FTLayer):
        return layer.axis, layer.channels[layer.active_adapters[0]]
    return 0, []


def _factors(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return LoRA's U (out, r) and V (in, r) of a map; of no columns if it is frozen."""
    if isinstance(layer, BaseTunerLayer):
        name, lora = layer.active_adapters[0], cast(Any, layer)
        return lora.lora_B[name].weight.detach(), lora.lora_A[name].weight.detach().mT
    matrix = structure.weight(layer)
    return matrix.new_zeros(matrix.shape[0], 0), matrix.new_zeros(matrix.shape[1], 0)


def _at(shape: Sequence[int], axis: int, count: int) -> list[int]:
    return [count if i == axis else size for i, size in enumerate(shape)]


def _numbers(label: str, read: Sensitivity) -> dict[str, float]:
    """Return what is kept of a reading beside the promises."""
    return {
        f"{label}: parameters in the block": read.parameters,
        f"{label}: loss": read.loss,
        f"{label}: length of the gradient": read.gradient,
        f"{label}: length of epsilon": read.disturbance,
        f"{label}: own extra loss": read.extra,
        f"{label}: own extra loss on the network": read.extra_network,
        f"{label}: own least loss, from the end of training": read.optimum,
        f"{label}: products": read.steps,
    }
