"""liu2025, eq. (58): curvature in the subspace against curvature in the whole."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-58",
    setting=Quadratic,
    relation=">=",
    source="liu2025, eq. (58)",
    hypotheses=[Quadratic.positive_definite],
    replaced_by="linnet/compression",
)
def subspace_is_more_sensitive(quadratic):
    r"""$\epsilon_\parallel^\top H_\Phi^+\epsilon_\parallel \ge \epsilon_\parallel^\top H^{-1}\epsilon_\parallel$
    ($H_\Phi^+$ lifted to $\mathbb R^d$ by $P$), with equality iff the span of $P$ contains $\epsilon_\parallel$: it
    always does, so that the two would be equal.
    """
    e = quadratic.eps_par
    return scalar(e.T @ quadratic.H_sub_inv @ e), scalar(e.T @ quadratic.H_inv @ e)
