"""linnet/lora-dimension: in place of liu2025, Sec. F.1, for LoRA. Proof: docs/proofs/parametrisation.md."""

from linnet.trials import Hypothesis, Parametrisation, claim, rank, where_positive

LORA = [Parametrisation.lora]
rank_r = Hypothesis(
    r"$\operatorname{rank} U V^\top = r$", lambda v: [(rank(v.value.reshape(v.g.m, v.g.n)), "==", v.g.r)]
)


@claim(
    "linnet/lora-dimension",
    setting=Parametrisation,
    relation="==",
    proof="docs/proofs/parametrisation.md",
    hypotheses=LORA,
)
def rank_and_range_of_the_differential(v):
    r"""At $(U, V)$ with $a = \operatorname{rank} U$, $b = \operatorname{rank} V$ the differential of $U V^\top$ has
    rank $m b + n a - a b$, at most $D = r(m + n - r)$, and if $r < \min(m, n)$ equal to it iff $a = b = r$; its range
    is $\{X : (I - P_U) X (I - P_V) = 0\}$.
    """
    g, a, b = v.g, rank(v.U), rank(v.V)
    found, most = rank(v.J), g.r * (g.m + g.n - g.r)
    normal = (v.U.eye() - v.U.projector()).kron(v.V.eye() - v.V.projector())
    return [
        (found, g.m * b + g.n * a - a * b),
        (found, "<=", most),
        (where_positive((2 * g.r - a - b) * (min(g.m, g.n) - g.r), most - found, 1), ">", 0),
        (v.J.projector(), v.J.eye() - normal),
    ]


@claim(
    "linnet/lora-tangents",
    setting=Parametrisation,
    relation="==",
    proof="docs/proofs/parametrisation.md",
    hypotheses=[*LORA, Parametrisation.meeting, rank_r],
)
def one_tangent_space_at_rank_r(v):
    r"""Where $U V^\top$ has rank $r$, every $(U', V')$ with $U' V'^\top = U V^\top$ has the same range of the
    differential, of dimension $r(m + n - r)$: there the image is smooth.
    """
    g = v.g
    return rank(v.both_tangents), g.r * (g.m + g.n - g.r)
