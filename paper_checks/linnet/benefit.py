"""linnet/benefit: in place of liu2025, eq. (17), (19) and Theorem 5. Proof: docs/proofs/finite-sample.md."""

from linnet.trials import Sampled, claim, rank, trace


@claim(
    "linnet/benefit",
    setting=Sampled,
    relation="==",
    proof="docs/proofs/finite-sample.md",
    hypotheses=[Sampled.gaussian, Sampled.one_target, Sampled.learnable, Sampled.noisy],
)
def benefit_of_one_more_sample(v):
    r"""One target, $x$ Gaussian, $N \ge d + 2$: one more sample lowers the expected risk of full fine-tuning by
    $\sigma^2 d/((N - d - 1)(N - d))$, and of PEFT in $k$ dimensions with approximation error $\tau^2$ by
    $(\sigma^2 + \tau^2) k/((N - k - 1)(N - k))$. Far from $N = d$ their ratio is $(1 + \tau^2/\sigma^2) k/d$: PEFT
    gains more where $\tau^2/\sigma^2 > d/k - 1$.
    """
    noise, missed = trace(v.noise_cov), v.full_ft.train_risk
    d, k, n = rank(v.cov_i), v.m, v.n
    full = v.least_squares_fit.train_risk - v.more.least_squares_fit.train_risk
    peft = v.sample.full_ft.train_risk - v.more.sample.full_ft.train_risk
    return [
        (full, noise * d / ((n - d - 1) * (n - d))),
        (peft, (noise + missed) * k / ((n - k - 1) * (n - k))),
    ]
