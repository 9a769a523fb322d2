"""linnet/gradient-term: in place of liu2025, eq. (64), (66). Proof: docs/proofs/quadratic.md."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "linnet/gradient-term",
    setting=Quadratic,
    relation="<=",
    proof="docs/proofs/quadratic.md",
    hypotheses=[Quadratic.positive_definite],
)
def gradient_term_is_bounded_above(q):
    """eps_perp^T grad - eps_perp^T H^-1 eps_perp / 2 <= grad^T H grad / 2, with equality iff eps_perp = H grad;
    with pi = grad, x = eps_perp: pi^T H x - x^T H^-1 x / 2 <= pi^T H^3 pi / 2, with equality iff x = H^2 pi. Both are
    unbounded below as eps varies, if k < d.
    """
    x, g, H = q.eps_perp, q.grad, q.H
    half = scalar(x.T @ q.H_inv @ x) / 2
    return [
        (scalar(x.T @ g) - half, scalar(g.T @ H @ g) / 2),
        (scalar(g.T @ H @ x) - half, scalar(g.T @ H @ H @ H @ g) / 2),
    ]
