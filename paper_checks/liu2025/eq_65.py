"""liu2025, eq. (65): the cube of a Hessian against the Hessian."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-65",
    setting=Quadratic,
    relation=">",
    source="liu2025, eq. (65)",
    hypotheses=[Quadratic.positive_definite, Quadratic.sloped],
    replaced_by="linnet/cube",
)
def cube_exceeds(q):
    r"""$H \succ 0$ implies $H^3 \succ H$: $\pi^\top H^3\pi > \pi^\top H\pi$ for all $\pi$ that are not zero."""
    pi = q.grad
    return scalar(pi.T @ q.H @ q.H @ q.H @ pi), scalar(pi.T @ q.H @ pi)
