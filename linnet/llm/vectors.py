"""Flat vectors of many parameters: sums in double precision, and what rounding means for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from linnet.errors import NonFiniteError


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def dot(a: Tensor, b: Tensor) -> float:
    """Return the inner product of two vectors, summed in double precision."""
    return float((a * b).sum(dtype=torch.float64))


def norm(a: Tensor) -> float:
    """Return the length of a vector, summed in double precision."""
    return math.sqrt(dot(a, a))


def rounding(like: Tensor) -> float:
    """Return the unit of rounding of a tensor's dtype."""
    return float(torch.finfo(like.dtype).eps)


def normal(like: Tensor, seed: int) -> Tensor:
    """Return a standard normal vector, the same on every device."""
    drawn = torch.randn(len(like), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(like)


def finite(number: float, name: str) -> float:
    """Return a number.

    Raises:
        NonFiniteError: it is NaN or infinite.
    """
    if not math.isfinite(number):
        raise NonFiniteError(f"{name} is {number}; lower the learning rate that led here, or compute in float32")
    return number
