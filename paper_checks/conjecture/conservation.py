"""conjecture/conservation: what fine-tuning gains in distribution, and loses out of it."""

from linnet.trials import Layer, claim, inner


@claim(
    "conjecture/conservation",
    setting=Layer,
    relation="==",
    source="conjecture of this project",
    hypotheses=[Layer.no_covariate_shift],
)
def gain_and_forgetting(layer):
    r"""For $f$ any of LoRA, S2FT, full FT, with end-to-end map $F$: $\mathcal E_o(f) - \mathcal E_o(\text{pre}) =
    [\mathcal E_i(\text{pre}) - \mathcal E_i(f)] - 2\langle (B_o - W)\Sigma^{1/2}, (F - W)\Sigma^{1/2}\rangle_F$.
    """
    before, out = layer.pretrained, (layer.B_o - layer.W) @ layer.root_i
    return [
        (
            f.test_risk - before.test_risk,
            before.train_risk - f.train_risk - 2 * inner(out, f.change @ layer.root_i),
        )
        for f in (layer.lora, layer.s2ft, layer.full_ft)
    ]
