"""yang2024, eq. (13): LoRA's bias."""

from linnet.trials import Layer, claim, sq, svd_r


@claim("yang2024/eq-13", setting=Layer, relation="==", source="yang2024, eq. (13)")
def bias_of_lora(layer):
    r"""$(T_{\text{bias}}^{\text{LoRA}})^2 = \|\operatorname{SVD}_r(M) - M\|_F^2 + \mathcal E_i(\text{full})$."""
    M = layer.population.M
    return layer.lora.train_risk, sq(svd_r(M, layer.r) - M) + layer.full_ft.train_risk
