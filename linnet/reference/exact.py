"""The twins in exact arithmetic: rationals where the solution is rational, 60 certified digits where not.

A float is a rational number, so normal equations, ranks and pseudo-inverses of what a problem holds are exact:
no tolerance decides a rank here. Only the truncation of LoRA needs irrational numbers (eigenvalues), which
are enclosed in balls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx, fmpq, fmpq_mat

from linnet._linalg import to_numpy
from linnet.errors import RankError, ShapeError
from linnet.methods.base import LinearMethod
from linnet.problem import LayerProblem
from linnet.reference.dense import affine_directions

DIGITS = 60
"""Relative digits that a ball must hold; the working precision is doubled until it does."""

MOST_BITS = 1 << 17
"""Working precision at which the doubling gives up."""


@dataclass(frozen=True, eq=False)
class ExactTwin:
    """A solution without rounding error.

    Attributes:
        delta: added to the layer's weight, (d_out, d_in): ``fmpq_mat``, or ``arb_mat`` of 60 digits.
        bias: added to the layer's bias, (d_out, 1), or None where the method trains none.
    """

    delta: Any
    bias: fmpq_mat | None = None

    def to_numpy(self) -> np.ndarray:
        """Return ``delta`` rounded to float64, (d_out, d_in)."""
        return np.array([[_as_float(x) for x in row] for row in self.delta.tolist()]).reshape(
            self.delta.nrows(), self.delta.ncols()
        )


def exact_least_squares(method: LinearMethod, problem: LayerProblem) -> ExactTwin:
    """Return the least-norm solution of the normal equations over the vectorised parameters, in rationals.

    Args:
        method: any linear method; ``directions`` gives P, (d_out * d_in, k) or (d_out * (d_in + 1), k).
        problem: one layer problem; its floats are taken as the rationals that they are.

    Raises:
        ShapeError: ``problem`` is a batch, or P does not fit the layer.

    Source: liu2025, g(Phi) = P Phi; yang2024, Lemma F.12 for its instances.
    """
    upper, gram, cross = _normal_parts(problem)
    p_float, has_bias = affine_directions(method, problem)
    p = rational(p_float)
    normal = p.transpose() * _kron(upper.transpose() * upper, gram) * p
    right = p.transpose() * _vec(upper.transpose() * cross)
    theta = (p * (pseudo_inverse(normal) * right)).tolist()
    m, n = problem.d_out, problem.d_in
    rows = [[theta[i * (n + 1) + j][0] for j in range(n + 1)] for i in range(m)]
    bias = fmpq_mat([[row[-1]] for row in rows]) if has_bias else None
    return ExactTwin(fmpq_mat([row[:-1] for row in rows]), bias)


def exact_low_rank(problem: LayerProblem, rank: int) -> ExactTwin:
    """Return LoRA's least-norm minimiser to 60 digits.

    ``upper^+ E E^T cross gram^+``, E the leading eigenvectors of ``P_U cross gram^+ cross^T P_U``. Their
    projector is a polynomial in that matrix, so that no eigenvector is computed.

    Args:
        problem: one layer problem; its floats are taken as the rationals that they are.
        rank: from 0 to min(d_out, d_in).

    Raises:
        RankError: two singular values tie at the rank, so that the minimiser is not unique.
        ShapeError: ``problem`` is a batch.

    Source: yang2024, Lemma F.9.
    """
    upper, gram, cross = _normal_parts(problem)
    n = problem.d_in
    # LoRA trains no bias: the constant input drops out.
    gram = fmpq_mat([row[:n] for row in gram.tolist()[:n]])
    cross = fmpq_mat([row[:n] for row in cross.tolist()])
    upper_pinv, gram_pinv = pseudo_inverse(upper), pseudo_inverse(gram)
    seen = upper * upper_pinv * cross
    matrix = seen * gram_pinv * seen.transpose()
    full = upper_pinv * cross * gram_pinv
    if rank >= matrix.rank():
        return ExactTwin(full)
    if rank == 0:
        return ExactTwin(fmpq_mat(problem.d_out, n))
    multiplicities = [count for _, count in _eigenvalues(matrix)]
    above = [sum(multiplicities[: k + 1]) for k in range(len(multiplicities))]
    if rank not in above:
        raise RankError(f"the singular values {rank} and {rank + 1} tie: the best rank-{rank} update is not unique")
    bits = 512
    while bits <= MOST_BITS:
        with ctx.workprec(bits):
            projector = _leading_projector(matrix, above.index(rank) + 1)
            delta = arb_mat(upper_pinv) * projector * arb_mat(cross) * arb_mat(gram_pinv)
            if _norm([x.rad() for x in delta.entries()]) < arb(10) ** -DIGITS * _norm(delta.entries()):
                return ExactTwin(delta)
        bits *= 2
    raise RankError(
        f"singular values {rank} and {rank + 1} differ by too little for {MOST_BITS} bits; take another rank"
    )


def relative_error(delta: Any, twin: ExactTwin) -> float:
    """Return ``|delta - twin.delta|_F / |twin.delta|_F``, the difference taken exactly.

    Args:
        delta: a floating update, (d_out, d_in).
        twin: its exact counterpart; where that is zero, the absolute error is returned.
    """
    with ctx.workprec(512):
        exact = twin.delta if isinstance(twin.delta, arb_mat) else arb_mat(twin.delta)
        size = _norm(exact.entries())
        error = _norm((arb_mat(rational(to_numpy(delta))) - exact).entries())
        return float(error.mid() / size.mid()) if size.mid() > 0 else float(error.mid())


def rational(a: np.ndarray) -> fmpq_mat:
    """Return the matrix of floats ``a`` (m, n) as the rationals that they are."""
    return fmpq_mat(a.shape[0], a.shape[1], [fmpq(*float(x).as_integer_ratio()) for x in a.ravel()])


def pseudo_inverse(a: fmpq_mat) -> fmpq_mat:
    """Return the Moore-Penrose inverse of ``a`` (m, n), exactly, by a full-rank factorisation."""
    reduced, rank = a.rref()
    if rank == 0:
        return fmpq_mat(a.ncols(), a.nrows())
    rows = reduced.tolist()[:rank]
    pivots = [next(j for j, x in enumerate(row) if x != 0) for row in rows]
    basis = fmpq_mat([[row[j] for j in pivots] for row in a.tolist()])
    weights = fmpq_mat(rows)
    inner = weights * weights.transpose(), basis.transpose() * basis
    return weights.transpose() * inner[0].inv() * inner[1].inv() * basis.transpose()


def _normal_parts(problem: LayerProblem) -> tuple[fmpq_mat, fmpq_mat, fmpq_mat]:
    """Return upper (q, d_out), E[z z^T] of the layer's input z = (h, 1), and E[(y - f(x)) z^T]."""
    if problem.batch_shape:
        raise ShapeError(f"a batch of shape {problem.batch_shape}; the slow twins take one problem at a time")
    net, m = problem.net, problem.moments
    weights = [rational(to_numpy(w)) for w in net.weights]
    biases = [rational(to_numpy(b)[:, None]) for b in net.biases or [np.zeros(w.shape[0]) for w in net.weights]]
    p, q = net.widths[0], net.widths[-1]
    xm = np.zeros(p) if m.x_mean is None else to_numpy(m.x_mean)
    ym = np.zeros(q) if m.y_mean is None else to_numpy(m.y_mean)
    second = rational(np.block([[to_numpy(m.xx), xm[:, None]], [xm[None, :], np.ones((1, 1))]]))
    target = rational(np.column_stack([to_numpy(m.yx), ym]))
    reach, product = _affine(_identity(p + 1), weights[: problem.layer], biases), _identity(p + 1)
    product = _affine(product, weights, biases)
    upper = _identity(problem.d_out)
    for w in weights[problem.layer + 1 :]:
        upper = w * upper
    function = fmpq_mat(product.tolist()[:-1])
    return upper, reach * second * reach.transpose(), (target - function * second) * reach.transpose()


def _affine(out: fmpq_mat, weights: list[fmpq_mat], biases: list[fmpq_mat]) -> fmpq_mat:
    for w, b in zip(weights, biases, strict=False):
        rows = [left + right for left, right in zip(w.tolist(), b.tolist(), strict=True)]
        out = fmpq_mat([*rows, [fmpq(0)] * w.ncols() + [fmpq(1)]]) * out
    return out


def _identity(n: int) -> fmpq_mat:
    return fmpq_mat(n, n, [fmpq(int(i == j)) for i in range(n) for j in range(n)])


def _kron(a: fmpq_mat, b: fmpq_mat) -> fmpq_mat:
    left, right = a.tolist(), b.tolist()
    return fmpq_mat([[x * y for x in row for y in other] for row in left for other in right])


def _vec(a: fmpq_mat) -> fmpq_mat:
    return fmpq_mat(a.nrows() * a.ncols(), 1, a.entries())


def _eigenvalues(a: fmpq_mat) -> list[tuple[arb, int]]:
    """Distinct eigenvalues of a symmetric matrix with their multiplicities, largest first."""
    found: Any = a.charpoly().complex_roots()
    roots = [(root.real, count) for root, count in found]
    return sorted(roots, key=lambda pair: pair[0].mid(), reverse=True)


def _leading_projector(a: fmpq_mat, kept: int) -> arb_mat:
    """Projector on the eigenspaces of the ``kept`` largest distinct eigenvalues, by Lagrange interpolation."""
    values = [value for value, _ in _eigenvalues(a)]
    matrix, one = arb_mat(a), arb_mat(_identity(a.nrows()))
    out = arb_mat(a.nrows(), a.nrows())
    for i in range(kept):
        term = one
        for j, other in enumerate(values):
            if j != i:
                term = term * (matrix - other * one) * (1 / (values[i] - other))
        out = out + term
    return out


def _norm(entries: list[Any]) -> arb:
    return sum((arb(x) ** 2 for x in entries), arb(0)).sqrt()


def _as_float(x: Any) -> float:
    return float(x.mid()) if isinstance(x, arb) else float(x)
