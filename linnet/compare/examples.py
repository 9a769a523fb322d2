"""Real shifts, on data sets of ``linnet.datasets``."""

from __future__ import annotations

import numpy as np

from linnet import datasets
from linnet.compare.crossfit import random_state
from linnet.compare.data import Case
from linnet.compare.records import Source
from linnet.errors import DataError
from linnet.network import DeepLinearNetwork
from linnet.task import Regression

RANKS = {"digits": 2, "diabetes": 1}
"""The examples, and the rank of LoRA that each has where none is given."""
LAYER = 1


def load(name: str, seed: int, layer: int | None = None, rank: int | None = None) -> Case:
    """Return the example ``digits`` or ``diabetes``, on its own choice of layer and rank where none is given.

    Two thirds of the source are there to pre-train on, the rest is the test set; training is on the target.
    ``seed`` draws the held-out samples and the start of pre-training.

    Raises:
        DataError: another name, a seed below 0, or scikit-learn is not installed.
    """
    if name not in RANKS:
        raise DataError(f"no example {name!r}; give one of {', '.join(RANKS)}")
    if seed < 0:
        raise DataError(f"seed {seed}; give a whole number >= 0")
    data = datasets.load(name, standardise=False)
    seen, held = _parted(len(data.source[0]), seed)
    if data.mixed_units:
        data = data.standardised(seen)
    (x, y), tolerance = data.source, data.tolerance
    task = Regression.from_data(x[seen], y[seen])
    net = DeepLinearNetwork.pretrained(data.widths, task, rng=random_state(seed, "start"), tolerance=tolerance)
    source = Source(
        network=f"pre-trained on {len(seen)} {data.source_text}, by gradient flow to {tolerance:g} of the zero map's "
        "excess risk",
        train=f"{len(data.target[0])} {data.target_text}",
        test=f"{len(held)} other {data.source_text}",
        shift=data.shift,
    )
    return Case(
        net,
        data.target,
        (x[held], y[held]),
        LAYER if layer is None else layer,
        RANKS[name] if rank is None else rank,
        source,
    )


def _parted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two thirds of n samples to pre-train on, one third held out."""
    chosen = random_state(seed, "hold-out").permutation(n)
    cut = 2 * n // 3
    return np.sort(chosen[:cut]), np.sort(chosen[cut:])
