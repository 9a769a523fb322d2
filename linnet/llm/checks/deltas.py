"""What training adds to the weights of a model, as plain matrices; and the plain model that it makes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from linnet.errors import AdapterError
from linnet.llm import structure
from linnet.llm.checks.workbench import Workbench
from linnet.llm.layer import S2FTLayer
from linnet.llm.systems.base import Prepared


@torch.no_grad()
def deltas(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the increments (out, in) of all maps that have an adapter, by the name of the module.

    Args:
        model: trained by a system whose adapters stand beside linear maps: LoRA, AdaLoRA, S2FT.

    Raises:
        AdapterError: there are none.
    """
    found = {name: _delta(m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    if not found:
        raise AdapterError(f"a {type(model).__name__} has no adapters beside its maps; train it by LoRA or S2FT")
    return found


def _delta(layer: BaseTunerLayer) -> Tensor:
    name = layer.active_adapters[0]
    if not isinstance(layer, S2FTLayer):
        delta = layer.get_delta_weight(name).detach().clone()  # type: ignore[attr-defined]  # which every map's has
        return delta.mT if getattr(layer, "fan_in_fan_out", False) else delta  # GPT-2's are (in, out)
    # Its own get_delta_weight speaks of channels as they lie now, and these were reordered for training.
    delta = layer.s2ft_delta[name].detach()
    full = delta.new_zeros(layer.out_features, layer.in_features)
    return full.index_copy_(layer.axis, torch.tensor(layer.channels[name], device=delta.device), delta)


@torch.no_grad()
def put(model: nn.Module, increments: Mapping[str, Tensor], weight: float = 1.0) -> None:
    """Add increments, times a weight, to the weights of a model in place."""
    for name, delta in increments.items():
        matrix = structure.weight(model.get_submodule(name))
        matrix.add_(delta.to(matrix), alpha=weight)


@torch.no_grad()
def merged(bench: Workbench, prepared: Prepared, name: str, seed: int) -> nn.Module:
    """Return a plain model, in evaluation mode and frozen, that computes what a trained one does: its heads are those.

    Args:
        bench: where it was trained.
        prepared: by a system that changes the weights themselves, or whose adapters stand beside linear maps.
        name: of the task.
        seed: by which it was trained.
    """
    model = bench.fresh(bench.task(name, seed), seed).eval().requires_grad_(False)
    if any(isinstance(module, BaseTunerLayer) for module in prepared.model.modules()):
        put(model, deltas(prepared.model))
        for head in bench.heads:
            model.get_submodule(head).load_state_dict(prepared.model.get_submodule(head).state_dict())
    else:
        model.load_state_dict(prepared.model.state_dict())
    return model
