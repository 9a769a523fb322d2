"""The yardstick of the excess risk: the best affine map that the data allow to estimate."""

from __future__ import annotations

import numpy as np

from linnet import _linalg as la

PENALTIES = (0.0, *np.logspace(-6, 3, 19))
"""Ridge penalties to choose from, in training variances of x; 0 is least squares."""

FULL_LEVERAGE = 1e-8
"""One less the leverage of a sample below which least squares passes through it: no error is left to judge by."""


def best_affine(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (q, p) and intercept (q,) of the ridge regression of least leave-one-out error.

    Plain least squares is ruined by columns that vary in a few samples only, or by p near n, and every
    method would look better than the best affine map. The penalty may be zero, and is where n >> p.

    Args:
        x: (n, p), n >= 2, in units of the training set.
        y: (n, q).
    """
    n = len(x)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    z, target = x - mean_x, y - mean_y
    found = la.decompose(z)
    values = found.s * found.s / n
    kept = values > 0
    z = found.u * found.s
    cross = z.T @ target / n
    best, least = np.zeros_like(cross), np.inf
    for penalty in PENALTIES:
        inverse = np.where(kept, 1 / np.where(kept, values + penalty, 1.0), 0.0)
        solution = inverse[:, None] * cross
        spare = 1 - 1 / n - (z * z) @ inverse / n
        if spare.min() < FULL_LEVERAGE:
            continue
        error = float(np.sum(((target - z @ solution) / spare[:, None]) ** 2))
        if error < least:
            best, least = solution, error
    coef = (found.vt.T @ best).T
    return coef, mean_y - coef @ mean_x
