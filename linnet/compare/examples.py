"""Real shifts on data that scikit-learn brings along."""

from __future__ import annotations

from typing import Any

import numpy as np

from linnet.compare.crossfit import random_state
from linnet.compare.data import Case
from linnet.compare.records import Source
from linnet.errors import DataError
from linnet.network import DeepLinearNetwork
from linnet.task import Regression


def load(name: str, seed: int, layer: int | None = None, rank: int | None = None) -> Case:
    """Return the example ``digits`` or ``diabetes``, on its own choice of layer and rank where none is given.

    ``seed`` draws the held-out samples and the start of pre-training.

    Raises:
        DataError: another name, a seed below 0, or scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise DataError(
            "the examples use data of scikit-learn, which is not installed here; pip install scikit-learn"
        ) from None
    builders = {"digits": digits, "diabetes": diabetes}
    if name not in builders:
        raise DataError(f"no example {name!r}; give one of {', '.join(builders)}")
    if seed < 0:
        raise DataError(f"seed {seed}; give a whole number >= 0")
    return builders[name](datasets, seed, layer, rank)


def digits(datasets: Any, seed: int, layer: int | None, rank: int | None) -> Case:
    """8 x 8 images and one-hot labels: pre-trained on digits 0 to 4, fine-tuned on 5 to 9."""
    bunch = datasets.load_digits()
    x, y = bunch.data / 16, np.eye(10)[bunch.target]
    (seen, held), new = _parted(bunch.target < 5, seed), bunch.target >= 5
    widths, tolerance = [64, 32, 16, 10], 0.01
    task = Regression.from_data(x[seen], y[seen])
    net = DeepLinearNetwork.pretrained(widths, task, rng=random_state(seed, "start"), tolerance=tolerance)
    source = Source(
        network=f"pre-trained on {len(seen)} images of digits 0-4, by gradient flow to {tolerance:g} of the zero map's "
        "excess risk",
        train=f"{int(new.sum())} images of digits 5-9, one-hot labels",
        test=f"{len(held)} other images of digits 0-4",
        shift="other digits: images and labels both move",
    )
    return Case(
        net, (x[new], y[new]), (x[held], y[held]), 1 if layer is None else layer, 2 if rank is None else rank, source
    )


def diabetes(datasets: Any, seed: int, layer: int | None, rank: int | None) -> Case:
    """Ten measurements and the disease's progress: pre-trained on the younger half of the patients."""
    bunch = datasets.load_diabetes(scaled=False)
    age = bunch.data[:, bunch.feature_names.index("age")]
    middle = float(np.median(age))
    (seen, held), new = _parted(age < middle, seed), age >= middle
    # Measurements come in units as far apart as years and cell counts: gradient flow would never end.
    x = (bunch.data - bunch.data[seen].mean(axis=0)) / bunch.data[seen].std(axis=0)
    y = ((bunch.target - bunch.target[seen].mean()) / bunch.target[seen].std())[:, None]
    widths, tolerance = [10, 8, 6, 1], 1e-4
    task = Regression.from_data(x[seen], y[seen])
    net = DeepLinearNetwork.pretrained(widths, task, rng=random_state(seed, "start"), tolerance=tolerance)
    source = Source(
        network=f"pre-trained on {len(seen)} patients under {middle:g}, by gradient flow to {tolerance:g} of the zero "
        "map's excess risk",
        train=f"{int(new.sum())} patients of {middle:g} and older, progress of diabetes after a year",
        test=f"{len(held)} other patients under {middle:g}",
        shift="age: the same measurements on another age group",
    )
    return Case(
        net, (x[new], y[new]), (x[held], y[held]), 1 if layer is None else layer, 1 if rank is None else rank, source
    )


def _parted(old: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two thirds of the old samples to pre-train on, one third held out."""
    chosen = random_state(seed, "hold-out").permutation(np.flatnonzero(old))
    cut = 2 * len(chosen) // 3
    return np.sort(chosen[:cut]), np.sort(chosen[cut:])
