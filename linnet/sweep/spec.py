"""A sweep as it is written down: a TOML file with a study, what stays the same, and what varies."""

from __future__ import annotations

import difflib
import inspect
import itertools
import json
import math
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from linnet.errors import DataError
from linnet.sweep.study import LONG, SCALARS, MisfitError, Study, cell_of, study


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
        said = (f"{_dotted(e['loc'])}: {_misplaced(e, raw, beside) or _said(e, [_File], raw)}" for e in err.errors())
        raise DataError(_listed(list(said))) from None
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
            models, types = _reached(kind, (*path, name))
            if types and not models and all(map(_is_plain, types)):
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
            seen[i] = int(cell_of(sweep.study, tree).key()[:16], 16)
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
    for error in _merged(err.errors(), tree):
        blamed = error.get("ctx", {}).get("error")
        keys = _keys(tree, error["loc"], absent=error["type"] == "missing")
        keys += blamed.place if isinstance(blamed, MisfitError) else ()
        axis = _given_as_axis(sweep, index, keys, error["type"])
        place = _where(sweep, index, keys) if axis is None else axis.place
        if axis is not None and error["type"] == "extra_forbidden":
            whole = ".".join(axis.path)
            place = _dotted(keys, axis.place.removesuffix(whole).removesuffix("."))
        if axis is not None and error["type"] in LISTS and axis.path != keys:
            text = f"{_dotted(keys)} is a list, which an axis cannot reach into; give {_dotted(keys)} = [[...], [...]]"
        elif axis is not None and error["type"] in LISTS:
            text = f"an axis is a list of values; of a parameter that is a list itself write [{_toml(axis.values)}]"
        else:
            text = _said(error, [sweep.study], tree)
            if place.startswith("base") and error["type"] in NEEDED and isinstance(error["input"], list | dict):
                text += "; what varies belongs under [[grid]]"
        found.setdefault(place, []).append(text)
    # A value that is none of several kinds has a message for each.
    return [f"{place}: {'; or '.join(said)}" for place, said in found.items()]


def _merged(errors: Iterable[Any], tree: Any) -> list[Any]:
    """Return pydantic's errors, those of one value that is none of several words as one."""
    words: dict[tuple[Any, ...], Any] = {}
    out: list[Any] = []
    for error in errors:
        keys = _keys(tree, error["loc"], absent=False)
        if error["type"] == "literal_error" and keys in words:
            words[keys]["ctx"]["expected"] += f" or {error['ctx']['expected']}"
            continue
        if error["type"] == "literal_error":
            words[keys] = error
        out.append(error)
    return out


def _given_as_axis(sweep: Sweep, index: int, keys: tuple[Any, ...], kind: str) -> Axis | None:
    """Return the axis that is wrong as a whole, whichever of its values a cell takes."""
    for axis, _ in reversed(_choices(sweep, index)):
        if kind == "extra_forbidden" and axis.path[: len(keys)] == keys and _without(sweep.base, keys):
            return axis
        if kind in LISTS and axis.path[: len(keys)] == keys and len(axis.path) > len(keys):
            return axis
        scalars = isinstance(axis.values, list | tuple) and not any(isinstance(v, list) for v in axis.values)
        if kind in LISTS and axis.path == keys and scalars:
            return axis
    return None


def _without(tree: Any, keys: tuple[Any, ...]) -> bool:
    """Whether a tree of parameters lacks the one at ``keys``."""
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return True
        tree = tree[key]
    return False


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
            places = " and ".join(_chosen(sweep, k) for k in (other, i))
            raise DataError(f"two cells are the same: {places}; leave one of them out")


MOST = 8
"""Faults that one message names."""


def _listed(faults: list[str]) -> str:
    if len(faults) == 1:
        return faults[0]
    head = f"{len(faults)} faults:" if len(faults) < MOST else f"{MOST} faults or more:"
    return "\n  ".join([head, *faults[:MOST]])


LISTS = ("list_type", "tuple_type", "set_type", "frozen_set_type")
TABLES = ("model_type", "model_attributes_type", "dict_type", "dataclass_type")
NEEDED = {
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "string_type": "text is needed, in quotes",
}


def _said(error: Any, models: list[type[BaseModel]], tree: Any) -> str:
    """Return what pydantic found, in our words.

    Args:
        error: of pydantic.
        models: that its location starts from.
        tree: what was given to them.
    """
    kind, loc, given, ctx = error["type"], error["loc"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), {f for m in _parents(models, loc) for f in m.model_fields}, 1)
        return f"unknown key; did you mean {near[0]}?" if near else "unknown key; remove it, or correct its name"
    if kind == "missing":
        return "missing; this parameter has no default"
    keys = _keys(tree, loc, absent=False)
    name = keys[-1] if keys and isinstance(keys[-1], str) else ""
    if kind == "literal_error":
        words = ctx["expected"].replace(" or ", ", ").replace("'", "")
        shown = repr(given) if isinstance(given, str) else _toml(given)
        return f"{f'no {name} ' if name else ''}{shown}; give one of {words}"
    if kind == "union_tag_invalid":
        tag = ctx["discriminator"].strip("'")
        return f"no {tag} {ctx['tag']!r}; give one of {ctx['expected_tags'].replace(chr(39), '')}"
    if kind == "union_tag_not_found":
        tag = ctx["discriminator"].strip("'")
        return f"{tag} is missing; give one of {', '.join(map(str, _words(_of_place(models, loc), tag)))}"
    if kind in LISTS:
        return f"a list is needed: {f'{name} = ' if name else ''}[{_toml(given)}]"
    if kind == "too_short":
        least, count = ctx["min_length"], ctx["actual_length"]
        return f"{count} given; give at least {least}" if count else f"empty; give at least {SMALL.get(least, least)}"
    if kind in TABLES:
        return f"{_toml(given)}; give a table{_example(_of_place(models, loc), given)}"
    what = str(error["msg"])
    own = what.removeprefix("Value error, ")
    if own != what:
        return own
    shown = f" (given: {_toml(given)})" if isinstance(given, str | int | float | list) else ""
    return NEEDED.get(kind, f"{what[0].lower()}{what[1:]}") + shown


SMALL = {1: "one", 2: "two"}


def _misplaced(error: Any, raw: Mapping[str, Any], beside: Path | None) -> str | None:
    """Return what is said of a parameter of the study that stands at the top of the file."""
    if error["type"] != "extra_forbidden" or not isinstance(raw.get("study"), str):
        return None
    try:
        fields = study(raw["study"], beside).model_fields
    except DataError:
        return None
    return "a parameter of the study; it belongs under [base]" if error["loc"][-1] in fields else None


def _reached(kind: type[BaseModel], path: Sequence[Any]) -> tuple[list[type[BaseModel]], list[Any]]:
    """Return the models, and the types, that a field may be; neither, if there is no such field."""
    parents = _parents([kind], path)
    types = [model.model_fields[path[-1]].annotation for model in parents if path[-1] in model.model_fields]
    return [model for one in types for model in _models(one)], types


def _parents(models: list[type[BaseModel]], loc: Sequence[Any]) -> list[type[BaseModel]]:
    """Return the models that hold the last key of a pydantic location."""
    return _of_place(models, loc[:-1])


def _of_place(models: list[type[BaseModel]], loc: Sequence[Any]) -> list[type[BaseModel]]:
    """Return the models that the value at a pydantic location may be."""
    for step in loc:
        types = [model.model_fields[step].annotation for model in models if step in model.model_fields]
        if types:
            models = [model for one in types for model in _models(one)]
        elif isinstance(step, str):  # the tag of one of several, or its name
            models = [m for m in models if step == m.__name__ or any(step in _literals(m, f) for f in m.model_fields)]
    return models


def _models(kind: Any) -> list[type[BaseModel]]:
    """Return the models within a type."""
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        return [kind]
    return [model for inner in typing.get_args(kind) for model in _models(inner)]


def _is_plain(kind: Any) -> bool:
    """Whether a type is a scalar, one of some words, or a list of these."""
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal or kind in SCALARS:
        return True
    return bool(args) and all(map(_is_plain, args[:1] if typing.get_origin(kind) is typing.Annotated else args))


def _literals(model: type[BaseModel], field: str) -> tuple[Any, ...]:
    annotation = model.model_fields[field].annotation
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _words(models: Iterable[type[BaseModel]], field: str) -> list[Any]:
    return [word for model in models if field in model.model_fields for word in _literals(model, field)]


def _example(models: list[type[BaseModel]], given: Any) -> str:
    """Return a table that a model takes, as an example; of the model, and the field, that ``given`` is a word of."""
    for model in models:
        for name in model.model_fields:
            if isinstance(given, str) and given in _literals(model, name):
                needed = {k: v for k, v in _least(model).items() if model.model_fields[k].is_required()}
                table = {name: given} | needed | {name: given}
                return f", such as {_toml(table)}"
    return f", such as {_toml(_least(models[0]))}" if models and _least(models[0]) else ""


def _least(model: type[BaseModel]) -> dict[str, Any]:
    """Return example values for what a model must be given."""
    out: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if field.is_required():
            words = _literals(model, name)
            example: Any = next((_least(one) for one in _models(field.annotation)), None)
            if example is None:
                example = words[0] if words else 2 if _is_list(field) else _bound(field, "ge", 1)
            out[name] = [example] * _bound(field, "min_length", 1) if _is_list(field) else example
    first = next(iter(model.model_fields.items()), None)
    if not out and first is not None and isinstance(first[1].default, str | int | float):
        out[first[0]] = first[1].default
    return out


def _is_list(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is list


def _bound(field: FieldInfo, name: str, default: int) -> Any:
    """Return a constraint of a field, or the default where it has none."""
    return next((getattr(rule, name) for rule in field.metadata if hasattr(rule, name)), default)


def _toml(value: Any) -> str:
    """Return a value as a TOML file would hold it, in one line, shortened if it is long."""
    if isinstance(value, dict):
        text = f"{{ {', '.join(f'{k} = {_toml(v)}' for k, v in value.items())} }}" if value else "{}"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(map(_toml, value))}]"
    elif isinstance(value, str | bool):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
