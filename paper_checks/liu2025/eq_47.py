"""liu2025, eq. (47): full fine-tuning answers to the disturbance only."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-47",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (47), from (45) and (46)",
    hypotheses=[Quadratic.positive_definite],
    rescue=[Quadratic.at_optimum],
    replaced_by="linnet/loss-change",
)
def only_the_disturbance_counts(q):
    """Delta_full^T H Delta_full / 2 = eps^T H^-1 eps / 2, the gradient left out."""
    update = q.full_update
    return scalar(update.T @ q.H @ update) / 2, scalar(q.eps.T @ q.H_inv @ q.eps) / 2
