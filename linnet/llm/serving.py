"""Many adapters served at once: in one batch, each example has an adapter of its own.

A :class:`Bank` holds the adapters of one layer side by side. The base product is one for the whole batch; to it is
added, example by example, the product of the few channels that an adapter touches. A :class:`LoRABank` does the same
for LoRA, with two products.

Source: yang2024, Section 6.2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from linnet.errors import AdapterError, ArgumentError, ChannelError, ShapeError
from linnet.llm import structure
from linnet.llm.adapters import tuner
from linnet.llm.layer import S2FTLayer
from linnet.llm.linear import COLUMNS, ROWS
from linnet.llm.model import expecting

BASE = "__base__"
"""What names no adapter, as in peft."""


class Bank(nn.Module):
    """A linear layer with n sets of increments of its columns or rows, of which each example of a batch has one.

    Args:
        base: the layer; its weight is left alone.
        axis: 0 if channels are rows of the (out, in) weight, 1 if they are columns.
        channels: (n, s) whole numbers, those of each adapter. Adapters of fewer channels are padded: any channel, with
            an increment of zero.
        increments: (n, out, s) of columns, (n, s, in) of rows.
        batched: multiply with all adapters of a batch at once, which copies them side by side, or one after the other,
            which reads them where they lie; by default the latter on a CPU, where copying costs more than it saves.

    Raises:
        ShapeError: shapes that do not fit each other, or the layer.
        ChannelError: a channel that the layer lacks.

    Source: yang2024, Section 6.2: one product, an addition, and a gather (columns) or a scatter (rows).
    """

    channels: torch.Tensor
    increments: torch.Tensor

    def __init__(
        self,
        base: nn.Module,
        axis: int,
        channels: torch.Tensor,
        increments: torch.Tensor,
        *,
        batched: bool | None = None,
    ) -> None:
        super().__init__()
        out, into = structure.shape(base)
        n, s = channels.shape if channels.ndim == 2 else (0, 0)
        expected = (n, out, s) if axis == COLUMNS else (n, s, into)
        if axis not in (ROWS, COLUMNS) or not n or not s or tuple(increments.shape) != expected:
            raise ShapeError(
                f"a bank of a layer ({out}, {into}) needs channels (n, s) and increments (n, out, s) of columns (axis "
                f"1), (n, s, in) of rows (axis 0); given: axis {axis}, {tuple(channels.shape)}, "
                f"{tuple(increments.shape)}"
            )
        size = into if axis == COLUMNS else out
        if channels.is_floating_point() or int(channels.min()) < 0 or int(channels.max()) >= size:
            raise ChannelError(
                f"channels are whole numbers from 0 to {size - 1}; given: {channels.dtype}, {channels.min():g} to "
                f"{channels.max():g}"
            )
        self.base, self.axis, self.batched = base, axis, batched
        self.register_buffer("channels", channels.long())
        self.register_buffer("increments", increments.detach())

    def forward(self, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Return (B, ..., out) of x (B, ..., in), or (B T, out) of (B T, in); example b has adapter ``which[b]``."""
        return self.add(self.base(x), x, which)

    def add(self, out: torch.Tensor, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Add in place, to the base's output for x, what the adapters contribute; return it."""
        x, y = _by_example(x, which), out.view(_by_example(out, which).shape)
        index = self.channels[which].unsqueeze(1).expand(-1, y.shape[1], -1)
        if self.axis == COLUMNS:
            _add_products(y, x.gather(-1, index), self.increments, which, self.batched)
        else:
            part = y.new_zeros(index.shape)
            _add_products(part, x, self.increments, which, self.batched)
            y.scatter_add_(-1, index, part)
        return out


class LoRABank(nn.Module):
    """A linear layer with n products of rank r, of which each example of a batch has one.

    Args:
        base: the layer; its weight is left alone.
        a: (n, r, in), the factors that come first.
        b: (n, out, r), the others; scales included.
        batched: as for :class:`Bank`.

    Raises:
        ShapeError: shapes that do not fit each other, or the layer.

    Source: yang2024, Section 6.2, after S-LoRA.
    """

    a: torch.Tensor
    b: torch.Tensor

    def __init__(self, base: nn.Module, a: torch.Tensor, b: torch.Tensor, *, batched: bool | None = None) -> None:
        super().__init__()
        out, into = structure.shape(base)
        n, r = a.shape[:2] if a.ndim == 3 else (0, 0)
        if not n or not r or tuple(a.shape) != (n, r, into) or tuple(b.shape) != (n, out, r):
            raise ShapeError(
                f"a bank of a layer ({out}, {into}) needs factors (n, r, in) and (n, out, r); given: {tuple(a.shape)}, "
                f"{tuple(b.shape)}"
            )
        self.base, self.batched = base, batched
        self.register_buffer("a", a.detach())
        self.register_buffer("b", b.detach())

    def forward(self, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Return (B, ..., out) of x (B, ..., in), or (B T, out) of (B T, in); example b has adapter ``which[b]``."""
        out = self.base(x)
        x, y = _by_example(x, which), out.view(_by_example(out, which).shape)
        inner = y.new_zeros(*y.shape[:2], self.a.shape[1])
        _add_products(inner, x, self.a, which, self.batched)
        _add_products(y, inner, self.b, which, self.batched)
        return out


def _add_products(
    y: torch.Tensor, x: torch.Tensor, factors: torch.Tensor, which: torch.Tensor, batched: bool | None
) -> None:
    """Add to each y[b] (T, out), in place, the product of x[b] (T, in) with the (out, in) factor of number which[b]."""
    x = x.to(y.dtype)
    if batched is None:
        batched = y.device.type != "cpu"
    if batched:
        y.baddbmm_(x, factors[which].to(y.dtype).mT)
        return
    for b, i in enumerate(which.tolist()):
        y[b].addmm_(x[b], factors[i].to(y.dtype).T)


def _by_example(x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Return (B, T, d) of (B, ..., d), or of (B T, d): some models put examples and tokens into one axis.

    Raises:
        ArgumentError: there are not as many examples.
    """
    n, rows = len(which), x.shape[:-1].numel()
    if not n or rows % n or (x.ndim > 2 and len(x) != n):
        raise ArgumentError(f"adapters for {n} examples, and inputs of shape {tuple(x.shape)}: give each example one")
    return x.reshape(n, rows // n, x.shape[-1])


class Server:
    """A base model that serves many S2FT adapters at once.

        server = Server(model)
        with server.each(["two", "__base__", "one"]) as base:
            base(**batch)  # three examples

    The adapters are taken out of the model and copied into banks, in the precision of the base weights, padded to the
    largest number of channels that one of them has in a layer. Within the context, whatever calls the base model, be it
    its ``generate``, gives each example its adapter; outside of it, the base model is as it was before fine-tuning.

    Args:
        model: a model under S2FT, in peft or on its own, on the device on which it is to serve; it is taken apart
            (``unload``), and only its base goes on.
        adapters: names of the adapters; by default all.

    Attributes:
        model: the base model.
        adapters: their names, in the order of the banks; the last stands for none.
        banks: a bank for each layer that an adapter changes, by the name of the module.

    Raises:
        AdapterError: no such adapter, or one that trained more than rows and columns: biases, or a head.

    Source: yang2024, Section 6.2.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[str] | None = None) -> None:
        inner = tuner(model)
        names = list(inner.peft_config) if adapters is None else list(dict.fromkeys(adapters))
        if unknown := [name for name in names if name not in inner.peft_config]:
            raise AdapterError(f"no adapter is called {', '.join(unknown)}; there are {', '.join(inner.peft_config)}")
        if biased := [name for name in names if inner.configs[name].bias != "none"]:
            raise AdapterError(
                f"{', '.join(biased)} trained biases, which all examples of a batch share; serve it alone, or train "
                'with bias="none"'
            )
        if whole := [n for n, module in inner.model.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]:
            raise AdapterError(
                f"{', '.join(whole)} was trained whole, a copy for each adapter, which no bank holds; serve such "
                "adapters with adapter_names, or train without modules_to_save"
            )
        self.adapters = (*names, BASE)
        # Channels are named as the base model was given, which is the order that unload() gives back.
        held = {n: _padded(m, names) for n, m in inner.model.named_modules() if isinstance(m, S2FTLayer)}
        self.model = inner.unload()
        self.banks: Mapping[str, Bank] = {
            name: Bank(self.model.get_submodule(name), *parts) for name, parts in held.items() if parts is not None
        }

    @contextlib.contextmanager
    def each(self, adapters: Sequence[str]) -> Iterator[nn.Module]:
        """Give each example of the batches to come its adapter, ``__base__`` for none.

        Args:
            adapters: as many names as there are examples in a batch; of beam search, as many as there are beams.

        Raises:
            AdapterError: no such adapter.
            ArgumentError: within the context, a batch with another number of examples.
        """
        if unknown := sorted(set(adapters) - set(self.adapters)):
            raise AdapterError(f"no adapter is called {', '.join(unknown)}; there are {', '.join(self.adapters)}")
        numbers = [self.adapters.index(name) for name in adapters]

        def hook(bank: Bank) -> Any:
            which = torch.tensor(numbers, device=bank.channels.device)
            return lambda _module, given, out: bank.add(out, given[0], which)

        hooks = [bank.base.register_forward_hook(hook(bank)) for bank in self.banks.values()]
        hooks.append(expecting(self.model, len(numbers)))
        try:
            yield self.model
        finally:
            for handle in hooks:
                handle.remove()


def _padded(layer: S2FTLayer, names: Sequence[str]) -> tuple[int, torch.Tensor, torch.Tensor] | None:
    """Return axis, channels and increments of adapters in a layer, none at the end; None if no adapter changes it."""
    most = max((len(layer.channels[name]) for name in names if name in layer.channels), default=0)
    if not most:
        return None
    reference = next(iter(layer.get_base_layer().parameters()))
    dtype = reference.dtype if reference.is_floating_point() else torch.get_default_dtype()
    n = len(names) + 1
    size = (n, layer.out_features, most) if layer.axis == COLUMNS else (n, most, layer.in_features)
    channels = torch.zeros(n, most, dtype=torch.long, device=reference.device)
    increments = torch.zeros(size, dtype=dtype, device=reference.device)
    for i, name in enumerate(names):
        if name in layer.channels:
            mine = torch.tensor(layer.channels[name], device=reference.device)
            channels[i, : len(mine)] = mine
            increments[i].narrow(layer.axis, 0, len(mine)).copy_(layer.s2ft_delta[name].detach())
    return layer.axis, channels, increments
