"""Which heads and channels S2FT trains: a budget shared out, and units chosen by a strategy.

Source: yang2024, Sections 3.2 and 5.4, Table 4.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from linnet.errors import ArgumentError, BudgetError
from linnet.llm import structure as structures
from linnet.llm.modes import evaluating
from linnet.llm.structure import INWARD, Structure

Strategy = Literal["random", "weight", "activation", "product", "gradient"]
STRATEGIES: Mapping[str, Strategy] = {
    "R": "random",
    "W": "weight",
    "A": "activation",
    "S": "product",
    "G": "gradient",
}
"""The paper's letters."""
CALIBRATED = ("activation", "product", "gradient")
"""Strategies that look at data."""


@dataclass(frozen=True)
class Share:
    """What a budget gives to one structure.

    Attributes:
        structure: the structure.
        roles: its matrices that are trained.
        units: how many of its units.
    """

    structure: Structure
    roles: tuple[str, ...]
    units: int


def granule(structure: Structure, roles: Sequence[str]) -> int:
    """Return how many units are selected together: all heads of a group where its key or value is trained, else 1."""
    return structure.shared if {"key", "value"} & set(roles) else 1


def cost(model: nn.Module, structure: Structure, roles: Sequence[str]) -> int:
    """Return how many parameters a granule of a structure has in the matrices that are trained."""
    size = granule(structure, roles)
    total = 0
    for role in roles:
        out, into = structures.shape(model.get_submodule(structure.projections[role].module))
        channels = structure.width * (1 if role in ("key", "value") else size)
        total += channels * (into if role in INWARD[structure.kind] else out)
    return total


def shares(model: nn.Module, found: Sequence[Structure], roles: Sequence[str], n_parameters: int) -> list[Share]:
    """Share a number of parameters out: the same to every block, and within it the same to every matrix.

    A head is not divisible: attention takes the number of heads nearest to its part, and the channels of the
    feed-forward network take what is left. Where they run out, more heads do. The whole never exceeds the budget.

    Args:
        model: what the structures were found in.
        found: structures of the blocks to train.
        roles: matrices to train.
        n_parameters: the budget.

    Raises:
        BudgetError: not one unit of any block fits, or there is less to train than the budget asks for.
    """
    by_block: dict[str, list[tuple[Structure, tuple[str, ...]]]] = {}
    for structure in found:
        mine = tuple(role for role in structure.projections if role in roles)
        if mine:
            by_block.setdefault(structure.block, []).append((structure, mine))
    if not by_block:
        raise BudgetError(f"none of {', '.join(roles)} is in the blocks that were chosen")
    out = []
    for pairs in by_block.values():
        left = n_parameters // len(by_block)
        matrices = sum(len(mine) for _, mine in pairs)
        costs = [cost(model, s, mine) for s, mine in pairs]
        most = [s.units // granule(s, mine) for s, mine in pairs]
        counts: list[int] = []
        for (_, mine), each, all_of_it in zip(pairs, costs, most, strict=True):
            last = len(counts) == len(pairs) - 1
            wanted = left / each if last else left * len(mine) / matrices / each
            counts.append(min(math.floor(wanted) if last else round(wanted), left // each, all_of_it))
            left, matrices = left - counts[-1] * each, matrices - len(mine)
        for i, each in enumerate(costs):  # where channels have run out heads take what is left
            more = min(left // each, most[i] - counts[i])
            counts[i], left = counts[i] + more, left - more * each
        out += [Share(s, mine, n * granule(s, mine)) for (s, mine), n in zip(pairs, counts, strict=True) if n]
        if left >= min(costs) and counts == most:
            raise BudgetError(
                f"{n_parameters} parameters are more than {', '.join(roles)} of {len(by_block)} blocks have; lower the "
                "budget, or train more matrices"
            )
    if not out:
        needed = min(cost(model, s, mine) for pairs in by_block.values() for s, mine in pairs) * len(by_block)
        raise BudgetError(
            f"{n_parameters} parameters select nothing in {len(by_block)} blocks: one head or channel of each takes "
            f"{needed}; raise the budget, or train fewer blocks"
        )
    return out


def choose(
    structure: Structure,
    roles: Sequence[str],
    units: int,
    scores: np.ndarray,
    *,
    largest: bool,
    excluded: Sequence[int] = (),
) -> list[int]:
    """Return the units of the best total score that can lie side by side.

    Heads that share a key and value head cannot be parted, so a selection fills one group after the other: at most one
    group is taken in part.

    Args:
        structure: what to choose from.
        roles: its matrices that are trained.
        units: how many units to choose, a multiple of :func:`granule`.
        scores: (units,) one score a unit.
        largest: choose the largest scores, else the smallest.
        excluded: units that must not be chosen.

    Raises:
        BudgetError: there are not as many.
    """
    worth = np.asarray(scores, dtype=float) * (1 if largest else -1)
    barred = set(excluded)
    free = [u for u in range(structure.units) if u not in barred]
    whole = granule(structure, roles) > 1
    groups: dict[int, list[int]] = {}
    for u in sorted(free, key=lambda u: (-worth[u], u)):
        groups.setdefault(u // structure.shared, []).append(u)
    if whole:
        groups = {g: members for g, members in groups.items() if len(members) == structure.shared}
    if sum(map(len, groups.values())) < units:
        raise BudgetError(
            f"{structure.key}: {units} of {structure.units} units are to be chosen, and {len(barred)} are excluded; "
            "lower the budget or exclude fewer"
        )
    if structure.shared == 1:
        return sorted(free, key=lambda u: (-worth[u], u))[:units]
    best: tuple[float, list[int]] | None = None
    for partial in groups:
        others = sorted((g for g in groups if g != partial), key=lambda g: (-float(np.mean(worth[groups[g]])), g))
        chosen: list[int] = []
        for g in others:
            if len(chosen) + len(groups[g]) <= units:
                chosen += groups[g]
        chosen += groups[partial][: units - len(chosen)]
        total = float(worth[chosen].sum())
        if len(chosen) == units and (best is None or total > best[0]):
            best = total, chosen
    assert best is not None
    return best[1]


def random_scores(structure: Structure, seed: int) -> np.ndarray:
    """Return (units,) scores that make every selection of a size equally likely; of one block and seed, the same."""
    return np.random.default_rng([seed, zlib.crc32(structure.key.encode())]).random(structure.units)


@torch.no_grad()
def weight_scores(model: nn.Module, structure: Structure, roles: Sequence[str]) -> np.ndarray:
    """Return (units,) Frobenius norms of what would be trained."""
    return np.sqrt(_by_unit(structure, _channel_weights(model, structure, roles)))


def _channel_weights(model: nn.Module, structure: Structure, roles: Sequence[str]) -> torch.Tensor:
    """Return (units * width,) squared norms of the channels, summed over the matrices that are trained."""
    total = torch.zeros(structure.units * structure.width, dtype=torch.float64)
    for role in roles:
        projection = structure.projections[role]
        module = model.get_submodule(projection.module)
        matrix = structures.weight(module).detach().double()
        if role in structure.inward:
            squared = matrix[projection.start : projection.stop].square().sum(1)
            total += _spread(structure, role, squared).cpu()
        else:
            total += matrix.square().sum(0).cpu()
    return total


def _spread(structure: Structure, role: str, per_row: torch.Tensor) -> torch.Tensor:
    """Return a key's or value's rows as often as query heads share them."""
    if role in ("key", "value") and structure.shared > 1:
        return per_row.view(-1, structure.width).repeat_interleave(structure.shared, 0).flatten() / structure.shared
    return per_row


def _by_unit(structure: Structure, per_channel: torch.Tensor) -> np.ndarray:
    return per_channel.view(structure.units, structure.width).sum(1).cpu().numpy()


def calibrated_scores(
    model: nn.Module,
    wanted: Sequence[tuple[Structure, Sequence[str]]],
    batches: Sequence[Mapping[str, Any]],
    strategy: str,
    loss: Callable[[nn.Module, Mapping[str, Any]], torch.Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """Return the scores (units,) of structures on calibration data, by the structures' keys.

    activation
        root mean square, over tokens that are not padding, of the activation that the structure couples.
    product
        that, channel by channel, times the norm of the channel's weights.
    gradient
        root mean square, over batches, of the norm of the gradient of what would be trained. One layer's gradient
        exists at a time, and no optimiser state.

    Args:
        model: the model, as it is before fine-tuning; left as it was.
        wanted: structures, with the matrices of each that would be trained.
        batches: keyword arguments of the model, at least one batch; with labels where gradients are asked for.
        strategy: one of :data:`CALIBRATED`.
        loss: from model and batch to a scalar; by default the ``loss`` of the model's output.

    Raises:
        ArgumentError: no batch, no loss, or a score that is not finite.
    """
    if not batches:
        raise ArgumentError("no batch to calibrate on; give at least one")
    if strategy == "gradient":
        squared = _gradients(model, wanted, batches, loss or _own_loss)
    else:
        squared = _activations(model, wanted, batches)
    out = {}
    for structure, roles in wanted:
        channels = squared[structure.key]
        if strategy == "product":
            channels = channels * _channel_weights(model, structure, roles)
        scores = np.sqrt(_by_unit(structure, channels))
        if not np.isfinite(scores).all():
            raise ArgumentError(f"{structure.key}: calibration gave values that are not finite; look at the batches")
        out[structure.key] = scores
    return out


def _own_loss(model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    value = getattr(model(**batch), "loss", None)
    if value is None:
        raise ArgumentError("the model returns no loss on these batches; give labels in them, or loss=")
    return value


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluate with every parameter frozen, and give modes and flags back."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    with evaluating(model):
        for p, _ in flags:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)


def _activations(
    model: nn.Module, wanted: Sequence[tuple[Structure, Sequence[str]]], batches: Sequence[Mapping[str, Any]]
) -> dict[str, torch.Tensor]:
    """Return (units * width,) mean squared activations, by key."""
    sums: dict[str, torch.Tensor] = {}
    tokens: dict[str, float] = {}
    mask: list[torch.Tensor | None] = [None]

    def watch(key: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0].detach().double()
            real = mask[0]
            count = float(x.shape[:-1].numel())
            if real is not None and real.numel() == count:  # some models flatten batch and length
                x = x * real.to(x).view(*x.shape[:-1], 1)
                count = float(real.sum())
            sums[key] = sums.get(key, 0) + x.square().flatten(0, -2).sum(0).cpu()
            tokens[key] = tokens.get(key, 0.0) + count

        return hook

    with _as_it_was(model), torch.no_grad(), ExitStack() as hooks:
        for structure, _ in wanted:
            module = model.get_submodule(structure.outward.module)
            hooks.callback(module.register_forward_hook(watch(structure.key)).remove)
        for batch in batches:
            given = batch.get("attention_mask")
            mask[0] = given.bool() if isinstance(given, torch.Tensor) and given.ndim == 2 else None
            model(**{k: v for k, v in batch.items() if k != "labels"})
    return {key: total / max(tokens[key], 1.0) for key, total in sums.items()}


def _gradients(
    model: nn.Module,
    wanted: Sequence[tuple[Structure, Sequence[str]]],
    batches: Sequence[Mapping[str, Any]],
    loss: Callable[[nn.Module, Mapping[str, Any]], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Return (units * width,) squared norms of gradients, averaged over batches, by key."""
    sums = {s.key: torch.zeros(s.units * s.width, dtype=torch.float64) for s, _ in wanted}

    def watch(structure: Structure, role: str) -> Callable[..., None]:
        projection = structure.projections[role]

        def forward(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0].detach().flatten(0, -2)

            def backward(gradient: torch.Tensor) -> None:
                g = gradient.detach().flatten(0, -2)
                if role in structure.inward:
                    part = (g[:, projection.start : projection.stop].T @ x).double().square().sum(1)
                    sums[structure.key] += _spread(structure, role, part).cpu()
                else:
                    sums[structure.key] += (g.T @ x).double().square().sum(0).cpu()

            output.register_hook(backward)

        return forward

    def awake(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # All weights are frozen: what enters the first block starts the graph.
        def wake(value: Any) -> Any:
            floating = isinstance(value, torch.Tensor) and value.is_floating_point() and not value.requires_grad
            return value.detach().requires_grad_() if floating and value.ndim == 3 else value

        return tuple(map(wake, args)), {k: wake(v) if k == "hidden_states" else v for k, v in kwargs.items()}

    with _as_it_was(model), torch.enable_grad(), ExitStack() as hooks:
        first = model.get_submodule(min((s.block for s, _ in wanted), key=_natural))
        hooks.callback(first.register_forward_pre_hook(awake, with_kwargs=True).remove)
        for structure, roles in wanted:
            for role in roles:
                module = model.get_submodule(structure.projections[role].module)
                hooks.callback(module.register_forward_hook(watch(structure, role)).remove)
        for batch in batches:
            loss(model, batch).backward()
    return {key: total / len(batches) for key, total in sums.items()}


def _natural(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]
