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
    """Delta_full is first-order optimal, so that the first-order term vanishes: the perturbed loss changes by
    Delta_full^T H Delta_full / 2.
    """
    update = q.full_update
    return q.loss(update, q.eps), scalar(update.T @ q.H @ update) / 2
