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
    """With pi = grad and x = eps_perp: pi^T H x - x^T H^-1 x / 2 = pi^T H^3 pi - pi^T H pi / 2 > 0."""
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
    """eps_perp^T grad - eps_perp^T H^-1 eps_perp / 2 > 0."""
    return scalar(q.eps_perp.T @ q.grad) - scalar(q.eps_perp.T @ q.H_inv @ q.eps_perp) / 2, 0
