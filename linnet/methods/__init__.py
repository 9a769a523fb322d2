"""Fine-tuning methods, one a file; a new file in this folder is a new method, known everywhere."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from linnet.methods.base import LinearMethod, Method


def _discover() -> dict[str, type[Method]]:
    found: dict[str, type[Method]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, Method) and not inspect.isabstract(value):
                found[name] = value
    return found


METHODS: dict[str, type[Method]] = _discover()
globals().update(METHODS)

__all__ = ["METHODS", "LinearMethod", "Method", *METHODS]
