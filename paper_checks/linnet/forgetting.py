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
    r"""For $f$ any of LoRA, S2FT (rows or columns), full FT: with the gain
    $g = \mathcal E_i(\text{pre}) - \mathcal E_i(f)$, the learned $L = (F - W)\Sigma^{1/2}$ and the shift
    $S = (B_o - B_i)\Sigma^{1/2}$, $\mathcal E_o(f) - \mathcal E_o(\text{pre}) = -g - 2\langle S, L\rangle_F$ and
    $g = \|L\|_F^2$. So the method forgets iff $-\langle S, L\rangle_F > g/2$, and
    $|\mathcal E_o(f) - \mathcal E_o(\text{pre}) + g| \le 2\|S\|_F\,g^{1/2}$, with equality iff $S$ and $L$ are
    parallel.
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
    r"""$\mathcal E_o(\text{LoRA}) - \mathcal E_o(\text{S2FT}) = [g_{\text{S2FT}} - g_{\text{LoRA}}] + 2\langle S,
    L_{\text{S2FT}} - L_{\text{LoRA}}\rangle_F$: S2FT is better out of distribution iff
    $-\langle S, L_{\text{LoRA}} - L_{\text{S2FT}}\rangle_F > (g_{\text{LoRA}} - g_{\text{S2FT}})/2$.
    """
    shift = (layer.B_o - layer.B_i) @ layer.root_i
    lora, s2ft = layer.lora, layer.s2ft
    apart = inner(shift, (s2ft.change - lora.change) @ layer.root_i)
    return lora.test_risk - s2ft.test_risk, lora.train_risk - s2ft.train_risk + 2 * apart
