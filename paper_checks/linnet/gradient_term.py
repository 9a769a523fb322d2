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
    r"""$\epsilon_\perp^\top\nabla - \tfrac12\epsilon_\perp^\top H^{-1}\epsilon_\perp \le \tfrac12\nabla^\top H\nabla$,
    with equality iff $\epsilon_\perp = H\nabla$; with $\pi = \nabla$, $x = \epsilon_\perp$:
    $\pi^\top H x - \tfrac12 x^\top H^{-1} x \le \tfrac12\pi^\top H^3\pi$, with equality iff $x = H^2\pi$. Both are
    unbounded below as $\epsilon$ varies, if $k < d$.
    """
    x, g, H = q.eps_perp, q.grad, q.H
    half = scalar(x.T @ q.H_inv @ x) / 2
    return [
        (scalar(x.T @ g) - half, scalar(g.T @ H @ g) / 2),
        (scalar(g.T @ H @ x) - half, scalar(g.T @ H @ H @ H @ g) / 2),
    ]
