"""linnet/lora-label-shift: in place of yang2024, Theorem F.8, second half. Proof: docs/proofs/lora-label-shift.md."""

from linnet.trials import Layer, claim, positive_part, sq, sqrt, tail_sq


@claim(
    "linnet/lora-label-shift",
    setting=Layer,
    relation=">=",
    proof="docs/proofs/lora-label-shift.md",
    hypotheses=[Layer.no_covariate_shift, Layer.realisable],
)
def lora_pays_the_label_shift_but_for_what_it_missed(layer):
    r"""With $a = \|(B_o - B_i)\Sigma^{1/2}\|_F$ and $b = (\sum_{j>r}\sigma_j(M)^2)^{1/2}$:
    $\max(0, a - b)^2 \le \mathcal E_o(\text{LoRA}) \le (a + b)^2$; so $\mathcal E_o(\text{LoRA}) = a^2$ as soon as
    $r \ge \operatorname{rank} M$.
    """
    shift = sqrt(sq((layer.B_o - layer.B_i) @ layer.root_i))
    missed = sqrt(tail_sq(layer.population.M, layer.r))
    lora = layer.lora.test_risk
    return [(lora, positive_part(shift - missed) ** 2), (lora, "<=", (shift + missed) ** 2)]
