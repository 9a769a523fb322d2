"""Cross-fitting: no method is judged on a sample that it was fitted to."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from linnet.compare.affine import best_affine
from linnet.compare.data import FOLDS, Data
from linnet.compare.records import Estimate
from linnet.methods import METHODS, Method
from linnet.methods.sparse import SparseFT
from linnet.network import DeepLinearNetwork
from linnet.problem import LayerProblem
from linnet.task import Moments

SAME = 1e-8
"""Difference of two losses, over the mean square of the targets, that is rounding error."""

SPARSE_LIMIT = 5000
"""Parameters from which SpFT, which solves for all of them at once, would take minutes a fold."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Squared errors |y - f(x)|^2 of one predictor, every one on a sample that it was not fitted to.

    Attributes:
        inside: (n_train,), each by the model fitted without the sample's fold.
        outside: (n_test,), each averaged over the models of all folds.
    """

    inside: np.ndarray
    outside: np.ndarray


@dataclass(eq=False)
class Fit:
    """One method, fitted once for each fold.

    Attributes:
        method: class of the method.
        parameters: trained parameters.
        networks: the tuned network of each fold.
    """

    method: type[Method]
    parameters: int
    networks: list[DeepLinearNetwork] = field(default_factory=list)


def random_state(seed: int, purpose: str) -> np.random.Generator:
    """Return a generator of its own for each purpose, so that a new method changes no other's draws."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def split(n: int, seed: int, purpose: str) -> np.ndarray:
    """Return the fold, 0 to FOLDS - 1, of each of ``n`` samples: sizes differ by at most one."""
    return random_state(seed, purpose).permutation(np.arange(n) % FOLDS)


def left_out(budget: int) -> dict[str, str]:
    """Return the methods that this budget is too large for, and why."""
    if budget <= SPARSE_LIMIT:
        return {}
    why = f"its normal equations have {budget} unknowns without structure, more than {SPARSE_LIMIT}"
    return {SparseFT.__name__: why}


def fit_methods(
    net: DeepLinearNetwork,
    layer: int,
    train: Data,
    fold: np.ndarray,
    budget: int,
    seed: int,
    progress: Callable[[str], object] = lambda text: None,
) -> dict[str, Fit]:
    """Fit every method, at the budget, on all folds but one, for each fold; tell ``progress`` what is being fitted.

    Random choices (channels, masks, frozen factors) are the same in all folds; those that look at data
    (channels by gradient) see the fold's training part only.
    """
    fits: dict[str, Fit] = {}
    skipped = left_out(budget)
    for k in range(FOLDS):
        rest = fold != k
        problem = LayerProblem(net, layer, Moments.from_data(train[0][rest], train[1][rest]))
        for name, cls in METHODS.items():
            if name in skipped:
                continue
            for label, method in cls.at_budget(problem, budget, random_state(seed, name)):
                progress(f"fold {k + 1} of {FOLDS}: {label}")
                fit = fits.setdefault(label, Fit(cls, method.n_parameters(problem)))
                fit.networks.append(net.updated(method.solve(problem)))
    return fits


def losses(networks: list[DeepLinearNetwork], train: Data, fold: np.ndarray, test: Data) -> Losses:
    """Return the losses of one model a fold: its own fold in distribution, all of the test set outside."""
    inside = np.empty(len(fold))
    outside = np.zeros(len(test[0]))
    for k, net in enumerate(networks):
        held = fold == k
        inside[held] = _loss(net, (train[0][held], train[1][held]))
        outside += _loss(net, test) / len(networks)
    return Losses(inside, outside)


def affine_losses(train: Data, fold: np.ndarray, test: Data, test_fold: np.ndarray) -> Losses:
    """Return the losses of the best affine map, cross-fitted on the folds of each set."""
    return Losses(_affine(train, fold), _affine(test, test_fold))


def _affine(data: Data, fold: np.ndarray) -> np.ndarray:
    x, y = data
    out = np.empty(len(x))
    for k in range(FOLDS):
        held = fold == k
        coef, intercept = best_affine(x[~held], y[~held])
        error = y[held] - x[held] @ coef.T - intercept
        out[held] = np.sum(error * error, axis=1)
    return out


def _loss(net: DeepLinearNetwork, data: Data) -> np.ndarray:
    error = data[1] - net(data[0])
    return np.sum(error * error, axis=1)


def estimate(values: np.ndarray, fold: np.ndarray | None = None) -> Estimate:
    """Return mean and standard error of per-sample values (n,).

    With folds, the variance is the one within folds: fold means differ because fold models do, and the
    mean estimates the average risk of these models. Its central limit theorem: Bayle, Bayle, Janson and
    Mackey, "Cross-validation confidence intervals for test error" (2020), Theorems 1 and 4.
    """
    n = len(values)
    if fold is None:
        return Estimate(value=float(np.mean(values)), se=float(np.std(values, ddof=1) / np.sqrt(n)))
    sizes = np.bincount(fold, minlength=FOLDS)
    means = np.bincount(fold, weights=values, minlength=FOLDS) / sizes
    variance = np.sum((values - means[fold]) ** 2) / (n - FOLDS)
    return Estimate(value=float(np.mean(values)), se=float(np.sqrt(variance / n)))


def difference(a: np.ndarray, b: np.ndarray, energy: float) -> np.ndarray:
    """Return a - b, per sample, with rounding error set to zero: equal predictions then differ by 0 ± 0."""
    d = a - b
    return np.where(np.abs(d) <= SAME * energy, 0.0, d)
