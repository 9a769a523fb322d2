"""conjecture/lora-ood-never-better: LoRA against S2FT out of distribution, at equal rank."""

from linnet.trials import Layer, claim


@claim(
    "conjecture/lora-ood-never-better",
    setting=Layer,
    relation=">=",
    source="conjecture of this project",
    hypotheses=[Layer.no_covariate_shift, Layer.equal_rank],
    replaced_by="linnet/s2ft-or-lora",
)
def lora_is_never_better_out_of_distribution(layer):
    r"""At equal rank $r = s$, $\mathcal E_o(\text{LoRA}) \ge \mathcal E_o(\text{S2FT})$."""
    return layer.lora.test_risk, layer.s2ft.test_risk
