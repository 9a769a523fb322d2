"""linnet/forgetting: one law for all methods. Proof: docs/proofs/forgetting.md."""

from linnet.trials import Layer, claim, inner, sq


@claim(
    "linnet/forgetting",
    setting=Layer,
    relation="==",
    proof="docs/proofs/forgetting.md",
    hypotheses=[Layer.no_covariate_shift],
)
def forgetting_from_gain(layer):
    """For f any of LoRA, S2FT (rows or columns), full FT: with the gain g = E_i(pre) - E_i(f), the learned
    L = (F - W) Sigma^(1/2) and the shift S = (B_o - B_i) Sigma^(1/2), E_o(f) - E_o(pre) = -g - 2 <S, L>_F and
    g = |L|_F^2. So the method forgets iff -<S, L>_F > g / 2, and |E_o(f) - E_o(pre) + g| <= 2 |S|_F g^(1/2), with
    equality iff S and L are parallel.
    """
    shift = (layer.B_o - layer.B_i) @ layer.root_i
    before = layer.pretrained
    out = []
    for change in (layer.lora.change, layer.s2ft.change, layer.columns_change, layer.full_ft.change):
        tuned, learned = layer.W + change, change @ layer.root_i
        gain = before.train_risk - layer.excess_train(tuned)
        forgetting = layer.excess_test(tuned) - before.test_risk
        out += [
            (forgetting, -gain - 2 * inner(shift, learned)),
            (gain, sq(learned)),
            ((forgetting + gain) ** 2, "<=", 4 * sq(shift) * sq(learned)),
        ]
    return out


@claim(
    "linnet/s2ft-or-lora",
    setting=Layer,
    relation="==",
    proof="docs/proofs/forgetting.md",
    hypotheses=[Layer.no_covariate_shift],
)
def who_is_better_out_of_distribution(layer):
    """E_o(LoRA) - E_o(S2FT) = [g_S2FT - g_LoRA] + 2 <S, L_S2FT - L_LoRA>_F: S2FT is better out of distribution iff
    -<S, L_LoRA - L_S2FT>_F > (g_LoRA - g_S2FT) / 2.
    """
    shift = (layer.B_o - layer.B_i) @ layer.root_i
    lora, s2ft = layer.lora, layer.s2ft
    apart = inner(shift, (s2ft.change - lora.change) @ layer.root_i)
    return lora.test_risk - s2ft.test_risk, lora.train_risk - s2ft.train_risk + 2 * apart
