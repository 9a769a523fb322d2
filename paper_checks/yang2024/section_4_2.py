"""yang2024, Sec. 4.2: one step of gradient descent on V."""

from linnet.trials import Comparison, Hypothesis, Layer, claim, sq

all_channels = Hypothesis(
    r"all channels are trained: $s = d_\ell$",
    lambda v: [(v.s, "==", v.weight.shape[0])],
    shape=lambda z: len(z.channels) == z.widths[z.layer + 1],
)


@claim(
    "yang2024/sec-4.2-equivalent-gradient",
    setting=Layer,
    relation=">=",
    source="yang2024, Sec. 4.2, equivalent gradient",
)
def best_direction_within_the_channels(layer):
    r"""$\operatorname{argmin}_{G_V}\|U_C G_V^\top - G\|_F^2$ is $G_V^\top = U_C^\top G$, since $U_C^\top U_C = I$: any
    other $X$ is farther by $\|X - U_C^\top G\|_F^2$. $G$ is the gradient of the risk; $X = U_C^\top$ times any matrix,
    here the weight of the layer.
    """
    U, G = layer.U_C, layer.upper.T @ layer.population.cross
    best, other = U.T @ G, U.T @ layer.weight
    return [
        (sq(U @ other - G), sq(U @ best - G)),
        Comparison(sq(U @ other - G), "==", sq(U @ best - G) + sq(other - best), scale=sq(G) + sq(other)),
    ]


@claim(
    "yang2024/sec-4.2-direction",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. 4.2, S2FT keeps the optimal update direction",
    rescue=[all_channels],
    replaced_by="linnet/one-step",
)
def direction_of_the_full_gradient(layer):
    r"""S2FT thus keeps the optimal update direction: $U_C U_C^\top G$ is parallel to $G$, which means that it is $0$
    or all of $G$. (Within the channels it is the best direction by its definition.)
    """
    G = layer.upper.T @ layer.population.cross
    kept = layer.U_C @ (layer.U_C.T @ G)
    return sq(kept) * sq(G - kept), 0


@claim(
    "yang2024/sec-4.2-update",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. 4.2, one step with $V = 0$ at the start",
    rescue=[all_channels],
    replaced_by="linnet/one-step",
)
def one_step_of_s2ft(layer):
    r"""With $V = 0$ and one gradient step of size $\eta = 1$ on one input $x$: $\Delta f(x) = -\eta\,G\,\|x\|^2$,
    $G = \partial\operatorname{loss}/\partial f$, "since $U_C$ is an orthogonal matrix". $G$ and $x$ are any two
    vectors, here those of a sample; the gradient of $V^\top$ is $U_C^\top G x^\top$.
    """
    G, x = layer.one_gradient, layer.one_input
    step = -(layer.U_C @ (layer.U_C.T @ G @ x.T))
    return step @ x, -sq(x) * G
