"""liu2025, eq. (64): the maximiser in the place of every x."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-64",
    setting=Quadratic,
    relation=">",
    source="liu2025, eq. (64)",
    hypotheses=[
        Quadratic.positive_definite,
        Quadratic.sloped,
        Quadratic.proper_subspace,
        Quadratic.perturbed_across,
    ],
    replaced_by="linnet/gradient-term",
)
def value_at_every_x(q):
    """With pi = grad and x = eps_perp: pi^T H x - x^T H^-1 x / 2 = pi^T H^3 pi - pi^T H pi / 2 > 0."""
    pi, x = q.grad, q.eps_perp
    value = scalar(pi.T @ q.H @ x) - scalar(x.T @ q.H_inv @ x) / 2
    stated = scalar(pi.T @ q.H @ q.H @ q.H @ pi) - scalar(pi.T @ q.H @ pi) / 2
    return [(stated, 0), (value, "==", stated)]
