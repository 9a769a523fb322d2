"""liu2025, eq. (64) and (66): the gradient's term, and the maximiser in the place of every x."""

from linnet.trials import Quadratic, claim, scalar

PERTURBED = [Quadratic.positive_definite, Quadratic.sloped, Quadratic.proper_subspace, Quadratic.perturbed_across]
IN_PLACE = "linnet/gradient-term"


@claim(
    "liu2025/eq-64",
    setting=Quadratic,
    relation=">",
    source="liu2025, eq. (64)",
    hypotheses=PERTURBED,
    replaced_by=IN_PLACE,
)
def value_at_every_x(q):
    r"""With $\pi = \nabla$ and $x = \epsilon_\perp$:
    $\pi^\top H x - \tfrac12 x^\top H^{-1} x = \pi^\top H^3\pi - \tfrac12\pi^\top H\pi > 0$.
    """
    pi, x = q.grad, q.eps_perp
    value = scalar(pi.T @ q.H @ x) - scalar(x.T @ q.H_inv @ x) / 2
    stated = scalar(pi.T @ q.H @ q.H @ q.H @ pi) - scalar(pi.T @ q.H @ pi) / 2
    return [(stated, 0), (value, "==", stated)]


@claim(
    "liu2025/eq-66",
    setting=Quadratic,
    relation=">",
    source="liu2025, eq. (66)",
    hypotheses=PERTURBED,
    replaced_by=IN_PLACE,
)
def gradient_term_is_positive(q):
    r"""$\epsilon_\perp^\top\nabla - \tfrac12\epsilon_\perp^\top H^{-1}\epsilon_\perp > 0$."""
    return scalar(q.eps_perp.T @ q.grad) - scalar(q.eps_perp.T @ q.H_inv @ q.eps_perp) / 2, 0
