"""yang2024, Sec. F.2: where gradient descent ends."""

from linnet.trials import Comparison, Hypothesis, Layer, claim, rank, sq, sqrt

NO_NULL_SPACE = Hypothesis(
    r"$\overline W U_C$ has full column rank and $\underline W\Sigma_i^{1/2}$ full row rank",
    lambda v: [(rank(v.upper @ v.U_C), ">=", v.s), (rank(v.carried_i), ">=", v.carried_i.shape[0])],
)
SOMETHING = Hypothesis("there is something to learn: $M$ is not zero", lambda v: [(sq(v.population.M), ">", 0)])


@claim(
    "yang2024/min-norm-implicit-bias",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. F.2: S2FT, $V = 0$ at the start",
)
def descent_on_v_from_zero(v):
    r"""Gradient flow on $V$ from $V = 0$, $U = U_C$ fixed, reaches the least-norm solution of Lemma F.12."""
    return v.gradient_limit(0 * v.start), v.s2ft.delta


@claim(
    "yang2024/min-norm-implicit-bias-any-start",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. F.2: S2FT, any $V$ at the start",
    rescue=[NO_NULL_SPACE],
    replaced_by="linnet/implicit-bias",
)
def descent_on_v_from_anywhere(v):
    r"""Gradient flow on $V$ from any start reaches the least-norm solution of Lemma F.12. It does if $\overline W U_C$
    has full column rank and $\underline W\Sigma_i^{1/2}$ full row rank: see `linnet/implicit-bias`.
    """
    moved, root = v.upper @ v.U_C, v.population.root
    from_start = sqrt(sq(moved) * sq(moved.pinv()) * sq(root) * sq(root.pinv()) * sq(v.start))
    return Comparison(v.gradient_limit(v.start), "==", v.s2ft.delta, scale=v.population.step + from_start)


@claim(
    "yang2024/min-norm-implicit-bias-lora",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. F.2: LoRA, $U = 0$ and $V = V_0$ at the start",
    hypotheses=[SOMETHING],
    replaced_by="linnet/implicit-bias",
)
def descent_on_both_factors(v):
    r"""Gradient flow on $(U, V)$ from $U = 0$, $V = V_0$ reaches the least-norm solution of Lemma F.9. The flow
    conserves $U^\top U - V^\top V$, which is $-V_0^\top V_0$ at the start and $0$ at every pair of least
    $\|U\|_F^2 + \|V\|_F^2$; and from $V_0 = 0$ it does not move. So $V_0^\top V_0 = 0$ is needed, and then LoRA's risk
    must be the pre-trained one. The product $U V^\top$, on which alone risks depend, is another matter: see
    `linnet/implicit-bias`.
    """
    first = v.start @ v.start.T
    return [(sq(first), 0 * sq(first)), (v.lora.train_risk, "==", v.pretrained.train_risk)]
