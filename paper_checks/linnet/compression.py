"""linnet/compression: in place of liu2025, eq. (58). Proof: docs/proofs/quadratic.md."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "linnet/compression",
    setting=Quadratic,
    relation="<=",
    proof="docs/proofs/quadratic.md",
    hypotheses=[Quadratic.positive_definite],
)
def subspace_is_less_sensitive(quadratic):
    r"""$e^\top H_\Phi^+ e \le e^\top H^{-1} e$ for every $e$, with equality iff $H^{-1} e$ lies in the subspace."""
    e = quadratic.eps
    return scalar(e.T @ quadratic.H_sub_inv @ e), scalar(e.T @ quadratic.H_inv @ e)
