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
    r"""Under F.4 with $C$ containing $C_0$ and budget-matched $s$: $\mathcal E_i(\text{full}) \le
    (T_{\text{bias}}^{\text{LoRA}})^2 \le (T_{\text{bias}}^{\text{S2FT}})^2 \le \mathcal E_i(\text{full}) +
    \delta^2\,\kappa_*^2(\overline W)\,\mathcal E_i(\text{pre})$.

    $\delta$ is the least that F.4 allows, which $C_0 = C$ attains: every other makes the last bound weaker.
    """
    full, lora, s2ft = (m.train_risk for m in (layer.full_ft, layer.lora, layer.s2ft))
    return [
        (full, lora),
        (lora, s2ft),
        (s2ft, full + layer.delta_sq * layer.kappa_upper_sq * layer.pretrained.train_risk),
    ]
