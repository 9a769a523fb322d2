"""Progress of diabetes: another age group."""

from __future__ import annotations

import numpy as np

from linnet.datasets.base import Shifted, from_sklearn


def shifted() -> Shifted:
    """Ten measurements and the disease's progress, (n, 10) and (n, 1): patients below the median age, and others."""
    bunch = from_sklearn("diabetes").load_diabetes(scaled=False)
    x, y = bunch.data, bunch.target[:, None]
    age = x[:, bunch.feature_names.index("age")]
    middle = float(np.median(age))
    old = age < middle
    return Shifted(
        name="diabetes",
        title="Progress of diabetes, from ten measurements",
        source=(x[old], y[old]),
        target=(x[~old], y[~old]),
        source_text=f"patients under {middle:g}",
        target_text=f"patients of {middle:g} and older, progress of diabetes after a year",
        shift="age: the same measurements on another age group",
        units="progress of the disease after a year, a score",
        reference="B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least angle regression, Annals of Statistics "
        "32 (2004), doi 10.1214/009053604000000067; as scikit-learn brings it along",
        widths=(10, 8, 6, 1),
        tolerance=1e-4,
        note="R^2 of linear regression, by cross-validation: 0.45 on the source; "
        "on the target 0.21, and 0.51 if fitted there.",
        # Years and cell counts: without common units gradient flow would never end.
        mixed_units=True,
    )
