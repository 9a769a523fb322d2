"""liu2025, eq. (56): the cross term of a perturbation."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-56",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (56)",
    hypotheses=[Quadratic.positive_definite],
    replaced_by="linnet/cross-term",
)
def cross_term_vanishes(quadratic):
    r"""$\epsilon_\parallel^\top H^{-1}\epsilon_\perp = 0$, since they belong to orthogonal subspaces."""
    return scalar(quadratic.eps_par.T @ quadratic.H_inv @ quadratic.eps_perp), 0
