"""Exact risks of a network on a task: no sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import NonFiniteError
from linnet.methods.base import Method
from linnet.network import DeepLinearNetwork
from linnet.problem import LayerProblem
from linnet.task import Moments, Regression, Shift


def excess_risk(net: DeepLinearNetwork, task: Regression | Moments) -> Any:
    """Return E|y - f(x)|^2 less the least that any function reaches, in squared units of y.

    For a ``Regression`` with coefficients B that is ``tr[(B - F) signal_cov (B - F)^T]`` plus the
    squared error at the mean; for ``Moments`` the best affine map on them (the best linear one, where they
    carry no means) stands for the best function, as in ``Regression.from_moments``.

    Returns:
        A float for one network on one task in NumPy, else an array over the batch axes of both; NaN for the
        elements that the task's ``status`` marks as unusable.

    Raises:
        ShapeError: the network does not map the task's inputs to its outputs.
        ArgumentError: an argument is something else.
        NonFiniteError: the risk of one network on one task overflows.

    Source: yang2024, Sec. F.2.
    """
    _check(net, task)
    if isinstance(task, Moments):
        return _result(_explainable(net, task), task.status)
    product, coef, cov, mean, intercept, offset = la.together(
        net.product, task.coef, task.signal_cov, task.mean, task.intercept, net.offset
    )
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        value = _distance(coef - product, cov, mean, intercept, offset)
    return _result(value, task.status if task.batch_shape else None)


def expected_risk(net: DeepLinearNetwork, task: Regression | Moments) -> Any:
    """Return E|y - f(x)|^2, noise included, in squared units of y."""
    _check(net, task)
    if isinstance(task, Moments):
        explainable, spare = la.together(_explainable(net, task), task.roots[2])
        return _result(explainable + spare, task.status)
    noise = la.trace(task.noise_cov)
    return la.as_result(excess_risk(net, task) + noise)


def forgetting(pretrained: DeepLinearNetwork, tuned: DeepLinearNetwork, shift: Shift) -> Any:
    """Return how much out-of-distribution excess risk fine-tuning added: E_o(tuned) - E_o(pretrained)."""
    la.require_kind(shift, Shift, "shift", "give a Shift(train, test)")
    return la.as_result(excess_risk(tuned, shift.test) - excess_risk(pretrained, shift.test))


@dataclass(frozen=True)
class BiasVariance:
    """Squared bias and variance of one sample's solution, (...), in squared units of y.

    For any eta > 0 the in-distribution excess risk is at most (1 + eta) bias + (1 + 1/eta) variance.
    """

    bias: Any
    variance: Any


def bias_variance(method: Method, problem: LayerProblem, sample: Moments, task: Regression) -> BiasVariance:
    """Split the risk of the solution on ``sample`` at the solution on the population ``problem``.

    Bias is the excess risk of the population solution; variance, the mean square distance on ``task``
    between the two solutions' outputs.

    Source: yang2024, proof of Theorem F.10.
    """
    la.require_kind(method, Method, "method", "give a method such as LoRA(2)")
    la.require_kind(problem, LayerProblem, "problem", "give LayerProblem(net, layer, moments)")
    la.require_kind(task, Regression, "task", "give the Regression that the risks are of")
    population = problem.net.updated(method.solve(problem))
    fitted = problem.net.updated(method.solve(LayerProblem(problem.net, problem.layer, sample, problem.rtol)))
    here = Regression(
        coef=population.product,
        signal_cov=task.signal_cov,
        noise_cov=task.noise_cov,
        mean=task.mean,
        intercept=population.offset,
    )
    return BiasVariance(excess_risk(population, task), excess_risk(fitted, here))


def _distance(gap: Array, cov: Array, mean: Array | None, intercept: Array | None, offset: Array | None) -> Array:
    """Return E|gap x + intercept - offset|^2 for x of that mean and covariance, (...)."""
    value = la.energy(gap, cov)
    if mean is None and intercept is None and offset is None:
        return value
    error = 0.0 * gap[..., 0] if mean is None else la.matvec(gap, mean)
    error = error if intercept is None else error + intercept
    error = error if offset is None else error - offset
    return value + la.namespace(error).sum(error * error, axis=-1)


def _explainable(net: DeepLinearNetwork, moments: Moments) -> Array:
    """Return the part of E|y - f(x)|^2 that an affine map (linear, without means) could explain, (...)."""
    product, root, seen, x_mean, y_mean, offset = la.together(
        net.product, *moments.roots[:2], moments.x_mean, moments.y_mean, net.offset
    )
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by whoever asked
        value = la.sq(seen - product @ root)
        if x_mean is None and offset is None:
            return value
        error = 0.0 if x_mean is None else y_mean - la.matvec(product, x_mean)
        error = error if offset is None else error - offset
        return value + la.namespace(error).sum(error * error, axis=-1)


def _check(net: DeepLinearNetwork, task: Regression | Moments) -> None:
    la.require_kind(net, DeepLinearNetwork, "net", "give the network first, then the task")
    la.require_kind(task, (Regression, Moments), "task", "give a Regression or Moments")
    net.require_fit(task.shape, task.batch_shape)


def _result(value: Array, status: Array | None) -> Any:
    """Return a risk as a user sees it: what failed masked, and no infinity for one network on one task.

    Raises:
        NonFiniteError: the risk overflows.
    """
    if value.ndim == 0 and la.is_concrete(value) and not bool(la.namespace(value).isfinite(value)):
        raise NonFiniteError(
            "the risk is beyond what floating point holds: inputs, coefficients or weights are too large; rescale them"
        )
    return la.as_result(la.mask_failed(value, status))
