"""liu2025, eq. (50), for LoRA: the Hessian in U and V."""

from linnet.trials import Comparison, Parametrisation, claim


@claim(
    "liu2025/eq-50-lora",
    setting=Parametrisation,
    relation="==",
    source=r"liu2025, eq. (50), $g(U, V) = U V^\top$",
    hypotheses=[Parametrisation.lora, Parametrisation.loss, Parametrisation.positive_definite],
    rescue=[Parametrisation.stationary],
    replaced_by="linnet/peft-hessian",
)
def hessian_of_lora(v):
    r"""The Hessian of $(U, V) \mapsto \operatorname{loss}(\theta_0 + U V^\top)$ is $P^\top H P$, $P$ the Jacobian of
    $U V^\top$: the second derivative along any direction $\psi$ is $\psi^\top P^\top H P\psi$.
    """
    return Comparison(v.second_derivative, "==", v.form(v.projected_hessian), scale=v.second_derivative_scale)
