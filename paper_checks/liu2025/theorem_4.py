"""liu2025, Theorem 4: PEFT is more sensitive to perturbation; the printed formula and its three readings."""

from linnet.trials import Quadratic, claim, scalar

PERTURBED = [Quadratic.positive_definite, Quadratic.perturbed, Quadratic.sloped, Quadratic.proper_subspace]


def _energy(v, metric):
    return scalar(v.T @ metric @ v) / 2


@claim(
    "liu2025/theorem-4",
    setting=Quadratic,
    relation=">",
    source="liu2025, Theorem 4 with eq. (47), (53)",
    hypotheses=PERTURBED,
    replaced_by="linnet/sensitivity",
)
def peft_is_more_sensitive(q):
    r"""As printed: $[\tfrac12\epsilon_\parallel^\top H_\Phi^+\epsilon_\parallel + \epsilon_\perp^\top\nabla] -
    \tfrac12\epsilon^\top H^{-1}\epsilon > 0$.
    """
    return _energy(q.eps_par, q.H_sub_inv) + scalar(q.eps_perp.T @ q.grad), _energy(q.eps, q.H_inv)


@claim(
    "liu2025/theorem-4-a",
    setting=Quadratic,
    relation=">",
    source="liu2025, Theorem 4, reading (a)",
    hypotheses=PERTURBED,
    replaced_by="linnet/sensitivity",
)
def extra_loss_on_clean_data(q):
    r"""Reading (a), the extra loss on clean data that $\epsilon$ causes: PEFT's exceeds full fine-tuning's."""
    peft = q.loss(q.peft_update) - q.loss(-(q.H_sub_inv @ q.grad))
    full = q.loss(q.full_update) - q.loss(-(q.H_inv @ q.grad))
    return peft, full


@claim(
    "liu2025/theorem-4-b",
    setting=Quadratic,
    relation=">",
    source="liu2025, Theorem 4, reading (b)",
    hypotheses=PERTURBED,
    rescue=[Quadratic.minimiser_outside],
    replaced_by="linnet/sensitivity",
)
def loss_left_on_the_perturbed_objective(q):
    """Reading (b), the loss left on the perturbed objective after adapting to it: PEFT's exceeds full
    fine-tuning's.
    """
    return q.loss(q.peft_update, q.eps), q.loss(q.full_update, q.eps)


@claim(
    "liu2025/theorem-4-c",
    setting=Quadratic,
    relation=">",
    source="liu2025, Theorem 4, reading (c)",
    hypotheses=PERTURBED,
    replaced_by="linnet/sensitivity",
)
def clean_loss_after_adapting_to_the_perturbed_objective(q):
    """Reading (c), the clean loss above the clean optimum after adapting to the perturbed objective: PEFT's
    exceeds full fine-tuning's.
    """
    optimum = q.loss(-(q.H_inv @ q.grad))
    return q.loss(q.peft_update) - optimum, q.loss(q.full_update) - optimum
