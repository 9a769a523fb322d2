"""Maps of parameters, planted."""

from linnet.trials.algebra import inner, rank, scalar, sq
from linnet.trials.claim import Comparison, Hypothesis
from linnet.trials.planted.base import false, true
from linnet.trials.settings.parametrisation import Parametrisation

P = Parametrisation
LORA, FULL, LOSS, MEETING = P.lora, P.full_factors, P.loss, P.meeting
RANK_R = Hypothesis("rank U V^T = r", lambda v: [(rank(v.value.reshape(v.g.m, v.g.n)), "==", v.g.r)])
FRAME = Hypothesis(
    "alpha, beta and N are independent",
    lambda v: [(rank(v.g.frame), "==", v.k + 1)],
    shape=lambda s: s.kind == "curve" and s.d > s.k,
)

# --- the rank of LoRA's differential -----------------------------------------------------------------


def _most(v):
    return v.g.r * (v.g.m + v.g.n - v.g.r)


def _ranks(v, overlap=1):
    a, b = rank(v.U), rank(v.V)
    return v.g.m * b + v.g.n * a - overlap * a * b


true("lora-rank", P, "==", lambda v: (rank(v.J), _ranks(v)), LORA)
true(
    "lora-rank-as-codimension",
    P,
    "==",
    lambda v: (v.d - rank(v.J), (v.g.m - rank(v.U)) * (v.g.n - rank(v.V))),
    LORA,
)
true("lora-rank-at-most", P, "<=", lambda v: (rank(v.J), _most(v)), LORA)
true("lora-redundant-parameters", P, "<=", lambda v: (rank(v.J), v.k - v.g.r**2), LORA)
false("lora-redundant-parameters-off-by-one", P, "<=", lambda v: (rank(v.J), v.k - v.g.r**2 - 1), LORA)
false("lora-rank-without-overlap", P, "==", lambda v: (rank(v.J), _ranks(v, 0)), LORA)
false("lora-dimension-off-by-one", P, "==", lambda v: (rank(v.J), _most(v) + 1), LORA, FULL)
false("lora-dimension-at-any-factors", P, "==", lambda v: (rank(v.J), _most(v)), LORA)
false("lora-dimension-at-one-full-factor", P, "==", lambda v: (rank(v.J) * (rank(v.V) - v.g.r + 1), _most(v)), LORA)

# --- its range ---------------------------------------------------------------------------------------


def _normal(v):
    return (v.U.eye() - v.U.projector()).kron(v.V.eye() - v.V.projector())


true("lora-tangent", P, "==", lambda v: (v.J.projector() + _normal(v), v.J.eye()), LORA)
true("lora-tangent-as-trace", P, "==", lambda v: (inner(v.J.projector(), _normal(v)), 0), LORA)
false("lora-tangent-of-u-alone", P, "==", lambda v: (v.J.projector(), v.U.projector().kron(v.V.eye())), LORA)
false(
    "lora-tangent-within-both-ranges",
    P,
    "==",
    lambda v: (v.J.projector(), v.U.projector().kron(v.V.projector())),
    LORA,
    FULL,
)
true("lora-one-tangent", P, "==", lambda v: (rank(v.both_tangents), rank(v.J)), LORA, MEETING, RANK_R)
false("lora-one-tangent-at-any-rank", P, "==", lambda v: (rank(v.both_tangents), rank(v.J)), LORA, MEETING)

# --- immersions and their images -----------------------------------------------------------------------

true("full-rank", P, "==", lambda v: (rank(v.J), v.k), P.full_rank)
false("full-rank-at-a-cusp", P, "==", lambda v: (rank(v.J), v.k), FRAME)
false(
    "full-rank-is-injective",
    P,
    "==",
    lambda v: (sq(v.g.column(v.at) - v.g.column(v.other)), 0),
    P.full_rank,
    MEETING,
)
true(
    "embedded-is-injective",
    P,
    "==",
    lambda v: (sq(v.g.column(v.at) - v.g.column(v.other)), 0),
    P.embedded,
    MEETING,
)
true("two-tangents-span-at-most-one-more", P, "<=", lambda v: (rank(v.both_tangents), v.k + 1), P.full_rank, MEETING)


def _reached(v):
    miss, unit = v.g.misses(v.value)
    return Comparison(miss, "==", 0, scale=unit)


true("not-onto", P, ">", lambda v: [(v.unreached, 0), _reached(v)], P.fewer)
false("not-onto-with-k-at-least-d", P, ">", lambda v: (v.unreached, 0))
false("not-onto-as-few-as-d", P, ">", lambda v: (v.unreached, 0), Hypothesis("k <= d", lambda v: [(v.k, "<=", v.d)]))

# --- the Hessian ---------------------------------------------------------------------------------------


def _hessian(curvature, hessian=1):
    """Second derivatives against multiples of the two terms."""

    def sides(v):
        stated = v.form(v.projected_hessian) * hessian + v.form(v.curvature) * curvature
        return Comparison(v.second_derivative, "==", stated, scale=v.second_derivative_scale)

    return sides


def _lora_hessian(factor):
    """The curvature of U V^T as a multiple of <slope, dU dV^T>."""

    def sides(v):
        u, w = v.direction
        stated = v.form(v.projected_hessian) + factor * inner(v.slope.reshape(v.g.m, v.g.n), u @ w.T)
        return Comparison(v.second_derivative, "==", stated, scale=v.second_derivative_scale)

    return sides


def _at_theta_0(v):
    stated = v.form(v.projected_hessian) + v.form(v.g.curvature(v.at, v.grad))
    return Comparison(v.second_derivative, "==", stated, scale=v.second_derivative_scale)


def _swapped(v):
    u, w = v.direction
    moved = (u @ v.V.T + v.U @ w.T).reshape(v.d, 1)
    stated = scalar(moved.T @ v.H @ moved) + 2 * inner(v.slope.reshape(v.g.m, v.g.n) @ w, u)
    return Comparison(stated, "==", v.second_derivative, scale=v.second_derivative_scale)


true("hessian", P, "==", _hessian(1), LOSS)
true("hessian-lora", P, "==", _lora_hessian(2), LOSS, LORA)
true("hessian-lora-disguised", P, "==", _swapped, LOSS, LORA)
true("hessian-at-stationary", P, "==", _hessian(0), LOSS, P.stationary)
false("hessian-without-curvature", P, "==", _hessian(0), LOSS)
false("hessian-without-curvature-lora", P, "==", _hessian(0), LOSS, LORA)
false("hessian-curvature-sign", P, "==", _hessian(-1), LOSS)
false("hessian-curvature-off-by-1e-6", P, "==", _hessian(1 + 1e-6), LOSS)
false("hessian-halved", P, "==", _hessian(1, 0.5), LOSS, P.stationary)
false("hessian-lora-factor-dropped", P, "==", _lora_hessian(1), LOSS, LORA)
false("hessian-curvature-of-the-start", P, "==", _at_theta_0, LOSS)
