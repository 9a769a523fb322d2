"""yang2024, Sec. 4.2: one step of gradient descent on V."""

from linnet.trials import Hypothesis, Layer, claim, sq

all_channels = Hypothesis(
    "all channels are trained: s = d_l",
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
    """argmin over G_V of |U_C G_V^T - G|_F^2 is G_V^T = U_C^T G, since U_C^T U_C = I: any other X, here
    U_C^T (G + W_l), is farther by |X - U_C^T G|_F^2. G is the gradient of the risk.
    """
    U, G = layer.U_C, layer.upper.T @ layer.population.cross
    best, other = U.T @ G, U.T @ (G + layer.weight)
    return [
        (sq(U @ other - G), sq(U @ best - G)),
        (sq(U @ other - G), "==", sq(U @ best - G) + sq(other - best)),
    ]


@claim(
    "yang2024/sec-4.2-update",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. 4.2, one step with V = 0 at the start",
    rescue=[all_channels],
    replaced_by="linnet/one-step",
)
def one_step_of_s2ft(layer):
    """With V = 0 and one gradient step of size eta = 1 on one input x: Delta f(x) = -eta G |x|^2, G = dloss/df, "since
    U_C is an orthogonal matrix". G and x are any two vectors, here those of a sample; the gradient of V^T is
    U_C^T G x^T.
    """
    G, x = layer.one_gradient, layer.one_input
    step = -(layer.U_C @ (layer.U_C.T @ G @ x.T))
    return step @ x, -sq(x) * G
