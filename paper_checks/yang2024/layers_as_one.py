"""yang2024, Sec. F.2: consecutive layers as one."""

from linnet.trials import Hypothesis, Layer, claim, tail_sq

no_bottleneck = Hypothesis(
    "no inner width is below both outer ones",
    lambda v: [(_narrowest(v), ">=", min(v.B_i.shape))],
    shape=lambda z: min(z.widths) >= min(z.widths[0], z.widths[-1]),
)


def _narrowest(layer):
    return min(n for w in layer.weights for n in w.shape)


@claim(
    "yang2024/layers-as-one",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. F.2",
    rescue=[no_bottleneck],
    replaced_by="linnet/layers-as-one",
)
def layers_regarded_as_one(layer):
    r"""Several consecutive layers can be regarded as one. Read as: fully fine-tuning them all reaches the least risk
    that fully fine-tuning their product as one layer does. Here for the block of all layers: the least risk of maps of
    rank at most the narrowest width, against that of all maps, which is $0$.
    """
    return tail_sq(layer.B_i @ layer.root_i, _narrowest(layer)), 0
