"""Pre-training by gradient flow."""

from __future__ import annotations

import math

import numpy as np

from linnet.errors import ConvergenceError, ShapeError
from linnet.network import DeepLinearNetwork
from linnet.task import Regression


def gradient_flow(
    start: DeepLinearNetwork, task: Regression, tolerance: float, init_scale: float, max_evaluations: int
) -> DeepLinearNetwork:
    """Integrate dW_l/dt = -grad_l of half the excess risk from ``init_scale * start``.

    Stops where the excess risk is within ``tolerance`` times the zero map's risk of the best that the
    widths allow. The offset is set exactly: gradient flow on the last bias reaches it in any case.

    Raises:
        ConvergenceError: ``max_evaluations`` gradients were not enough.
        ShapeError: a batch, or sizes that do not fit.
    """
    from scipy.integrate import RK45

    if start.batch_shape or task.batch_shape:
        raise ShapeError("pre-training takes one network and one task; loop over a batch")
    if not tolerance > 0:
        raise ConvergenceError(f"tolerance {tolerance}; give a number above 0: gradient flow ends only in the limit")
    if not 0 < init_scale < math.inf:
        raise ConvergenceError(
            f"init_scale {init_scale}; give a finite number above 0: the origin is a saddle that the flow never leaves"
        )
    widths = start.widths
    if task.coef.shape != (widths[-1], widths[0]):
        raise ShapeError(
            f"widths {list(widths)} for a task of {task.coef.shape[1]} inputs, {task.coef.shape[0]} outputs; "
            "the outer widths must be those"
        )
    root = task.root
    goal = task.coef @ root
    spare = np.linalg.svd(goal, compute_uv=False)[min(widths) :]
    best, scale = float(np.sum(spare**2)), float(np.sum(goal**2))
    cuts = np.cumsum([w.size for w in start.weights])[:-1]
    shapes = [w.shape for w in start.weights]
    evaluations = 0

    def unpack(theta: np.ndarray) -> list[np.ndarray]:
        return [part.reshape(s) for part, s in zip(np.split(theta, cuts), shapes, strict=True)]

    def excess(theta: np.ndarray) -> float:
        return float(np.sum((_chain(unpack(theta), root) - goal) ** 2))

    def velocity(_: float, theta: np.ndarray) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        weights = unpack(theta)
        below = [root]
        for w in weights:
            below.append(w @ below[-1])
        back = goal - below[-1]
        out = []
        for w, h in zip(reversed(weights), reversed(below[:-1]), strict=True):
            out.append(back @ h.T)
            back = w.T @ back
        return np.concatenate([g.ravel() for g in reversed(out)])

    theta = init_scale * np.concatenate([w.ravel() for w in start.weights])
    if scale > 0:
        solver = RK45(velocity, 0.0, theta, np.inf, rtol=1e-3, atol=1e-6)
        while (reached := excess(solver.y)) - best > tolerance * scale:
            if evaluations > max_evaluations or solver.status == "failed":
                raise ConvergenceError(
                    f"gradient flow came within {(reached - best) / scale:.3g} of the best, in units of the zero map's "
                    f"risk, after {evaluations} gradients; {tolerance:.3g} was asked for: raise tolerance or "
                    "max_evaluations, or start from another init_scale"
                )
            solver.step()
        theta = solver.y
    else:
        theta = 0.0 * theta
    weights = tuple(unpack(theta))
    if task.mean is None and task.intercept is None:
        return DeepLinearNetwork(weights)
    offset = task.y_mean - _chain(list(weights), np.eye(widths[0])) @ task.x_mean
    biases = [np.zeros(w.shape[0]) for w in weights[:-1]] + [offset]
    return DeepLinearNetwork(weights, tuple(biases))


def _chain(weights: list[np.ndarray], out: np.ndarray) -> np.ndarray:
    for w in weights:
        out = w @ out
    return out
