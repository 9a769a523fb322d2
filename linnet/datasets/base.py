"""What a data set under a shift is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linnet import _linalg as la
from linnet.errors import DataError, ShapeError

Data = tuple[np.ndarray, np.ndarray]
"""x (n, p) and y (n, q), float64."""


@dataclass(frozen=True, eq=False)
class Shifted:
    """Two samples of the same variables, from an old and from a new distribution.

    Attributes:
        name: by which it is loaded.
        title: what it is, in a line.
        source: x (n, p) and y (n, q) of the old distribution, which a network is pre-trained on.
        target: x (m, p) and y (m, q) of the new one, which it is fine-tuned on.
        source_text, target_text: what their rows are, to be read behind a number.
        shift: what moves between them.
        units: of y.
        reference: where the data come from, and under which licence.
        widths: (p, d_1, ..., q), a network for it.
        tolerance: of gradient flow, which such a network reaches in seconds.
        note: what to know before relying on it: what is measured of it, and what is not as one might expect.
        mixed_units: whether columns are in units of their own and want to be standardised.

    Raises:
        ShapeError: shapes that do not fit each other or the widths.
        NonFiniteError: NaN or an infinity.
    """

    name: str
    title: str
    source: Data
    target: Data
    source_text: str
    target_text: str
    shift: str
    units: str
    reference: str
    widths: tuple[int, ...]
    tolerance: float
    note: str
    mixed_units: bool = False

    def __post_init__(self) -> None:
        for side in ("source", "target"):
            x, y = (np.asarray(la.as_float(a, side), dtype=np.float64) for a in getattr(self, side))
            expected = (len(x), self.widths[0]), (len(x), self.widths[-1])
            if (x.shape, y.shape) != expected or len(x) == 0:
                raise ShapeError(
                    f"{self.name}: the {side}'s x and y have shapes {x.shape} and {y.shape}; widths {self.widths} need "
                    f"(n, {self.widths[0]}) and (n, {self.widths[-1]}), at least a row"
                )
            la.require_finite(**{f"{self.name}: {side} x": x, f"{self.name}: {side} y": y})
            object.__setattr__(self, side, (x, y))

    def standardised(self, rows: np.ndarray | None = None) -> Shifted:
        """Return all of x and y in standard deviations of the source's ``rows`` (all, without), from their mean.

        Raises:
            DataError: a column does not vary in these rows.
        """
        chosen = slice(None) if rows is None else rows
        sides: list[list[np.ndarray]] = [[], []]
        for i, variable in enumerate(("x", "y")):
            seen = self.source[i][chosen]
            mean, deviation = seen.mean(axis=0), seen.std(axis=0)
            still = np.flatnonzero(~(deviation > 0))
            if len(still):
                raise DataError(
                    f"{self.name}: column {still[0]} of {variable} does not vary in the {len(seen)} rows of the source "
                    "that give the units; give more rows, or leave the data as they are"
                )
            for side, data in zip(sides, (self.source, self.target), strict=True):
                side.append((data[i] - mean) / deviation)
        (source_x, source_y), (target_x, target_y) = sides
        return replace(
            self,
            source=(source_x, source_y),
            target=(target_x, target_y),
            units=f"{self.units}; in standard deviations of the source, from its mean",
            mixed_units=False,
        )


def from_sklearn(name: str) -> Any:
    """Return the module ``sklearn.datasets``, for the data set ``name``.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise DataError(
            f"{name} uses data of scikit-learn, which is not installed here; pip install scikit-learn"
        ) from None
    return datasets
