"""linnet/one-step: in place of yang2024, Sec. 4.2. Proof: docs/proofs/structure.md."""

from linnet.trials import Comparison, Layer, claim, sq


@claim("linnet/one-step", setting=Layer, relation="==", proof="docs/proofs/structure.md")
def one_step_moves_the_channels(layer):
    r"""With $V = 0$ and one gradient step of size $\eta = 1$ on one input $x$:
    $\Delta f(x) = -\eta\,U_C U_C^\top G\,\|x\|^2$, the part of $G$ in the channels. It differs from the step
    $-\eta\,G\,\|x\|^2$ of full fine-tuning by what is orthogonal to it, and has the channels' share of its squared
    length.
    """
    G, x, U = layer.one_gradient, layer.one_input, layer.U_C
    step = -(U @ (U.T @ G @ x.T)) @ x
    full = -sq(x) * G
    size = sq(full)
    return [
        (step, U @ (U.T @ full)),
        Comparison(sq(step), "==", sq(x) ** 2 * sq(U.T @ G), scale=size),
        Comparison(sq(full - step), "==", size - sq(step), scale=size),
    ]
