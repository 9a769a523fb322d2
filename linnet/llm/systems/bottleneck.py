"""The adapter of Houlsby et al. and He et al.: down to a few units, through a nonlinearity, and up again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Bottleneck(nn.Module):
    """``scale (up relu(down x))``; zero at the start, because up starts from zero.

    In half precision the adapter computes in float32.
    """

    def __init__(self, into: int, units: int, out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.down, self.up, self.scale = nn.Linear(into, units), nn.Linear(units, out), scale
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)
        self._input: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., out) of an input (..., into)."""
        inner = torch.relu(self.down(x.to(self.down.weight.dtype)))
        return (self.scale * self.up(inner)).to(x.dtype)

    def after(self, _module: nn.Module, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
        """Forward hook of a map: the adapter follows it, around a skip connection of its own."""
        return output + self(output)

    def remember(self, _module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook of the first map of a network: keep its input."""
        self._input = arguments[0]

    def beside(self, _module: nn.Module, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
        """Forward hook of the last map of that network: add what the adapter makes of the input."""
        kept, self._input = self._input, None
        assert kept is not None, "the network's last map ran before its first"
        return output + self(kept)


def size(into: int, units: int, out: int) -> int:
    """Return the number of elements of a bottleneck."""
    return (into + 1) * units + (units + 1) * out
