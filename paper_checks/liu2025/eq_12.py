"""liu2025, eq. (12): the generalisation gap of full fine-tuning."""

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
    return v.gap(v.sample.full_ft, beside=v.full_ft), (v.weight.shape[1] / v.n) ** 0.5


@claim("liu2025/eq-12", setting=Sampled, relation="<~", source="liu2025, eq. (12)", hypotheses=GAP)
def gap_of_least_squares_is_bounded(v):
    r"""$E[\operatorname{loss}(\theta_N) - \operatorname{loss}_N(\theta_N)] = O((d/N)^{1/2})$, for least squares, as an
    upper order.
    """
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
    r"""$E[\operatorname{loss}(\theta_N) - \operatorname{loss}_N(\theta_N)]$ is of the order $(d/N)^{1/2}$, for least
    squares.
    """
    return full_gap(v)
