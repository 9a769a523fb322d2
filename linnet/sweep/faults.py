"""What is wrong with a sweep, in words: pydantic's findings, each with its place in the file."""

from __future__ import annotations

import difflib
import inspect
import json
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from linnet.sweep.grid import Axis, Sweep, chosen_values, dotted
from linnet.sweep.study import SCALARS, MisfitError


def faults(sweep: Sweep, index: int, tree: dict[str, Any], err: ValidationError) -> list[str]:
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
            place = dotted(keys, axis.place.removesuffix(whole).removesuffix("."))
        if axis is not None and error["type"] in LISTS and axis.path != keys:
            text = f"{dotted(keys)} is a list, which an axis cannot reach into; give {dotted(keys)} = [[...], [...]]"
        elif axis is not None and error["type"] in LISTS:
            text = f"an axis is a list of values; of a parameter that is a list itself write [{_toml(axis.values)}]"
        else:
            text = said_of(error, [sweep.study], tree)
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
    for axis, _ in reversed(chosen_values(sweep, index)):
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


MOST = 8
"""Faults that one message names."""


def listed(found: list[str]) -> str:
    """Return faults as one message, a line each."""
    if len(found) == 1:
        return found[0]
    head = f"{len(found)} faults:" if len(found) < MOST else f"{MOST} faults or more:"
    return "\n  ".join([head, *found[:MOST]])


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


def said_of(error: Any, models: list[type[BaseModel]], tree: Any) -> str:
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


def reached(kind: type[BaseModel], path: Sequence[Any]) -> tuple[list[type[BaseModel]], list[Any]]:
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


def is_plain(kind: Any) -> bool:
    """Whether a type is a scalar, one of some words, or a list of these."""
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal or kind in SCALARS:
        return True
    return bool(args) and all(map(is_plain, args[:1] if typing.get_origin(kind) is typing.Annotated else args))


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
    for axis, chosen in reversed(chosen_values(sweep, index)):
        if keys[: len(axis.path)] == axis.path:
            return dotted(keys[len(axis.path) :], f"{axis.place}[{chosen}]")
    return dotted(keys, "base")


def chosen(sweep: Sweep, index: int) -> str:
    """Return a cell as a reader of the file would name it: where it stands, and each axis's value."""
    return ", ".join(f"{axis.place}[{chosen}]" for axis, chosen in chosen_values(sweep, index)) or f"cell {index + 1}"
