"""yang2024, Remark F.16: S2FT out of distribution, without covariate shift."""

from linnet.trials import Layer, claim, sq


@claim(
    "yang2024/remark-f16",
    setting=Layer,
    relation="<=",
    source="yang2024, Remark F.16",
    hypotheses=[Layer.no_covariate_shift],
)
def s2ft_without_covariate_shift(layer):
    r"""$\mathcal E_o(\text{S2FT}) \le \mathcal E_o(\text{pre}) + 3\|P_C(B_o - B_i)\Sigma^{1/2}\|_F^2 +
    3\|B_i\Sigma^{1/2}(I - (\underline W\Sigma^{1/2})^+\,\underline W\Sigma^{1/2})\|_F^2$.
    """
    label = layer.P_C @ (layer.B_o - layer.B_i) @ layer.root_i
    unseen = layer.B_i @ layer.root_i @ (layer.I_p - layer.Pi)
    return layer.s2ft.test_risk, layer.pretrained.test_risk + 3 * sq(label) + 3 * sq(unseen)
