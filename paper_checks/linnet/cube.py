"""linnet/cube: in place of liu2025, eq. (65). Proof: docs/proofs/quadratic.md."""

from linnet.trials import Quadratic, claim, scalar, sq


@claim(
    "linnet/cube",
    setting=Quadratic,
    relation=">=",
    proof="docs/proofs/quadratic.md",
    hypotheses=[Quadratic.positive_definite],
)
def cube_by_the_mean(q):
    r"""$(\pi^\top H^3\pi)\,\|\pi\|^4 \ge (\pi^\top H\pi)^3$, with equality iff $\pi$ is an eigenvector or $0$: $H^3$
    exceeds $H$ along $\pi$ as soon as $\pi^\top H\pi > \|\pi\|^2$, and $H^3 \succ H$ iff all eigenvalues of $H$ exceed
    $1$.
    """
    pi, H = q.grad, q.H
    return scalar(pi.T @ H @ H @ H @ pi) * sq(pi) ** 2, scalar(pi.T @ H @ pi) ** 3
