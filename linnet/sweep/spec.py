"""A sweep as it is written down: a TOML file with a study, what stays the same, and what varies."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from linnet.errors import DataError
from linnet.sweep.study import LONG, MisfitError, Study, study


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    title: str
    study: str
    base: dict[str, Any] = {}
    grid: Annotated[list[dict[str, Any]], Field(min_length=1)] = [{}]


@dataclass(frozen=True)
class Axis:
    """One parameter that varies.

    Attributes:
        path: keys that lead to it within the cell.
        values: what it takes, in order.
        place: where it stands in the file.
    """

    path: tuple[str, ...]
    values: tuple[Any, ...]
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
            yield self.study.model_validate(tree)


def read_sweep(path: Path) -> Sweep:
    """Return the sweep of a TOML file, all of its cells validated.

    Raises:
        DataError: the file cannot be read, has an unknown key, or a value that no cell can have; names the place.
    """
    raw = _read(path)
    try:
        return sweep_of(raw, path.stem, path.parent)
    except DataError as err:
        raise DataError(f"{path}: {err}") from None


def read_title(path: Path) -> str:
    """Return the title of a sweep, whatever else its file holds.

    Raises:
        DataError: the file cannot be read, or has no title.
    """
    title = _read(path).get("title")
    if not isinstance(title, str):
        raise DataError(f"{path}: title: missing; this parameter has no default")
    return title


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of a sweep, such as experiments/samples.toml") from None
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path} cannot be read ({err}); a text file in TOML is needed") from None
    except tomllib.TOMLDecodeError as err:
        raise DataError(f"{path} is not TOML: {err}") from None


def sweep_of(raw: Mapping[str, Any], name: str = "sweep", beside: Path | None = None) -> Sweep:
    """Return the sweep that a mapping describes, as the TOML file would.

    Args:
        raw: ``title``, ``study``, ``base`` and ``grid``.
        name: what to call it.
        beside: folder that a study's path is relative to.

    Raises:
        DataError: as ``read_sweep``.
    """
    if isinstance(raw.get("grid"), dict):
        raise DataError("grid: one table; write it in double brackets, [[grid]]: there may be several")
    try:
        file = _File.model_validate(dict(raw))
    except ValidationError as err:
        raise DataError(_listed([f"{_dotted(e['loc'])}: {_said(e)}" for e in err.errors()])) from None
    _refuse_long(dict(raw), ())
    kind = study(file.study, beside)
    source = str(((beside or Path()) / file.study).resolve()) if file.study.endswith(".py") else file.study
    grids = tuple(
        tuple(_axes(grid, (), f"grid[{i}]" if len(file.grid) > 1 else "grid")) for i, grid in enumerate(file.grid)
    )
    sweep = Sweep(name, file.title, kind, source, file.base, grids)
    _validate(sweep)
    return sweep


def _axes(tree: dict[str, Any], path: tuple[str, ...], place: str) -> Iterator[Axis]:
    for name, value in tree.items():
        here = f"{place}.{name}"
        if isinstance(value, dict) and set(value) == {"range"}:
            yield Axis((*path, name), _range(value["range"], f"{here}.range"), here)
        elif isinstance(value, dict) and value:
            yield from _axes(value, (*path, name), here)
        elif isinstance(value, list) and value:
            yield Axis((*path, name), tuple(value), here)
        else:
            raise DataError(f"{here}: {value!r} is no axis; give a list of at least one value, or move it to [base]")


def _range(value: Any, place: str) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(type(v) is int for v in value)
    if not whole or len(value) != 2 or value[0] >= value[1]:
        raise DataError(f"{place}: {value!r}; give [first, past the last], two whole numbers")
    return tuple(range(*value))


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


def _refuse_long(value: Any, keys: tuple[str | int, ...]) -> None:
    """Refuse whole numbers that a column of the table cannot hold, and that TOML does not promise.

    Raises:
        DataError: names the place of the first.
    """
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_long(inner, (*keys, key))
    elif type(value) is int and not -LONG <= value < LONG:
        raise DataError(f"{_dotted(keys)}: {value} does not fit into 64 bits; give a smaller number")


def _validate(sweep: Sweep) -> None:
    """Build every cell once.

    Raises:
        DataError: a cell that cannot be, or two that are the same; names the place in the file.
    """
    # The first 64 bits of each key, and no more: of a million cells, 8 MB.
    seen = np.empty(len(sweep), np.uint64)
    wrong: list[str] = []
    for i, tree in enumerate(sweep.parameters()):
        try:
            seen[i] = int(sweep.study.model_validate(tree).key()[:16], 16)
        except ValidationError as err:
            wrong += [fault for fault in _faults(sweep, i, tree, err) if fault not in wrong]
            if len(wrong) >= MOST:
                break
    if wrong:
        raise DataError(_listed(wrong))
    ordered = np.sort(seen)
    doubled = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(doubled):
        _refuse_equal(sweep, np.isin(seen, doubled))


def _faults(sweep: Sweep, index: int, tree: dict[str, Any], err: ValidationError) -> list[str]:
    """Return what is wrong with a cell, a line for each place in the file."""
    found: dict[str, list[str]] = {}
    for error in err.errors():
        blamed = error.get("ctx", {}).get("error")
        keys = _keys(tree, error["loc"], absent=error["type"] == "missing")
        keys += blamed.place if isinstance(blamed, MisfitError) else ()
        found.setdefault(_where(sweep, index, keys), []).append(_said(error))
    # A value that is none of several kinds has a message for each.
    return [f"{place}: {'; or '.join(said)}" for place, said in found.items()]


def _refuse_equal(sweep: Sweep, suspected: np.ndarray) -> None:
    """Compare the whole keys of some cells.

    Args:
        sweep: all cells.
        suspected: which of them, (cells,).

    Raises:
        DataError: two are the same; names them.
    """
    first: dict[str, int] = {}
    for i, tree in enumerate(sweep.parameters()):
        if not suspected[i]:
            continue
        other = first.setdefault(sweep.study.model_validate(tree).key(), i)
        if other != i:
            places = " and ".join(_chosen(sweep, k) for k in (other, i))
            raise DataError(f"two cells are the same: {places}; leave one of them out")


MOST = 8
"""Faults that one message names."""


def _listed(faults: list[str]) -> str:
    if len(faults) == 1:
        return faults[0]
    head = f"{len(faults)} faults:" if len(faults) < MOST else f"{MOST} faults or more:"
    return "\n  ".join([head, *faults[:MOST]])


def _said(error: Any) -> str:
    """Return what pydantic found, in our words."""
    if error["type"] == "extra_forbidden":
        return "unknown key; remove it, or correct its name"
    if error["type"] == "missing":
        return "missing; this parameter has no default"
    given, what = error.get("input"), str(error["msg"])
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | list) else ""
    own = what.removeprefix("Value error, ")
    return (own if own != what else f"{what[0].lower()}{what[1:]}") + shown


def _keys(tree: Any, loc: tuple[Any, ...], absent: bool) -> tuple[Any, ...]:
    """Return the part of a pydantic location that leads through the data: names of union members are no keys.

    Args:
        tree: the data.
        loc: the location.
        absent: whether its last step is a key that the data lack.
    """
    keys: list[Any] = []
    for i, step in enumerate(loc):
        if (isinstance(tree, dict) and step in tree) or (
            isinstance(tree, list) and isinstance(step, int) and step < len(tree)
        ):
            tree = tree[step]
        elif not (absent and i == len(loc) - 1):
            continue
        keys.append(step)
    return tuple(keys)


def _where(sweep: Sweep, index: int, keys: tuple[Any, ...]) -> str:
    """Return where in the file the parameter at ``keys`` of a cell was given."""
    for axis, chosen in reversed(_choices(sweep, index)):
        if keys[: len(axis.path)] == axis.path:
            return _dotted(keys[len(axis.path) :], f"{axis.place}[{chosen}]")
    return _dotted(keys, "base")


def _chosen(sweep: Sweep, index: int) -> str:
    """Return a cell as a reader of the file would name it: where it stands, and each axis's value."""
    return ", ".join(f"{axis.place}[{chosen}]" for axis, chosen in _choices(sweep, index)) or f"cell {index + 1}"


def _choices(sweep: Sweep, index: int) -> list[tuple[Axis, int]]:
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


def _dotted(keys: tuple[Any, ...], start: str = "") -> str:
    out = start
    for key in keys:
        out += f"[{key}]" if isinstance(key, int) else f".{key}" if out else str(key)
    return out
