"""yang2024, Theorem F.7: S2FT and LoRA remember alike."""

from linnet.trials import Layer, Sampled, claim, condition, eigengap, op_norm


@claim(
    "yang2024/theorem-f7",
    setting=Layer,
    relation="<=",
    source="yang2024, Theorem F.7, the biases",
    hypotheses=[Layer.sparse_channels, Layer.budget_matched],
    replaced_by="linnet/bias-order",
)
def biases_above_full_fine_tuning(layer):
    r"""$0 \le (T_{\text{bias}}^{\text{LoRA}})^2 - \mathcal E_i(\text{full}) \le (T_{\text{bias}}^{\text{S2FT}})^2 -
    \mathcal E_i(\text{full}) \lesssim \delta^2\,\mathcal E_i(\text{pre})$, under F.4 and F.6, at matched budgets; what
    F.6 takes to be of order 1 is $\kappa_*^2(\overline W)$, as in Lemma F.14.
    """
    full, lora, s2ft = (m.train_risk for m in (layer.full_ft, layer.lora, layer.s2ft))
    bound = layer.delta_sq * layer.kappa_upper_sq * layer.pretrained.train_risk
    return [(0, lora - full), (lora - full, s2ft - full), (s2ft - full, bound)]


@claim(
    "yang2024/theorem-f7-variance",
    setting=Sampled,
    relation="<~",
    source="yang2024, Theorem F.7, the variances",
    hypotheses=[Sampled.likely, Sampled.many, Sampled.rank_reached, Sampled.gap, Sampled.learnable],
)
def variances_at_condition_numbers_of_order_one(v):
    r"""$(T_{\text{var}}^{\text{S2FT}})^2 \lesssim (\|\Sigma_\varepsilon\|_{\mathrm{op}} +
    \|\Sigma_f\|_{\mathrm{op}})\,s\,d_{\ell-1}\log^2(n + p + q)/n$, and
    $(T_{\text{var}}^{\text{LoRA}})^2 \lesssim (\text{the same})\,r(d_\ell + d_{\ell-1})\log^2(n + p + q)/n$, with high
    probability under F.1-F.4 and F.6. What F.6 takes to be of order 1 stands in the constant: $C_F^2$ and powers of
    $\kappa_*$ as in Theorem F.10.
    """
    level = (op_norm(v.noise_cov) + op_norm(v.Sigma_f)) * v.log_sq / v.n
    d_out, d_in = v.weight.shape
    kappa = condition(v.population.root) ** 6
    lora = eigengap(v) ** 2 * condition(v.population.M) ** 4 * kappa
    return [
        (v.variance("s2ft"), kappa * level * v.s * d_in),
        (v.variance("lora"), lora * level * v.r * (d_out + d_in)),
    ]
