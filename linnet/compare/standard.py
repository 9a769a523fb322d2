"""Units that risks can be read in: everything standardised by the training set, the network with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linnet.compare.data import Data
from linnet.errors import DataError
from linnet.network import DeepLinearNetwork

CONSTANT = 1e-13
"""Standard deviation over the largest entry below which a column is constant up to rounding."""


@dataclass(frozen=True, eq=False)
class Standardised:
    """A network and its data in the units of the training set.

    Attributes:
        net: the same function between standardised inputs and outputs; it carries biases.
        train, test: x (n, p) and y (n, q), less the training mean, over the training standard deviation.
        constant_x, constant_y: columns without variance in training, which keep their own units.
    """

    net: DeepLinearNetwork
    train: Data
    test: Data
    constant_x: np.ndarray
    constant_y: np.ndarray


def standardise(net: DeepLinearNetwork, train: Data, test: Data) -> Standardised:
    """Subtract the training means and divide by the training standard deviations, in data and network alike.

    With x = m + S x' and y = k + T y', the first weight becomes W S and its bias b + W m, the last
    weight T^-1 W and its bias T^-1 (b - k): f'(x') = T^-1 (f(x) - k) for every x.

    What enters the layers above the first stays the same, and so do their updates. The first layer's act on
    centred inputs; IA3 on the last layer rescales an output that is centred too.

    Raises:
        DataError: values so large that float64 cannot hold their squares.
    """
    (m, s, flat_x), (k, t, flat_y) = _location_and_scale(train[0]), _location_and_scale(train[1])
    weights = [np.asarray(w, dtype=np.float64) for w in net.weights]
    given = net.biases or tuple(np.zeros(w.shape[0]) for w in weights)
    biases = [np.asarray(b, dtype=np.float64) for b in given]
    with np.errstate(over="ignore", invalid="ignore"):
        biases[0] = biases[0] + weights[0] @ m
        weights[0] = weights[0] * s
        weights[-1] = weights[-1] / t[:, None]
        biases[-1] = (biases[-1] - k) / t
        moved = [((x - m) / s, (y - k) / t) for x, y in (train, test)]
        scale = max(float(np.sum(a * a)) for pair in moved for a in pair)
        scale *= max(1.0, float(np.prod([np.sum(w * w) for w in weights])))
        scale += float(np.sum([np.sum(b * b) for b in biases]))
    if not np.isfinite(scale):
        raise DataError(
            "in units of the training set some values are too large for float64 to square; "
            "rescale the weights, or drop columns that vary in the test set only"
        )
    return Standardised(DeepLinearNetwork(tuple(weights), tuple(biases)), moved[0], moved[1], flat_x, flat_y)


def _location_and_scale(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, scale and which columns are constant; (d,) each. Scaled by the largest entry against overflow."""
    largest = np.max(np.abs(a), axis=0)
    unit = a / np.where(largest > 0, largest, 1.0)
    sd = np.std(unit, axis=0)
    constant = sd <= CONSTANT
    return np.mean(unit, axis=0) * largest, np.where(constant, 1.0, sd * largest), constant
