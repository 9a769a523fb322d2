"""liu2025, eq. (66): the gradient's term is positive."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-66",
    setting=Quadratic,
    relation=">",
    source="liu2025, eq. (66)",
    hypotheses=[
        Quadratic.positive_definite,
        Quadratic.sloped,
        Quadratic.proper_subspace,
        Quadratic.perturbed_across,
    ],
    replaced_by="linnet/gradient-term",
)
def gradient_term_is_positive(q):
    """eps_perp^T grad - eps_perp^T H^-1 eps_perp / 2 > 0."""
    return scalar(q.eps_perp.T @ q.grad) - scalar(q.eps_perp.T @ q.H_inv @ q.eps_perp) / 2, 0
