"""liu2025, Theorem 3 and eq. (35) to (37): what larger ranks bring."""

from linnet.trials import Layer, Quadratic, Sampled, claim, op_norm_sq, scalar, sq, sqrt, svd_r, tail_sq


@claim(
    "liu2025/eq-35",
    setting=Quadratic,
    relation="==",
    source="liu2025, eq. (35), on quadratic losses",
    hypotheses=[Quadratic.positive_definite, Quadratic.two_updates],
    replaced_by="linnet/lipschitz",
)
def loss_is_lipschitz(v):
    r"""There is $L$ with
    $|\operatorname{loss}(W + \Delta_1) - \operatorname{loss}(W + \Delta_2)| \le L\|\Delta_1 - \Delta_2\|_F$ for all
    $\Delta_1$, $\Delta_2$. At $\Delta_1 = t u$, $\Delta_2 = 0$ and $t \to \infty$,
    $|\operatorname{loss}(t u) - \operatorname{loss}(0)|/t^2$ tends to $\tfrac12 u^\top H u$, and $L\|t u\|/t^2$ to
    $0$: the two must be equal.
    """
    return scalar(v.first.T @ v.H @ v.first) / 2, 0 * sq(v.first)


def truncated(v):
    """Delta*, its truncation, and the gradient of the risk at the latter."""
    best = v.full_ft.delta
    cut = svd_r(best, v.r)
    fit = v.population
    slope = 2 * (v.upper.T @ (v.upper @ cut @ fit.gram - fit.cross))
    return best, cut, slope


@claim("liu2025/eq-36", setting=Layer, relation="<=", source="liu2025, eq. (36)", replaced_by="linnet/rank-returns")
def loss_of_the_truncated_update(v):
    r"""For $r \ge r_c$: $|\operatorname{loss}(W + \Delta^*) - \operatorname{loss}(W + \Delta_r)| \le L\epsilon^{1/2}$.
    Eq. (35) gives no $L$ for the whole space; tried with the Lipschitz constant on the segment from $\Delta_r$ to
    $\Delta^*$, the gradient's norm at $\Delta_r$, and $\epsilon$ the discarded energy.
    """
    best, cut, slope = truncated(v)
    gone = tail_sq(best, v.r)
    drop = v.population.loss_drop(best) - v.population.loss_drop(cut)
    return drop, sqrt(sq(slope) * gone)


@claim(
    "liu2025/eq-36-smooth",
    setting=Layer,
    relation="<=",
    source="liu2025, eq. (36), with $L$ the smoothness constant of the loss",
    replaced_by="linnet/rank-returns",
)
def loss_of_the_truncated_update_by_smoothness(v):
    r"""$|\operatorname{loss}(W + \Delta^*) - \operatorname{loss}(W + \Delta_r)| \le L\epsilon^{1/2}$ with
    $L = 2\|\overline W\|_{\mathrm{op}}^2\,\|\mathrm{root}\|_{\mathrm{op}}^2$, the largest curvature: "since the loss
    is smooth".
    """
    best, cut, _ = truncated(v)
    drop = v.population.loss_drop(best) - v.population.loss_drop(cut)
    return drop, 2 * op_norm_sq(v.upper) * op_norm_sq(v.population.root) * sqrt(tail_sq(best, v.r))


@claim(
    "liu2025/theorem-3-plateau",
    setting=Layer,
    relation="<=",
    source="liu2025, Theorem 3, its words, on the population",
    replaced_by="linnet/rank-returns",
)
def gain_of_larger_ranks(v):
    r"""Beyond $r_c$ performance reaches a plateau: LoRA of any larger rank gains no more than $L\epsilon^{1/2}$ over
    rank $r$, $L$ and $\epsilon$ as in eq. (36). (That it may also decline says nothing that could be tried.)
    """
    best, _, slope = truncated(v)
    return v.lora.train_risk - v.full_ft.train_risk, sqrt(sq(slope) * tail_sq(best, v.r))


@claim(
    "liu2025/eq-37",
    setting=Sampled,
    relation="~",
    source="liu2025, eq. (37)",
    hypotheses=[Sampled.noisy, Sampled.learnable],
    replaced_by="linnet/lora-gap",
)
def gap_of_lora(v):
    r"""$\operatorname{loss}_{\text{test}}(W + \Delta_r) - \operatorname{loss}_{\text{train}}(W + \Delta_r)$ is
    proportional to $(r/N)^{1/2}$, in expectation.
    """
    return v.gap(v.sample.lora, beside=v.lora), (v.r / v.n) ** 0.5


@claim(
    "liu2025/theorem-3",
    setting=Sampled,
    relation="<~",
    source="liu2025, Theorem 3, eq. (7) and (38)",
    hypotheses=[Sampled.noisy, Sampled.learnable, Sampled.per_problem],
)
def loss_of_lora_beyond_the_critical_rank(v):
    r"""$\operatorname{loss}_{\text{test}}(W + \Delta_r) \le \operatorname{loss}_{\text{test}}(W + \Delta^*) +
    L\epsilon^{1/2} + O((r/N)^{1/2})$: with $\Delta^*$ the population's best, $\epsilon^{1/2}$ the distance of its
    rank-$r$ truncation, and $L$ the Lipschitz constant between the two, what exceeds the first two terms is
    $O((r/N)^{1/2})$.
    """
    return v.sample.lora.train_risk - v.lora.train_risk, (v.r / v.n) ** 0.5
