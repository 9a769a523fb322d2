"""A sweep as it is written down: a TOML file with a study, what stays the same, and what varies."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from linnet.errors import DataError
from linnet.sweep.faults import MOST, chosen, faults, is_plain, listed, reached, said_of
from linnet.sweep.grid import Axis, Sweep, dotted
from linnet.sweep.study import LONG, Study, cell_of, study


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    title: str
    study: str
    base: dict[str, Any] = {}
    grid: Annotated[list[dict[str, Any]], Field(min_length=1)] = [{}]


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
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the path of a sweep, such as experiments/samples.toml")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a mark
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
    if not isinstance(raw.get("grid", []), list):
        raise DataError("grid: no list of tables; begin each with its name in double brackets, [[grid]]")
    try:
        file = _File.model_validate(dict(raw))
    except ValidationError as err:
        said = (f"{dotted(e['loc'])}: {_misplaced(e, raw, beside) or said_of(e, [_File], raw)}" for e in err.errors())
        raise DataError(listed(list(said))) from None
    _refuse_long(dict(raw), ())
    kind = study(file.study, beside)
    source = str(((beside or Path()) / file.study).resolve()) if file.study.endswith(".py") else file.study
    grids = tuple(
        tuple(_axes(grid, (), f"grid[{i}]" if len(file.grid) > 1 else "grid", kind)) for i, grid in enumerate(file.grid)
    )
    if (count := sum(math.prod(len(axis.values) for axis in axes) for axes in grids)) > CELLS:
        raise DataError(f"grid: {count} cells; a sweep has at most {CELLS}: make its axes shorter, or several sweeps")
    sweep = Sweep(name, file.title, kind, source, file.base, grids)
    _validate(sweep)
    return sweep


CELLS = 10**7
"""Cells of the largest sweep."""


def _axes(tree: dict[str, Any], path: tuple[str, ...], place: str, kind: type[Study]) -> Iterator[Axis]:
    for name, value in tree.items():
        here = f"{place}.{name}"
        if isinstance(value, dict) and set(value) == {"range"}:
            yield Axis((*path, name), _range(value["range"], f"{here}.range"), here)
        elif isinstance(value, dict) and value:
            models, types = reached(kind, (*path, name))
            if types and not models and all(map(is_plain, types)):
                raise DataError(
                    f"{here}: {next(iter(value))} is no way to list values; give a list, or {name}.range = [first, "
                    "past the last]"
                )
            yield from _axes(value, (*path, name), here, kind)
        elif isinstance(value, list) and value:
            yield Axis((*path, name), tuple(value), here)
        else:
            raise DataError(f"{here}: {value!r} is no axis; give a list of at least one value, or move it to [base]")


def _range(value: Any, place: str) -> range:
    whole = isinstance(value, list) and all(type(v) is int for v in value)
    if not whole or len(value) != 2 or value[0] >= value[1]:
        raise DataError(f"{place}: {value!r}; give [first, past the last], two whole numbers")
    if value[1] - value[0] > CELLS:
        raise DataError(f"{place}: {value[1] - value[0]} values; a sweep has at most {CELLS} cells: make it shorter")
    return range(*value)


def _refuse_long(value: Any, keys: tuple[str | int, ...]) -> None:
    """Refuse whole numbers that a column of the table cannot hold, and that TOML does not promise.

    Raises:
        DataError: names the place of the first.
    """
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_long(inner, (*keys, key))
    elif type(value) is int and not -LONG <= value < LONG:
        raise DataError(f"{dotted(keys)}: {value} does not fit into 64 bits; give a smaller number")


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
            seen[i] = int(cell_of(sweep.study, tree).key()[:16], 16)
        except ValidationError as err:
            wrong += [fault for fault in faults(sweep, i, tree, err) if fault not in wrong]
            if len(wrong) >= MOST:
                break
    if wrong:
        raise DataError(listed(wrong))
    ordered = np.sort(seen)
    doubled = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(doubled):
        _refuse_equal(sweep, np.isin(seen, doubled))


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
        other = first.setdefault(cell_of(sweep.study, tree).key(), i)
        if other != i:
            places = " and ".join(chosen(sweep, k) for k in (other, i))
            raise DataError(f"two cells are the same: {places}; leave one of them out")


def _misplaced(error: Any, raw: Mapping[str, Any], beside: Path | None) -> str | None:
    """Return what is said of a parameter of the study that stands at the top of the file."""
    if error["type"] != "extra_forbidden" or not isinstance(raw.get("study"), str):
        return None
    try:
        fields = study(raw["study"], beside).model_fields
    except DataError:
        return None
    return "a parameter of the study; it belongs under [base]" if error["loc"][-1] in fields else None
