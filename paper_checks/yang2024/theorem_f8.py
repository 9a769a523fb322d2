"""yang2024, Theorem F.8 (Theorem 4.2): S2FT forgets little, LoRA pays the label shift."""

from linnet.trials import Layer, claim, sq

UNDER_F5 = [Layer.no_covariate_shift, Layer.realisable, Layer.test_residual, Layer.budgets_within_rank]
"""F.5 with its least epsilon (which needs E_o(pre) > 0), realisable, and s, r <= rank Sigma_f."""


@claim(
    "yang2024/theorem-f8-s2ft",
    setting=Layer,
    relation="<=",
    source="yang2024, Theorem 4.2, first half",
    hypotheses=UNDER_F5,
)
def s2ft_forgets_little(layer):
    r"""$\mathcal E_o(\text{S2FT}) \le (1 + 3\epsilon^2)\,\mathcal E_o(\text{pre})$."""
    return layer.s2ft.test_risk, (1 + 3 * layer.eps_sq) * layer.pretrained.test_risk


@claim(
    "yang2024/theorem-f8-lora",
    setting=Layer,
    relation=">=",
    source="yang2024, Theorem 4.2, second half",
    hypotheses=UNDER_F5,
    replaced_by="linnet/lora-label-shift",
)
def lora_pays_the_label_shift(layer):
    r"""$\mathcal E_o(\text{LoRA}) \ge \|(B_o - B_i)\Sigma^{1/2}\|_F^2$."""
    return layer.lora.test_risk, sq((layer.B_o - layer.B_i) @ layer.root_i)
