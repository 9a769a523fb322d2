"""yang2024, Sec. 6.2: adapters taken out of the fine-tuned weight."""

from linnet.trials import Layer, claim


@claim("yang2024/adapter-decoupling", setting=Layer, relation="==", source="yang2024, Sec. 6.2")
def adapter_from_the_weight(layer):
    r"""$\Delta W = U V^\top$ is recovered from the fine-tuned weight: with
    $V^\top = U_C^\top(W_{\text{new}} - W_{\text{old}})$, $U_C V^\top$ is the whole update, and replacing it in the $s$
    rows by that of another adapter on the same channels switches adapters. (On channels of its own the other takes a
    scatter-add on its rows too.)
    """
    U, old = layer.U_C, layer.weight
    one, other = old + layer.s2ft.delta, old + layer.sample.s2ft.delta
    mine, theirs = U.T @ (one - old), U.T @ (other - old)
    return [(U @ mine, one - old), (one + U @ (theirs - mine), other)]
