"""Partial back-propagation: a linear map of which some rows or columns are trained.

The trained increments stand in the weight itself, so that the forward pass is one product, as without them. For the
backward pass only the selected slice of the input is kept (of columns), and only the selected slice of the gradient is
computed; neither a gradient of the frozen part nor a state of the optimiser for it ever exists.

Its slow twin is :func:`gathered`: the frozen map plus the increment's own product, in plain autograd. It leaves the
weight untouched, and can be differentiated twice.

Source: yang2024, Section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

ROWS, COLUMNS = 0, 1
"""The axis of an (out, in) weight along which channels are selected."""
Place = slice | torch.Tensor
"""Where channels lie along an axis: a slice if they are neighbours in order, their indices otherwise."""


def place(indices: Sequence[int], device: torch.device | None = None) -> Place:
    """Return where channels lie: a slice if they are neighbours in ascending order."""
    start = indices[0]
    if list(indices) == list(range(start, start + len(indices))):
        return slice(start, start + len(indices))
    return torch.tensor(indices, dtype=torch.long, device=device)


def take(tensor: torch.Tensor, axis: int, where: Place) -> torch.Tensor:
    """Return the entries of an axis: a view of neighbours, a copy of others."""
    if isinstance(where, slice):
        return tensor.narrow(axis, where.start, where.stop - where.start)
    return tensor.index_select(axis, where)


def put(tensor: torch.Tensor, axis: int, where: Place, values: torch.Tensor) -> None:
    """Write the entries of an axis in place."""
    if isinstance(where, slice):
        tensor.narrow(axis, where.start, where.stop - where.start).copy_(values)
    else:
        tensor.index_copy_(axis, where, values.to(tensor.dtype))


@dataclass(frozen=True)
class Resident:
    """A weight with increments standing in it, for one application of :class:`PartialLinear`.

    Attributes:
        weight: (out, in), increments included; written to between steps, so never saved by autograd.
        axis: the axis of the channels.
        places: where the channels of each increment lie.
        held: returns a context in which the weight is as it was in this forward pass, whatever has been written since.
    """

    weight: torch.Tensor
    axis: int
    places: tuple[Place, ...]
    held: Callable[[], AbstractContextManager[torch.Tensor]]


class PartialLinear(torch.autograd.Function):
    """``x W^T + b``, with gradients for x, b, and the increments that stand in W."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, resident: Resident, *increments: torch.Tensor
    ) -> torch.Tensor:
        """Return (..., out) of an input (..., in); increments are (out, s) of columns and (s, in) of rows."""
        # Not the whole record: under autocast its weight is a copy, which must not live until the backward pass.
        ctx.axis, ctx.places, ctx.held, trained = (
            resident.axis,
            resident.places,
            resident.held,
            ctx.needs_input_grad[3:],
        )
        if resident.axis == COLUMNS:
            # A view would keep the whole input alive for the backward pass: the slice is copied.
            kept = [
                take(x, -1, where).clone(memory_format=torch.contiguous_format) if needed else None
                for where, needed in zip(resident.places, trained, strict=True)
            ]
        else:
            kept = [x if any(trained) else None]
        # The increments themselves cost nothing to save, and let autograd notice a step taken too early.
        ctx.save_for_backward(*kept, *increments)
        ctx.n_kept = len(kept)
        return functional.linear(x, resident.weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients: of increments, the selected slices alone."""
        saved = ctx.saved_tensors  # once: checkpointing computes them anew at every reading
        kept, increments = saved[: ctx.n_kept], saved[ctx.n_kept :]
        into = bias = None
        if ctx.needs_input_grad[0]:
            with ctx.held() as weight:
                into = gradient.matmul(weight)
        flat = gradient.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            bias = flat.sum(0)
        slices: list[torch.Tensor | None] = []
        for i, (where, increment) in enumerate(zip(ctx.places, increments, strict=True)):
            if not ctx.needs_input_grad[3 + i]:
                slices.append(None)
            elif ctx.axis == COLUMNS:
                slices.append(flat.T.matmul(kept[i].flatten(0, -2)).to(increment.dtype))
            else:
                slices.append(take(flat, -1, where).T.matmul(kept[0].flatten(0, -2)).to(increment.dtype))
        return (into, bias, None, *slices)


def gathered(x: torch.Tensor, axis: int, where: Place, increment: torch.Tensor, out_features: int) -> torch.Tensor:
    """Return what an increment alone contributes to the output: the slow twin, in plain autograd.

    Args:
        x: (..., in).
        axis: the axis of the channels.
        where: their places along it.
        increment: (out, s) of columns, (s, in) of rows.
        out_features: number of outputs.
    """
    if axis == COLUMNS:
        return functional.linear(take(x, -1, where), increment)
    part = functional.linear(x, increment)
    if isinstance(where, slice):
        return functional.pad(part, (where.start, out_features - where.stop))
    return part.new_zeros(*x.shape[:-1], out_features).index_copy(-1, where, part)
