"""Physical co-permutation: the units of a coupled structure reordered, so that selected ones are neighbours.

The function of the model is the same but for the order in which sums are taken; undone, every weight is bitwise what it
was.

Source: yang2024, Section 3.2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from linnet.errors import StructureError
from linnet.llm import structure as structures
from linnet.llm.structure import Structure


def order_with(structure: Structure, first: Iterable[int]) -> list[int]:
    """Return all units, the given ones as far in front as the structure allows.

    Heads that share a key and value head stay together: groups come in the order of their first given head, and
    within a group the given heads come first.
    """
    units = dict.fromkeys(first)
    groups: dict[int, list[int]] = {unit // structure.shared: [] for unit in (*units, *range(structure.units))}
    for unit in dict.fromkeys((*units, *range(structure.units))):
        groups[unit // structure.shared].append(unit)
    return [unit for group in groups.values() for unit in group]


def check_order(structure: Structure, order: Sequence[int]) -> None:
    """Refuse what is no order of the units, or tears heads apart that share a key and value head.

    Raises:
        StructureError: so it is.
    """
    if sorted(order) != list(range(structure.units)):
        raise StructureError(
            f"{structure.key} has {structure.units} units, each once in an order; given: {list(order)}"
        )
    size = structure.shared
    if any(len({unit // size for unit in order[i : i + size]}) > 1 for i in range(0, len(order), size)):
        raise StructureError(
            f"{structure.key}: {size} query heads share a key and value head and must stay together; "
            f"given: {list(order)}"
        )


def check_writable(model: nn.Module, structure: Structure) -> None:
    """Refuse a structure of which some matrix cannot be written to, before any of them is.

    Raises:
        StructureError: so it is.
    """
    for projection in structure.projections.values():
        if structures.weight(model.get_submodule(projection.module)).device.type == "meta":
            raise StructureError(
                f'the weights of {projection.module} are not in memory; load the model whole, or use form="gather"'
            )


@contextlib.contextmanager
def permuting(model: nn.Module, structure: Structure, order: Sequence[int]) -> Iterator[None]:
    """Reorder the units of a structure in place, and take note of it in the context: both happen, or none does.

    A model of which some matrices are reordered and others are not computes something else, and nobody could tell:
    whatever stops it half-way, be it Ctrl-C or want of memory, puts all matrices back.

    Args:
        model: what the structure was found in.
        structure: the structure; its sizes stay as they are.
        order: every unit once; heads that share a key and value head side by side.

    Raises:
        StructureError: no such order, or weights that cannot be written to.
    """
    check_order(structure, order)
    check_writable(model, structure)
    written: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for part, axis, index in _parts(model, structure, list(order)):
                written.append((part, part.clone()))
                part.copy_(part.index_select(axis, index))
        yield
    except BaseException:
        with torch.no_grad():
            for part, before in written:
                part.copy_(before)
        raise


def permute(model: nn.Module, structure: Structure, order: Sequence[int]) -> None:
    """Reorder the units of a structure in place; see :func:`permuting`."""
    with permuting(model, structure, order):
        pass


def _parts(
    model: nn.Module, structure: Structure, order: list[int]
) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
    """Yield what a reordering writes to: views of weights and biases, the axis, and what comes where along it."""
    for role, projection in structure.projections.items():
        module = model.get_submodule(projection.module)
        matrix = structures.weight(module)
        index = torch.tensor(structure.channels(role, order), device=matrix.device)
        if role not in structure.inward:
            yield matrix, 1, index
            continue
        rows, index = slice(projection.start, projection.stop), index - projection.start
        yield matrix[rows], 0, index
        bias = getattr(structures.bare(module), "bias", None)
        if isinstance(bias, torch.Tensor):
            yield bias[rows], 0, index.to(bias.device)


def inverse(order: Sequence[int]) -> list[int]:
    """Return the order that undoes one."""
    out = [0] * len(order)
    for i, unit in enumerate(order):
        out[unit] = i
    return out
