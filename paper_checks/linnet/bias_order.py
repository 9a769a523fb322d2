"""linnet/bias-order: in place of yang2024, Lemma F.14. Proof: docs/proofs/bias-order.md."""

from linnet.trials import Layer, claim, tail_sq


@claim("linnet/bias-order", setting=Layer, relation="<=", proof="docs/proofs/bias-order.md")
def biases_in_order(layer):
    r"""For every $r$ and $s$: $\mathcal E_i(\text{full}) \le (T_{\text{bias}}^{\text{LoRA}})^2$, and $\mathcal
    E_i(\text{full}) + \sum_{j>s}\sigma_j(M)^2 \le (T_{\text{bias}}^{\text{S2FT}})^2 \le \mathcal E_i(\text{full}) +
    \delta^2\,\kappa_*^2(\overline W)\,\mathcal E_i(\text{pre})$.

    Hence LoRA of rank $r$ has no larger bias than S2FT on $s$ channels if $s \le r$, or if $M$ has rank at most $r$;
    for $s > r$, which matched budgets bring about, the order can be either.
    """
    full, lora, s2ft = (m.train_risk for m in (layer.full_ft, layer.lora, layer.s2ft))
    return [
        (full, lora),
        (full + tail_sq(layer.population.M, layer.s), s2ft),
        (s2ft, full + layer.delta_sq * layer.kappa_upper_sq * layer.pretrained.train_risk),
    ]
