"""The findings on real models, one a file; a new file in this folder is a new check, known everywhere."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from linnet.llm.checks.base import Check, Effect, Promise


def _discover() -> dict[str, Check]:
    found: dict[str, Check] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Check) and not inspect.isabstract(value):
                found[value.id] = value()
    return dict(sorted(found.items()))


CHECKS: dict[str, Check] = _discover()
"""Every check, by its id."""

__all__ = ["CHECKS", "Check", "Effect", "Promise"]
