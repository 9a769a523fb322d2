"""conjecture/tail-average: LoRA's bias against its rank, without a condition number."""

from linnet.trials import Layer, claim, positive_part, rank


@claim(
    "conjecture/tail-average",
    setting=Layer,
    relation="<=",
    source="conjecture of this project",
    hypotheses=[Layer.residual],
)
def missed_share_of_the_gain(layer):
    r"""$(T_{\text{bias}}^{\text{LoRA}})^2 - \mathcal E_i(\text{full}) \le \max(0, 1 - r/R)\,(\mathcal E_i(\text{pre}) -
    \mathcal E_i(\text{full}))$, $R = \operatorname{rank} Z$.
    """
    full, R = layer.full_ft.train_risk, rank(layer.Z)
    return layer.lora.train_risk - full, positive_part(R - layer.r) / R * (layer.pretrained.train_risk - full)
