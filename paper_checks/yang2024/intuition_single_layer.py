"""yang2024, Sec. 4.1: one layer on white inputs."""

from linnet.trials import Hypothesis, Layer, claim, rank, svd_r

to_learn = Hypothesis("r <= rank(B_i - W)", lambda v: [(rank(v.D), ">=", v.r)])


@claim(
    "yang2024/intuition-single-layer",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. 4.1, intuition",
    hypotheses=[Layer.one_layer, Layer.white],
    rescue=[to_learn],
)
def one_layer_on_white_inputs(layer):
    """Among updates of rank exactly r the risk minimiser is SVD_r(B_i - W), and that of S2FT is
    sum_{a in C} e_a e_a^T (B_i - W). (Where B_i - W has a lower rank than r, SVD_r has it too.)
    """
    truncated = svd_r(layer.D, layer.r)
    return [
        (rank(truncated), layer.r),
        (layer.lora.change, truncated),
        (layer.s2ft.change, layer.U_C @ layer.U_C.T @ layer.D),
    ]
