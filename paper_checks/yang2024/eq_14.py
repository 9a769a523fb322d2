"""yang2024, eq. (14): LoRA's bias against its rank."""

from linnet.trials import Layer, claim, cond_sq, positive_part, rank, tail_sq


def _missed_share(layer):
    """[0 v (rank Sigma_f - r)] / rank Sigma_f."""
    return positive_part(rank(layer.Z) - layer.r) / rank(layer.Z)


@claim(
    "yang2024/eq-14",
    setting=Layer,
    relation="<=",
    source="yang2024, eq. (14), as its proof arrives at it",
    hypotheses=[Layer.residual],
)
def bias_of_lora_against_rank(layer):
    r"""$\|\operatorname{SVD}_r(M) - M\|_F^2 \le \frac{0 \vee (\operatorname{rank}\Sigma_f -
    r)}{\operatorname{rank}\Sigma_f}\,\kappa_*^2(Z)\,\mathcal E_i(\text{pre})$.
    """
    bound = _missed_share(layer) * cond_sq(layer.Z) * layer.pretrained.train_risk
    return tail_sq(layer.population.M, layer.r), bound


@claim(
    "yang2024/eq-14-theorem",
    setting=Layer,
    relation="<=",
    source="yang2024, eq. (11), as Theorem F.10 prints it",
    hypotheses=[Layer.residual],
)
def bias_of_lora_as_the_theorem_prints_it(layer):
    r"""$\|\operatorname{SVD}_r(M) - M\|_F^2 \le \frac{0 \vee (\operatorname{rank}\Sigma_f -
    r)}{\operatorname{rank}\Sigma_f}\,\kappa_*^2(D\Sigma_i D^\top)\,\mathcal E_i(\text{pre})$.
    """
    bound = _missed_share(layer) * cond_sq(layer.Z @ layer.Z.T) * layer.pretrained.train_risk
    return tail_sq(layer.population.M, layer.r), bound
