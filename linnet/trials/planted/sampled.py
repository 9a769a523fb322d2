"""Growing samples and widths, planted."""

from linnet.trials.algebra import condition, effective_rank, least_singular, op_norm, rank, sq, sqrt, trace
from linnet.trials.planted.base import false, true
from linnet.trials.settings.sampled import Sampled, eigengap
from linnet.trials.settings.wide import Wide

G = Sampled.gaussian
NOISY = Sampled.noisy
LARGE = (Sampled.likely, Sampled.many)

# --- expectations ----------------------------------------------------------------------------------


def _finite(taken=1, unseen=1):
    def sides(v):
        level = trace(v.P_C @ (v.noise_cov + unseen * v.Omega)) / (v.n - v.m - taken)
        return v.sample.s2ft.train_risk, v.s2ft.train_risk + v.m * level

    return sides


true("finite-sample", Sampled, "==", _finite(), G)
false("finite-sample-off-by-one", Sampled, "==", _finite(taken=0), G)
false("finite-sample-blind", Sampled, "==", _finite(unseen=0), G)
false("finite-sample-any-law", Sampled, "==", _finite())
false(
    "training-loss-unbiased",
    Sampled,
    "==",
    lambda v: (v.train_loss(v.sample.s2ft), trace(v.noise_cov) + v.s2ft.train_risk),
    G,
)
true(
    "training-loss",
    Sampled,
    "==",
    lambda v: (
        v.train_loss(v.sample.s2ft),
        trace(v.noise_cov) + v.s2ft.train_risk - trace(v.P_C @ (v.noise_cov + v.Omega)) * v.m / v.n,
    ),
    G,
)
true("sample-moments-unbiased", Sampled, "==", lambda v: (trace(v.sample.gram), trace(v.population.gram)))
true("sample-never-beats-population", Sampled, ">=", lambda v: (v.sample.s2ft.train_risk, v.s2ft.train_risk))
false("sample-as-good-as-population", Sampled, "<=", lambda v: (v.sample.s2ft.train_risk, v.s2ft.train_risk), NOISY)

# --- orders ----------------------------------------------------------------------------------------

true("variance-falls-as-1/n", Sampled, "~", lambda v: (v.variance("s2ft"), 1 / v.n), NOISY, Sampled.learnable)
false("variance-falls-as-half", Sampled, "~", lambda v: (v.variance("s2ft"), v.n**-0.5), NOISY, Sampled.learnable)
false("variance-falls-faster", Sampled, "<~", lambda v: (v.variance("s2ft"), v.n**-1.5), NOISY, Sampled.per_problem)
true("variance-falls-at-least-as-half", Sampled, "<~", lambda v: (v.variance("s2ft"), v.n**-0.5), Sampled.per_problem)


def _inverse(power):
    def sides(v):
        gram = v.population.gram
        rho = sqrt(effective_rank(gram) * v.log_sq / v.n)
        off = op_norm(v.sample.gram.pinv() - gram.pinv())
        return off, condition(v.population.root) ** 2 * rho / least_singular(gram) ** power

    return sides


SEES = Sampled.learnable
true("inverse-gram", Sampled, "<~", _inverse(1), *LARGE, SEES)
false("inverse-gram-half-the-exponent", Sampled, "<~", _inverse(0.5), *LARGE, SEES)


def _root(power):
    def sides(v):
        root = v.population.root
        rho = sqrt(effective_rank(v.population.gram) * v.log_sq / v.n)
        return op_norm(v.sample.root - root), condition(root) ** power * op_norm(root) * rho

    return sides


true("root-of-the-gram", Sampled, "<~", _root(1), *LARGE, SEES)
false("root-over-the-condition-number", Sampled, "<~", _root(-1), *LARGE, SEES)


def _condition(power):
    """Not an error at all, but a ratio whose growth is known."""
    return lambda v: (condition(v.population.root) ** power * v.n**-0.5, v.n**-0.5)


false("condition-number", Sampled, "<~", _condition(1), SEES)
false("condition-number-squared", Sampled, "<~", _condition(2), SEES)


def _s2ft(noise=1, residual=1):
    def sides(v):
        design = effective_rank(v.population.gram) * condition(v.population.root) ** 6
        level = noise * op_norm(v.noise_cov) + residual * op_norm(v.Sigma_f)
        return v.variance("s2ft"), level * (design + rank(v.P_C)) * v.s * v.log_sq / v.n

    return sides


true("s2ft-variance", Sampled, "<~", _s2ft(), *LARGE)
false("s2ft-variance-without-noise", Sampled, "<~", _s2ft(noise=0), *LARGE)
false("s2ft-variance-without-residual", Sampled, "<~", _s2ft(residual=0), *LARGE)


def _lora(gap, dimensions=True):
    def sides(v):
        level = (op_norm(v.noise_cov) + op_norm(v.Sigma_f)) * condition(v.population.root) ** 6
        if dimensions:
            covariances = (v.noise_cov, v.Sigma_f, v.population.gram)
            level = level * v.r * sum(effective_rank(c) for c in covariances)
        return v.variance("lora"), eigengap(v) ** gap * level * condition(v.population.M) ** 4 * v.log_sq / v.n

    return sides


BELOW = (Sampled.rank_reached, Sampled.gap)
true("lora-variance", Sampled, "<~", _lora(2), *LARGE, *BELOW)
false("lora-variance-whatever-the-dimension", Sampled, "<~", _lora(2, dimensions=False), *LARGE, *BELOW)
false("lora-variance-in-units", Sampled, "<~", lambda v: (v.variance("lora"), v.log_sq / v.n), *LARGE, *BELOW)
false("gram-in-units", Sampled, "<~", lambda v: (op_norm(v.sample.gram - v.population.gram), v.n**-0.5), *LARGE)
true("unbiased-noise-energy", Sampled, "==", lambda v: (sq(v.noise) / v.noise.shape[1], trace(v.noise_cov)))


def _moments(dimensions):
    """Error of the second moments, with or without the effective rank in the bound."""

    def sides(v):
        size = effective_rank(v.cov_i) if dimensions else 1
        return op_norm((1 / v.x.shape[1]) * (v.x @ v.x.T) - v.cov_i), op_norm(v.cov_i) * sqrt(size * v.log_sq / v.n)

    return sides


true("moments-by-effective-rank", Sampled, "<~", _moments(True), *LARGE)
false("moments-whatever-the-dimension", Sampled, "<~", _moments(False), *LARGE)
false(
    "variance-whatever-the-dimension",
    Sampled,
    "<~",
    lambda v: (
        v.variance("full_ft"),
        (op_norm(v.noise_cov) + op_norm(v.Sigma_f)) * condition(v.population.root) ** 6 / v.n,
    ),
    *LARGE,
)

# --- widths ----------------------------------------------------------------------------------------

true("s2ft-one-over-width", Wide, "~", lambda v: (v.s2ft(1 / v.n), 1.0))
false("s2ft-one-over-root-width", Wide, "~", lambda v: (v.s2ft(v.n**-0.5), 1.0))
false("lora-v-one-over-root-width", Wide, "~", lambda v: (v.lora(1.0, v.n**-0.5)[1], 1.0), Wide.signs)
