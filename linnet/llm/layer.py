"""A linear layer of which S2FT trains some rows or columns."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from linnet.errors import AdapterError, ArgumentError
from linnet.llm import structure
from linnet.llm.linear import COLUMNS, PartialLinear, Place, Resident, gathered, place, put, take

_WRITING = threading.RLock()
"""Held while increments go in or out: of two threads at once one would take the other's increments for base values."""


class S2FTLayer(nn.Module, BaseTunerLayer):
    """A linear layer with trained increments of some of its rows or columns, one set an adapter.

    Increments stand in the base weight while they are in use (*resident*), and the values that they cover are kept, so
    that taking them out again is exact in every precision. Asking for the state of the module, switching or disabling
    adapters takes them out; the next forward pass puts the active ones in.

    In the gather form the base weight is left alone and the increments are multiplied on their own.

    Channels are named by their place in the base model as it was given; ``order`` says where they lie now.

    Attributes:
        s2ft_delta: the increments: (out, s) of columns, (s, in) of rows; zero when made.
        axis: 0 if channels are rows of the (out, in) weight, 1 if they are columns.
    """

    adapter_layer_names = ("s2ft_delta",)
    other_param_names = ("channels", "form")

    def __init__(self, base_layer: nn.Module, axis: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.axis = axis
        self.s2ft_delta = nn.ParameterDict()
        self.channels: dict[str, tuple[int, ...]] = {}
        self.form: dict[str, str] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.out_features, self.in_features = structure.shape(base_layer)
        self._order: tuple[int, ...] | None = None
        self._places: dict[tuple[str, torch.device], Place] = {}
        self._resident: tuple[str, ...] = ()
        self._covered: Place | None = None
        self._kept: torch.Tensor | None = None

    # --- adapters ---------------------------------------------------------------------------------

    def update_layer(
        self, adapter_name: str, channels: Sequence[int], form: str, *, trained: bool, dtype: torch.dtype | None = None
    ) -> None:
        """Add an adapter, or replace one, with increments of zero."""
        self.settle(())
        reference = next(iter(self.get_base_layer().parameters()))
        dtype = dtype or (reference.dtype if reference.is_floating_point() else torch.float32)
        size = (self.out_features, len(channels)) if self.axis == COLUMNS else (len(channels), self.in_features)
        self.channels[adapter_name], self.form[adapter_name] = tuple(channels), form
        self._forget_places()
        self.s2ft_delta[adapter_name] = nn.Parameter(torch.zeros(size, dtype=dtype), requires_grad=trained)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def where(self, adapter_name: str) -> Place:
        """Return where the channels of an adapter lie now."""
        device = self.s2ft_delta[adapter_name].device
        if (adapter_name, device) not in self._places:
            order = self._order
            now = self.channels[adapter_name] if order is None else [order[c] for c in self.channels[adapter_name]]
            with torch.inference_mode(False):  # a pass without gradients may be the first, and training come later
                self._places[adapter_name, device] = place(now, device)
        return self._places[adapter_name, device]

    def rearranged(self, order: Sequence[int] | None) -> None:
        """Take note that channels were reordered: channel c lies at ``order[c]`` now; None for as given."""
        self._order = None if order is None else tuple(order)
        self._forget_places()

    def original(self, channels: Sequence[int]) -> torch.Tensor:
        """Return a copy of the base weight's channels, whatever stands in them and wherever they lie now."""
        self.settle(())
        now = channels if self._order is None else [self._order[c] for c in channels]
        matrix = structure.weight(self)
        return take(matrix, self.axis, place(now, matrix.device)).clone()

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """Return an adapter's increment as a full (out, in) matrix of the base model as it was given."""
        delta = self.s2ft_delta[adapter]
        full = delta.new_zeros(self.out_features, self.in_features)
        put(full, self.axis, place(self.channels[adapter], delta.device), delta.detach())
        return full

    @torch.no_grad()
    def fuse(self, adapter_name: str, weights: Sequence[tuple[str, float]]) -> None:
        """Let an adapter be the weighted sum of others, whose channels it covers."""
        delta = self.s2ft_delta[adapter_name]
        for name, _ in weights:
            if name in self.s2ft_delta:  # be it in float32, on a base in bfloat16
                delta.data = delta.data.to(torch.promote_types(delta.dtype, self.s2ft_delta[name].dtype))
        at = {channel: i for i, channel in enumerate(self.channels[adapter_name])}
        total = torch.zeros_like(delta, dtype=torch.promote_types(delta.dtype, torch.float32))
        for name, factor in weights:
            if name in self.s2ft_delta:
                index = torch.tensor([at[c] for c in self.channels[name]], device=delta.device)
                total.index_add_(self.axis, index, self.s2ft_delta[name].to(total.dtype), alpha=factor)
        delta.copy_(total)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter that is not merged; see peft."""
        if not self.merged:
            self.settle(())
        super().delete_adapter(adapter_name)
        self._forget_places()

    def enable_adapters(self, enabled: bool) -> None:
        """Enable or disable all adapters; see peft."""
        if not enabled and not self.merged:
            self.settle(())
        super().enable_adapters(enabled)

    def _forget_places(self) -> None:
        self._places = {}

    # --- increments in and out of the weight ------------------------------------------------------

    def settle(self, names: Sequence[str]) -> None:
        """Let the increments of these adapters stand in the base weight, and no others.

        Their current values are written even if they stand there already, since an optimiser may have changed them.
        """
        if self.merged:
            raise AdapterError(
                f"adapters {', '.join(self.merged_adapters)} are merged; call unmerge_adapter() before changing them"
            )
        self._write(tuple(names))

    def _write(self, names: tuple[str, ...]) -> None:
        with _WRITING:
            self._exchange(names)

    @torch.no_grad()
    def _exchange(self, names: tuple[str, ...]) -> None:
        if not names and not self._resident:
            return
        matrix = structure.weight(self)
        if names != self._resident:
            if self._kept is not None and self._covered is not None:
                put(matrix, self.axis, self._covered, self._kept)
            self._resident, self._covered, self._kept = (), None, None
            if names:
                self._covered = self._union(names)
                self._kept = take(matrix, self.axis, self._covered).clone()
                self._resident = names
        if not names:
            return
        assert self._covered is not None
        assert self._kept is not None
        if len(names) == 1:
            values = self._kept + self.s2ft_delta[names[0]]
        else:
            # Channels may overlap: all increments are added before anything is rounded to the weight's precision.
            values = self._kept.to(torch.promote_types(matrix.dtype, torch.float32), copy=True)
            covered = self._indices(self._covered, matrix)
            for name in names:
                within = torch.searchsorted(covered, self._indices(self.where(name), matrix))
                values.index_add_(self.axis, within, self.s2ft_delta[name].to(values.dtype))
        put(matrix, self.axis, self._covered, values)

    def _union(self, names: tuple[str, ...]) -> Place:
        if len(names) == 1:
            return self.where(names[0])
        order = self._order
        every = {c if order is None else order[c] for name in names for c in self.channels[name]}
        return place(sorted(every), self.s2ft_delta[names[0]].device)

    @staticmethod
    def _indices(where: Place, matrix: torch.Tensor) -> torch.Tensor:
        return torch.arange(where.start, where.stop, device=matrix.device) if isinstance(where, slice) else where

    @contextlib.contextmanager
    def _held(self, names: tuple[str, ...], matrix: torch.Tensor) -> Iterator[torch.Tensor]:
        """Give the weight of a forward pass back to its backward pass, even if other adapters came in between."""
        now = self._resident
        if now == names:
            yield matrix
            return
        self._write(names)
        try:
            yield matrix
        finally:
            self._write(now)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Let increments stand in the base weight until :meth:`unmerge`, which gives back its very values.

        Args:
            safe_merge: refuse increments that are not finite.
            adapter_names: which; by default the active ones.

        Raises:
            AdapterError: an increment is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.s2ft_delta]
        if not names:
            return
        if safe_merge:
            self.require_finite(names)
        self._write((*self.merged_adapters, *names))
        self.merged_adapters.extend(names)

    def require_finite(self, adapter_names: Sequence[str]) -> None:
        """Refuse adapters with increments that are not finite.

        Raises:
            AdapterError: there is one.
        """
        mine = [name for name in adapter_names if name in self.s2ft_delta]
        if broken := [name for name in mine if not torch.isfinite(self.s2ft_delta[name]).all()]:
            raise AdapterError(f"adapter {', '.join(broken)} holds values that are not finite; it was not merged")

    def unmerge(self) -> None:
        """Take merged increments out again: the weight is bitwise what it was. A layer without any is left alone."""
        self.merged_adapters.clear()
        self._write(())

    # --- the forward pass -------------------------------------------------------------------------

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return the layer's output (..., out) for x (..., in)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.merged:
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None and not self.disable_adapters:
            return self._mixed(x, adapter_names)
        active = [] if self.disable_adapters else self.active_adapters
        names = tuple(name for name in active if name in self.s2ft_delta)
        if any(self.form[name] == "gather" for name in names):
            self.settle(())
            return self._beside(x, names)
        self.settle(names)
        # Without increments too: autograd would save the weight itself, into which the next pass may write others.
        if torch.is_grad_enabled() and (names or (x.requires_grad and self._is_frozen())):
            return self._partial(x, names)
        return self.base_layer(x, *args, **kwargs)

    def _is_frozen(self) -> bool:
        matrix = getattr(self.get_base_layer(), "weight", None)
        return isinstance(matrix, torch.Tensor) and matrix.is_floating_point() and not matrix.requires_grad

    def _partial(self, x: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
        matrix, bias = structure.weight(self), self.get_base_layer().bias
        if matrix.requires_grad:
            raise AdapterError(
                "the base weight is to be trained too, and increments stand in it; freeze it, or use "
                'form="gather", which leaves it alone'
            )
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
        else:
            dtype = x.dtype

        order = self._order

        @contextlib.contextmanager
        def held() -> Iterator[torch.Tensor]:
            if self._order != order:
                raise AdapterError(
                    "the base weights were reordered between a forward pass and its backward pass, by the first pass "
                    "in training mode, by a new adapter, or since their state was asked for, as when saving; do "
                    'backward() first, or use form="gather"'
                )
            with self._held(names, matrix) as weight:
                yield weight.to(dtype)

        resident = Resident(matrix.to(dtype), self.axis, tuple(map(self.where, names)), held)
        return PartialLinear.apply(x, bias, resident, *(self.s2ft_delta[name] for name in names))

    def _beside(self, x: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        out = self.base_layer(x)
        for name in names:
            delta = self.s2ft_delta[name]
            out = out + gathered(x, self.axis, self.where(name), delta.to(x.dtype), self.out_features).to(out.dtype)
        return out

    def _mixed(self, x: torch.Tensor, adapter_names: list[str]) -> torch.Tensor:
        """Return the output where each example of the batch has an adapter of its own, ``__base__`` for none."""
        each, left = divmod(len(x), len(adapter_names))
        if left or each < 1 or (each > 1 and x.ndim > 2):  # some models put examples and tokens into one axis
            raise ArgumentError(f"{len(adapter_names)} adapter names for {len(x)} examples: give one each")
        self.settle(())
        out = self.base_layer(x)
        for name in dict.fromkeys(adapter_names):
            if name not in self.s2ft_delta:
                continue
            rows = torch.tensor([i for i in range(len(x)) if adapter_names[i // each] == name], device=x.device)
            delta = self.s2ft_delta[name].to(x.dtype)
            part = gathered(x[rows], self.axis, self.where(name), delta, self.out_features)
            out = out.index_add(0, rows, part.to(out.dtype))
        return out

    # --- state ------------------------------------------------------------------------------------

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # Otherwise the increments would be stored twice, and counted twice when loaded.
        if not self.merged:
            self.settle(())
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if not self.merged:
            self.settle(())
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> S2FTLayer:
        super()._apply(fn, recurse)
        if self._kept is not None:
            self._kept = fn(self._kept)
        self._forget_places()
        if isinstance(self._covered, torch.Tensor):
            self._covered = self._covered.to(structure.weight(self).device)
        return self

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return True: an increment of s channels is a LoRA of rank s; see :mod:`linnet.llm.adapters`."""
        return True

    def extra_repr(self) -> str:
        """Say what is trained."""
        what = "columns" if self.axis == COLUMNS else "rows"
        return ", ".join(f"{name}: {len(channels)} {what}" for name, channels in self.channels.items())

    def __repr__(self) -> str:
        return "s2ft." + super().__repr__()
