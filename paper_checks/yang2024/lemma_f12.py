"""yang2024, Lemma F.12: S2FT's minimum-norm solution in closed form."""

from linnet.trials import Comparison, Layer, claim, sq


@claim("yang2024/lemma-f12", setting=Layer, relation="==", source="yang2024, Lemma F.12")
def s2ft_in_closed_form(layer):
    r"""With $U = U_C$ fixed, the least-norm minimiser of the empirical in-distribution risk over $V$ has
    $U_C V^\top = U_C(\overline W U_C)^+ D\Sigma\underline W^\top(\mathrm{root}^2)^+$, all of the sample; its excess
    risks in and out of distribution follow. Tried against dense least squares over $\operatorname{vec}(V)$.
    """
    fit = layer.sample
    chosen = layer.upper @ layer.U_C
    trained = chosen.pinv() @ fit.cross @ fit.gram.pinv()
    end_to_end = layer.W + chosen @ trained @ layer.lower
    return [
        Comparison(fit.least_squares(layer.U_C), "==", layer.U_C @ trained, scale=fit.step),
        Comparison(fit.s2ft.delta, "==", layer.U_C @ trained, scale=fit.step),
        Comparison(fit.s2ft.train_risk, "==", sq((layer.B_i - end_to_end) @ layer.root_i), scale=fit.spread),
        Comparison(fit.s2ft.test_risk, "==", sq((layer.B_o - end_to_end) @ layer.root_o), scale=fit.spread),
    ]
