"""The cells of a sweep: what stays the same, what varies, and where in the file each parameter was given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from linnet.sweep.study import Study, cell_of


@dataclass(frozen=True)
class Axis:
    """One parameter that varies.

    Attributes:
        path: keys that lead to it within the cell.
        values: what it takes, in order.
        place: where it stands in the file.
    """

    path: tuple[str, ...]
    values: Sequence[Any]
    place: str


@dataclass(frozen=True)
class Sweep:
    """A validated sweep: every cell of it can be built.

    Attributes:
        name: of the file, without its ending.
        title: one line.
        study: class of its cells.
        source: the study as the file names it, absolute if it is a file.
        base: parameters that all cells share.
        grids: axes; the cells are the product of each grid's, one grid after the other, the last axis fastest.
    """

    name: str
    title: str
    study: type[Study]
    source: str
    base: dict[str, Any]
    grids: tuple[tuple[Axis, ...], ...]

    def __len__(self) -> int:
        return sum(math.prod(len(axis.values) for axis in axes) for axes in self.grids)

    def parameters(self) -> Iterator[dict[str, Any]]:
        """Yield the parameters of each cell, in order; they share what is the same."""
        for axes in self.grids:
            for chosen in itertools.product(*(axis.values for axis in axes)):
                tree = self.base
                for axis, value in zip(axes, chosen, strict=True):
                    tree = _with(tree, axis.path, value)
                yield tree

    def cells(self) -> Iterator[Study]:
        """Yield the cells, in order."""
        for tree in self.parameters():
            yield cell_of(self.study, tree)


def _with(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a tree of parameters with one more; a table that is there already is added to, not replaced."""
    name, *rest = path
    inner = tree.get(name)
    if rest:
        value = _with(inner if isinstance(inner, dict) else {}, tuple(rest), value)
    elif isinstance(value, dict) and isinstance(inner, dict):
        for key in value:
            inner = _with(inner, (key,), value[key])
        value = inner
    return tree | {name: value}


def chosen_values(sweep: Sweep, index: int) -> list[tuple[Axis, int]]:
    """Return the axes of a cell's grid, and which of their values it takes."""
    for axes in sweep.grids:
        count = math.prod(len(axis.values) for axis in axes)
        if index < count:
            break
        index -= count
    chosen = []
    for axis in reversed(axes):
        index, which = divmod(index, len(axis.values))
        chosen.append((axis, which))
    return chosen[::-1]


def dotted(keys: tuple[Any, ...], start: str = "") -> str:
    """Return keys and indices as one name, after ``start``: grid.methods[1].ranks."""
    out = start
    for key in keys:
        out += f"[{key}]" if isinstance(key, int) else f".{key}" if out else str(key)
    return out
