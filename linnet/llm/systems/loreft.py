"""LoReFT: an edit of the residual stream within a subspace of few dimensions."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from linnet.errors import ArgumentError, StructureError
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System, add, whole


@dataclass(frozen=True)
class LoReFT(System):
    """h + R^T (W h + b - R h) after a block, with R (rank, width) of orthonormal rows, W (rank, width) and b (rank,).

    Does not start as the base model: R and W are drawn at random, and what h has in the subspace is replaced from the
    first step on. R moves in the coordinates of Householder reflections, of which ``rank (rank + 1) / 2`` are fixed;
    it is never decayed.

    Positions are counted among the tokens that the attention mask keeps. In generation the first call, with the
    prompt, is edited, and the tokens that follow from a cache are not, unless all positions are. A causal model that
    is trained on prompt and answer has its last positions in the answer.

    Attributes:
        rank: dimensions of the subspace.
        blocks: which blocks, counted from 0; all of them if None.
        first: how many positions are edited, from the first.
        last: how many are, from the last; all of them if both are 0.

    Source: Wu et al. 2024; in yang2024's comparison.
    """

    name = "LoReFT"
    source = "Wu et al. 2024"
    merges = False
    batches = True
    size = "rank"

    rank: int = 4
    blocks: tuple[int, ...] | None = None
    first: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        whole(self.rank, "rank")
        whole(self.first, "first", least=0)
        whole(self.last, "last", least=0)
        if self.blocks is not None:
            if not isinstance(self.blocks, tuple) or not self.blocks or len(set(self.blocks)) < len(self.blocks):
                raise ArgumentError(f"blocks={self.blocks!r}; give a tuple of numbers of blocks, each once, or None")
            for block in self.blocks:
                whole(block, "blocks", least=0)

    def _count(self, model: nn.Module) -> int:
        width, fixed = self._width(model), self.rank * (self.rank + 1) // 2
        return len(self._chosen(model)) * ((2 * width + 1) * self.rank - fixed)

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        positions = _Positions(self.first, self.last)
        if self.first or self.last:
            _, inner = places.body(model)
            undo.callback(inner.register_forward_pre_hook(positions.note, with_kwargs=True).remove)
        turned: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for block in self._chosen(model):
            edit = _Edit(self._width(model), self.rank, positions)
            add(block, "loreft", edit, undo)
            undo.callback(block.register_forward_hook(edit.after).remove)
            turned += edit.turn.parameters()
            free += edit.target.parameters()
        return Attached([{"params": free}, {"params": turned, "weight_decay": 0.0}])

    def _chosen(self, model: nn.Module) -> list[nn.Module]:
        blocks = [block for _, block in places.blocks(model, self.layout)]
        if self.blocks is not None and max(self.blocks) >= len(blocks):
            raise StructureError(f"blocks {self.blocks} of {len(blocks)}; they are counted from 0")
        return blocks if self.blocks is None else [blocks[i] for i in self.blocks]

    def _width(self, model: nn.Module) -> int:
        width = places.width(model, self.layout)
        if self.rank > width:
            raise StructureError(f"rank {self.rank} in a residual stream of {width}; give 1 to {width}")
        return width

    def _most(self, model: nn.Module) -> int:
        return places.width(model, self.layout)


class _Positions:
    """Which positions of a call are edited."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.mask: torch.Tensor | None = None

    def note(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Forward pre-hook of the transformer: keep the attention mask of the call."""
        call = inspect.signature(module.forward).bind_partial(*arguments, **named).arguments
        mask = call.get("attention_mask", call.get("kwargs", {}).get("attention_mask"))
        if mask is not None and mask.ndim != 2:
            raise ArgumentError(
                f"first and last positions are found by an attention mask of (rows, tokens); given is {mask.ndim}-D"
            )
        self.mask = mask

    def of(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Return the positions (rows, tokens) of hidden states (rows, tokens, width) that are edited; None for all."""
        if not (self.first or self.last):
            return None
        kept = torch.ones(hidden.shape[:2], device=hidden.device) if self.mask is None else self.mask.to(hidden.device)
        if kept.shape[1] != hidden.shape[1]:  # tokens that continue a cache
            return torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        kept = kept > 0
        before = kept.long().cumsum(1)
        behind = before[:, -1:] - before + 1
        return kept & ((before <= self.first) | (behind <= self.last))


class _Edit(nn.Module):
    """One edit; in half precision it computes in float32."""

    def __init__(self, width: int, rank: int, positions: _Positions) -> None:
        super().__init__()
        self.turn = nn.Linear(width, rank, bias=False)
        nn.init.orthogonal_(self.turn.weight)
        # Without a base matrix of (width, width), which a model of many blocks could not afford.
        parametrizations.orthogonal(self.turn, orthogonal_map="householder", use_trivialization=False)
        self.target = nn.Linear(width, rank)
        self.positions = positions

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (rows, tokens, width) of hidden states of that shape."""
        turn = self.turn.weight
        h = hidden.to(turn.dtype)
        edited = (h + (self.target(h) - h @ turn.T) @ turn).to(hidden.dtype)
        where = self.positions.of(hidden)
        return edited if where is None else torch.where(where[..., None], edited, hidden)

    def after(self, _module: nn.Module, _arguments: Any, output: Any) -> Any:
        """Forward hook of a block, whose output is the residual stream, or a tuple that begins with it."""
        if isinstance(output, tuple):
            return (self(output[0]), *output[1:])
        return self(output)
