"""yang2024, Lemma F.9: LoRA's minimum-norm solution in closed form."""

from linnet.trials import Comparison, Layer, claim, sq, svd_r


@claim("yang2024/lemma-f9", setting=Layer, relation="==", source="yang2024, Lemma F.9")
def lora_in_closed_form(layer):
    r"""Among the minimisers of the empirical in-distribution risk over $U$ $(d_\ell, r)$ and $V$ $(d_{\ell-1}, r)$,
    the one of least $\|U\|_F^2 + \|V\|_F^2$ has $U V^\top = \overline W^+\operatorname{SVD}_r(\overline W\,\overline
    W^+ D\Sigma\underline W^\top\mathrm{root}^+)\,\mathrm{root}^+$, all of the sample; its excess risks in and out of
    distribution follow.

    That $U V^\top$ minimises the risk is tried against the optimum of the rank-constrained problem, from eigenvalues
    alone. That no other minimiser has a smaller norm follows from where it lies: with $P$, $Q$ the projectors on the
    row space of $\overline W$ and the range of $\mathrm{root}$, every minimiser has $P(U V^\top)Q$ equal to this one,
    and projecting never raises the nuclear norm, half of the least $\|U\|^2 + \|V\|^2$. Where the $r$-th and next
    singular values tie, $\operatorname{SVD}_r$ is not defined, and the lemma says nothing.
    """
    fit = layer.sample
    upper, lower, root = layer.upper, layer.lower, fit.root
    truncated = svd_r(upper @ upper.pinv() @ fit.cross @ root.pinv(), layer.r)
    printed = upper.pinv() @ truncated @ root.pinv()
    end_to_end = layer.W + upper @ upper.pinv() @ truncated @ root.pinv() @ lower
    return [
        Comparison(fit.loss_drop(printed), "==", fit.greatest_loss_drop(layer.r), scale=fit.energy),
        Comparison(upper.pinv() @ upper @ printed @ root @ root.pinv(), "==", printed, scale=fit.step),
        Comparison(fit.lora.delta, "==", printed, scale=fit.step),
        Comparison(fit.lora.train_risk, "==", sq((layer.B_i - end_to_end) @ layer.root_i), scale=fit.spread),
        Comparison(fit.lora.test_risk, "==", sq((layer.B_o - end_to_end) @ layer.root_o), scale=fit.spread),
    ]
