"""Conjectures on the finite-sample expectations of S2FT and of subspace least squares."""

from linnet.trials import Sampled, claim, rank, sq, trace


@claim(
    "conjecture/s2ft-finite-sample",
    setting=Sampled,
    relation="==",
    source="our own",
    proof="docs/proofs/finite-sample.md",
    hypotheses=[Sampled.gaussian],
)
def expected_risks_of_s2ft(v):
    r"""With $\Omega = Z(I - \Pi)Z^\top$ and $v = \operatorname{tr}[P_C(\Sigma_\varepsilon + \Omega)]/(n - m - 1)$:
    $E[\mathcal E_i] = \mathcal E_i(\text{pre}) - \|P_C Z\Pi\|_F^2 + m v$, and $E[\mathcal E_o] = (\text{population
    value}) + v \operatorname{tr}[\underline W\Sigma_o\underline W^\top(\mathrm{root}^2)^+]$.
    """
    level = trace(v.P_C @ (v.noise_cov + v.Omega)) / (v.n - v.m - 1)
    seen = v.lower @ v.cov_o @ v.lower.T @ v.population.gram.pinv()
    inside = v.pretrained.train_risk - sq(v.P_C @ v.Z @ v.Pi) + v.m * level
    return [
        (v.sample.s2ft.train_risk, inside),
        (v.sample.s2ft.test_risk, v.s2ft.test_risk + level * trace(seen)),
    ]


@claim(
    "conjecture/subspace-least-squares",
    setting=Sampled,
    relation="==",
    source="our own",
    proof="docs/proofs/finite-sample.md",
    hypotheses=[Sampled.gaussian, Sampled.one_target, Sampled.learnable, Sampled.noisy],
)
def expected_risk_of_subspace_least_squares(v):
    r"""One target, $x$ Gaussian in $\mathbb R^d$: least squares in a $k$-dimensional subspace with approximation error
    $\tau^2$ and noise $\sigma^2$ has the expected risk, noise included, $(\sigma^2 + \tau^2)(N - 1)/(N - k - 1)$; and
    for $N \ge d + 2$ full fine-tuning is better iff $N > d + 1 + (d - k)\sigma^2/\tau^2$. The subspace is what tuning
    the layer reaches.
    """
    noise, missed = trace(v.noise_cov), v.full_ft.train_risk
    d, k, size = rank(v.cov_i), v.m, v.n
    subspace, full = v.test_loss(v.sample.full_ft), v.test_loss(v.least_squares_fit)
    ahead = missed * (size - d - 1) - (d - k) * noise
    return [
        (subspace, (noise + missed) * (size - 1) / (size - k - 1)),
        (full, noise * (size - 1) / (size - d - 1)),
        ((subspace - full) * ahead, ">=", 0),
    ]
