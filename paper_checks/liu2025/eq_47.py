"""liu2025, eq. (47): full fine-tuning answers to the disturbance only."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-47",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (47)",
    hypotheses=[Quadratic.positive_definite],
    replaced_by="linnet/loss-change",
)
def only_the_disturbance_counts(q):
    r"""Only the disturbance counts: the perturbed loss changes by $\tfrac12\epsilon^\top H^{-1}\epsilon$. (It falls,
    so that no hypothesis on the gradient helps; eq. (46) has $\tfrac12\Delta_{\text{full}}^\top H\Delta_{\text{full}}$
    in its place, see `liu2025/eq-47-energy`.)
    """
    return q.loss(q.full_update, q.eps), scalar(q.eps.T @ q.H_inv @ q.eps) / 2


@claim(
    "liu2025/eq-47-energy",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (47) as had from (45), (46)",
    hypotheses=[Quadratic.positive_definite],
    rescue=[Quadratic.at_optimum],
    replaced_by="linnet/loss-change",
)
def only_the_disturbance_counts_in_the_energy(q):
    r"""$\tfrac12\Delta_{\text{full}}^\top H\Delta_{\text{full}} = \tfrac12\epsilon^\top H^{-1}\epsilon$, the gradient
    left out.
    """
    update = q.full_update
    return scalar(update.T @ q.H @ update) / 2, scalar(q.eps.T @ q.H_inv @ q.eps) / 2
