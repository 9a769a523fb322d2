"""yang2024, Sec. 4.1: one layer on white inputs."""

from linnet.trials import Hypothesis, Layer, claim, rank, svd_r, tail_sq

to_learn = Hypothesis(r"$r \le \operatorname{rank}(B_i - W)$", lambda v: [(rank(v.D), ">=", v.r)])


@claim(
    "yang2024/intuition-single-layer",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. 4.1, intuition",
    hypotheses=[Layer.one_layer, Layer.white],
    rescue=[to_learn],
)
def one_layer_on_white_inputs(layer):
    r"""Among updates of rank exactly $r$ the risk minimiser is $\operatorname{SVD}_r(B_i - W)$, and that of S2FT is
    $\sum_{a \in C} e_a e_a^\top(B_i - W)$. (Where $B_i - W$ has a lower rank than $r$, $\operatorname{SVD}_r$ has it
    too, and none of rank exactly $r$ is best; at a tie of the $r$-th and next singular values $\operatorname{SVD}_r$
    is one of several, and does not count.) The least risk of rank $r$ is the sum of the squared singular values after
    the $r$-th.
    """
    truncated, chosen = svd_r(layer.D, layer.r), layer.U_C @ layer.U_C.T @ layer.D
    return [
        (rank(truncated), layer.r),
        (layer.excess_train(layer.W + truncated), tail_sq(layer.D, layer.r)),
        (layer.lora.change, truncated),
        (layer.s2ft.change, chosen),
        ((layer.D - chosen).T @ layer.U_C, 0 * layer.D.T @ layer.U_C),
    ]
