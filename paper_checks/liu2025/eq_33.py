"""liu2025, eq. (33): the best update of a given rank."""

from linnet.trials import Comparison, Layer, claim, sq, svd_r, tail_sq


@claim("liu2025/eq-33", setting=Layer, relation=">=", source="liu2025, eq. (33)")
def truncation_is_the_best_of_its_rank(layer):
    r"""$\|\Delta W^* - \Delta W_r\|_F^2 = \sum_{i>r}\sigma_i^2$, $\Delta W_r$ the truncated SVD, the best rank-$r$
    update: no other of rank $r$ is nearer. $\Delta W^*$ is $B_i - W$, the other the truncation of $B_o - W$, which
    can be any.
    """
    wanted, tail = layer.D, tail_sq(layer.D, layer.r)
    rival = svd_r(layer.B_o - layer.W, layer.r)
    return [
        Comparison(sq(wanted - svd_r(wanted, layer.r)), "==", tail, scale=sq(wanted)),
        Comparison(sq(wanted - rival), ">=", tail, scale=sq(wanted) + sq(rival)),
    ]
