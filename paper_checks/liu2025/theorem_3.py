"""liu2025, Theorem 3 and eq. (35) to (37): what larger ranks bring."""

from linnet.trials import Layer, Quadratic, Sampled, claim, op_norm_sq, scalar, sq, sqrt, svd_r, tail_sq


@claim(
    "liu2025/eq-35",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (35), on quadratic losses",
    hypotheses=[Quadratic.positive_definite, Quadratic.two_updates],
    replaced_by="linnet/lipschitz",
)
def loss_is_lipschitz(v):
    """There is L with |loss(W + D_1) - loss(W + D_2)| <= L |D_1 - D_2|_F for all D_1, D_2. At D_1 = t u, D_2 = 0 and t
    to infinity, |loss(t u) - loss(0)|/t^2 tends to u^T H u/2, and L |t u|/t^2 to 0: the two must be equal.
    """
    return scalar(v.first.T @ v.H @ v.first) / 2, 0 * sq(v.first)


def truncated(v):
    """Delta*, its truncation, and the gradient of the risk at the latter."""
    best = v.full_ft.delta
    cut = svd_r(best, v.r)
    fit = v.population
    slope = 2 * (v.upper.T @ (v.upper @ cut @ fit.gram - fit.cross))
    return best, cut, slope


@claim("liu2025/eq-36", setting=Layer, relation="<=", source="liu2025, eq. (36)", replaced_by="linnet/rank-returns")
def loss_of_the_truncated_update(v):
    """For r >= r_c: |loss(W + D*) - loss(W + D_r)| <= L eps^(1/2). Eq. (35) gives no L for the whole space; tried with
    the Lipschitz constant on the segment from D_r to D*, the gradient's norm at D_r, and eps the discarded energy.
    """
    best, cut, slope = truncated(v)
    gone = tail_sq(best, v.r)
    drop = v.population.loss_drop(best) - v.population.loss_drop(cut)
    return drop, sqrt(sq(slope) * gone)


@claim(
    "liu2025/eq-36-smooth",
    setting=Layer,
    relation="<=",
    source="liu2025, eq. (36), with L the smoothness constant of the loss",
    replaced_by="linnet/rank-returns",
)
def loss_of_the_truncated_update_by_smoothness(v):
    """|loss(W + D*) - loss(W + D_r)| <= L eps^(1/2) with L = 2 |upper|_op^2 |root|_op^2, the largest curvature: "since
    the loss is smooth".
    """
    best, cut, _ = truncated(v)
    drop = v.population.loss_drop(best) - v.population.loss_drop(cut)
    return drop, 2 * op_norm_sq(v.upper) * op_norm_sq(v.population.root) * sqrt(tail_sq(best, v.r))


@claim(
    "liu2025/theorem-3-plateau",
    setting=Layer,
    relation="<=",
    source="liu2025, Theorem 3, its words, on the population",
)
def gain_of_larger_ranks(v):
    """Beyond r_c performance reaches a plateau: LoRA of any larger rank gains no more than L eps^(1/2) over rank r, L
    and eps as in eq. (36). (That it may also decline says nothing that could be tried.)
    """
    best, _, slope = truncated(v)
    return v.lora.train_risk - v.full_ft.train_risk, sqrt(sq(slope) * tail_sq(best, v.r))


@claim(
    "liu2025/eq-37",
    setting=Sampled,
    relation="~",
    source="liu2025, eq. (37)",
    hypotheses=[Sampled.noisy, Sampled.learnable],
    replaced_by="linnet/generalisation-gap",
)
def gap_of_lora(v):
    """loss_test(W + Delta_r) - loss_train(W + Delta_r) is proportional to (r/N)^(1/2), in expectation."""
    tuned = v.sample.lora
    return v.test_loss(tuned) - v.train_loss(tuned), (v.r / v.n) ** 0.5


@claim(
    "liu2025/theorem-3",
    setting=Sampled,
    relation="<~",
    source="liu2025, Theorem 3, eq. (7) and (38)",
    hypotheses=[Sampled.noisy, Sampled.learnable, Sampled.per_problem],
)
def loss_of_lora_beyond_the_critical_rank(v):
    """loss_test(W + Delta_r) <= loss_test(W + Delta*) + L eps^(1/2) + O((r/N)^(1/2)): with Delta* the population's
    best, eps^(1/2) the distance of its rank-r truncation, and L the Lipschitz constant between the two, what exceeds
    the first two terms is O((r/N)^(1/2)).
    """
    return v.sample.lora.train_risk - v.lora.train_risk, (v.r / v.n) ** 0.5
