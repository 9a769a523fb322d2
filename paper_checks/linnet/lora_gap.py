"""linnet/lora-gap, -at-a-tie: in place of liu2025, eq. (37), for LoRA. Proof: docs/proofs/lora-gap.md."""

from linnet.trials import Sampled, claim


@claim(
    "linnet/lora-gap",
    setting=Sampled,
    relation="<~",
    proof="docs/proofs/lora-gap.md",
    hypotheses=[Sampled.noisy, Sampled.learnable, Sampled.gap, Sampled.per_problem],
)
def gap_of_lora_at_an_eigengap(v):
    r"""If $\sigma_r(M) > \sigma_{r+1}(M)$, $E[\operatorname{loss}_{\text{test}} - \operatorname{loss}_{\text{train}}]$
    of LoRA of rank $r$ is $O(1/n)$, not of order $(r/n)^{1/2}$; the constant depends on the problem, through the
    eigengap too.
    """
    return v.gap(v.sample.lora, beside=v.lora), 1 / v.n


@claim(
    "linnet/lora-gap-at-a-tie",
    setting=Sampled,
    relation="~",
    proof="docs/proofs/lora-gap.md",
    hypotheses=[Sampled.tied],
)
def gap_of_lora_at_a_tie(v):
    r"""If $\sigma_r(M) = \sigma_{r+1}(M) > 0$, the gap of `linnet/lora-gap` is of order $n^{-1/2}$: the training loss
    picks among many best updates the one that flatters the sample most.
    """
    # The population's solution is not unique; the mean of those that train coordinates is.
    share = v.r / min(v.B_i.shape)
    tuned = v.sample.lora
    return (1 - share) * v.gap(tuned, beside=v.pretrained) + share * v.gap(tuned, beside=v.full_ft), v.n**-0.5
