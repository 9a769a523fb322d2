"""How far trained increments move outputs, beside the bounds that are stated for it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linnet.errors import ArgumentError, StructureError
from linnet.llm.capacity import ROUNDING, Displacement, lipschitz, network_displacements
from linnet.llm.checks import matched
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.deltas import deltas
from linnet.llm.checks.workbench import Recipe, Workbench
from linnet.llm.systems import places
from linnet.llm.systems.full import FullFT

EXAMPLES = 16
"""Of the evaluation set in distribution, on whose tokens outputs are compared."""
PEFT = ("LoRA", "S2FT")
OF_STACKS = {"product": "product", "printed": "printed", "linnet's own": "capacity"}
"""Promises, and what ``linnet/llm/capacity.py`` calls the bounds that they are about."""
ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function")
"""What a configuration calls the activation of its feed-forward networks."""


class Capacity(Check):
    """Displacement over bound, the worst of all layers and tokens, under increments of LoRA, S2FT and full fine-tuning.

    LoRA and S2FT are of equal numbers of parameters. Outputs of the frozen and of the tuned model are compared,
    on tokens in distribution; an encoder's head is new, and stays in both as it was trained.

    Eq. (26) is about a layer with its activation: every linear map of the blocks that training moves. Eq. (29) and (30)
    are about layers one on top of the other: the feed-forward networks of a model without gates. Those with a gate are
    none, so that a model that has them is asked about its layers alone. The paper's layers have no bias; one counts as
    a column of its weight, to which the input has the entry 1.

    Eq. (29) and (30) are false in general (``liu2025/theorem-2-product``): that they hold on a model says that its
    increments and tokens are far from the worst ones. Eq. (26) and ``linnet/capacity`` are theorems, so that a ratio
    above 1 would be a fault of linnet's; the latter's promise is linnet's own and not the paper's. Beside stands the
    line of its proof that takes the increments' effect token by token ("by token"), which is attained, but for
    rounding, where only the last layer of a stack is trained, as S2FT does it.

    Of whole blocks, and of the network, nothing is promised: softmax attention, normalisation, gates and residual
    connections are not in the theorem. Their displacements stand beside, relative to the size of the output.

    The remark that layers nearer the output have the greater impact speaks of parameters of PEFT in a whole network,
    and is read as one: of trained increments, those of the lower half of the blocks alone and those of the upper half
    alone, either scaled down to the same sum of alpha_k = L |Phi_k|, the sum that the theorem weighs by place. The
    number is the logarithm of the ratio of what they do to the network's output, a mean over LoRA and S2FT; of an odd
    number of blocks the middle one stays as it was. (The remark follows from the theorem for M L < 1 only:
    ``liu2025/theorem-2-depth``.)
    """

    id = "llm/capacity"
    source = "liu2025, Theorem 2"
    finding = (
        "What fine-tuning adds moves a layer's output by at most L |Phi| |x|, and that of layers one on top of the "
        "other by at most the sum of what each adds, times norms above it; layers nearer the output have the greater "
        "impact."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return the bounds that are stated for what the model has, and the remark where there are two blocks."""

        def bound(of: str, counts: bool = True) -> Promise:
            says = f"{of}: the largest displacement over the bound"
            return Promise(says, "ratio", "at_most", 1 + ROUNDING, counts)

        model = bench.specimen(bench.main_task)
        out = {"layers": bound(f"eq. (26) of {len(layers(bench))} layers")}
        if found := stacks(bench):
            of = f"of {len(found)} feed-forward networks"
            out["product"] = bound(f"eq. (29) {of}")
            out["printed"] = bound(f"eq. (6) and (30) {of}")
            out["linnet's own"] = bound(f"linnet/capacity (not the paper's) {of}", counts=False)
        if len(places.blocks(model)) > 1:
            out["depth"] = Promise(
                "displacement of the output by the upper half of the blocks over that by the lower half, at the same "
                f"sum of norms, {' and '.join(PEFT)}, as a logarithm",
                "natural logarithm",
            )
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the worst ratios of one seed."""
        name = bench.main_task
        task = bench.task(name, seed)
        systems: dict[str, Recipe] = {
            "LoRA": matched.lora(bench, name),
            "S2FT": matched.s2ft(bench, name),
            "full FT": FullFT(),
        }
        frozen = bench.fresh(task, seed).eval().requires_grad_(False)
        inside = next(s for s in task.evaluation.values() if s.distance == "in")
        inputs = bench.learner(task).batch(inside.examples[:EXAMPLES], bench.device).inputs
        inputs.pop("logits_to_keep", None)  # the mask is one of all tokens
        promised = self.promises(bench)
        worst = dict.fromkeys((key for key in promised if key != "depth"), 0.0)
        out: dict[str, float] = {}
        depths = []
        for label, recipe in systems.items():
            increments, out[f"{label}: parameters"] = trained(bench, recipe, seed, frozen)
            rows = displaced(bench, frozen, increments, inputs)
            for key, ratios in _ratios(rows).items():
                if key in worst:
                    worst[key] = max(worst[key], *ratios)
                out[f"{label}: {key}, worst"] = max(ratios)
                out[f"{label}: {key}, median"] = statistics.median(ratios)
            out |= {f"{label}: {key}": value for key, value in _relative(rows).items()}
            if "depth" in promised:
                out[f"{label}: depth"] = _depth(frozen, increments, rows, inputs)
                depths += [out[f"{label}: depth"]] if label in PEFT else []
        return worst | ({"depth": statistics.fmean(depths)} if depths else {}) | out


def layers(bench: Workbench) -> dict[str, str]:
    """Return the maps of all blocks, each with the activation that follows it.

    Raises:
        StructureError: a map is of another class than nn.Linear, or the activation's name is not known.
    """
    model = bench.specimen(bench.main_task)
    bent = activation(model)
    out: dict[str, str] = {}
    for site in places.sites(model):
        role = "gate" if "gate" in site else "up"
        out |= {name: bent if name == site.get(role) else "identity" for name in site.values()}
    for name in out:
        if not isinstance(module := model.get_submodule(name), nn.Linear):
            raise StructureError(f"{name} is a {type(module).__name__}; the bounds are measured of layers of nn.Linear")
    return out


def stacks(bench: Workbench) -> dict[str, list[tuple[str, str]]]:
    """Return the feed-forward networks without a gate, each as its layers and their activations."""
    model = bench.specimen(bench.main_task)
    return {
        f"{site['up']} and {site['down']}": [(site["up"], activation(model)), (site["down"], "identity")]
        for site in places.sites(model)
        if "up" in site and "gate" not in site
    }


def activation(model: nn.Module) -> str:
    """Return the name of the activation in a model's feed-forward networks.

    Raises:
        StructureError: its configuration names none, or one whose Lipschitz constant is not known.
    """
    config: Any = getattr(places.transformer(model)[1], "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    name = next((found for key in ACTIVATIONS if isinstance(found := getattr(config, key, None), str)), None)
    if name is None:
        raise StructureError(f"the configuration of a {type(model).__name__} has none of {', '.join(ACTIVATIONS)}")
    try:
        lipschitz(name)
    except ArgumentError as error:
        raise StructureError(f"the bounds need a constant of the model's activation: {error}") from error
    return name


def trained(bench: Workbench, recipe: Recipe, seed: int, frozen: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Return what training adds, by the name of the parameter, and how many parameters it trains.

    Adapters add to their maps, and full fine-tuning to all there is. Heads of the frozen model become the trained ones.
    """
    before = dict(frozen.named_parameters())
    with bench.trained(recipe, bench.main_task, seed) as (prepared, _), torch.no_grad():
        after = dict(prepared.model.named_parameters())
        heads = {name for name in before if name.startswith(tuple(f"{head}." for head in bench.heads))}
        for name in heads:
            before[name].copy_(after[name])
        if isinstance(prepared.system, FullFT):
            increments = {name: p - before[name] for name, p in after.items() if name not in heads}
        else:
            increments = {f"{name}.weight": delta for name, delta in deltas(prepared.model).items()}
        return increments, prepared.n_parameters


def displaced(
    bench: Workbench, frozen: nn.Module, increments: Mapping[str, Tensor], inputs: Mapping[str, Any]
) -> list[Displacement]:
    """Return how far increments move the layers that have one, stacks, blocks, and the output of the network."""
    return network_displacements(
        frozen,
        increments,
        lambda call: call(**inputs),
        layers={name: after for name, after in layers(bench).items() if f"{name}.weight" in increments},
        stacks=stacks(bench),
        blocks=[name for name, _ in places.blocks(frozen)],
        mask=inputs["attention_mask"],
    )


def _ratios(rows: Sequence[Displacement]) -> dict[str, list[float]]:
    """Return the largest displacement over bound of every layer and stack, by promise."""
    out = {"layers": [row.bound("layer").ratio for row in rows if row.kind == "layer"]}
    if found := [row for row in rows if row.kind == "stack"]:
        bounds = {**OF_STACKS, "by token": "capacity, inputs"}
        out |= {key: [row.bound(name).ratio for row in found] for key, name in bounds.items()}
    return out


def _relative(rows: Sequence[Displacement]) -> dict[str, float]:
    """Return the displacements of what nothing bounds, relative to the size of the output."""
    found = [row for row in rows if row.kind == "block"]
    carried = [row.carried / row.size for row in found if row.carried is not None]
    return {
        "blocks, increments of their own": statistics.fmean(row.mean / row.size for row in found),
        "blocks, with those below": statistics.fmean(carried),
        "last block, with those below": carried[-1],
        "network": rows[-1].mean / rows[-1].size,
    }


def _depth(
    frozen: nn.Module, increments: Mapping[str, Tensor], rows: Sequence[Displacement], inputs: Mapping[str, Any]
) -> float:
    """Return the logarithm of how much more the upper half of the blocks moves the output, at the same sum of norms.

    Raises:
        StructureError: one of the halves was not trained, or what was moves nothing.
    """
    blocks = [name for name, _ in places.blocks(frozen)]
    half = len(blocks) // 2
    alphas = {row.name: row.bound("layer").constant or 0.0 for row in rows if row.kind == "layer"}
    parts, sums = [], []
    for of in (blocks[:half], blocks[-half:]):
        parts.append([name for name in alphas if name.startswith(tuple(f"{block}." for block in of))])
        sums.append(math.fsum(alphas[name] for name in parts[-1]))
    if min(sums) == 0:
        raise StructureError("increments in one half of the blocks alone; halves are compared, so train maps of both")
    moved = []
    for part, total in zip(parts, sums, strict=True):
        names = [f"{module}.{kind}" for module in part for kind in ("weight", "bias")]
        scaled = {name: increments[name] * (min(sums) / total) for name in names if name in increments}
        rest = network_displacements(
            frozen, scaled, lambda call: call(**inputs), layers={}, mask=inputs["attention_mask"]
        )
        moved.append(rest[-1].mean)
    if min(moved) == 0:
        raise StructureError("the increments of one half of the blocks do not move the output; train for more steps")
    return math.log(moved[1] / moved[0])
