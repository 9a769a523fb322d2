"""Expected risks over samples against drawn samples, and drawn second moments against drawn data.

Every mean must agree within 5 standard errors, and each standard error is bounded, so that agreement says something.
"""

import math

import numpy as np
import pytest
import torch

import linnet as ln
from linnet.finite_sample import Expectation, frozen_expectation
from linnet.methods.frozen import kron

NAMES = ("train", "test", "variance")
REPLICATES = 5_000


def cov(d, rng, floor=0.3):
    a = rng.normal(size=(d, d))
    return floor * np.eye(d) + a @ a.T / d


def setting(widths, layer, rng, *, ranks=None, noise=1.0):
    """A layer's problem, uneven inputs and noise, and a shift of labels and covariates."""
    net = ln.DeepLinearNetwork.random(widths, rng=rng, ranks=ranks)
    p, q = widths[0], widths[-1]
    train = ln.Regression(rng.normal(size=(q, p)), cov(p, rng), noise * cov(q, rng, 0.0))
    return ln.LayerProblem(net, layer, train.moments()), ln.Shift.both(train, 0.5, 0.7, rng=rng)


def even_setting(m, rng, *, noise, q=3):
    """m features that are alike: an orthogonal layer below, uncorrelated inputs."""
    weights = (1.7 * ln.haar(m, rng), rng.normal(size=(3, m)) / np.sqrt(m), rng.normal(size=(q, 3)))
    train = ln.Regression(rng.normal(size=(q, m)), 0.6 * np.eye(m), noise * cov(q, rng, 0.0))
    problem = ln.LayerProblem(ln.DeepLinearNetwork(weights), 1, train.moments())
    return problem, ln.Shift.both(train, 0.5, 0.7, rng=rng)


def drawn_data(task, n, replicates, rng):
    """Second moments about zero of drawn data."""
    many = ln.Regression(
        np.broadcast_to(task.coef, (replicates, *task.coef.shape)), task.signal_cov, noise_cov=task.noise_cov
    )
    x, y = many.sample(n, rng=rng)
    return ln.Moments(x.mT @ x / n, y.mT @ x / n, y.mT @ y / n, n=n)


def simulated(method, problem, shift, sample):
    """Risks of the solution on each sample, computed exactly, beside its distance to the population's solution."""
    tuned = problem.net.updated(method.solve(ln.LayerProblem(problem.net, problem.layer, sample)))
    return {
        "train": ln.excess_risk(tuned, shift.train),
        "test": ln.excess_risk(tuned, shift.test),
        "variance": ln.bias_variance(method, problem, sample, shift.train).variance,
    }


def assert_mean(values, truth, *, cap, name=""):
    sem = values.std(ddof=1) / math.sqrt(len(values))
    assert sem <= cap, f"{name}: the standard error {sem:.3g} says nothing"
    assert abs(values.mean() - truth) <= 5 * sem, f"{name}: {values.mean():.6g} +- {sem:.2g}, expected {truth:.6g}"


def assert_expected(method, problem, shift, n, seed):
    stated = ln.expectation(method, problem, shift, n)
    assert stated is not None
    assert stated.order == "exact"
    found = simulated(method, problem, shift, drawn_data(shift.train, n, REPLICATES, np.random.default_rng(seed)))
    population = problem.net.updated(method.solve(problem))
    least = {
        "train": ln.excess_risk(population, shift.train),
        "test": ln.excess_risk(population, shift.test),
        "variance": 0.0,
    }
    for name in NAMES:
        truth = getattr(stated, name)
        added = abs(truth - least[name])  # what the sample's size has to do with it
        assert_mean(found[name], truth, cap=min(0.02 * truth, 0.05 * added), name=name)
    return stated


def ways(d_out, d_in, rng):
    return {
        "full": ln.FullFT(),
        "rows": ln.S2FT([0, 2]),
        "columns": ln.S2FT([0, 1, d_in - 1], form="columns"),
        "left": ln.FrozenFactorLoRA(left=rng.normal(size=(d_out, 2))),
        "right": ln.FrozenFactorLoRA(right=rng.normal(size=(d_in, 2))),
    }


@pytest.mark.parametrize("way", ["full", "rows", "columns", "left", "right"])
@pytest.mark.parametrize("ranks", [None, [2, 4, 3], [4, 4, 2]], ids=["full rank", "lower of rank 2", "upper of rank 2"])
def test_expected_risks_above_interpolation(way, ranks):
    rng = np.random.default_rng(101)
    problem, shift = setting([5, 4, 4, 3], 1, rng, ranks=ranks, noise=4.0)
    method = ways(problem.d_out, problem.d_in, rng)[way]
    assert_expected(method, problem, shift, 12, seed=1)


@pytest.mark.parametrize("way", ["full", "columns", "right"])
def test_expected_risks_where_the_inputs_themselves_lose_rank(way):
    rng = np.random.default_rng(102)
    root = rng.normal(size=(5, 3))
    net = ln.DeepLinearNetwork.random([5, 4, 4, 3], rng=rng)
    train = ln.Regression(rng.normal(size=(3, 5)), root @ root.T, 20 * cov(3, rng))
    test = ln.Regression(train.coef + 0.3 * rng.normal(size=(3, 5)), cov(5, rng))  # on inputs that training never saw
    problem, shift = ln.LayerProblem(net, 1, train.moments()), ln.Shift(train, test)
    assert_expected(ways(4, 4, rng)[way], problem, shift, 11, seed=2)


def test_subspace_least_squares():
    rng = np.random.default_rng(103)
    size, k = 14, 2
    problem, shift = setting([5, 4, 1, 1], 1, rng)
    method = ln.Subspace(rng.normal(size=(4, k)))
    stated = assert_expected(method, problem, shift, size, seed=3)
    noise = float(np.trace(shift.train.noise_cov))
    missed = ln.excess_risk(problem.net.updated(method.solve(problem)), shift.train)
    assert missed > 0.1 * noise
    assert noise + stated.train == pytest.approx((noise + missed) * (size - 1) / (size - k - 1), rel=1e-12)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("way", ["full", "rows", "columns", "left", "right"])
def test_expected_risks_below_interpolation(way, n):
    rng = np.random.default_rng(104)
    problem, shift = even_setting(9, rng, noise=20.0)
    method = ways(3, 9, rng)[way]
    if way == "columns":  # as many features, as even: a selection of rows of an orthogonal matrix
        method = ln.S2FT(range(1, 9), form="columns")
    if way == "right":
        method = ln.FrozenFactorLoRA(right=ln.haar(9, rng)[:, :8])
    assert_expected(method, problem, shift, n, seed=4)


@pytest.mark.parametrize("n", [2, 4])
def test_expected_risks_below_interpolation_without_noise(n):
    rng = np.random.default_rng(105)
    problem, shift = even_setting(5, rng, noise=0.0)
    assert_expected(ln.FullFT(), problem, shift, n, seed=5)


@pytest.mark.parametrize("n", [5, 6, 7])
def test_without_noise_the_first_full_sample_finds_the_population_solution(n):
    rng = np.random.default_rng(106)
    problem, shift = even_setting(5, rng, noise=0.0)
    stated = ln.expectation(ln.S2FT([1]), problem, shift, n)
    found = simulated(ln.S2FT([1]), problem, shift, shift.train.sample_moments(n, rng=rng))
    assert stated.variance == 0.0
    for name in NAMES:
        assert found[name] == pytest.approx(getattr(stated, name), rel=1e-9, abs=1e-12)


def test_a_sample_that_only_just_fits_has_no_finite_mean():
    rng = np.random.default_rng(107)
    for problem, shift in (even_setting(5, rng, noise=1.0), setting([6, 5, 3, 3], 1, rng)):
        for n in (4, 5, 6):
            assert ln.expectation(ln.FullFT(), problem, shift, n) == Expectation(math.inf, math.inf, math.inf)
        assert math.isfinite(ln.expectation(ln.FullFT(), problem, shift, 7).train)
        unseen = ln.Shift(shift.train, ln.Regression(shift.test.coef, np.zeros_like(shift.test.signal_cov)))
        assert ln.expectation(ln.FullFT(), problem, unseen, 5).test == 0.0


@pytest.mark.parametrize(("n", "tail"), [(3, 1.0), (4, 0.5), (5, 1.0), (6, 1.5)])
def test_the_mean_is_infinite_where_the_tail_says_so(n, tail):
    """P(variance > t) falls like t^-tail, tail = (|m - n| + 1) / 2, by Hill's estimate; means are finite above 1."""
    rng = np.random.default_rng(120)
    problem, shift = even_setting(4, rng, noise=1.0, q=1)
    sample = shift.train.sample_moments(n, rng=rng, batch=(60_000,))
    variance = ln.bias_variance(ln.FullFT(), problem, sample, shift.train).variance
    top = np.sort(variance)[-601:]
    assert 1 / np.mean(np.log(top[1:] / top[0])) == pytest.approx(tail, abs=5 * tail / math.sqrt(600))
    assert math.isinf(ln.expectation(ln.FullFT(), problem, shift, n).variance) == (tail <= 1)


def test_a_method_that_reaches_nothing_stays_where_it_is():
    problem, shift = setting([5, 4, 3, 3], 1, np.random.default_rng(108))
    for method in (
        ln.FrozenFactorLoRA(right=np.zeros((4, 2))),
        ln.FrozenFactorLoRA(left=np.zeros((3, 2))),
        ln.FrozenFactorLoRA(right=np.zeros((4, 0))),
        ln.FrozenFactorLoRA(left=np.zeros((3, 0))),
        ln.LoRA(0),
    ):
        for n in (4, 20):
            stated = ln.expectation(method, problem, shift, n)
            assert stated.train == pytest.approx(ln.excess_risk(problem.net, shift.train))
            assert stated.test == pytest.approx(ln.excess_risk(problem.net, shift.test))
            assert stated.variance == 0.0


# --- LoRA ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "rank", "ranks"),
    [
        ([5, 5, 5, 4], 2, None),  # more features than outputs
        ([6, 3, 5, 5], 1, None),  # fewer
        ([5, 5, 5, 5], 2, [4, 5, 4]),  # a lower and an upper product that lose rank
    ],
)
def test_the_variance_of_lora_to_first_order(widths, rank, ranks):
    rng = np.random.default_rng(109)
    problem, shift = setting(widths, 1, rng, ranks=ranks)
    s = problem.residual_svd[1]
    assert s[rank] > 0.2 * s[0], "the truncated part must matter"
    off = {}
    for n in (300, 2000, 8000):
        stated = ln.expectation(ln.LoRA(rank), problem, shift, n)
        assert (stated.train, stated.test, stated.order) == (None, None, "first")
        sample = shift.train.sample_moments(n, rng=np.random.default_rng(6), batch=(15_000,))
        found = ln.bias_variance(ln.LoRA(rank), problem, sample, shift.train).variance / stated.variance
        sem = found.std(ddof=1) / math.sqrt(len(found))
        assert sem <= 0.01
        off[n] = abs(found.mean() - 1)
        # The next order is a multiple of 1/n: what n = 300 leaves is the measure of it.
        assert off[n] <= 5 * sem + 300 / n * off[300]
    assert off[2000] <= 0.03
    assert off[8000] <= 0.02


def test_lora_that_cuts_nothing_off_is_full_fine_tuning():
    rng = np.random.default_rng(110)
    problem, shift = setting([5, 4, 3, 3], 1, rng)
    assert ln.expectation(ln.LoRA(3), problem, shift, 12) == ln.expectation(ln.FullFT(), problem, shift, 12)
    narrow, moved = setting([5, 4, 4, 3], 1, rng, ranks=[2, 4, 3])
    assert ln.expectation(ln.LoRA(2), narrow, moved, 12) == ln.expectation(ln.FullFT(), narrow, moved, 12)
    assert ln.expectation(ln.LoRA(1), narrow, moved, 12).order == "first"


def test_lora_of_no_lower_rank_than_the_sample_has_full_fine_tunings_risks():
    rng = np.random.default_rng(111)
    problem, shift = even_setting(8, rng, noise=5.0)
    stated = ln.expectation(ln.LoRA(2), problem, shift, 2)
    assert stated.variance is None
    found = simulated(ln.LoRA(2), problem, shift, drawn_data(shift.train, 2, REPLICATES, rng))
    for name in ("train", "test"):
        assert_mean(found[name], getattr(stated, name), cap=0.02 * getattr(stated, name), name=name)


def test_what_lora_has_no_closed_form_for():
    rng = np.random.default_rng(112)
    problem, shift = setting([5, 4, 3, 3], 1, rng)
    assert ln.expectation(ln.LoRA(2), problem, shift, 5) is None  # first order needs n >= m + 2
    with pytest.raises(ln.LinnetError, match="give 0 to 3"):
        ln.expectation(ln.LoRA(4), problem, shift, 20)
    net = ln.DeepLinearNetwork((np.zeros((3, 4)),))
    for values, rank, ties in (([2.0, 1.0, 1.0], 2, "first"), ([2.0, 0.0, 0.0], 2, "refuse")):
        train = ln.Regression(np.diag(values) @ np.eye(3, 4), np.eye(4), np.eye(3))
        flat = ln.LayerProblem(net, 0, train.moments())
        assert ln.expectation(ln.LoRA(rank, ties), flat, ln.Shift.none(train), 20) is None
        assert ln.expectation(ln.LoRA(1), flat, ln.Shift.none(train), 20).variance > 0
    tied = ln.Regression(np.eye(3, 4), np.eye(4), np.eye(3))
    with pytest.raises(ln.LinnetError, match="tie"):
        ln.expectation(ln.LoRA(2), ln.LayerProblem(net, 0, tied.moments()), ln.Shift.none(tied), 20)


# --- what it is asked ----------------------------------------------------------------------------


def test_two_ends_are_the_directions_of_the_method():
    rng = np.random.default_rng(113)
    problem, _ = setting([5, 4, 3, 3], 1, rng)
    for method in ways(3, 4, rng).values():
        assert np.array_equal(kron(*method.ends(problem)), method.directions(problem))
    single, _ = setting([5, 4, 1, 2], 1, rng)
    subspace = ln.Subspace(rng.normal(size=(4, 2)))
    assert np.array_equal(kron(*subspace.ends(single)), subspace.directions(single))
    for method in (ln.LoRA(1), ln.IA3(), ln.BitFit(), ln.SparseFT(np.eye(3, 4) > 0), ln.Subspace(np.ones((12, 1)))):
        assert method.ends(problem) is None
        if not isinstance(method, ln.LoRA):
            assert ln.expectation(method, problem, ln.Shift.none(task_of(problem)), 20) is None


def task_of(problem):
    return ln.Regression.from_moments(problem.moments)


def test_where_nothing_is_known_and_what_is_refused():
    rng = np.random.default_rng(114)
    problem, shift = setting([6, 6, 3, 3], 1, rng)
    assert ln.expectation(ln.FullFT(), problem, shift, 3) is None  # uneven features below interpolation
    assert ln.expectation(ln.FrozenFactorLoRA(right=np.eye(6)[:, :1]), problem, shift, 3) is not None
    biased = ln.DeepLinearNetwork.random([6, 6, 3, 3], rng=rng, biases=True)
    assert ln.expectation(ln.FullFT(), ln.LayerProblem(biased, 1, shift.train.moments()), shift, 20) is None
    off = ln.Regression(shift.train.coef, shift.train.signal_cov, mean=np.ones(6))
    with_mean = ln.LayerProblem(problem.net, 1, off.moments())
    assert ln.expectation(ln.FullFT(), with_mean, ln.Shift.none(off), 20) is None
    assert ln.expectation(ln.FullFT(), problem, ln.Shift(shift.train, off), 20) is None
    for n in (0, 2.5, True):
        with pytest.raises(ln.LinnetError, match="at least 1"):
            ln.expectation(ln.FullFT(), problem, shift, n)
    sample = ln.LayerProblem(problem.net, 1, shift.train.sample_moments(20, rng=rng))
    for given, moved in ((sample, shift), (problem, ln.Shift(shift.test, shift.train))):
        with pytest.raises(ln.LinnetError, match=r"shift\.train"):
            ln.expectation(ln.FullFT(), given, moved, 20)


@pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
def test_a_batch_is_its_elements(xp):
    rng = np.random.default_rng(115)
    net = ln.DeepLinearNetwork.random([3, 3, 3], rng=rng, batch=(2, 1))
    train = ln.Regression(rng.normal(size=(3, 3, 3)), cov(3, rng), cov(3, rng))
    shift = ln.Shift.both(train, 0.5, 0.7, rng=rng)
    problem = ln.LayerProblem(net, 1, train.moments())
    for method in (ln.FullFT(), ln.LoRA(1)):
        stated = ln.expectation(method, problem.to(xp), shift.to(xp), 12)
        for i, j in np.ndindex(2, 3):
            own = ln.Regression(train.coef[j], train.signal_cov, train.noise_cov)
            moved = ln.Regression(shift.test.coef[j], shift.test.signal_cov[j], train.noise_cov)
            alone = ln.LayerProblem(ln.DeepLinearNetwork(tuple(w[i, 0] for w in net.weights)), 1, own.moments())
            single = ln.expectation(method, alone, ln.Shift(own, moved), 12)
            for name in NAMES:
                value = getattr(stated, name)
                assert (value is None) == (getattr(single, name) is None)
                if value is not None:
                    assert float(value[i, j]) == pytest.approx(getattr(single, name), rel=1e-9)


# --- drawn second moments ------------------------------------------------------------------------


def uneven_task(kind):
    rng = np.random.default_rng(116)
    q, p = 2, 4
    signal = rng.normal(size=(p, 2))
    signal_cov = signal @ signal.T if kind == "few inputs" else cov(p, rng)
    noise_cov = np.array([[1.0, 0.4], [0.4, 0.5]])
    if kind == "few noises":
        noise_cov = np.array([[1.0, 2.0], [2.0, 4.0]])
    return ln.Regression(rng.normal(size=(q, p)), signal_cov, None if kind == "quiet" else noise_cov)


def statistics(m):
    """What least squares sees, and with it the solution and what it leaves."""
    power = np.trace(m.xx, axis1=-2, axis2=-1) * np.trace(m.yy, axis1=-2, axis2=-1)
    return np.stack(
        [
            *(m.xx[..., 0, 0], m.xx[..., 0, 1], m.yx[..., 0, 1], m.yx[..., 1, 0], m.yy[..., 0, 1], m.yy[..., 1, 1]),
            *(
                np.sqrt(np.sum(m.yx**2, axis=(-2, -1))),
                np.sqrt(power),
                m.roots[2],
                np.linalg.det(m.xx + 0.1 * np.eye(4)),
            ),
            np.minimum(np.sum(m.coef**2, axis=(-2, -1)), 50.0),
        ]
    )


@pytest.mark.parametrize("kind", ["full", "few inputs", "few noises", "quiet"])
@pytest.mark.parametrize("n", [1, 3, 5, 6, 30])
def test_drawn_moments_are_distributed_as_those_of_drawn_data(kind, n):
    task, count = uneven_task(kind), 10_000
    drawn = task.sample_moments(n, rng=np.random.default_rng(7), batch=(count,))
    root, seen, spare = drawn.roots
    assert drawn.n == n
    assert drawn.xx.shape == (count, 4, 4)
    np.testing.assert_allclose(root @ root.mT, drawn.xx, atol=1e-12)
    np.testing.assert_allclose(seen @ root.mT, drawn.yx, atol=1e-12)
    power = np.trace(drawn.yy, axis1=-2, axis2=-1)
    np.testing.assert_allclose(np.sum(seen**2, axis=(-2, -1)) + spare, power, rtol=1e-10, atol=1e-12)
    gone = ~np.any(root != 0, axis=-2, keepdims=True)
    assert not np.any(np.where(gone, seen, 0.0)), "what no input has explains nothing"
    assert not np.any(spare) if kind == "quiet" else np.all(spare >= 0)

    ours, theirs = statistics(drawn), statistics(drawn_data(task, n, count, np.random.default_rng(8)))
    for a, b in zip(ours, theirs, strict=True):
        slack = 1e-9 * (np.abs(b).max() + power.max())
        for moment in (lambda v: v, lambda v: (v - v.mean()) ** 2):
            u, v = moment(a), moment(b)
            sem = math.sqrt((u.var() + v.var()) / count)
            assert sem <= max(0.12 * abs(v).mean(), slack)
            assert abs(u.mean() - v.mean()) <= 5 * sem + slack


def test_drawn_moments_of_a_batch_of_tasks_and_of_samples_without_number():
    rng = np.random.default_rng(117)
    few = rng.normal(size=(4, 2))
    task = ln.Regression(rng.normal(size=(3, 1, 2, 4)), np.stack([cov(4, rng), few @ few.T]), cov(2, rng))
    drawn = task.sample_moments(10**12, rng=rng, batch=(5,))
    own = task.moments()
    assert drawn.xx.shape == (5, 3, 2, 4, 4)
    assert drawn.batch_shape == (5, 3, 2)
    for name in ("xx", "yx", "yy", "coef"):
        np.testing.assert_allclose(
            getattr(drawn, name), np.broadcast_to(getattr(own, name), getattr(drawn, name).shape), atol=1e-4
        )
    assert np.all(np.any(drawn.roots[0] != 0, axis=-2).sum(axis=-1)[..., 1] == 2)


def test_drawn_moments_square_nothing():
    rng = np.random.default_rng(118)
    nearly_one = 1 - 1e-11
    task = ln.Regression(rng.normal(size=(2, 2)), np.array([[1.0, nearly_one], [nearly_one, 1.0]]))
    drawn = task.sample_moments(40, rng=rng)
    assert np.abs(drawn.coef - task.coef).max() < 1e-9
    multiplied_out = ln.Moments(drawn.xx, drawn.yx, drawn.yy, n=40)
    assert np.abs(multiplied_out.coef - task.coef).max() > 1e-7


def test_drawn_moments_refuse_what_they_do_not_mean():
    rng = np.random.default_rng(119)
    task = uneven_task("full")
    for n in (0, 1.5, True):
        with pytest.raises(ln.LinnetError, match="at least 1"):
            task.sample_moments(n, rng=rng)
    with pytest.raises(ln.LinnetError, match="default_rng"):
        task.sample_moments(3, rng=5)
    for batch in (3, (-1,), (2.5,)):
        with pytest.raises(ln.LinnetError, match="batch"):
            task.sample_moments(3, rng=rng, batch=batch)
    for extra in ({"mean": np.ones(4)}, {"intercept": np.ones(2)}):
        off = ln.Regression(task.coef, task.signal_cov, task.noise_cov, **extra)
        with pytest.raises(ln.LinnetError, match=r"sample\(\)"):
            off.sample_moments(3, rng=rng)
    coef = np.stack([task.coef, np.full((2, 4), np.nan)])
    half = ln.Regression(coef, task.signal_cov, task.noise_cov).sample_moments(3, rng=rng, batch=(2,))
    assert half.status.tolist() == [[0, 1], [0, 1]]
    assert np.all(np.isfinite(half.yx[:, 0]))
    assert np.all(np.isnan(half.yx[:, 1]))


@pytest.mark.parametrize("frozen", ["U", "V"])
@pytest.mark.parametrize(("rank", "n"), [(1, 14), (2, 40), (4, 14), (6, 30)])
def test_a_frozen_factor_in_the_mean_over_its_draws(frozen, rank, n):
    """Orthogonal layers, one of them narrow; samples and factors drawn anew each time."""
    rng = np.random.default_rng([rank, n, frozen == "U"])
    net = ln.DeepLinearNetwork.with_spectra([7, 6, 6, 5], [[2.0] * 6, [1.0, 0.5, 0.3], [1.5] * 4], rng=rng)
    train = ln.Regression(rng.normal(size=(5, 7)), np.eye(7), np.diag([0.1, 0.5, 1.0, 0.3, 0.2]))
    shift = ln.Shift.none(train)
    problem = ln.LayerProblem(net, 1, train.moments())
    said = frozen_expectation(frozen, rank, problem, shift, n)
    k = 30_000
    sample = ln.LayerProblem(net, 1, train.sample_moments(n, rng=rng, batch=(k,)))
    factor = rng.normal(size=(k, 6, rank))
    method = ln.FrozenFactorLoRA(left=factor) if frozen == "U" else ln.FrozenFactorLoRA(right=factor)
    tuned, best = (net.updated(method.solve(p)) for p in (sample, problem))
    risks = ln.excess_risk(tuned, train)
    distance = ln.excess_risk(tuned, ln.Regression(best.product, train.signal_cov))
    for values, mean in ((risks, said.train), (distance, said.variance)):
        error = np.std(values) / np.sqrt(k)
        assert error < 0.02 * mean
        assert abs(np.mean(values) - mean) < 5 * error
    whole = frozen_expectation(frozen, rank, problem, shift, float("inf"))
    fixed = ln.excess_risk(best, train)
    assert abs(np.mean(fixed) - whole.train) < 5 * np.std(fixed) / np.sqrt(k) + 1e-12
    assert whole.variance == 0


def test_a_frozen_factor_between_uneven_layers_has_no_closed_form():
    rng = np.random.default_rng(0)
    net = ln.DeepLinearNetwork.random([5, 4, 4, 3], rng=rng)
    shift = ln.Shift.none(ln.Regression(rng.normal(size=(3, 5)), np.eye(5)))
    problem = ln.LayerProblem(net, 1, shift.train.moments())
    assert frozen_expectation("U", 1, problem, shift, 50) is None
    assert frozen_expectation("V", 1, problem, shift, 50) is None
    even = ln.DeepLinearNetwork.with_spectra([5, 4, 4, 3], [[1.0] * 4, [1.0] * 4, [1.0] * 3], rng=rng)
    problem = ln.LayerProblem(even, 1, shift.train.moments())
    assert frozen_expectation("V", 2, problem, shift, 3) is None  # fewer samples than features and two
    assert frozen_expectation("V", 2, problem, shift, 4) is not None
    with pytest.raises(ln.LinnetError, match="rank 0"):
        frozen_expectation("U", 0, problem, shift, 50)
