"""liu2025, eq. (45): the loss after full fine-tuning."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-45",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (45)",
    hypotheses=[Quadratic.positive_definite],
    replaced_by="linnet/loss-change",
)
def first_order_term_vanishes(q):
    r"""$\Delta_{\text{full}}$ is first-order optimal, so that the first-order term vanishes: the perturbed loss
    changes by $\tfrac12\Delta_{\text{full}}^\top H\Delta_{\text{full}}$.
    """
    update = q.full_update
    return q.loss(update, q.eps), scalar(update.T @ q.H @ update) / 2
