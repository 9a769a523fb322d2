"""linnet/image-of-an-immersion: in place of liu2025, Sec. F.1. Proof: docs/proofs/parametrisation.md."""

from linnet.trials import Comparison, Parametrisation, claim, rank


@claim(
    "linnet/image-of-an-immersion",
    setting=Parametrisation,
    relation="==",
    proof="docs/proofs/parametrisation.md",
    hypotheses=[Parametrisation.embedded],
)
def embedded_with_a_left_inverse(v):
    r"""A $g$ of full rank with a continuous left inverse on its image embeds $\mathbb R^k$: the image is a
    $k$-dimensional embedded submanifold. (Near a point full rank is enough; on all of $\mathbb R^k$ injective and
    proper is.) $P\Phi$ has a left inverse iff $\operatorname{rank} P = k$, the cubic with independent
    $\alpha, \beta, N$ and $s \ne 0$ iff $s < 0$: it returns $\Phi$ from $g(\Phi)$.
    """
    phi, unit = v.g.recovered(v.value)
    return [(rank(v.J), v.k), Comparison(phi, "==", v.g.column(v.at), scale=unit)]
