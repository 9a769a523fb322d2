"""Risks of a layer, planted."""

from linnet.trials.algebra import (
    cond_sq,
    inner,
    op_norm_sq,
    positive_part,
    rank,
    ratio,
    singular_values,
    sq,
    sqrt,
    svd_r,
    tail_sq,
    trace,
)
from linnet.trials.claim import Comparison
from linnet.trials.planted.base import false, true
from linnet.trials.settings.layer import Layer

SAME = Layer.no_covariate_shift
F8 = (SAME, Layer.realisable, Layer.test_residual, Layer.budgets_within_rank)

# --- Layer: in distribution ----------------------------------------------------------------------


def _f17(v, projector=None, c=1, unseen=1):
    seen = v.Z @ v.Pi
    left = seen - (v.P_U if projector is None else projector) @ seen
    return unseen * sq(v.Z - seen) + c * sq(left)


true("f17", Layer, "==", lambda v: (v.full_ft.train_risk, _f17(v)))
true("f17-as-difference", Layer, "==", lambda v: (v.full_ft.train_risk, sq(v.Z) - sq(v.P_U @ v.Z @ v.Pi)))
true(
    "f17-as-trace",
    Layer,
    "==",
    lambda v: (trace(v.P_U @ v.Z @ v.Pi @ v.Z.T), v.pretrained.train_risk - v.full_ft.train_risk),
)
false("f17-off-by-1e-6", Layer, "==", lambda v: (v.full_ft.train_risk, _f17(v, unseen=1 + 1e-6)))
false("f17-off-by-1e-9", Layer, "==", lambda v: (v.full_ft.train_risk, _f17(v, c=1 + 1e-9)))
false("f17-channels-for-range", Layer, "==", lambda v: (v.full_ft.train_risk, _f17(v, v.P_C)))
false("f17-sign", Layer, "==", lambda v: (v.full_ft.train_risk, _f17(v, unseen=-1)))
false("f17-without-pi", Layer, "==", lambda v: (v.full_ft.train_risk, sq(v.Z - v.P_U @ v.Z)))

true("eq13-tail", Layer, "==", lambda v: (v.lora.train_risk, tail_sq(v.population.M, v.r) + v.full_ft.train_risk))
true(
    "eq13-pythagoras",
    Layer,
    "==",
    lambda v: (sq(v.population.M) - sq(svd_r(v.population.M, v.r)), v.lora.train_risk - v.full_ft.train_risk),
)
false(
    "eq13-off-by-1e-6",
    Layer,
    "==",
    lambda v: (v.lora.train_risk, (1 + 1e-6) * tail_sq(v.population.M, v.r) + v.full_ft.train_risk),
)
false(
    "eq13-rank-off-by-one",
    Layer,
    "==",
    lambda v: (v.lora.train_risk, tail_sq(v.population.M, v.r - 1) + v.full_ft.train_risk),
)
false("eq13-of-Z", Layer, "==", lambda v: (v.lora.train_risk, tail_sq(v.Z, v.r) + v.full_ft.train_risk))
true("eq13-of-Z-one-sided", Layer, "<=", lambda v: (v.lora.train_risk, tail_sq(v.Z, v.r) + v.full_ft.train_risk))
true("eq23", Layer, "==", lambda v: (v.s2ft.train_risk, sq((v.P_U - v.P_C) @ v.Z @ v.Pi) + v.full_ft.train_risk))
false(
    "eq23-transposed",
    Layer,
    "==",
    lambda v: (v.s2ft.train_risk, sq(v.Z) - trace(v.P_C @ v.Z @ v.Pi @ v.Z.T @ v.P_C @ v.P_U) * (1 + 1e-6)),
)
false("inner-with-a-transpose-dropped", Layer, "==", lambda v: (trace(v.D @ v.W.T @ v.D @ v.W.T), sq(v.D @ v.W.T)))
true("inner-rotated", Layer, "==", lambda v: (trace(v.D @ v.W.T @ v.W @ v.D.T), sq(v.W @ v.D.T)))


def _share(v, lost=0):
    return ratio(positive_part(rank(v.Z) - v.r - lost), rank(v.Z))


def _eq14(c=1, power=1, lost=0):
    def sides(v):
        bound = c * _share(v, lost) * cond_sq(v.Z) ** power * v.pretrained.train_risk
        return tail_sq(v.population.M, v.r), bound

    return sides


true("eq14", Layer, "<=", _eq14(), Layer.residual)
true("eq14-weakened", Layer, "<=", _eq14(1.01), Layer.residual)
true("eq14-without-condition", Layer, "<=", _eq14(power=0), Layer.residual)
true("eq14-half-the-exponent", Layer, "<=", _eq14(power=0.5), Layer.residual)
false("eq14-shrunk", Layer, "<=", _eq14(0.99), Layer.residual)
false("eq14-shrunk-without-condition", Layer, "<=", _eq14(0.99, power=0), Layer.residual)
false("eq14-rank-off-by-one", Layer, "<=", _eq14(lost=1), Layer.residual)
false("eq14-exponent-below", Layer, "<=", _eq14(power=-0.5), Layer.residual)

# --- Layer: the chain of Lemma F.14 ---------------------------------------------------------------


def _f14(c=1, kappa=1, delta=1):
    def sides(v):
        return v.s2ft.train_risk, v.full_ft.train_risk + c * v.delta_sq**delta * v.kappa_upper_sq**kappa * sq(v.Z)

    return sides


true("f14-last", Layer, "<=", _f14())
true("f14-last-weakened", Layer, "<=", _f14(1.01))
true("f14-last-delta-root", Layer, "<=", _f14(delta=0.5))
false("f14-last-shrunk", Layer, "<=", _f14(0.99))
false("f14-last-kappa-once", Layer, "<=", _f14(kappa=0.5))
false("f14-last-no-kappa", Layer, "<=", _f14(kappa=0))
false("f14-last-delta-twice", Layer, "<=", _f14(delta=2))
true("full-below-lora", Layer, "<=", lambda v: (v.full_ft.train_risk, v.lora.train_risk))
false("full-strictly-below-lora", Layer, "<", lambda v: (v.full_ft.train_risk, v.lora.train_risk))
false("lora-below-s2ft", Layer, "<=", lambda v: (v.lora.train_risk, v.s2ft.train_risk))
false(
    "full-a-little-below-s2ft", Layer, "<=", lambda v: (1.01 * v.full_ft.train_risk, v.s2ft.train_risk), Layer.residual
)

# --- Layer: out of distribution --------------------------------------------------------------------


def _f15(label=3, below=3, frozen=3, plus=0):
    def sides(v):
        carried = v.root_i @ v.G
        bound = (
            v.pretrained.test_risk
            + label * sq(v.P_C @ (v.B_o - v.B_i) @ v.root_o)
            + below * sq(v.B_i @ (v.root_o - carried))
            + frozen * sq(v.W @ (v.root_o - carried))
        )
        return v.s2ft.test_risk, bound

    return sides


true("f15", Layer, "<=", _f15())
true("f15-weakened", Layer, "<=", _f15(3.03, 3.03, 3.03))
true("f15-young", Layer, "<=", _f15(2, 4, 4))
false("f15-2.97", Layer, "<=", _f15(2.97, 2.97, 2.97))
false("f15-1", Layer, "<=", _f15(1, 1, 1))
false("f15-label-only-2", Layer, "<=", _f15(2, 3, 3))
false("f15-no-frozen-term", Layer, "<=", _f15(3, 3, 0))
false("f15-no-label-term", Layer, "<=", _f15(0, 3, 3))


def _f16(label=3, below=3):
    def sides(v):
        unseen = v.B_i @ v.root_i @ (v.I_p - v.Pi)
        return v.s2ft.test_risk, v.pretrained.test_risk + label * sq(v.P_C @ (v.B_o - v.B_i) @ v.root_i) + below * sq(
            unseen
        )

    return sides


true("f16", Layer, "<=", _f16(), SAME)
true("f16-sharp", Layer, "<=", _f16(1, 0), SAME)
false("f16-shrunk", Layer, "<=", _f16(0.99, 3), SAME)
false("f16-with-covariate-shift", Layer, "<=", _f16())


def _f8(c=3, power=1):
    return lambda v: (v.s2ft.test_risk, (1 + c * v.eps_sq**power) * v.pretrained.test_risk)


true("f8-one", Layer, "<=", _f8(1), *F8)
false("f8-shrunk", Layer, "<=", _f8(0.99), *F8)
false("f8-nothing", Layer, "<=", _f8(0), *F8)
false("f8-epsilon-to-the-fourth", Layer, "<=", _f8(1, 2), *F8)
false("f8-with-covariate-shift", Layer, "<=", _f8(), *F8[1:])
false("f8-lora", Layer, ">=", lambda v: (v.lora.test_risk, 0.5 * sq((v.B_o - v.B_i) @ v.root_i)), *F8)


def _identity(v, projector=None, gain=1, loss=1, pi=True):
    projector = v.P_C if projector is None else projector
    whitened = v.root_i @ v.Pi if pi else v.root_i
    gained, lost = sq(projector @ (v.B_o - v.W) @ whitened), sq(projector @ (v.B_o - v.B_i) @ whitened)
    return v.s2ft.test_risk, v.pretrained.test_risk - gain * gained + loss * lost


true("ood", Layer, "==", _identity, SAME)
true(
    "ood-expanded",
    Layer,
    "==",
    lambda v: (
        v.s2ft.test_risk,
        v.pretrained.test_risk + sq(v.P_C @ v.Z @ v.Pi) - 2 * inner(v.P_C @ (v.B_o - v.W) @ v.root_i @ v.Pi, v.Z),
    ),
    SAME,
)
false("ood-1e-6", Layer, "==", lambda v: _identity(v, gain=1 + 1e-6), SAME)
false("ood-1e-9", Layer, "==", lambda v: _identity(v, loss=1 - 1e-9), SAME)
false("ood-range-for-channels", Layer, "==", lambda v: _identity(v, v.P_U), SAME)
false("ood-without-pi", Layer, "==", lambda v: _identity(v, pi=False), SAME)
false("ood-with-covariate-shift", Layer, "==", _identity)
false("ood-sign", Layer, "==", lambda v: _identity(v, loss=-1), SAME)

# --- Layer: sample and norms -----------------------------------------------------------------------

true(
    "sample-s2ft-normal-equations",
    Layer,
    "==",
    lambda v: Comparison(
        (v.upper @ v.U_C).T @ v.upper @ v.sample.s2ft.delta @ v.sample.gram,
        "==",
        (v.upper @ v.U_C).T @ v.sample.cross,
        scale=sqrt(sq(v.upper) * sq(v.lower)) * v.sample.energy,
    ),
)
false(
    "sample-s2ft-population-gram",
    Layer,
    "==",
    lambda v: (
        (v.upper @ v.U_C).T @ v.upper @ v.sample.s2ft.delta @ v.population.gram,
        (v.upper @ v.U_C).T @ v.sample.cross,
    ),
)
true("weyl", Layer, "<=", lambda v: list(zip(singular_values(v.P_U @ v.Z @ v.Pi), singular_values(v.Z), strict=True)))
false(
    "weyl-other-way",
    Layer,
    "<=",
    lambda v: list(zip(singular_values(v.Z), singular_values(v.P_U @ v.Z @ v.Pi), strict=True)),
)
true("eckart-young", Layer, "<=", lambda v: (tail_sq(v.Z, v.r), sq(v.Z - v.P_C @ v.Z) + tail_sq(v.P_C @ v.Z, v.r)))
true("triangle", Layer, "<=", lambda v: (sqrt(sq(v.B_o - v.W)), sqrt(sq(v.B_o - v.B_i)) + sqrt(sq(v.D))))
false(
    "triangle-shrunk", Layer, "<=", lambda v: (sqrt(sq(v.B_o - v.W)), 0.99 * (sqrt(sq(v.B_o - v.B_i)) + sqrt(sq(v.D))))
)
false("triangle-of-squares", Layer, "<=", lambda v: (sq(v.B_o - v.W), sq(v.B_o - v.B_i) + sq(v.D)))
false("triangle-of-squares-1.98", Layer, "<=", lambda v: (sq(v.B_o - v.W), 1.98 * (sq(v.B_o - v.B_i) + sq(v.D))))
true("operator-below-frobenius", Layer, "<=", lambda v: (op_norm_sq(v.Z), sq(v.Z)))
true("frobenius-below-rank-operator", Layer, "<=", lambda v: (sq(v.Z), rank(v.Z) * op_norm_sq(v.Z)))
false("frobenius-shrunk", Layer, "<=", lambda v: (sq(v.Z), 0.99 * rank(v.Z) * op_norm_sq(v.Z)))
false("frobenius-rank-off-by-one", Layer, "<=", lambda v: (sq(v.Z), (rank(v.Z) - 1) * op_norm_sq(v.Z)), Layer.residual)

# --- Layer: forgetting, one law --------------------------------------------------------------------


def _forgetting(v, f, sign=-2, gain=1):
    shift = (v.B_o - v.B_i) @ v.root_i
    g = v.pretrained.train_risk - f.train_risk
    return f.test_risk - v.pretrained.test_risk, -gain * g + sign * inner(shift, f.change @ v.root_i)


true("forgetting-law", Layer, "==", lambda v: [_forgetting(v, f) for f in (v.lora, v.s2ft, v.full_ft)], SAME)
false("forgetting-law-sign", Layer, "==", lambda v: _forgetting(v, v.s2ft, sign=2), SAME)
false("forgetting-law-half", Layer, "==", lambda v: _forgetting(v, v.lora, sign=-1), SAME)
false("forgetting-law-identity-off", Layer, "==", lambda v: _forgetting(v, v.full_ft, gain=1.000001), SAME)
false("forgetting-law-under-covariate-shift", Layer, "==", lambda v: _forgetting(v, v.s2ft))


def _tail_average(v, c=1, off=0):
    full, R = v.full_ft.train_risk, rank(v.Z)
    share = positive_part(R - v.r - off) / R
    return v.lora.train_risk - full, c * share * (v.pretrained.train_risk - full)


true("tail-average", Layer, "<=", _tail_average, Layer.residual)
false("tail-average-rank-off-by-one", Layer, "<=", lambda v: _tail_average(v, off=1), Layer.residual)
false("tail-average-halved", Layer, "<=", lambda v: _tail_average(v, 0.5), Layer.residual)
