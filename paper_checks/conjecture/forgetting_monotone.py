"""conjecture/forgetting-monotone: LoRA's forgetting against its rank."""

from linnet.trials import Layer, claim


@claim(
    "conjecture/forgetting-monotone",
    setting=Layer,
    relation=">=",
    source="conjecture of this project",
    hypotheses=[Layer.no_covariate_shift],
    replaced_by="linnet/forgetting",
)
def forgetting_grows_with_the_rank(layer):
    r"""The forgetting $\mathcal E_o(\text{LoRA}_r) - \mathcal E_o(\text{pre})$ does not decrease from
    $r$ to $r + 1$.
    """
    now, before = (layer.excess_test(layer.W + layer.lora_change(r)) for r in (layer.r + 1, layer.r))
    return now - layer.pretrained.test_risk, before - layer.pretrained.test_risk
