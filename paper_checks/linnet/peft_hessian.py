"""linnet/peft-hessian: in place of liu2025, eq. (50), beyond linear g. Proof: docs/proofs/parametrisation.md."""

from linnet.trials import Comparison, Parametrisation, claim, inner


@claim(
    "linnet/peft-hessian",
    setting=Parametrisation,
    relation="==",
    proof="docs/proofs/parametrisation.md",
    hypotheses=[Parametrisation.loss],
)
def hessian_with_the_curvature_of_g(v):
    """The Hessian of Phi -> loss(theta_0 + g(Phi)) is J^T H J + sum_i slope_i D^2 g_i, slope the loss's gradient at
    theta_0 + g(Phi): along any psi. For U V^T the second term is 2 <slope, dU dV^T>, the slope as a matrix.
    """
    scale = v.second_derivative_scale
    rows = [Comparison(v.second_derivative, "==", v.form(v.projected_hessian + v.curvature), scale=scale)]
    if v.kind == "lora":
        u, w = v.direction
        twice = 2 * inner(v.slope.reshape(v.g.m, v.g.n), u @ w.T)
        rows.append(Comparison(v.form(v.curvature), "==", twice, scale=scale))
    return rows
