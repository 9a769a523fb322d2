"""liu2025, eq. (12), (37), Theorem 3: the generalisation gap and the rank."""

from linnet.trials import Sampled, claim

GAP = [
    Sampled.noisy,
    Sampled.one_layer,
    Sampled.one_target,
    Sampled.per_problem,
    Sampled.from_the_dimension,
]


def full_gap(v):
    """E[loss - training loss] of least squares over all d parameters, and (d/N)^(1/2)."""
    tuned = v.sample.full_ft
    d = v.weight.shape[1]
    return v.test_loss(tuned) - v.train_loss(tuned), (d / v.n) ** 0.5


@claim("liu2025/eq-12", setting=Sampled, relation="<~", source="liu2025, eq. (12)", hypotheses=GAP)
def gap_of_least_squares_is_bounded(v):
    """E[loss(theta_N) - loss_N(theta_N)] = O((d/N)^(1/2)), for least squares, as an upper order."""
    return full_gap(v)


@claim(
    "liu2025/eq-12-rate",
    setting=Sampled,
    relation="~",
    source="liu2025, eq. (12), as it is used in eq. (15) to (19)",
    hypotheses=GAP,
    replaced_by="linnet/generalisation-gap",
)
def gap_of_least_squares_has_this_rate(v):
    """E[loss(theta_N) - loss_N(theta_N)] is of the order (d/N)^(1/2), for least squares."""
    return full_gap(v)


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
