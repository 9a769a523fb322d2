"""Real data under a real shift, one data set a file; a new file in this folder is a new data set."""

from __future__ import annotations

import importlib
import pkgutil

from linnet.datasets.base import Shifted
from linnet.errors import DataError

__all__ = ["Shifted", "load", "names"]


def names() -> tuple[str, ...]:
    """Return the names that ``load`` takes, in alphabetical order."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name != "base"))


def load(name: str, *, standardise: bool = True) -> Shifted:
    """Return a data set: what a network is pre-trained on, and what it is fine-tuned on.

    Args:
        name: one of ``names()``.
        standardise: where the columns are in units of their own, whether to give x and y in standard deviations of
            the source, from its mean. Who holds part of the source out loads without, and calls
            ``standardised(rows)`` with the rows that are not held out.

    Raises:
        DataError: no such data set, or it comes with scikit-learn, which is not installed.
    """
    if name not in names():
        raise DataError(f"no data set {name!r}; give one of {', '.join(names())}")
    data: Shifted = importlib.import_module(f"{__name__}.{name}").shifted()
    return data.standardised() if standardise and data.mixed_units else data
