"""linnet/generalisation-gap: in place of liu2025, eq. (12) and (37). Proof: docs/proofs/finite-sample.md."""

from linnet.trials import Sampled, claim, trace


@claim(
    "linnet/generalisation-gap",
    setting=Sampled,
    relation="==",
    proof="docs/proofs/finite-sample.md",
    hypotheses=[Sampled.gaussian],
)
def gap_of_s2ft(v):
    r"""S2FT on channels $C$, $x$ Gaussian, $n \ge m + 2$: $E[\text{loss}] - E[\text{training loss}] =
    \operatorname{tr}[P_C(\Sigma_\varepsilon + \Omega)]\,m\,(1/n + 1/(n - m - 1))$, $m$ the rank of $\mathrm{root}$:
    with all channels full fine-tuning's, of order $m/n$ and not $(m/n)^{1/2}$.
    """
    level = trace(v.P_C @ (v.noise_cov + v.Omega))
    return v.gap(v.sample.s2ft, beside=v.s2ft), level * v.m * (1 / v.n + 1 / (v.n - v.m - 1))
