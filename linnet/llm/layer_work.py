"""What one linear layer does to change adapters, and to serve many at once: S2FT and LoRA, to be measured in turn.

Source: yang2024, Section 6.2 and Figure 6.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from linnet.llm.layer import S2FTLayer
from linnet.llm.linear import COLUMNS, ROWS
from linnet.llm.serving import Bank, LoRABank

LORA = "LoRA"


def switching(width: int, channels: int, rank: int, dtype: torch.dtype, device: str) -> dict[str, Callable[[], None]]:
    """Return by name what changes from one adapter of a layer to the other and back, a call each.

    Args:
        width: of the layer, inputs and outputs.
        channels: of an S2FT adapter; at most half of the width.
        rank: of a LoRA adapter.
        dtype: of all weights.
        device: of all weights.
    """
    draw = np.random.default_rng(width)
    neighbours = np.arange(2 * channels).reshape(2, -1)
    scattered = draw.permutation(width)[: 2 * channels].reshape(2, -1)

    def settled(axis: int, sets: np.ndarray) -> Callable[[], None]:
        layer = S2FTLayer(_drawn(width, dtype, device), axis)
        for name, mine in zip("ab", sets, strict=True):
            layer.update_layer(name, mine.tolist(), "permuted", trained=False)
            layer.s2ft_delta[name].data.normal_(std=0.01)
        turns = itertools.cycle("ab")
        return lambda: layer.settle(next(turns))

    weight = _drawn(width, dtype, device).weight
    factors = [(torch.randn(width, rank).to(weight), torch.randn(rank, width).to(weight)) for _ in range(2)]
    pairs = itertools.cycle([factors, factors[::-1]])

    @torch.no_grad()
    def products() -> None:
        (b, a), (d, c) = next(pairs)
        weight.addmm_(b, a, alpha=-1e-3).addmm_(d, c, alpha=1e-3)

    return {
        "S2FT, neighbouring columns": settled(COLUMNS, neighbours),
        "S2FT, scattered columns": settled(COLUMNS, scattered),
        "S2FT, neighbouring rows": settled(ROWS, neighbours),
        LORA: products,
    }


def serving(
    width: int, n: int, length: int, channels: int, rank: int, dtype: torch.dtype, device: str
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return by name what a layer answers to a batch of n examples, each with an adapter of its own.

    Args:
        width: of the layer, inputs and outputs.
        n: examples, and adapters.
        length: tokens of an example.
        channels: of an S2FT adapter.
        rank: of a LoRA adapter.
        dtype: of all weights.
        device: of all weights.
    """
    draw = np.random.default_rng([width, n])
    base = _drawn(width, dtype, device)
    x = torch.randn(n, length, width).to(base.weight)
    which = torch.from_numpy(draw.permutation(n)).to(device)
    own = np.stack([draw.choice(width, channels, replace=False) for _ in range(n)])

    def small(*shape: int) -> torch.Tensor:
        return 0.01 * torch.randn(shape).to(base.weight)

    def bank(axis: int) -> Callable[[], torch.Tensor]:
        size = (n, width, channels) if axis == COLUMNS else (n, channels, width)
        made = Bank(base, axis, torch.tensor(own, device=device), small(*size))
        return lambda: made(x, which)

    rival = LoRABank(base, small(n, rank, width), small(n, width, rank))
    return {
        "base alone": lambda: base(x),
        "S2FT, columns": bank(COLUMNS),
        "S2FT, rows": bank(ROWS),
        LORA: lambda: rival(x, which),
    }


def _drawn(width: int, dtype: torch.dtype, device: str) -> nn.Linear:
    layer = nn.Linear(width, width, bias=False, device=device, dtype=dtype).requires_grad_(False)
    layer.weight.normal_(std=0.02)
    return layer
