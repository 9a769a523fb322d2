"""yang2024, Theorem F.7: S2FT and LoRA remember alike."""

from linnet.trials import Sampled, claim, condition, eigengap, op_norm


@claim(
    "yang2024/theorem-f7",
    setting=Sampled,
    relation="<~",
    source="yang2024, Theorem F.7, the variances; its biases are Lemma F.14",
    hypotheses=[Sampled.likely, Sampled.many, Sampled.budget_below_rank, Sampled.gap, Sampled.learnable],
)
def variances_at_condition_numbers_of_order_one(v):
    """(T_var^S2FT)^2 <~ (|Sigma_eps|_op + |Sigma_f|_op) s d_(l-1) log^2(n+p+q)/n, and (T_var^LoRA)^2 <~ (the same)
    r (d_l + d_(l-1)) log^2(n+p+q)/n, with high probability under F.1-F.4 and F.6. What F.6 takes to be of order 1
    stands in the constant: C_F^2 and powers of kappa_* as in Theorem F.10.
    """
    level = (op_norm(v.noise_cov) + op_norm(v.Sigma_f)) * v.log_sq / v.n
    d_out, d_in = v.weight.shape
    kappa = condition(v.population.root) ** 6
    lora = eigengap(v) ** 2 * condition(v.population.M) ** 4 * kappa
    return [
        (v.variance("s2ft"), kappa * level * v.s * d_in),
        (v.variance("lora"), lora * level * v.r * (d_out + d_in)),
    ]
