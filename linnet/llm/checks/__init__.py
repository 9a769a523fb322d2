"""The findings on real models, one a file; a new file in this folder is a new check, known everywhere."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

from linnet.errors import ArgumentError
from linnet.llm.checks.base import Check, Effect, Promise
from linnet.llm.own import module_of


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
            if value.id in found:
                raise ArgumentError(f"two findings are called {value.id}; rename one")
            found[value.id] = value()
    return found


def checks_in_file(path: Path) -> dict[str, Check]:
    """Return the checks that a Python file defines, by id.

    Raises:
        ArgumentError: no such file, it does not run, it defines none, or two are called alike, here or in linnet.
    """
    found = _declared(module_of(path))
    if not found:
        raise ArgumentError(f"{path} defines no finding; write a class of linnet.llm.checks.Check")
    if taken := sorted(found.keys() & CHECKS.keys()):
        raise ArgumentError(f"{path}: {', '.join(taken)} is a finding of linnet's; give yours another id")
    return found


CHECKS: dict[str, Check] = _discover()
"""Every check of linnet's, by its id."""

__all__ = ["CHECKS", "Check", "Effect", "Promise", "checks_in_file"]
