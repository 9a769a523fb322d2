"""yang2024, Theorem F.11: LoRA out of distribution."""

from linnet.trials import Layer, claim, cond_sq, op_norm_sq, positive_part, rank, sq, sqrt


def _missed(layer):
    """T = [0 v (rank Sigma_f - r)] / rank Sigma_f * kappa_*^2(Sigma_f) E_i(pre)."""
    share = positive_part(rank(layer.Z) - layer.r) / rank(layer.Z)
    return share * cond_sq(layer.Z @ layer.Z.T) * layer.pretrained.train_risk


def _unreached(layer, B):
    return sq((layer.I_q - layer.P_U) @ B @ layer.root_o)


def _moved_inputs(layer):
    return sq(layer.D @ layer.root_o - layer.D @ layer.root_i @ layer.G)


def _label_shift(layer):
    return sq((layer.B_o - layer.B_i) @ layer.root_o)


def _at_least(layer, B):
    """sup over eta in (0, 1) of (1 - eta) a - 3 (1 / eta - 1) b, which is max(0, a^(1/2) - (3 b)^(1/2))^2."""
    b = _unreached(layer, B) + _moved_inputs(layer) + op_norm_sq(layer.G) * _missed(layer)
    return positive_part(sqrt(_label_shift(layer)) - sqrt(3 * b)) ** 2


def three_equal_terms(t):
    """Two outputs, two seen inputs and one unseen; r = 1 leaves the second output, as do shift and unseen input.

    sigma = (1 + 1/t, 1): as t grows rank Sigma_f - r of rank Sigma_f is what r leaves.
    """
    first = 1 + 1 / t
    seen, test = [[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 1], [0, 1, 1]]
    residual = [[first, 0, 0], [0, 1, 1]]
    shifted = [[first, 0, 0], [0, 2, 1]]
    return {
        "weights": [[[0, 0, 0], [0, 0, 0]]], "layer": 0, "rank": 1, "channels": [0], "coef_train": residual,
        "coef_test": shifted, "cov_train": seen, "cov_test": test, "x": [[0], [0], [0]], "noise": [[0], [0]],
    }  # fmt: skip


@claim(
    "yang2024/theorem-f11-upper",
    setting=Layer,
    relation="<=",
    source="yang2024, Theorem F.11, upper bound",
    proof="docs/proofs/lora-out-of-distribution.md",
    hypotheses=[Layer.residual],
    extremal=three_equal_terms,
)
def lora_out_of_distribution_at_most(layer):
    r"""$\mathcal E_o(\text{LoRA}) \lesssim \|(I - P_U) B_o\Sigma_o^{1/2}\|_F^2 + \|(B_o - B_i)\Sigma_o^{1/2}\|_F^2 +
    \|(B_i - W)(\Sigma_o^{1/2} - \Sigma_i^{1/2} G)\|_F^2 + \|G\|_{\mathrm{op}}^2\,T$, on trial with the constant $3$,
    which is proved. Here $T = \frac{0 \vee (\operatorname{rank}\Sigma_f -
    r)}{\operatorname{rank}\Sigma_f}\,\kappa_*^2(\Sigma_f)\,\mathcal E_i(\text{pre})$.
    """
    terms = _unreached(layer, layer.B_o) + _label_shift(layer) + _moved_inputs(layer)
    return layer.lora.test_risk, 3 * (terms + op_norm_sq(layer.G) * _missed(layer))


@claim(
    "yang2024/theorem-f11-lower",
    setting=Layer,
    relation=">=",
    source="yang2024, Theorem F.11, lower bound, $B = B_i$",
    hypotheses=[Layer.residual],
)
def lora_out_of_distribution_at_least(layer):
    r"""For all $\eta \in (0, 1)$: $\mathcal E_o(\text{LoRA}) \ge (1 - \eta)\,\|(B_o - B_i)\Sigma_o^{1/2}\|_F^2 -
    3(1/\eta - 1)\,[ \|(I - P_U) B_i\Sigma_o^{1/2}\|_F^2 + \|(B_i - W)(\Sigma_o^{1/2} - \Sigma_i^{1/2} G)\|_F^2 +
    \|G\|_{\mathrm{op}}^2\,T]$; the supremum over $\eta$, and $0$, is $\max(0, a^{1/2} - (3b)^{1/2})^2$, $a$ the first
    squared norm, $b$ the bracket, $T$ as in `yang2024/theorem-f11-upper`.
    """
    return layer.lora.test_risk, _at_least(layer, layer.B_i)


@claim(
    "yang2024/theorem-f11-lower-test",
    setting=Layer,
    relation=">=",
    source="yang2024, Theorem F.11, lower bound, $B = B_o$",
    hypotheses=[Layer.residual],
    replaced_by="linnet/lora-out-of-distribution",
)
def lora_out_of_distribution_at_least_by_the_test_map(layer):
    r"""The same as `yang2024/theorem-f11-lower` with $B_o$ in the place of the $B$ whose superscript cannot be read."""
    return layer.lora.test_risk, _at_least(layer, layer.B_o)
