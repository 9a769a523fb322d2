"""conjecture/ood-identity: S2FT's out-of-distribution risk, exactly."""

from linnet.trials import Layer, claim, sq


@claim(
    "conjecture/ood-identity",
    setting=Layer,
    relation="==",
    source="conjecture of this project",
    hypotheses=[Layer.no_covariate_shift],
)
def s2ft_out_of_distribution_exactly(layer):
    r"""$\mathcal E_o(\text{S2FT}) = \mathcal E_o(\text{pre}) - \|P_C(B_o - W)\Sigma^{1/2}\Pi\|_F^2 + \|P_C(B_o -
    B_i)\Sigma^{1/2}\Pi\|_F^2$, $\Pi$ the projector on the row space of $\underline W\Sigma^{1/2}$.
    """
    gained = layer.P_C @ (layer.B_o - layer.W) @ layer.root_i @ layer.Pi
    lost = layer.P_C @ (layer.B_o - layer.B_i) @ layer.root_i @ layer.Pi
    return layer.s2ft.test_risk, layer.pretrained.test_risk - sq(gained) + sq(lost)
