"""linnet/implicit-bias: in place of yang2024, Sec. F.2. Proof: docs/proofs/implicit-bias.md."""

from linnet.trials import Layer, claim, sq


@claim("linnet/implicit-bias", setting=Layer, relation="<=", proof="docs/proofs/implicit-bias.md")
def descent_ends_at_the_nearest_minimiser(v):
    r"""Gradient flow on $V$, $U = U_C$ fixed, from any $V_0$ ends at the minimiser nearest to $V_0$: its risk is
    S2FT's, its distance to $V_0$ is no more than the least-norm solution's, and
    $\|V\|^2 = \|V_{\text{least}}\|^2 + (\text{what of } V_0 \text{ no data sees})^2$.
    """
    start = v.U_C @ v.start.T
    end, least = v.gradient_limit(v.start), v.s2ft.delta
    unseen = end - least
    return [
        (v.excess_train(v.W + v.upper @ end @ v.lower), "==", v.s2ft.train_risk),
        (sq(end - start), sq(least - start)),
        (sq(end), "==", sq(least) + sq(unseen)),
        (sq(unseen), sq(start)),
    ]
