"""linnet: the theory of parameter-efficient fine-tuning, on trial.

Deep linear networks and shifted regressions, the closed-form solutions of fine-tuning methods, their
exact risks, and trials of the claims that are made about them. Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "DeepLinearNetwork": "linnet.network",
    "haar": "linnet.network",
    "Regression": "linnet.task",
    "Moments": "linnet.task",
    "PopulationMoments": "linnet.task",
    "Shift": "linnet.task",
    "LayerProblem": "linnet.problem",
    "Update": "linnet.problem",
    "in_pieces": "linnet.batches",
    "channel_scores": "linnet.channels",
    "select_channels": "linnet.channels",
    "excess_risk": "linnet.risk",
    "expected_risk": "linnet.risk",
    "forgetting": "linnet.risk",
    "bias_variance": "linnet.risk",
    "expectation": "linnet.finite_sample",
    "nearest_psd": "linnet._linalg",
    "LinnetError": "linnet.errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if not name.startswith("_"):
        methods = importlib.import_module("linnet.methods")
        if name in methods.__all__:
            return getattr(methods, name)
    raise AttributeError(f"module 'linnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOME, *importlib.import_module("linnet.methods").__all__, "__version__"])
