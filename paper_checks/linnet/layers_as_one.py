"""linnet/layers-as-one: in place of yang2024, Sec. F.2. Proof: docs/proofs/structure.md."""

from linnet.trials import Layer, claim, sq, tail_sq


@claim("linnet/layers-as-one", setting=Layer, relation="<=", proof="docs/proofs/structure.md")
def what_regarding_layers_as_one_gives(layer):
    r"""Least risks: of all layers as one, $0$; of all layers fine-tuned together,
    $\sum_{j>w}\sigma_j(B_i\Sigma^{1/2})^2$, $w$ the narrowest width; of one layer alone, $\mathcal E_i(\text{full})$.
    They come in this order, and the last is at least what its input hides, $\|B_i\Sigma^{1/2}(I - \Pi)\|_F^2$.
    """
    width = min(n for w in layer.weights for n in w.shape)
    together, alone = tail_sq(layer.B_i @ layer.root_i, width), layer.full_ft.train_risk
    return [(0, together), (together, alone), (sq(layer.B_i @ layer.root_i @ (layer.I_p - layer.Pi)), alone)]
