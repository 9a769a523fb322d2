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
    """eps_par^T H_Phi^+ eps_par >= eps_par^T H^-1 eps_par (H_Phi^+ lifted to R^d by P), with equality iff the
    span of P contains eps_par: it always does, so that the two would be equal.
    """
    e = quadratic.eps_par
    return scalar(e.T @ quadratic.H_sub_inv @ e), scalar(e.T @ quadratic.H_inv @ e)
