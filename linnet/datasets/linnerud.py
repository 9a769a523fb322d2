"""Twenty men in a fitness club: from the weaker half to the stronger."""

from __future__ import annotations

import numpy as np

from linnet.datasets.base import Shifted, from_sklearn


def shifted() -> Shifted:
    """Three exercises and three measures of the body, (10, 3) and (10, 3): men of few chin-ups, then of many.

    The median of the chin-ups, 11.5, parts the men without ties into halves. It is an input that selects them, so
    that what is learned, E[y | x], need not move.
    """
    bunch = from_sklearn("linnerud").load_linnerud()
    x, y = bunch.data, bunch.target
    chins = x[:, bunch.feature_names.index("Chins")]
    middle = float(np.median(chins))
    old = chins < middle
    return Shifted(
        name="linnerud",
        title="Weight, waist and pulse of twenty men, from three exercises",
        source=(x[old], y[old]),
        target=(x[~old], y[~old]),
        source_text=f"men of fewer than {middle:g} chin-ups",
        target_text=f"men of more than {middle:g} chin-ups, their weight, waist and pulse",
        shift="strength: the same exercises by stronger men; who is in which half is decided by an input alone",
        units="weight, waist and pulse; by their size in pounds, inches and beats a minute, the source does not say",
        reference="M. Tenenhaus, La regression PLS: theorie et pratique, Technip, Paris, 1998; as scikit-learn brings "
        "it along",
        widths=(3, 3, 3),
        tolerance=1e-4,
        note="R^2 of linear regression, by cross-validation: -0.02 on the source; "
        "on the target -45.49, and -0.83 if fitted there. Below 0 is worse than the mean: ten rows teach no linear map "
        "here and show no shift beyond error. So small a sample is the point.",
        mixed_units=True,
    )
