"""Dense least squares over the vectorised parameters: the twin of every linear method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from linnet._linalg import to_numpy
from linnet.errors import ShapeError
from linnet.methods.base import LinearMethod
from linnet.problem import LayerProblem

ZERO = 1e-10
"""Size, relative to the product of its factors' norms, below which the twins call a singular value zero.

Far above rounding error and far below what a well-conditioned problem holds: the twins want a clear gap, so
that they never depend on the rank policy that they test.
"""


@dataclass(frozen=True, eq=False)
class Whitened:
    """One layer problem as ``minimise |upper theta reach - target|_F^2 + floor`` over theta = [delta, bias].

    Attributes:
        upper: product of the layers above, (q, d_out).
        reach: the layer's input with a constant 1 appended, on whitened inputs, (d_in + 1, p + 1).
        target: the pre-trained network's error on whitened inputs, (q, p + 1).
        floor: what no function of the inputs removes, in squared units of y.
        size: product of the norms of the factors of ``upper``, and the same of ``reach``.
    """

    upper: np.ndarray
    reach: np.ndarray
    target: np.ndarray
    floor: float
    size: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Twin:
    """What a twin found.

    Attributes:
        delta: added to the layer's weight, (d_out, d_in).
        bias: added to the layer's bias, (d_out,); None where the method trains none.
        risk: E|y - f(x)|^2 after it, in squared units of y.
    """

    delta: np.ndarray
    bias: np.ndarray | None
    risk: float


def whiten(problem: LayerProblem) -> Whitened:
    """Write one problem as a matrix least-squares problem, from its network and moments alone.

    Raises:
        ShapeError: ``problem`` is a batch.
    """
    if problem.batch_shape:
        raise ShapeError(f"a batch of shape {problem.batch_shape}; the slow twins take one problem at a time")
    weights = [to_numpy(w).astype(float) for w in problem.net.weights]
    biases = [to_numpy(b).astype(float) for b in problem.net.biases or [np.zeros(len(w)) for w in weights]]
    affine = [
        np.block([[w, b[:, None]], [np.zeros((1, w.shape[1])), np.ones((1, 1))]])
        for w, b in zip(weights, biases, strict=True)
    ]
    layer, p, q = problem.layer, weights[0].shape[1], len(weights[-1])
    upper = chain(weights[layer + 1 :], q if layer == len(weights) - 1 else weights[layer + 1].shape[1])
    second, cross, energy = joint_moments(problem)
    values, vectors = scipy.linalg.eigh(second)
    root = vectors * np.sqrt(np.where(values > 1e-3 * ZERO * values[-1], values, 0.0))
    whitening = np.linalg.pinv(root, rcond=ZERO)
    plain = cross @ whitening.T
    target = plain - chain(affine, p + 1)[:-1] @ root
    floor = max(energy - float(np.sum(plain**2)), 0.0)
    sizes = [float(np.prod([np.linalg.norm(w) for w in part])) for part in (weights[layer + 1 :], affine[:layer])]
    return Whitened(
        upper, chain(affine[:layer], p + 1) @ root, target, floor, (sizes[0], sizes[1] * float(np.linalg.norm(root)))
    )


def joint_moments(problem: LayerProblem) -> tuple[np.ndarray, np.ndarray, float]:
    """Return E[z z^T], E[y z^T] and E|y|^2 for z = (x, 1)."""
    m = problem.moments
    xx, yx, yy = (to_numpy(a).astype(float) for a in (m.xx, m.yx, m.yy))
    xm = np.zeros(len(xx)) if m.x_mean is None else to_numpy(m.x_mean).astype(float)
    ym = np.zeros(len(yx)) if m.y_mean is None else to_numpy(m.y_mean).astype(float)
    second = np.block([[xx, xm[:, None]], [xm[None, :], np.ones((1, 1))]])
    return second, np.column_stack([yx, ym]), float(np.trace(yy))


def chain(weights: list[np.ndarray], size: int) -> np.ndarray:
    """Return the product of the layers, the identity of ``size`` for none."""
    out = np.eye(size)
    for w in weights:
        out = w @ out
    return out


def affine_directions(method: LinearMethod, problem: LayerProblem) -> tuple[np.ndarray, bool]:
    """Return P with rows for [delta, bias], (d_out * (d_in + 1), k), and whether the method trains a bias.

    Raises:
        ShapeError: the method's directions have another number of rows.
    """
    p = to_numpy(method.directions(problem)).astype(float)
    m, n = problem.d_out, problem.d_in
    if p.shape[0] == m * (n + 1):
        return p, True
    if p.shape[0] != m * n:
        raise ShapeError(f"directions with {p.shape[0]} rows; {m * n} are needed, or {m * (n + 1)} with a bias")
    lifted = np.zeros((m, n + 1, p.shape[1]))
    lifted[:, :n] = p.reshape(m, n, -1)
    return lifted.reshape(m * (n + 1), -1), False


def least_squares(method: LinearMethod, problem: LayerProblem) -> Twin:
    """Return the least-norm least-squares solution over the method's vectorised parameters.

    The design ``(upper kron reach^T) P`` is formed in full, q (p + 1) by k, and handed to LAPACK.

    Args:
        method: any linear method; ``directions`` gives P, (d_out * d_in, k) or (d_out * (d_in + 1), k).
        problem: one layer problem.

    Raises:
        ShapeError: ``problem`` is a batch, or P does not fit the layer.

    Source: liu2025, g(Phi) = P Phi; yang2024, Lemma F.12 for its instances.
    """
    w = whiten(problem)
    p, has_bias = affine_directions(method, problem)
    design = np.kron(w.upper, w.reach.T) @ p
    size = w.size[0] * w.size[1] * float(np.linalg.norm(p))
    top = float(np.linalg.norm(design, 2)) if design.size else 0.0
    if top <= ZERO * size or p.shape[1] == 0:
        theta = np.zeros((problem.d_out, problem.d_in + 1))
    else:
        phi = np.linalg.lstsq(design, w.target.ravel(), rcond=ZERO)[0]
        theta = (p @ phi).reshape(problem.d_out, problem.d_in + 1)
    return Twin(theta[:, :-1], theta[:, -1] if has_bias else None, _risk(w, theta))


def twin_risk(problem: LayerProblem, delta: Any, bias: Any = None) -> float:
    """Return E|y - f(x)|^2 after adding ``delta`` (d_out, d_in) and ``bias`` (d_out,) to the layer.

    Raises:
        ShapeError: ``problem`` is a batch.
    """
    last = np.zeros(problem.d_out) if bias is None else to_numpy(bias)
    return _risk(whiten(problem), np.column_stack([to_numpy(delta), last]))


def _risk(w: Whitened, theta: np.ndarray) -> float:
    return w.floor + float(np.sum((w.upper @ theta @ w.reach - w.target) ** 2))
