"""liu2025, eq. (11), (17), (19) and Theorem 5: what further data brings."""

from linnet.trials import Estimator, Hypothesis, claim, ratio, sqrt

DRIVEN = Hypothesis(
    "the training loss is driven to $L^*_H$ (tried where nothing else is in its way: without noise)",
    lambda v: [(v.expected_training_loss(), "==", v.least_loss())],
    impose="noiseless",
)


def both_sides_of_eq_11(v):
    """E[loss(theta_N)], and E[loss(theta_N) - loss_N(theta_N)] + L*_H."""
    gap = v.expected_loss() - v.expected_training_loss()
    return v.expected_loss(), gap + v.least_loss()


@claim("liu2025/eq-11", setting=Estimator, relation="==", source="liu2025, eq. (11)", hypotheses=[DRIVEN])
def error_is_gap_and_approximation(v):
    r"""With the training loss driven to $L^*_H$:
    $E[\operatorname{loss}(\theta_N)] = E[\operatorname{loss}(\theta_N) - \operatorname{loss}_N(\theta_N)] + L^*_H$.
    """
    return both_sides_of_eq_11(v)


@claim(
    "liu2025/eq-11-least-squares",
    setting=Estimator,
    relation="==",
    source="liu2025, eq. (11), as it is used: the training loss driven to its least",
    rescue=[Estimator.noiseless],
    replaced_by="linnet/generalisation-gap",
)
def error_of_least_squares_is_gap_and_approximation(v):
    r"""$E[\operatorname{loss}(\theta_N)] = E[\operatorname{loss}(\theta_N) - \operatorname{loss}_N(\theta_N)] + L^*_H$
    for the estimate of least training loss.
    """
    return both_sides_of_eq_11(v)


@claim("liu2025/eq-17", setting=Estimator, relation="==", source="liu2025, eq. (17)", replaced_by="linnet/benefit")
def derivative_of_the_gap(v):
    r"""$\frac{d}{dN}(d/N)^{1/2} = -\tfrac12(d/N)^{1/2} N^{-3/2}$; the paper writes $\sim$ and goes on to
    $-O(d N^{-3/2})$.
    """
    return -sqrt(v.d / v.N) / (2 * v.N), -sqrt(v.d / v.N) / (2 * v.N * sqrt(v.N))


@claim(
    "liu2025/eq-19",
    setting=Estimator,
    relation="<",
    source="liu2025, eq. (19)",
    hypotheses=[Estimator.fewer, Estimator.both_gain],
    replaced_by="linnet/benefit",
)
def further_data_brings_less_to_full_fine_tuning(v):
    r"""$\Delta R_{\text{full}}(N)/\Delta R_{\text{peft}}(N) = O(k/d) \ll 1$: as printed, one more sample brings full
    fine-tuning less than it brings PEFT.
    """
    return ratio(v.benefit(), v.benefit(peft=True)), 1


@claim(
    "liu2025/eq-19-sentence",
    setting=Estimator,
    relation="<=",
    source="liu2025, the sentence under eq. (19)",
    hypotheses=[Estimator.fewer, Estimator.both_gain],
    replaced_by="linnet/benefit",
)
def peft_gains_its_share(v):
    r"""Each further sample reduces PEFT's risk by $k/d$ times what it does for full fine-tuning; tried as a bound."""
    return v.benefit(peft=True), v.benefit() * v.k / v.d


@claim(
    "liu2025/theorem-5",
    setting=Estimator,
    relation="<",
    source="liu2025, Theorem 5",
    hypotheses=[Estimator.fewer, Estimator.both_gain],
    replaced_by="linnet/benefit",
)
def further_data_brings_less_to_peft(v):
    r"""The benefit of further data is smaller for PEFT than for full fine-tuning:
    $\Delta R_{\text{peft}}(N) < \Delta R_{\text{full}}(N)$.
    """
    return v.benefit(peft=True), v.benefit()
