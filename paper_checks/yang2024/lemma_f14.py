"""yang2024, Lemma F.14: the biases in order."""

from linnet.trials import Layer, claim


@claim(
    "yang2024/lemma-f14",
    setting=Layer,
    relation="<=",
    source="yang2024, Lemma F.14",
    hypotheses=[Layer.sparse_channels, Layer.budget_matched],
    replaced_by="linnet/bias-order",
)
def biases_in_order(layer):
    """Under F.4 with C containing C_0 and budget-matched s: E_i(full) <= (T_bias^LoRA)^2 <= (T_bias^S2FT)^2
    <= E_i(full) + delta^2 kappa_*^2(upper) E_i(pre).

    delta is the least that F.4 allows, which C_0 = C attains: every other makes the last bound weaker.
    """
    full, lora, s2ft = (m.train_risk for m in (layer.full_ft, layer.lora, layer.s2ft))
    return [
        (full, lora),
        (lora, s2ft),
        (s2ft, full + layer.delta_sq * layer.kappa_upper_sq * layer.pretrained.train_risk),
    ]
