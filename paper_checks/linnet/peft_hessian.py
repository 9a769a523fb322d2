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
    r"""The Hessian of $\Phi \mapsto \operatorname{loss}(\theta_0 + g(\Phi))$ is $J^\top H J + \sum_i s_i D^2 g_i$, $s$
    the loss's gradient (slope) at $\theta_0 + g(\Phi)$: along any $\psi$. For $U V^\top$ the second term is
    $2\langle s, \dot U\dot V^\top\rangle$, the slope as a matrix.
    """
    scale = v.second_derivative_scale
    rows = [Comparison(v.second_derivative, "==", v.form(v.projected_hessian + v.curvature), scale=scale)]
    if v.kind == "lora":
        u, w = v.direction
        twice = 2 * inner(v.slope.reshape(v.g.m, v.g.n), u @ w.T)
        rows.append(Comparison(v.form(v.curvature), "==", twice, scale=scale))
    return rows
