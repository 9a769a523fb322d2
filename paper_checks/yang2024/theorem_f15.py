"""yang2024, Theorem F.15: S2FT out of distribution."""

from linnet.trials import Layer, claim, sq


@claim("yang2024/theorem-f15", setting=Layer, relation="<=", source="yang2024, Theorem F.15")
def s2ft_out_of_distribution(layer):
    r"""$\mathcal E_o(\text{S2FT}) \le \mathcal E_o(\text{pre}) + 3\|P_C(B_o - B_i)\Sigma_o^{1/2}\|_F^2 +
    3\|B_i(\Sigma_o^{1/2} - \Sigma_i^{1/2} G)\|_F^2 + 3\|W\Sigma_o^{1/2} - W\Sigma_i^{1/2} G\|_F^2$.
    """
    label = layer.P_C @ (layer.B_o - layer.B_i) @ layer.root_o
    carried = layer.root_i @ layer.G
    bound = (
        layer.pretrained.test_risk
        + 3 * sq(label)
        + 3 * sq(layer.B_i @ layer.root_o - layer.B_i @ carried)
        + 3 * sq(layer.W @ layer.root_o - layer.W @ carried)
    )
    return layer.s2ft.test_risk, bound
