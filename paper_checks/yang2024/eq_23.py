"""yang2024, eq. (23): S2FT's bias in distribution."""

from linnet.trials import Layer, claim, sq


@claim("yang2024/eq-23", setting=Layer, relation="==", source="yang2024, eq. (23)")
def bias_of_s2ft(layer):
    r"""$(T_{\text{bias}}^{\text{S2FT}})^2 = \|P_C D\Sigma_i\underline W^\top\mathrm{root}^+ - M\|_F^2 + \mathcal
    E_i(\text{full})$.
    """
    fit = layer.population
    learned = layer.P_C @ fit.cross @ fit.root.pinv()
    return layer.s2ft.train_risk, sq(learned - fit.M) + layer.full_ft.train_risk
