"""linnet/lipschitz, linnet/rank-returns: in place of liu2025, eq. (35) and (36). Proof: docs/proofs/rank-returns.md."""

from linnet.trials import Layer, Quadratic, claim, op_norm_sq, sq, sqrt, svd_r, tail_sq


@claim(
    "linnet/lipschitz",
    setting=Quadratic,
    relation="<=",
    proof="docs/proofs/rank-returns.md",
    hypotheses=[Quadratic.two_updates],
)
def loss_is_lipschitz_where_updates_are_bounded(v):
    r"""$|\operatorname{loss}(a) - \operatorname{loss}(b)| \le \|\nabla + H(a + b)/2\|\,\|a - b\|$, and so
    $\le (\|\nabla\| + \|H\|_{\mathrm{op}}(\|a\| + \|b\|)/2)\,\|a - b\|$.
    """
    a, b = v.first, v.second
    gap = v.loss(a) - v.loss(b)
    middle = v.grad + (v.H @ (a + b)) * 0.5
    length = sqrt(sq(a - b))
    reach = sqrt(sq(v.grad)) + sqrt(op_norm_sq(v.H)) * (sqrt(sq(a)) + sqrt(sq(b))) / 2
    return [
        (gap, sqrt(sq(middle)) * length),
        (-gap, sqrt(sq(middle)) * length),
        (gap, reach * length),
        (-gap, reach * length),
    ]


@claim("linnet/rank-returns", setting=Layer, relation="<=", proof="docs/proofs/rank-returns.md")
def what_the_truncated_update_costs(v):
    r"""$\Delta^*$ of full fine-tuning, $\Delta_r$ its rank-$r$ truncation, $\epsilon$ the discarded energy:
    $\operatorname{loss}(\Delta_r) - \operatorname{loss}(\Delta^*) = \|\overline W(\Delta_r -
    \Delta^*)\,\mathrm{root}\|_F^2 \le \|\overline W\|_{\mathrm{op}}^2\,\|\mathrm{root}\|_{\mathrm{op}}^2\,\epsilon$:
    in $\epsilon$, not in $\epsilon^{1/2}$; and $\le
    \frac12\,\|\nabla\operatorname{loss}(\Delta_r)\|_F\,\epsilon^{1/2}$, half of what eq. (36) says. With
    LoRA of rank $r$ in the place of the truncation it is the discarded energy of $M$, $\sum_{i>r}\sigma_i(M)^2$, and
    no more.
    """
    best, fit = v.full_ft.delta, v.population
    cut = svd_r(best, v.r)
    cost = fit.loss_drop(best) - fit.loss_drop(cut)
    slope = 2 * (v.upper.T @ (v.upper @ cut @ fit.gram - fit.cross))
    lora = v.lora.train_risk - v.full_ft.train_risk
    return [
        (cost, "==", sq(v.upper @ (cut - best) @ fit.root)),
        (cost, op_norm_sq(v.upper) * op_norm_sq(fit.root) * tail_sq(best, v.r)),
        (cost, sqrt(sq(slope) * tail_sq(best, v.r)) / 2),
        (lora, "==", tail_sq(fit.M, v.r)),
        (lora, cost),
    ]
