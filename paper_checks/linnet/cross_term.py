"""linnet/cross-term: in place of liu2025, eq. (56). Proof: docs/proofs/quadratic.md."""

from linnet.trials import Comparison, Quadratic, claim, scalar


@claim(
    "linnet/cross-term",
    setting=Quadratic,
    relation="<=",
    proof="docs/proofs/quadratic.md",
    hypotheses=[Quadratic.positive_definite],
)
def cross_term_is_bounded(quadratic):
    r"""$(\epsilon_\parallel^\top H^{-1}\epsilon_\perp)^2 \le [\epsilon_\parallel^\top(H^{-1} -
    H_\Phi^+)\,\epsilon_\parallel]\,[\epsilon_\perp^\top H^{-1}\epsilon_\perp]$; the left side is $0$ for all
    $\epsilon$ iff $H$ maps the subspace into itself.
    """
    along, across = quadratic.eps_par, quadratic.eps_perp
    cross = scalar(along.T @ quadratic.H_inv @ across)
    excess = scalar(along.T @ quadratic.H_inv @ along) - scalar(along.T @ quadratic.H_sub_inv @ along)
    whole = scalar(quadratic.eps.T @ quadratic.H_inv @ quadratic.eps)
    return Comparison(cross**2, "<=", excess * scalar(across.T @ quadratic.H_inv @ across), scale=whole**2)
