"""Perturbed quadratics, planted."""

from linnet.trials.algebra import cond_sq, scalar, sq, sqrt, trace
from linnet.trials.planted.base import false, true
from linnet.trials.settings.quadratic import Quadratic

PD = Quadratic.positive_definite

# --- Quadratic -------------------------------------------------------------------------------------


def _form(u, a, w=None):
    return scalar(u.T @ a @ (u if w is None else w))


true("compression", Quadratic, "<=", lambda v: (_form(v.eps, v.H_sub_inv), _form(v.eps, v.H_inv)), PD)
true("compression-weakened", Quadratic, "<=", lambda v: (_form(v.eps, v.H_sub_inv), 1.01 * _form(v.eps, v.H_inv)), PD)
false("compression-shrunk", Quadratic, "<=", lambda v: (_form(v.eps, v.H_sub_inv), 0.99 * _form(v.eps, v.H_inv)), PD)
false(
    "compression-shrunk-in-a-proper-subspace",
    Quadratic,
    "<=",
    lambda v: (_form(v.eps, v.H_sub_inv), 0.99 * _form(v.eps, v.H_inv)),
    PD,
    Quadratic.proper_subspace,
)
false("compression-reversed", Quadratic, ">=", lambda v: (_form(v.eps_par, v.H_sub_inv), _form(v.eps_par, v.H_inv)), PD)
false(
    "compression-strict",
    Quadratic,
    "<",
    lambda v: (_form(v.eps, v.H_sub_inv), _form(v.eps, v.H_inv)),
    PD,
    Quadratic.perturbed,
)
true(
    "cross-term-cauchy-schwarz",
    Quadratic,
    "<=",
    lambda v: (_form(v.eps_par, v.H_inv, v.eps_perp) ** 2, _form(v.eps_par, v.H_inv) * _form(v.eps_perp, v.H_inv)),
    PD,
)


def _wielandt(c):
    """Wielandt: the cosine of orthogonal vectors in the metric H^-1 is at most (kappa - 1) / (kappa + 1)."""

    def sides(v):
        k = sqrt(cond_sq(v.H))
        return _form(v.eps_par, v.H_inv, v.eps_perp) ** 2 * (k + 1) ** 2, c * (k - 1) ** 2 * _form(
            v.eps_par, v.H_inv
        ) * _form(v.eps_perp, v.H_inv)

    return sides


true("cross-term-wielandt", Quadratic, "<=", _wielandt(1), PD)
false("cross-term-wielandt-shrunk", Quadratic, "<=", _wielandt(0.99), PD)


def _kantorovich(c):
    def sides(v):
        k = sqrt(cond_sq(v.H))
        return 4 * k * _form(v.eps, v.H) * _form(v.eps, v.H_inv), c * (k + 1) ** 2 * sq(v.eps) ** 2

    return sides


true("kantorovich", Quadratic, "<=", _kantorovich(1), PD)
false("kantorovich-shrunk", Quadratic, "<=", _kantorovich(0.99), PD)
false(
    "cauchy-schwarz-shrunk",
    Quadratic,
    ">=",
    lambda v: (_form(v.eps, v.H) * _form(v.eps, v.H_inv), 1.01 * sq(v.eps) ** 2),
    PD,
)
true("cauchy-schwarz", Quadratic, ">=", lambda v: (_form(v.eps, v.H) * _form(v.eps, v.H_inv), sq(v.eps) ** 2), PD)
true("optimum", Quadratic, "==", lambda v: (v.loss(v.full_update, v.eps), -_form(v.grad + v.eps, v.H_inv) / 2), PD)
false(
    "optimum-sign", Quadratic, "==", lambda v: (v.loss(v.full_update, v.eps), -_form(v.grad - v.eps, v.H_inv) / 2), PD
)
false(
    "optimum-1e-6",
    Quadratic,
    "==",
    lambda v: (v.loss(v.full_update, v.eps), -(0.5 + 1e-6) * _form(v.grad + v.eps, v.H_inv)),
    PD,
)
false(
    "optimum-1e-9",
    Quadratic,
    "==",
    lambda v: (v.loss(v.full_update, v.eps), -(0.5 + 1e-9) * _form(v.grad + v.eps, v.H_inv)),
    PD,
)
true(
    "extra-loss",
    Quadratic,
    "==",
    lambda v: (v.loss(v.peft_update) - v.loss(-(v.H_sub_inv @ v.grad)), _form(v.eps, v.H_sub_inv) / 2),
    PD,
)
true(
    "split-of-the-perturbation",
    Quadratic,
    "==",
    lambda v: (
        _form(v.eps, v.H_inv),
        _form(v.eps_par, v.H_inv) + _form(v.eps_perp, v.H_inv) + 2 * _form(v.eps_par, v.H_inv, v.eps_perp),
    ),
    PD,
)
false(
    "split-without-cross-term",
    Quadratic,
    "==",
    lambda v: (_form(v.eps, v.H_inv), _form(v.eps_par, v.H_inv) + _form(v.eps_perp, v.H_inv)),
    PD,
)
true(
    "subspace-inverse-needs-only-the-parallel-part",
    Quadratic,
    "==",
    lambda v: (_form(v.eps_par, v.H_sub_inv), _form(v.eps, v.H_sub_inv)),
    PD,
)
false(
    "subspace-inverse-is-a-compressed-inverse",
    Quadratic,
    "==",
    lambda v: (v.H_sub_inv, v.P @ v.P.T @ v.H_inv @ v.P @ v.P.T),
    PD,
)
false("commuting", Quadratic, "==", lambda v: (v.H @ v.P @ v.P.T, v.P @ v.P.T @ v.H), PD)
true("cubes-above", Quadratic, ">=", lambda v: (trace(v.H @ v.H @ v.H) * trace(v.H), sq(v.H) ** 2), PD)
false("cubes-above-shrunk", Quadratic, ">=", lambda v: (trace(v.H @ v.H @ v.H) * trace(v.H), 1.01 * sq(v.H) ** 2), PD)
false("h-cubed-above-h", Quadratic, ">=", lambda v: (_form(v.eps, v.H @ v.H @ v.H), _form(v.eps, v.H)), PD)
false("inverse-without-definiteness", Quadratic, "==", lambda v: (v.H @ v.H_inv, v.H.eye()))
true("inverse", Quadratic, "==", lambda v: (v.H @ v.H_inv, v.H.eye()), PD)
true("trace-of-inverse", Quadratic, ">=", lambda v: (trace(v.H) * trace(v.H_inv), v.H.shape[0] ** 2), PD)
false("trace-of-inverse-shrunk", Quadratic, ">=", lambda v: (trace(v.H) * trace(v.H_inv), 1.01 * v.H.shape[0] ** 2), PD)

# --- constants that floats cannot hold -------------------------------------------------------------

true("a-third-of-a-form", Quadratic, "==", lambda v: ((1 / 3) * _form(v.eps, v.H_inv) * 3, _form(v.eps, v.H_inv)), PD)
true(
    "root-two",
    Quadratic,
    "==",
    lambda v: (sqrt(2 * _form(v.eps, v.H_inv)) * 2**0.5, 2 * sqrt(_form(v.eps, v.H_inv))),
    PD,
)
true(
    "three-halves",
    Quadratic,
    "==",
    lambda v: (_form(v.eps, v.H_inv) ** 1.5, _form(v.eps, v.H_inv) * sqrt(_form(v.eps, v.H_inv))),
    PD,
)
false("three-halves-for-two", Quadratic, "<=", lambda v: (_form(v.eps, v.H_inv) ** 1.5, _form(v.eps, v.H_inv) ** 2), PD)
