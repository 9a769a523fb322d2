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
    """(T_bias^LoRA)^2 - E_i(full) <= max(0, 1 - r / R) (E_i(pre) - E_i(full)), R = rank Z."""
    full, R = layer.full_ft.train_risk, rank(layer.Z)
    return layer.lora.train_risk - full, positive_part(R - layer.r) / R * (layer.pretrained.train_risk - full)
