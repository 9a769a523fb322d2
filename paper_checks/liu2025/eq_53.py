"""liu2025, eq. (53): the loss after PEFT."""

from linnet.trials import Quadratic, claim, scalar


def _stated(q):
    e = q.eps_par
    return scalar(e.T @ q.H_sub_inv @ e) / 2 + scalar(q.eps_perp.T @ q.grad)


@claim(
    "liu2025/eq-53",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (53)",
    hypotheses=[Quadratic.positive_definite, Quadratic.proper_subspace],
    replaced_by="linnet/loss-change",
)
def loss_after_peft(q):
    """The perturbed loss changes by eps_par^T H_Phi^+ eps_par / 2 + eps_perp^T grad."""
    return q.loss(q.peft_update, q.eps), _stated(q)


@claim(
    "liu2025/eq-53-energy",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (53), as eq. (47) is had from (45)",
    hypotheses=[Quadratic.positive_definite, Quadratic.proper_subspace],
    rescue=[Quadratic.at_optimum],
    replaced_by="linnet/loss-change",
)
def energy_after_peft(q):
    """Delta_peft^T H Delta_peft / 2 = eps_par^T H_Phi^+ eps_par / 2 + eps_perp^T grad."""
    update = q.peft_update
    return scalar(update.T @ q.H @ update) / 2, _stated(q)
