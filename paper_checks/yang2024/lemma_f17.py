"""yang2024, Lemma F.17: what full fine-tuning of the layer leaves."""

from linnet.trials import Layer, claim, sq


@claim("yang2024/lemma-f17", setting=Layer, relation="==", source="yang2024, Lemma F.17")
def risk_of_full_fine_tuning(layer):
    r"""$\mathcal E_i(\text{full}) = \|Z(I - (\underline W\Sigma_i^{1/2})^\top(\mathrm{root}^2)^+\,\underline
    W\Sigma_i^{1/2})\|_F^2 + \|(I - P_U) D\Sigma_i\underline W^\top(\mathrm{root}^2)^+\,\underline
    W\Sigma_i^{1/2}\|_F^2$.
    """
    fit, carried = layer.population, layer.carried_i
    unseen = layer.Z - layer.Z @ carried.T @ fit.gram.pinv() @ carried
    unreached = (layer.I_q - layer.P_U) @ fit.cross @ fit.gram.pinv() @ carried
    return layer.full_ft.train_risk, sq(unseen) + sq(unreached)
