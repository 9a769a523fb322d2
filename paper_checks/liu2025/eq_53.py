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
    r"""The perturbed loss changes by
    $\tfrac12\epsilon_\parallel^\top H_\Phi^+\epsilon_\parallel + \epsilon_\perp^\top\nabla$.
    """
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
    r"""$\tfrac12\Delta_{\text{peft}}^\top H\Delta_{\text{peft}} = \tfrac12\epsilon_\parallel^\top
    H_\Phi^+\epsilon_\parallel + \epsilon_\perp^\top\nabla$.
    """
    update = q.peft_update
    return scalar(update.T @ q.H @ update) / 2, _stated(q)
