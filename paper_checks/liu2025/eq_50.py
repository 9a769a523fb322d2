"""liu2025, eq. (50): the Hessian in the parameters of PEFT."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "liu2025/eq-50",
    setting=Quadratic,
    relation="==",
    source=r"liu2025, eq. (50), $g(\Phi) = P\Phi$",
    hypotheses=[Quadratic.positive_definite],
)
def hessian_of_peft(q):
    r"""The Hessian of $\Phi \mapsto \operatorname{loss}(\theta_0 + P\Phi)$ is $P^\top H P$: second differences along
    any $\Phi$, here $P^\top\epsilon$, are $\Phi^\top P^\top H P\Phi$. (For $g(U, V) = U V^\top$ it is not:
    `liu2025/eq-50-lora`.)
    """
    phi = q.P.T @ q.eps
    second = q.loss(q.P @ phi) + q.loss(-(q.P @ phi))
    return second, scalar(phi.T @ (q.P.T @ q.H @ q.P) @ phi)
