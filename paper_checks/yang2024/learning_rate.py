"""yang2024, Sec. 4.2: learning rates as the width grows."""

from linnet.trials import Wide, claim

SECTION = "yang2024, Sec. 4.2"


@claim("yang2024/sec-4.2-learning-rate", setting=Wide, relation="~", source=SECTION + ", S2FT")
def one_step_of_s2ft(v):
    r"""With $\eta = \Theta(1/n)$ one update of $f$ stays $\Theta(1)$ for S2FT, as the width $n$ grows."""
    return v.s2ft(1 / v.n), 1.0


@claim(
    "yang2024/sec-4.2-learning-rate-lora",
    setting=Wide,
    relation="~",
    source=SECTION + ", LoRA",
    rescue=[Wide.signs],
    replaced_by="linnet/learning-rates",
)
def steps_of_lora(v):
    r"""LoRA needs $\eta_U = \Theta(1)$ and $\eta_V = \Theta(1/n)$: what each factor's step changes in $f$ is then
    $\Theta(1)$.
    """
    by_u, by_v = v.lora(1.0, 1 / v.n)
    return [(by_u, 1.0), (by_v, 1.0)]
