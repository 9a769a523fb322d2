"""A model under S2FT: structures found, units selected, layers wrapped, weights reordered and given back."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from linnet.errors import AdapterError, ArgumentError, StructureError
from linnet.llm import registration, selection, structure
from linnet.llm.config import S2FTConfig
from linnet.llm.layer import S2FTLayer
from linnet.llm.linear import COLUMNS, ROWS
from linnet.llm.permutation import check_writable, inverse, order_with, permuting
from linnet.llm.selection import CALIBRATED, Share
from linnet.llm.structure import INWARD, Structure

HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Names of the heads that are trained whole, by the task of a configuration; as in peft."""


class S2FTModel(BaseTuner):
    """A transformer of which S2FT trains some heads and channels.

    What ``peft.get_peft_model(model, S2FTConfig(...))`` wraps; it can be used on its own as well.

    Args:
        model: a transformer of a known layout, or of one that the configuration describes.
        config: what to train; a copy is kept, completed by what was selected.
        adapter_name: name of the adapter.

    Raises:
        StructureError: the model has no such structures.
        BudgetError: the budget selects nothing, or more than there is.
        AdapterError: the configuration is that of an adapter trained on other base weights.
        ArgumentError: the strategy needs data; see :func:`linnet.llm.calibrate`.
    """

    prefix = registration.PREFIX
    tuner_layer_cls = S2FTLayer
    uses_shared_state = True  # the order of the units, which modules on both sides share

    def __init__(
        self,
        model: nn.Module,
        config: Any,
        adapter_name: str = "default",
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        if any(isinstance(module, S2FTLayer) for module in model.modules()):
            raise AdapterError(
                "the model has S2FT adapters already, and its weights may be reordered; take them out with unload(), "
                "or add to them with add_adapter()"
            )
        # The base class calls inject_adapter, which needs them.
        self._found: dict[str, Structure] = {}
        self._trained: dict[str, tuple[int, list[int]]] = {}
        self._orders: dict[str, list[int]] = {}
        self._waiting: Any = None
        self._states: list[Any] = []
        super().__init__(model, config, adapter_name, low_cpu_mem_usage=low_cpu_mem_usage, state_dict=state_dict)

    # --- making adapters --------------------------------------------------------------------------

    @property
    def configs(self) -> dict[str, S2FTConfig]:
        """The adapters' configurations by name."""
        return cast(dict[str, S2FTConfig], self.peft_config)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter; see peft. Nothing is changed if it is refused."""
        config = copy.deepcopy(self.configs[adapter_name])
        if config.modules_to_save is None and config.task_type in HEADS:
            config.modules_to_save = list(HEADS[config.task_type])  # peft writes them into the given configuration only
        # What is selected, and the fingerprint, are of the base model as it was given.
        self._canonical()
        try:
            found = resolve(model, config)
            seal(model, config, found)
        except Exception:
            self.configs.pop(adapter_name)
            raise
        self.configs[adapter_name] = config
        self._found = {s.key: s for s in found}
        self._trained = trained_channels(config, self._found)
        self._watch_states()
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config.target_modules = sorted(self._trained)  # of many names peft has made a few endings
        # Weights are reordered when training begins, not before: whatever is refused until then leaves them alone.
        if reorders(config) and not config.inference_mode:
            self._wait()

    def _check_target_module_exists(self, peft_config: Any, key: str) -> bool:  # type: ignore[override]
        return key in self._trained  # whole names: endings may fit other modules too

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
        **optional_kwargs: Any,
    ) -> None:
        axis, channels = self._trained[current_key]
        trained = adapter_name in self.active_adapters and not peft_config.inference_mode
        if isinstance(target, S2FTLayer):
            target.update_layer(adapter_name, channels, peft_config.form, trained=trained)
            return
        layer = S2FTLayer(target, axis)
        layer.update_layer(adapter_name, channels, peft_config.form, trained=trained)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        self._replace_module(parent, target_name, layer, target)

    def add_weighted_adapter(self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str) -> None:
        """Fuse adapters into a new one: the weighted sum of their increments, on all their channels.

        Args:
            adapters: names of adapters of this model.
            weights: a finite factor each.
            adapter_name: name of the new adapter, which becomes neither active nor trained.

        Raises:
            AdapterError: an adapter is not there, or the new name is; or one trained biases, or a head.
            ArgumentError: weights do not match the adapters.

        Source: yang2024, Section 6.2, Table 5.
        """
        if unknown := [name for name in adapters if name not in self.configs]:
            raise AdapterError(f"no adapter is called {', '.join(unknown)}; there are {', '.join(self.configs)}")
        if adapter_name in self.configs:
            raise AdapterError(f"there is an adapter {adapter_name} already; choose another name, or delete it")
        if len(weights) != len(adapters) or not adapters or not np.isfinite(np.asarray(weights, dtype=float)).all():
            raise ArgumentError(f"{len(adapters)} adapters need as many finite weights; given: {list(weights)}")
        configs = [self.configs[name] for name in adapters]
        if biased := [name for name, c in zip(adapters, configs, strict=True) if c.bias != "none"]:
            raise AdapterError(
                f"{', '.join(biased)} trained biases, which cannot be fused; merge and save the model instead"
            )
        if headed := [name for name, c in zip(adapters, configs, strict=True) if c.modules_to_save]:
            raise AdapterError(
                f"{', '.join(headed)} trained modules whole ({', '.join(configs[0].modules_to_save or ())}), which are "
                "no increments of channels and cannot be fused; fuse adapters without modules_to_save"
            )
        config = copy.deepcopy(configs[0])
        config.targets = list(dict.fromkeys(role for c in configs for role in c.targets))
        config.units, config.base, config.inference_mode = {}, None, True
        for c in configs:
            for key, units in (c.units or {}).items():
                config.units[key] = list(dict.fromkeys((*config.units.get(key, ()), *units)))
        self.configs[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        for layer in self._layers():
            if adapter_name in layer.s2ft_delta:
                layer.fuse(adapter_name, list(zip(adapters, weights, strict=True)))

    # --- the order of units -----------------------------------------------------------------------

    def arrange(self) -> None:
        """Reorder the base weights, so that the channels of each adapter lie side by side.

        Happens by itself before the first training step. The first adapter's come first, then those of the next ones.
        """
        with self._base_weights():
            # With biases those of the other side would be reordered too, and they are saved as they lie.
            if all(c.bias == "none" for c in self.configs.values()):
                for mine in self._found.values():
                    check_writable(self.model, mine)
                for key, mine in self._found.items():
                    configs = [c for c in self.configs.values() if reorders(c)]
                    first = [unit for config in configs for unit in (config.units or {}).get(key, ())]
                    if first:
                        self._reorder(mine, order_with(mine, first))
        self._wait_no_longer()  # only now: what was interrupted begins again with the next pass

    def restore_order(self) -> None:
        """Give the base weights their order back, bitwise."""
        with self._base_weights():
            for mine in self._found.values():
                self._reorder(mine, list(range(mine.units)))

    def _reorder(self, mine: Structure, order: Sequence[int]) -> None:
        """Let unit ``order[i]`` of the base model as it was given lie at place i."""
        now = self._orders.get(mine.key, list(range(mine.units)))
        if list(order) == now:
            return
        at, before = inverse(now), self._orders
        after = {key: o for key, o in before.items() if key != mine.key}
        if list(order) != sorted(order):
            after[mine.key] = list(order)
        with permuting(self.model, mine, [at[unit] for unit in order]):
            try:
                self._take_note(mine, after)
            except BaseException:
                self._take_note(mine, before)
                raise

    def _take_note(self, mine: Structure, orders: dict[str, list[int]]) -> None:
        """Let the model and the layers of a structure know how units lie."""
        self._orders = orders
        for projection in mine.projections.values():
            module = self.model.get_submodule(projection.module)
            if isinstance(module, S2FTLayer):
                module.rearranged(self._places_of(module, projection.module))

    def _places_of(self, layer: S2FTLayer, module: str) -> list[int] | None:
        """Return where each channel of a module lies now."""
        places = list(range(layer.out_features if layer.axis == ROWS else layer.in_features))
        for key, order in self._orders.items():
            mine = self._found[key]
            for role, projection in mine.projections.items():
                if projection.module == module:
                    now = mine.channels(role, list(order))
                    start = min(now)
                    for i, channel in enumerate(now):
                        places[channel] = start + i
        return places

    @contextlib.contextmanager
    def _base_weights(self) -> Iterator[None]:
        """Take every increment out of the base weights; what was merged is merged again afterwards."""
        merged = {layer: list(layer.merged_adapters) for layer in self._layers() if layer.merged}
        try:
            for layer in self._layers():
                if layer in merged:
                    layer.unmerge()
                layer.settle(())
            yield
        finally:
            for layer, names in merged.items():
                if not layer.merged:
                    layer.merge(adapter_names=names)

    def _layers(self) -> list[S2FTLayer]:
        return [module for module in self.model.modules() if isinstance(module, S2FTLayer)]

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.training:
            self.arrange()

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.model.register_forward_pre_hook(self._before)

    def _wait_no_longer(self) -> None:
        if self._waiting is not None:
            self._waiting.remove()
            self._waiting = None

    def unload(self) -> nn.Module:
        """Return the base model without adapters, bitwise as it was given, but for trained biases and heads.

        Those are no increments: peft trains them in place, or in a copy that takes the place of the module.
        """
        for layer in self._layers():
            if layer.merged:
                layer.unmerge()
        self._leave()
        return super().unload()

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """Return the base model with adapters written into it, its units in the order in which they were given.

        Raises:
            AdapterError: with ``safe_merge`` an increment is not finite; nothing is merged then.
        """
        self._require_finite(safe_merge, adapter_names)
        self._leave()
        return super().merge_and_unload(progressbar=progressbar, safe_merge=safe_merge, adapter_names=adapter_names)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Write adapters into the base weights, until ``unmerge_adapter``; see peft.

        Raises:
            AdapterError: with ``safe_merge`` an increment is not finite; nothing is merged then.
        """
        self._require_finite(safe_merge, adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def _require_finite(self, asked: bool, adapter_names: list[str] | None) -> None:
        """Look at all layers before one of them is merged."""
        if asked:
            for layer in self._layers():
                layer.require_finite(check_adapters_to_merge(layer, adapter_names))

    def _leave(self) -> None:
        """Give the order back for good: training begins no more."""
        self._wait_no_longer()
        self.restore_order()
        for handle in self._states:
            handle.remove()
        self._states = []

    # --- states ---------------------------------------------------------------------------------

    def _watch_states(self) -> None:
        """Let every module whose weight may be reordered give the order back before its state is read or written.

        Each of them, since states are taken of parts too: of the base model alone, of a block.
        """
        for handle in self._states:
            handle.remove()
        names = {p.module for mine in self._found.values() for p in mine.projections.values()}
        self._states = []
        for name in sorted(names):
            module = structure.bare(self.model.get_submodule(name))
            self._states.append(module.register_state_dict_pre_hook(self._canonical))
            self._states.append(module.register_load_state_dict_pre_hook(self._canonical))

    def _canonical(self, *_: Any) -> None:
        """Give units their order back, until the next training step: a state is of the base model as it was given."""
        if self._orders:
            self.restore_order()
            self._wait()

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        out = super()._get_adapter_state_dict(model, config, adapter_name, *args, **kwargs)
        for name, layer in model.named_modules():
            if isinstance(layer, S2FTLayer) and adapter_name in layer.channels:
                out[f"{name}.s2ft_channels.{adapter_name}"] = torch.tensor(layer.channels[adapter_name])
        return out

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        check_channels(model, adapter_name, state_dict)
        kept = {k: v for k, v in state_dict.items() if not k.endswith(".s2ft_channels")}
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, kept)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        mine = [layer for layer in self._layers() if adapter_name in layer.s2ft_delta]
        flags = [layer.s2ft_delta[adapter_name].requires_grad for layer in mine]
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for layer, flag in zip(mine, flags, strict=True):
            layer.s2ft_delta[adapter_name].requires_grad_(flag)  # peft makes a new parameter, trainable by default

    # --- serving ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Let each example of a batch have the adapter that ``adapter_names`` gives it; see peft."""
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        if self.training:
            raise ArgumentError("adapter_names is for inference; call eval() first")
        if unknown := sorted(set(names) - set(self.configs) - {"__base__"}):
            raise AdapterError(f"no adapter is called {', '.join(unknown)}; there are {', '.join(self.configs)}")
        if merged := sorted({name for layer in self._layers() for name in layer.merged_adapters}):
            raise AdapterError(
                f"{', '.join(merged)} is merged, for all examples alike; call unmerge_adapter() before giving each its "
                "own with adapter_names"
            )

        def hand_over(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return given, named | {"adapter_names": names}

        beams = kwargs.get("num_beams")
        if isinstance(beams, int) and beams > 1:
            names = [name for name in names for _ in range(beams)]
        listening = [m for m in self.modules() if isinstance(m, (S2FTLayer, AuxiliaryTrainingWrapper))]
        hooks = [module.register_forward_pre_hook(hand_over, with_kwargs=True) for module in listening]
        hooks.append(expecting(self.model, len(names)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def check_channels(model: nn.Module, adapter_name: str, state: Mapping[str, torch.Tensor]) -> None:
    """Compare the channels that a saved adapter names with those of an adapter of the model.

    Raises:
        AdapterError: they are others.
    """
    modules = dict(model.named_modules())
    for key, channels in state.items():
        name, _, what = key.rpartition(".")
        layer = modules.get(name, modules.get(name.removeprefix("base_model.model.")))
        if what != "s2ft_channels" or not isinstance(layer, S2FTLayer):
            continue
        if tuple(channels.tolist()) != layer.channels.get(adapter_name):
            raise AdapterError(
                f"the file holds other channels of {name} than the adapter {adapter_name} has; load it under a new "
                "name, or delete the adapter first"
            )


def expecting(model: nn.Module, examples: int) -> Any:
    """Let a model refuse batches of another number of examples; return the handle of the hook.

    Layers cannot tell: some models put examples and tokens into one axis.
    """

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        batch = next((t for t in given if isinstance(t, torch.Tensor) and t.ndim > 1), None)
        if batch is not None and len(batch) != examples:
            raise ArgumentError(f"{examples} adapter names for {len(batch)} examples: give one each")

    return model.register_forward_pre_hook(look, with_kwargs=True)


def reorders(config: S2FTConfig) -> bool:
    """Return whether an adapter's channels are brought side by side; biases that are trained stay where they are."""
    return config.form == "permuted" and config.bias == "none"


def resolve(model: nn.Module, config: S2FTConfig) -> list[Structure]:
    """Complete a configuration in place by what it selects in a model; return the model's structures.

    Args:
        model: the base model, be it under adapters already.
        config: ``units`` and ``target_modules`` are filled in.

    Raises:
        StructureError: no such structures, blocks or units.
        BudgetError: the budget selects nothing, or more than there is.
        ArgumentError: the strategy needs data.
    """
    found = structure.find(model, config.placed())
    require_apart(found)
    owners: dict[int, str] = {}
    for mine in found:
        for name in {p.module for p in mine.projections.values()}:
            module = model.get_submodule(name)
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)) and not isinstance(module, S2FTLayer):
                raise StructureError(
                    f"{name} is a {type(module).__name__} already, whose own weights would not be reordered; merge or "
                    "unload the other adapter first"
                )
            matrix = getattr(structure.bare(module), "weight", None)
            if isinstance(matrix, torch.Tensor) and owners.setdefault(id(matrix), name) != name:
                raise StructureError(f"{name} and {owners[id(matrix)]} share one weight; give each its own copy")
    if config.units is None:
        if config.strategy in CALIBRATED:
            raise ArgumentError(
                f"the strategy {config.strategy!r} looks at data: config = linnet.llm.calibrate(config, model, batches)"
            )
        config.units = select(model, config, found)
    by_key = {s.key: s for s in found}
    for key, units in config.units.items():
        if key not in by_key:
            raise StructureError(f"the model has no {key}; it has, for instance, {found[0].key}")
        if not units or len(set(units)) < len(units) or not set(units) <= set(range(by_key[key].units)):
            raise StructureError(
                f"{key} has units 0 to {by_key[key].units - 1}, each at most once; given: {list(units)}"
            )
        if not set(config.targets) & set(by_key[key].projections):
            raise StructureError(
                f"units of {key} are given, and none of its matrices is to be trained; targets are "
                f"{', '.join(config.targets)}"
            )
    config.target_modules = sorted(trained_channels(config, by_key))
    return found


def require_apart(found: Sequence[Structure]) -> None:
    """Refuse structures of which one matrix would be reordered twice.

    Raises:
        StructureError: two parts of a module have rows in common.
    """
    taken: dict[str, list[tuple[int, float, str]]] = {}
    for mine in found:
        for role, p in mine.projections.items():
            rows = (p.start, p.stop) if role in mine.inward else (0, float("inf"))
            for start, stop, other in taken.setdefault(p.module, []):
                if rows[0] < stop and start < rows[1]:
                    raise StructureError(
                        f"{role} and {other} of {mine.block} have rows of {p.module} in common, which would be "
                        "reordered twice; name parts that do not overlap"
                    )
            taken[p.module].append((*rows, role))


def budget(model: nn.Module, config: S2FTConfig) -> int:
    """Return how many parameters a configuration may train in a model."""
    if config.n_parameters is not None:
        return config.n_parameters
    layers = {name for name, module in model.named_modules() if isinstance(module, S2FTLayer)}
    own = {f"{name}.s2ft_delta" for name in layers}
    total = sum(p.numel() for name, p in model.named_parameters() if name.rpartition(".")[0] not in own)
    return int((0.01 if config.ratio is None else config.ratio) * total)


def chosen_shares(model: nn.Module, config: S2FTConfig, found: Sequence[Structure]) -> list[Share]:
    """Return what the budget gives to each structure of the blocks that are trained."""
    names = list(dict.fromkeys(s.block for s in found))
    if config.blocks is not None:
        if max(config.blocks) >= len(names):
            raise StructureError(f"blocks {config.blocks}: the model has blocks 0 to {len(names) - 1}")
        names = [names[i] for i in config.blocks]
    return selection.shares(model, [s for s in found if s.block in names], list(config.targets), budget(model, config))


def select(
    model: nn.Module,
    config: S2FTConfig,
    found: Sequence[Structure],
    scores: Mapping[str, np.ndarray] | None = None,
) -> dict[str, list[int]]:
    """Return the units that a configuration selects, by structure; with scores (units,) where it looks at data."""
    sizes = {mine.key: mine.units for mine in found}
    for key, units in (config.excluded or {}).items():
        if not set(units) <= set(range(sizes.get(key, 0))):
            has = f"units 0 to {sizes[key] - 1}" if key in sizes else f"no such structure, but {found[0].key}"
            raise StructureError(f"excluded names units {list(units)} of {key}; the model has {has}")
    out = {}
    for share in chosen_shares(model, config, found):
        mine = share.structure
        if scores is not None:
            worth = scores[mine.key]
        elif config.strategy == "random":
            worth = selection.random_scores(mine, config.seed)
        else:
            worth = selection.weight_scores(model, mine, share.roles)
        excluded = (config.excluded or {}).get(mine.key, ())
        out[mine.key] = selection.choose(
            mine, share.roles, share.units, worth, largest=config.largest, excluded=excluded
        )
    return out


def calibrate(
    config: S2FTConfig,
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    fraction: float = 1.0,
    loss: Callable[[nn.Module, Mapping[str, Any]], torch.Tensor] | None = None,
) -> S2FTConfig:
    """Return a configuration whose units were chosen by looking at data.

    Args:
        config: with strategy activation, product or gradient.
        model: the base model, left as it was.
        batches: keyword arguments of the model, with labels for gradient; all are read before one is looked at.
        fraction: part of the batches to look at, at least one, drawn with the configuration's seed; the paper
            takes 0.01.
        loss: for gradient, from model and batch to a scalar; by default the ``loss`` of the model's output.

    Raises:
        ArgumentError: the strategy looks at no data, no batch is given, or calibration gives no finite values.
        BudgetError, StructureError: as for :class:`S2FTModel`.

    Source: yang2024, Section 5.4, Table 4.
    """
    if config.strategy not in CALIBRATED:
        raise ArgumentError(f"the strategy {config.strategy!r} looks at no data; use {', '.join(CALIBRATED)}")
    if not 0 < fraction <= 1:
        raise ArgumentError(f"fraction is above 0 and at most 1; given: {fraction}")
    if any(isinstance(module, S2FTLayer) for module in model.modules()):
        raise ArgumentError("calibrate on the base model before it is under adapters, or after unload()")
    out = copy.deepcopy(config)
    found = structure.find(model, out.placed())
    batches = list(batches)
    if batches:
        n = max(1, round(fraction * len(batches)))
        drawn = np.random.default_rng(config.seed).permutation(len(batches))[:n]
        batches = [batches[i] for i in sorted(drawn)]
    wanted = [(share.structure, share.roles) for share in chosen_shares(model, out, found)]
    scores = selection.calibrated_scores(model, wanted, batches, out.strategy, loss)
    out.units = select(model, out, found, scores)
    return out


def trained_channels(config: S2FTConfig, found: Mapping[str, Structure]) -> dict[str, tuple[int, list[int]]]:
    """Return, for each module, the axis and the channels that a configuration trains, as the base model was given."""
    out: dict[str, tuple[int, list[int]]] = {}
    for key, units in (config.units or {}).items():
        mine = found[key]
        for role, projection in mine.projections.items():
            if role not in config.targets:
                continue
            axis = ROWS if role in INWARD[mine.kind] else COLUMNS
            _, channels = out.setdefault(projection.module, (axis, []))
            channels.extend(mine.channels(role, list(units)))
    return out


def fingerprint(model: nn.Module, config: S2FTConfig, found: Sequence[Structure]) -> list[str] | None:
    """Return hashes of the base weights under the trained channels.

    They are rounded to bfloat16, and to float16 and then to bfloat16: the same base in float32 has one hash in common
    with itself in bfloat16, and one with itself in float16. None where weights are not in memory or quantised.
    """
    plain, half = hashlib.sha256(), hashlib.sha256()
    for name, (axis, channels) in sorted(trained_channels(config, {s.key: s for s in found}).items()):
        module = model.get_submodule(name)
        try:
            if isinstance(module, S2FTLayer):
                values = module.original(channels)
            else:
                matrix = structure.weight(module)
                values = matrix.detach().index_select(axis, torch.tensor(channels, device=matrix.device))
        except StructureError:
            return None
        if values.device.type == "meta":
            return None
        for digest, rounded in ((plain, values), (half, values.to(torch.float16))):
            digest.update(f"{name} {tuple(values.shape)} ".encode())
            digest.update(rounded.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes())
    return list(dict.fromkeys((plain.hexdigest(), half.hexdigest())))


def seal(model: nn.Module, config: S2FTConfig, found: Sequence[Structure]) -> None:
    """Write the base model's fingerprint into a new configuration; compare it with that of a stored one.

    Raises:
        AdapterError: the configuration belongs to another base model.
    """
    mine = fingerprint(model, config, found)
    if config.base is None:
        config.base = mine
    elif mine is not None and not set(mine) & set(config.base):
        raise AdapterError(
            f"the adapter was trained on another base model: the weights under its channels have the fingerprint "
            f"{config.base[0][:12]}, those of this model {mine[0][:12]}. Load it onto its own base; if you mean to "
            "put it onto this one, set base to null in adapter_config.json"
        )


registration.register(S2FTConfig, S2FTModel)
