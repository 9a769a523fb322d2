"""What one cell of a sweep is: parameters in, rows of a table out."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import pkgutil
import reprlib
import sys
import threading
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from linnet.errors import DataError


class Part(BaseModel):
    """A group of parameters; refuses keys that it does not know, and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)


class MisfitError(ValueError):
    """Parameters that do not fit each other; says which one to blame.

    Attributes:
        place: keys and indices that lead to the parameter, within the cell.
    """

    def __init__(self, place: Sequence[str | int], message: str) -> None:
        super().__init__(message)
        self.place = tuple(place)


class Study(Part, ABC):
    """Parameters of one cell, validated, and how its rows are computed.

    Subclasses are one file each in ``linnet/sweep/studies``, found by being there, or in a file of the user's. Their
    fields are the parameters that a sweep may vary; ``Row`` says which columns they measure.

    Attributes:
        seed: of all that is random; cells of the same seed share what ``stream`` says they share.
    """

    Row: ClassVar[type]
    """Dataclass of one row: a field a column, float, int, str or bool, or one of these or None."""

    aside: ClassVar[tuple[str, ...]] = ()
    """Parameters that differ between the rows of a cell, and so have no column of their own."""

    code: ClassVar[str] = ""
    """Digest of the file that defines the study, if it is a user's."""

    seed: int = Field(default=0, ge=0)

    @abstractmethod
    def run(self) -> list[Any]:
        """Return the cell's rows, a function of its parameters alone.

        Raises:
            LinnetError: the cell cannot be computed; the sweep reports it and goes on.
        """

    @classmethod
    def name(cls) -> str:
        """Return what a sweep calls this study: the name of its file."""
        return cls.__module__.rpartition(".")[2]

    def key(self) -> str:
        """Return what stands for the cell: a digest of the study's name and all parameters.

        Of a study in a file of the user's also of that file: what it computed before it was edited is computed again.
        """
        code = [self.code] if self.code else []
        return _digest(self.name(), self.model_dump(mode="json"), *code).hex()

    def stream(self, purpose: str, *of: Any) -> np.random.Generator:
        """Return a random generator that depends on the seed, the purpose and ``of``, and on nothing else.

        Args:
            purpose: what is drawn; another purpose is independent of it.
            of: the parameters that the draws depend on: cells that agree on them draw the same. All of them, if
                none is given.
        """
        which: list[Any] = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in of]
        entropy = _digest(self.name(), self.seed, purpose, which if of else self.model_dump(mode="json"))
        return np.random.default_rng(np.random.SeedSequence(int.from_bytes(entropy)))

    def columns(self) -> dict[str, Any]:
        """Return the parameters as columns of a table: nested names joined by dots, lists as their JSON."""
        return flat(self.model_dump(mode="json", exclude=set(self.aside)))


def cell_of(kind: type[Study], parameters: dict[str, Any]) -> Study:
    """Return the cell of these parameters.

    Nothing is converted: a number in quotes, or true for 1, is refused. They are read as JSON, of which a tuple, an
    enumeration or a path may be made all the same.

    Raises:
        ValidationError: a parameter is not what its field asks for.
    """
    return kind.model_validate_json(json.dumps(parameters, default=str), strict=True)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of tables as one, with dotted names; lists become JSON text."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return out


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of ``values`` (k,) and its standard error; NaN for the error of a single value.

    Elements that are NaN, because their replicate could not be solved, are left out.
    """
    kept = values[~np.isnan(values)]
    if len(kept) == 0:
        return math.nan, math.nan
    # Differences from the first: equal values then have no error at all, whatever their mean rounds to.
    spread = kept - kept[0]
    error = float(np.std(spread, ddof=1) / math.sqrt(len(kept))) if len(kept) > 1 else math.nan
    return float(kept[0] + np.mean(spread)), error


def study(name: str, beside: Path | None = None) -> type[Study]:
    """Return the study of that name, or the one in the file of that name.

    Args:
        name: a file of ``linnet/sweep/studies`` without its ending, or the path of a Python file.
        beside: folder that a relative path starts from.

    Raises:
        DataError: there is none, or a file that does not define exactly one.
    """
    if not name.endswith(".py"):
        return _brought_along(name)
    path = (beside or Path()) / name
    return _from_file(path.resolve())


def built_in() -> tuple[str, ...]:
    """Return the names of the studies that linnet brings along."""
    from linnet.sweep import studies

    return tuple(sorted(info.name for info in pkgutil.iter_modules(studies.__path__)))


@cache
def _brought_along(name: str) -> type[Study]:
    if name not in built_in():
        raise DataError(
            f"no study {name!r}; give one of {', '.join(built_in())}, or the path of a .py file that defines one"
        )
    return _only(importlib.import_module(f"linnet.sweep.studies.{name}"), name)


_loading = threading.Lock()
_loaded: dict[Path, type[Study]] = {}


def _from_file(path: Path) -> type[Study]:
    with _loading:  # threads of one worker share a module, and must not see half of it
        if path not in _loaded:
            found = _only(_module(path), str(path))
            found.code = _digest(path.read_text(encoding="utf-8")).hex()
            _loaded[path] = found
        return _loaded[path]


def _module(path: Path) -> types.ModuleType:
    if not path.is_file():
        raise DataError(f"study = {str(path)!r}: there is no such file; give a path relative to the sweep's")
    # Dataclasses and pydantic look their module up by name: one that no other file, and no library, can have.
    name = f"linnet study {_digest(str(path)).hex()}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as err:
        del sys.modules[name]
        raise DataError(
            f"{path} cannot be imported ({type(err).__name__}: {err}); run it with python to see why"
        ) from err
    return module


def _only(module: Any, name: str) -> type[Study]:
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Study)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]
    if len(found) != 1:
        raise DataError(f"{name} defines {len(found)} studies; exactly one subclass of linnet.sweep.Study is needed")
    kind = found[0]
    if not dataclasses.is_dataclass(getattr(kind, "Row", None)):
        raise DataError(f"{name}: {kind.__name__} has no Row; give it the dataclass of its rows")
    taken = {"cell", *kind.model_fields} - set(kind.aside)
    for column, kinds in measured(kind).items():
        where = f"{name}: {kind.Row.__name__}.{column}"
        if not kinds <= SCALARS.keys():
            raise DataError(f"{where} is no float, int, str or bool, nor one of these or None")
        if column in taken:
            raise DataError(f"{where} is the name of another column; give it its own")
    return kind


SCALARS = {float: "float", int: "int of 64 bits", str: "str", bool: "bool", type(None): "None"}
"""What a column may hold."""
LONG = 2**63
"""Whole numbers of a column lie below."""


@cache
def measured(kind: type[Study]) -> dict[str, frozenset[Any]]:
    """Return the columns that a study measures, as its ``Row`` declares them, and the types of each."""
    hints = typing.get_type_hints(kind.Row)
    unions = (typing.Union, types.UnionType)
    return {
        field.name: frozenset(typing.get_args(hint) if typing.get_origin(hint) in unions else (hint,))
        for field in dataclasses.fields(kind.Row)
        for hint in (hints[field.name],)
    }


def computed(cell: Study) -> list[dict[str, Any]]:
    """Run a cell; return its rows by column, scalars of NumPy as Python's.

    Raises:
        DataError: there is no row, or one that is no ``Row`` or holds what its columns do not.
    """
    rows: Any = cell.run()
    name = type(cell).Row.__name__
    if isinstance(rows, type(cell).Row):
        raise DataError(f"run() returned a {name}; return a list of them")
    if not isinstance(rows, Iterable):
        raise DataError(f"run() returned {_shown(rows)}; return a list, each of it a {name}")
    found = [_checked(row, type(cell)) for row in rows]
    if not found:
        raise DataError(f"run() returned no rows; return a list of at least one {name}")
    return found


def _checked(row: Any, kind: type[Study]) -> dict[str, Any]:
    if type(row) is not kind.Row:
        raise DataError(f"run() returned a row of type {type(row).__name__}; give a {kind.Row.__name__}")
    out: dict[str, Any] = {}
    for name, kinds in measured(kind).items():
        value = getattr(row, name)
        value = value.item() if isinstance(value, np.generic) else value
        if type(value) is int and int not in kinds and float in kinds:
            value = float(value)
        if type(value) not in kinds or (type(value) is int and not -LONG <= value < LONG):
            allowed = " or ".join(said for k, said in SCALARS.items() if k in kinds)
            raise DataError(f"{kind.Row.__name__}.{name} is {_shown(value)}; its column holds {allowed}")
        out[name] = value
    return out


def _shown(value: Any) -> str:
    """Return a value in one line, however large it is."""
    return " ".join(reprlib.repr(value).split())


def _digest(*parts: Any) -> bytes:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
