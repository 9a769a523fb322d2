"""linnet/lora-out-of-distribution: in place of yang2024, Theorem F.11.

Proof: docs/proofs/lora-out-of-distribution.md.
"""

from linnet.trials import Layer, claim, positive_part, sq, sqrt


@claim(
    "linnet/lora-out-of-distribution",
    setting=Layer,
    relation="<=",
    proof="docs/proofs/lora-out-of-distribution.md",
)
def lora_under_any_shift(layer):
    r"""With $u = \|(I - P_U) B_o\Sigma_o^{1/2}\|_F^2$, the reachable shift $a = \|P_U(B_o - B_i)\Sigma_o^{1/2}\|_F$,
    the moved inputs $c = \|P_U D(\Sigma_o^{1/2} - \Sigma_i^{1/2}G)\|_F$ and what LoRA missed, carried over,
    $m = \|[M - \operatorname{SVD}_r(M)]\,\mathrm{root}^+\,\underline W\Sigma_o^{1/2}\|_F$:
    $u + \max(0, a - c - m)^2 \le \mathcal E_o(\text{LoRA}) \le u + (a + c + m)^2$.
    """
    fit = layer.population
    shift = sqrt(sq(layer.P_U @ (layer.B_o - layer.B_i) @ layer.root_o))
    moved = sqrt(sq(layer.P_U @ (layer.D @ layer.root_o - layer.D @ layer.root_i @ layer.G)))
    carried = fit.root.pinv() @ layer.lower @ layer.root_o
    missed = sqrt(sq(fit.M @ carried - layer.lora_change(layer.r) @ layer.root_o))
    unreached = sq((layer.I_q - layer.P_U) @ layer.B_o @ layer.root_o)
    lora = layer.lora.test_risk
    return [
        (lora, unreached + (shift + moved + missed) ** 2),
        (lora, ">=", unreached + positive_part(shift - moved - missed) ** 2),
    ]
