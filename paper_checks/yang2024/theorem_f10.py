"""yang2024, Theorem F.10: LoRA's bias and variance in distribution."""

from linnet.trials import Layer, Sampled, claim, condition, effective_rank, eigengap, op_norm, op_norm_sq


def braces(v, onto):
    """The braces of Theorem F.10, with the projector ``onto`` in the place of Phi' Phi'^T."""
    root, design = v.population.root, effective_rank(v.population.gram)
    noise, residual = onto @ v.noise_cov @ onto, onto @ v.Sigma_f @ onto
    kappa = condition(root)
    from_noise = op_norm(v.noise_cov) * kappa**2 * (effective_rank(noise) + design)
    from_residual = op_norm(v.Sigma_f) * (kappa**2 * effective_rank(residual) + kappa**6 * design)
    return from_noise + from_residual


@claim(
    "yang2024/theorem-f10",
    setting=Sampled,
    relation="<~",
    source="yang2024, Theorem F.10; its bias is eq. (13) and (14)",
    hypotheses=[Sampled.likely, Sampled.many, Sampled.rank_reached, Sampled.gap],
)
def variance_of_lora(v):
    r"""With high probability $(T_{\text{var}}^{\text{LoRA}})^2 \lesssim C_F^2\,\kappa_*^4(M)\,\frac{r\log^2(n + p +
    q)}{n}\,\{ \kappa_*^2(\mathrm{root})\,\|\Sigma_\varepsilon\|_{\mathrm{op}}\,[r_e(P_U\Sigma_\varepsilon P_U) +
    r_e(\mathrm{root}^2)] + \|\Sigma_f\|_{\mathrm{op}}\,[\kappa_*^2(\mathrm{root})\,r_e(P_U\Sigma_f P_U) +
    \kappa_*^6(\mathrm{root})\,r_e(\mathrm{root}^2)]\}$, with F.3 at its least $C_F$.
    """
    size = v.r * v.log_sq / v.n
    return v.variance("lora"), eigengap(v) ** 2 * condition(v.population.M) ** 4 * size * braces(v, v.P_U)


@claim(
    "yang2024/theorem-f13",
    setting=Sampled,
    relation="<~",
    source="yang2024, Theorem F.13, the variance",
    hypotheses=[Sampled.likely, Sampled.many],
)
def variance_of_s2ft(v):
    r"""With high probability $(T_{\text{var}}^{\text{S2FT}})^2 \lesssim \frac{s\log^2(n + p + q)}{n}$ times the braces
    of Theorem F.10, $P_C$ for $P_U$.
    """
    return v.variance("s2ft"), v.s * v.log_sq / v.n * braces(v, v.P_C)


@claim(
    "yang2024/theorem-f13-bias",
    setting=Layer,
    relation="<=",
    source="yang2024, Theorem F.13, the bias",
)
def bias_of_s2ft(layer):
    r"""$(T_{\text{bias}}^{\text{S2FT}})^2 \le \|(P_U - P_C)\,\Phi(Z)\|_{\mathrm{op}}^2\,\mathcal E_i(\text{pre}) +
    \mathcal E_i(\text{full})$, $\Phi(Z)$ the left singular basis of $Z$.
    """
    lost = op_norm_sq((layer.P_U - layer.P_C) @ layer.Z.projector())
    return layer.s2ft.train_risk, lost * layer.pretrained.train_risk + layer.full_ft.train_risk
