"""yang2024, Sec. 4.1: fine-tuning U alone, the column form of S2FT."""

from linnet.trials import Layer, claim, ratio, sq


@claim(
    "yang2024/fine-tune-u",
    setting=Layer,
    relation="==",
    source="yang2024, Sec. 4.1, similar conclusions for $U$",
)
def closed_form_of_the_columns(layer):
    r"""With $V = V_C$ fixed, the least-norm minimiser over $U$ has $U V_C^\top = \overline W^+ D\Sigma\underline
    W^\top V_C(V_C^\top\underline W\Sigma\underline W^\top V_C)^+ V_C^\top$: the risk's gradient on the columns is zero
    there, and $U$ lies in the row space of $\overline W$ on one side and in the range of
    $V_C^\top\underline W\Sigma\underline W^\top V_C$ on the other, so that none is shorter.
    """
    fit, V = layer.population, layer.V_C
    delta = layer.upper.pinv() @ fit.cross @ V @ (V.T @ fit.gram @ V).pinv() @ V.T
    stationary = layer.upper.T @ (fit.cross - layer.upper @ delta @ fit.gram) @ V
    on_range = layer.upper.pinv() @ layer.upper @ delta @ (V @ V.T @ fit.gram @ V) @ (V.T @ fit.gram @ V).pinv() @ V.T
    return [(stationary, stationary - stationary), (delta, on_range)]


@claim(
    "yang2024/fine-tune-u-risk",
    setting=Layer,
    relation="<=",
    source="yang2024, Sec. 4.1, counterpart of Theorem 4.2",
    hypotheses=[Layer.no_covariate_shift, Layer.realisable, Layer.test_residual],
)
def columns_forget_little(layer):
    r"""With $\|P_U(B_o - B_i)\Sigma^{1/2}\Pi_C\|_F^2 \le \epsilon^2\,\mathcal E_o(\text{pre})$, $\Pi_C$ the projector
    on the row space of $V_C^\top\underline W\Sigma^{1/2}$:
    $\mathcal E_o(\text{column S2FT}) \le (1 + 3\epsilon^2)\,\mathcal E_o(\text{pre})$.
    """
    seen = layer.V_C.T @ layer.carried_i
    Pi_C = seen.pinv() @ seen
    tuned = sq((layer.B_o - layer.W) @ layer.root_i - layer.P_U @ layer.Z @ Pi_C)
    epsilon_sq = ratio(sq(layer.P_U @ (layer.B_o - layer.B_i) @ layer.root_i @ Pi_C), layer.pretrained.test_risk)
    return tuned, (1 + 3 * epsilon_sq) * layer.pretrained.test_risk
