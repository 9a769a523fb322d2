"""Adapters apart from their base: taken out as U V^T, exported as LoRA, saved and loaded.

Source: yang2024, Section 6.2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from linnet.errors import AdapterError
from linnet.llm.config import S2FTConfig
from linnet.llm.layer import S2FTLayer
from linnet.llm.linear import COLUMNS
from linnet.llm.model import S2FTModel, check_channels
from linnet.llm.structure import turned

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Increment:
    """The increment ``u @ v.T`` of a layer's (out, in) weight, in the channels of the base model as it was given.

    Attributes:
        u: (out, s). Of columns, their increments; of rows, ones at their places.
        v: (in, s). Of columns, ones at their places; of rows, their increments.
    """

    u: torch.Tensor
    v: torch.Tensor


def tuner(model: nn.Module) -> S2FTModel:
    """Return the S2FT model within a peft model, or the model itself.

    Raises:
        AdapterError: there is none.
    """
    inner = model if isinstance(model, S2FTModel) else getattr(model, "base_model", None)
    if not isinstance(inner, S2FTModel):
        raise AdapterError(
            f"a {type(model).__name__} has no S2FT adapters; give what get_peft_model or S2FTModel returned"
        )
    return inner


def _layers(model: nn.Module, adapter: str) -> dict[str, S2FTLayer]:
    inner = tuner(model)
    if adapter not in inner.configs:
        raise AdapterError(f"no adapter is called {adapter}; there are {', '.join(inner.configs)}")
    return {
        name: module
        for name, module in inner.model.named_modules()
        if isinstance(module, S2FTLayer) and adapter in module.s2ft_delta
    }


def increments(model: nn.Module, adapter: str = "default") -> dict[str, Increment]:
    """Return an adapter's increments by the name of the module in the base model, as the factors of a rank-s product.

    Args:
        model: a model under S2FT, in peft or on its own.
        adapter: name of the adapter.

    Raises:
        AdapterError: no such adapter.

    Source: yang2024, Section 6.2: Delta W = U V^T.
    """
    out = {}
    for name, layer in _layers(model, adapter).items():
        delta = layer.s2ft_delta[adapter].detach().clone()
        channels = torch.tensor(layer.channels[adapter], device=delta.device)
        size = layer.in_features if layer.axis == COLUMNS else layer.out_features
        ones = delta.new_zeros(size, len(channels))
        ones[channels, torch.arange(len(channels), device=delta.device)] = 1
        out[name] = Increment(delta, ones) if layer.axis == COLUMNS else Increment(ones, delta.T.contiguous())
    return out


def as_lora(model: nn.Module, adapter: str = "default") -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Return an adapter as a LoRA adapter of the same increments, without loss: configuration and weights.

    Modules that were trained whole, such as a head, go with it: to LoRA they are the same.

    An increment of s rows or columns is a product of rank s with ones and zeros in one factor, so that forming it
    rounds nothing.

    Args:
        model: a model under S2FT, in peft or on its own.
        adapter: name of the adapter.

    Raises:
        AdapterError: no such adapter, or one that trains biases, which LoRA adapters do not carry.
    """
    inner = tuner(model)
    parts = increments(model, adapter)
    mine = inner.configs[adapter]
    if mine.bias != "none":
        raise AdapterError(
            f'{adapter} trains biases (bias="{mine.bias}"), which are no part of a product U V^T; train with '
            'bias="none", or merge the adapter and save the model'
        )
    ranks = {name: part.u.shape[1] for name, part in parts.items()}
    layers = _layers(model, adapter)
    config = LoraConfig(
        task_type=mine.task_type,
        base_model_name_or_path=mine.base_model_name_or_path,
        inference_mode=True,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=dict(ranks),
        alpha_pattern=dict(ranks),
        target_modules=sorted(ranks),
        lora_dropout=0.0,
        bias="none",
        modules_to_save=mine.modules_to_save,
        fan_in_fan_out=all(map(turned, layers.values())),
    )
    weights = {}
    for name, part in parts.items():
        weights[f"{_PREFIX}{name}.lora_A.weight"] = part.v.T.contiguous()
        weights[f"{_PREFIX}{name}.lora_B.weight"] = part.u.contiguous()
    return config, weights | _head_weights(inner, adapter)


def save_as_lora(model: nn.Module, folder: str | os.PathLike[str], adapter: str = "default") -> None:
    """Write an adapter as a LoRA adapter that peft, and whatever serves LoRA adapters, can load.

    Args:
        model: a model under S2FT, in peft or on its own.
        folder: made if it is not there.
        adapter: name of the adapter.

    Raises:
        AdapterError: as for :func:`as_lora`.
    """
    config, weights = as_lora(model, adapter)
    _write(Path(folder), weights, config)


def save(model: nn.Module, folder: str | os.PathLike[str], adapter: str = "default") -> None:
    """Write an adapter, as ``save_pretrained`` of a peft model does: its trained slices and its configuration.

    Args:
        model: a model under S2FT, in peft or on its own.
        folder: made if it is not there.
        adapter: name of the adapter.

    Raises:
        AdapterError: no such adapter.
    """
    inner = tuner(model)
    layers = _layers(model, adapter)
    weights = {
        f"{_PREFIX}{n}.s2ft_delta": layer.s2ft_delta[adapter].detach().contiguous() for n, layer in layers.items()
    }
    weights |= {f"{_PREFIX}{n}.s2ft_channels": torch.tensor(layer.channels[adapter]) for n, layer in layers.items()}
    weights |= _head_weights(inner, adapter)
    config = inner.configs[adapter]
    if config.bias != "none":
        trained = {f"{n}.base_layer.bias" for n in layers} if config.bias == "s2ft_only" else None
        for name, value in inner.model.state_dict().items():
            if name in trained if trained is not None else name.endswith("bias"):
                weights[_PREFIX + name] = value.contiguous()
    _write(Path(folder), weights, config)


def _head_weights(inner: S2FTModel, adapter: str) -> dict[str, torch.Tensor]:
    """Return what an adapter's configuration trains whole, as files name it."""
    out: dict[str, torch.Tensor] = {}
    for name, head in _heads(inner).items():
        parts = head.adapter_state_dict(adapter, head.state_dict())  # type: ignore[call-arg]  # both kinds take it
        out |= {f"{_PREFIX}{name}.{key}": value.contiguous() for key, value in parts.items()}
    return out


def _heads(inner: S2FTModel) -> dict[str, AuxiliaryTrainingWrapper]:
    return {n: m for n, m in inner.model.named_modules() if isinstance(m, AuxiliaryTrainingWrapper)}


def _write(folder: Path, weights: Mapping[str, torch.Tensor], config: S2FTConfig | LoraConfig) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights), folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    inference, config.inference_mode = config.inference_mode, True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = inference


def load(
    model: nn.Module, folder: str | os.PathLike[str], adapter: str = "default", *, trainable: bool = False
) -> S2FTModel:
    """Return a base model under a saved adapter, without peft's registry of methods.

    ``peft.PeftModel.from_pretrained`` does the same where peft knows S2FT.

    Args:
        model: the base model that the adapter was trained on, or an :class:`S2FTModel` to add the adapter to.
        folder: what :func:`save` or ``save_pretrained`` wrote.
        adapter: name to give it.
        trainable: go on training it.

    Raises:
        AdapterError: files are missing or broken, or belong to another base; the model is left as it was.
    """
    path = Path(folder)
    config = S2FTConfig.from_pretrained(str(path), inference_mode=not trainable)
    if isinstance(model, S2FTModel):
        if adapter in model.configs:
            raise AdapterError(f"there is an adapter {adapter} already; choose another name, or delete it")
        model.configs[adapter] = config
        model.inject_adapter(model.model, adapter)
        out = model
    else:
        out = S2FTModel(model, config, adapter)
    try:
        out._cast_adapter_dtype(adapter)
        _fill(out, path, adapter)
    except BaseException:
        out.delete_adapter(adapter)
        if out is not model:
            out.unload()
        raise
    return out


def _fill(out: S2FTModel, path: Path, adapter: str) -> None:
    """Give an adapter the values of a file."""
    from safetensors.torch import load_file

    weights = load_file(path / SAFETENSORS_WEIGHTS_NAME)
    check_channels(out.model, adapter, weights)
    modules = dict(out.model.named_modules())
    places = {
        f"{name}.{key}": f"{name}.{place}"
        for name, head in _heads(out).items()
        for key, place in head.adapter_state_dict_load_map(adapter).items()
    }
    with torch.no_grad():
        for name, value in weights.items():
            module, _, what = places.get(name.removeprefix(_PREFIX), name.removeprefix(_PREFIX)).rpartition(".")
            if what == "s2ft_channels":
                continue
            target = modules[module].s2ft_delta[adapter] if what == "s2ft_delta" else getattr(modules[module], what)
            if target.shape != value.shape:
                raise AdapterError(
                    f"{path} holds {tuple(value.shape)} values of {name}, where {tuple(target.shape)} are needed; "
                    "save the adapter again"
                )
            target.copy_(value)
