"""The findings on real models, one a file; a new file in this folder is a new check, known everywhere."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from linnet.errors import ArgumentError
from linnet.llm.checks.base import Check, Effect, Promise


def _discover() -> dict[str, Check]:
    found: dict[str, Check] = {}
    for info in pkgutil.iter_modules(__path__):
        found |= _declared(importlib.import_module(f"{__name__}.{info.name}"))
    return dict(sorted(found.items()))


def _declared(module: ModuleType) -> dict[str, Check]:
    """Return the checks that a module defines itself, by id."""
    found: dict[str, Check] = {}
    for value in vars(module).values():
        own = inspect.isclass(value) and value.__module__ == module.__name__
        if own and issubclass(value, Check) and not inspect.isabstract(value):
            found[value.id] = value()
    return found


def checks_in_file(path: Path) -> dict[str, Check]:
    """Return the checks that a Python file defines, by id.

    Raises:
        ArgumentError: no such file, it does not run, it defines none, or one is called like a check of linnet's.
    """
    name = f"checks_in_{path.stem}_{hashlib.blake2b(bytes(path.resolve()), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ArgumentError(f"no file {path}; give the path of a Python file, .py, that defines a Check")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
        found = _declared(module)
    except (Exception, SystemExit) as err:
        raise ArgumentError(f"{path} does not run: {type(err).__name__}: {err}") from err
    if not found:
        raise ArgumentError(f"{path} defines no finding; write a class of linnet.llm.checks.Check")
    if taken := sorted(found.keys() & CHECKS.keys()):
        raise ArgumentError(f"{path}: {', '.join(taken)} is a finding of linnet's; give yours another id")
    return found


CHECKS: dict[str, Check] = _discover()
"""Every check of linnet's, by its id."""

__all__ = ["CHECKS", "Check", "Effect", "Promise", "checks_in_file"]
