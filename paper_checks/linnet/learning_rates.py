"""linnet/learning-rates: in place of yang2024, Sec. 4.2. Proof: docs/proofs/learning-rates.md."""

from linnet.trials import Wide, claim


@claim(
    "linnet/learning-rates",
    setting=Wide,
    relation="~",
    proof="docs/proofs/learning-rates.md",
    hypotheses=[Wide.plain],
)
def plain_steps(v):
    r"""Plain gradient steps: S2FT with $\eta = 1/n$, LoRA with $\eta_U = 1$ and $\eta_V = 1/n^2$ change $f$ by
    $\Theta(1)$, by each factor alone.
    """
    by_u, by_v = v.lora(1.0, v.n**-2)
    return [(v.s2ft(1 / v.n), 1.0), (by_u, 1.0), (by_v, 1.0)]


@claim(
    "linnet/learning-rates-adam",
    setting=Wide,
    relation="~",
    proof="docs/proofs/learning-rates.md",
    hypotheses=[Wide.signs],
)
def steps_of_signs(v):
    r"""Signs of the gradient (Adam): S2FT with $\eta = 1/n$, LoRA with $\eta_U = 1$ and $\eta_V = 1/n$ change $f$ by
    $\Theta(1)$.
    """
    by_u, by_v = v.lora(1.0, 1 / v.n)
    return [(v.s2ft(1 / v.n), 1.0), (by_u, 1.0), (by_v, 1.0)]
