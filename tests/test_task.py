"""Tasks and moments: population against data, and the shifts."""

import numpy as np
import pytest
from hypothesis import given
from problems import cases

import linnet as ln


def test_noise_is_zero_unless_given():
    task = ln.Regression(np.ones((2, 3)), np.eye(3))
    np.testing.assert_array_equal(task.noise_cov, np.zeros((2, 2)))
    batch = ln.Regression(np.ones((4, 2, 3)), np.eye(3))
    assert batch.noise_cov.shape == (4, 2, 2)
    x, y = task.sample(5, rng=np.random.default_rng(0))
    np.testing.assert_allclose(y, x @ task.coef.T, atol=1e-13)


def test_sample_moments_converge_to_the_population(rng):
    a, b = rng.normal(size=(3, 3)), rng.normal(size=(2, 2))
    task = ln.Regression(rng.normal(size=(2, 3)), a @ a.T, b @ b.T, rng.normal(size=3), rng.normal(size=2))
    n = 40_000
    x, y = task.sample(n, rng=rng)
    found, wanted = ln.Moments.from_data(x, y), task.moments()
    for name, products in {
        "xx": x[:, :, None] * x[:, None, :],
        "yx": y[:, :, None] * x[:, None, :],
        "yy": y[:, :, None] * y[:, None, :],
        "x_mean": x,
        "y_mean": y,
    }.items():
        sem = products.std(axis=0) / np.sqrt(n)
        assert sem.max() < 0.2
        assert np.all(np.abs(getattr(found, name) - getattr(wanted, name)) <= 5 * sem), name


@given(case=cases())
def test_moments_and_tasks_are_two_views_of_one_thing(case):
    m = case.task.moments()
    back = ln.Regression.from_moments(m).moments()
    for name in ("xx", "yx", "yy"):
        np.testing.assert_allclose(getattr(back, name), getattr(m, name), atol=1e-9 * (1 + case.power))
    given_directly = ln.Moments(m.xx, m.yx, m.yy, m.x_mean, m.y_mean)
    assert int(given_directly.status) == 0
    x, y = case.task.sample(4, rng=case.rng)
    sample = ln.Moments.from_data(x, y)
    again = ln.Moments(sample.xx, sample.yx, sample.yy, sample.x_mean, sample.y_mean, n=4)
    problem = ln.LayerProblem(case.problem.net, case.problem.layer, again)
    same = ln.LayerProblem(case.problem.net, case.problem.layer, sample)
    size = np.linalg.norm(problem.upper_pinv) * np.linalg.norm(problem.root_pinv) * case.power**0.5
    np.testing.assert_allclose(ln.FullFT().solve(problem).delta, ln.FullFT().solve(same).delta, atol=1e-9 * size)


def test_a_task_made_of_data_has_the_data_as_its_population(rng):
    x, y = rng.normal(size=(30, 3)) + 1, rng.normal(size=(30, 2))
    task = ln.Regression.from_data(x, y)
    design = np.column_stack([x, np.ones(30)])
    fit, *_ = np.linalg.lstsq(design, y, rcond=None)
    np.testing.assert_allclose(task.coef, fit[:3].T)
    np.testing.assert_allclose(task.intercept, fit[3])
    rest = y - design @ fit
    np.testing.assert_allclose(task.noise_cov, rest.T @ rest / 30, atol=1e-13)


@pytest.fixture
def setting(rng):
    net = ln.DeepLinearNetwork.random([6, 3, 5, 4], rng=rng)
    a = rng.normal(size=(6, 6))
    return net, ln.Regression(rng.normal(size=(4, 6)), a @ a.T, 0.1 * np.eye(4), rng.normal(size=6))


def rms(shift):
    gap = shift.test.coef - shift.train.coef
    return np.sqrt(np.trace(gap @ shift.train.signal_cov @ gap.T))


def test_shifts_move_what_they_say_by_as_much_as_they_say(setting, rng):
    net, train = setting
    label = ln.Shift.label(train, 0.7, rng=rng)
    assert rms(label) == pytest.approx(0.7)
    np.testing.assert_array_equal(label.test.signal_cov, train.signal_cov)
    covariate = ln.Shift.covariate(train, 0.3, rng=rng)
    np.testing.assert_array_equal(covariate.test.coef, train.coef)
    assert np.linalg.norm(covariate.test.signal_cov - train.signal_cov) > 1e-2
    assert np.linalg.eigvalsh(covariate.test.signal_cov)[0] > -1e-12
    both = ln.Shift.both(train, 0.7, 0.3, rng=rng)
    assert rms(both) == pytest.approx(0.7)
    assert np.linalg.norm(both.test.signal_cov - train.signal_cov) > 1e-2
    assert ln.Shift.none(train).test is train
    upper, lower = net.upper(1), net.lower(1)
    row_space = np.linalg.pinv(lower) @ lower
    for shift, columns in (
        (ln.Shift.in_channels(train, net, 1, [0, 3], 0.7, rng=rng), upper[:, [0, 3]]),
        (ln.Shift.reachable(train, net, 1, 0.7, rng=rng), upper),
    ):
        gap = shift.test.coef - train.coef
        assert rms(shift) == pytest.approx(0.7)
        np.testing.assert_allclose(columns @ np.linalg.pinv(columns) @ gap, gap, atol=1e-12)
        np.testing.assert_allclose(gap @ row_space, gap, atol=1e-12)


def test_a_shift_that_no_input_shows_is_refused(rng):
    train = ln.Regression(np.ones((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ln.LinnetError, match="no label shift of size"):
        ln.Shift.label(train, 1.0, rng=rng)
    np.testing.assert_array_equal(ln.Shift.label(train, 0.0, rng=rng).test.coef, train.coef)


def test_samples_below_the_rank_keep_their_number(setting, rng):
    _, train = setting
    moments = ln.Moments.from_data(*train.sample(2, rng=rng))
    assert moments.n == 2
    assert np.linalg.matrix_rank(moments.xx) == 2


def test_nearest_psd_is_the_projection(rng):
    a = np.diag([2.0, -1.0, 0.5])
    np.testing.assert_allclose(ln.nearest_psd(a), np.diag([2.0, 0.0, 0.5]))


@pytest.mark.parametrize("mu", [0.0, 0.1, 100.0, 1000.0, 1e4])
@pytest.mark.parametrize("n", [6, 7, 10])
def test_centring_leaves_no_inputs_that_are_rounding(mu, n):
    """A constant column, and one that is the sum of two: what centring leaves of them is no direction."""
    k = np.arange(n)
    base = np.stack([k % 3, k % 5, k % 3 + k % 5], axis=1).astype(float)
    y = ((k * k) % 7)[:, None] * 1.0
    moved = np.column_stack([base[:, :2] + mu, base[:, 2] + 2 * mu, np.full(n, 0.1)])
    wanted, *_ = np.linalg.lstsq(base - base.mean(axis=0), y - y.mean(axis=0), rcond=1e-10)
    for task in (
        ln.Regression.from_data(moved, y + mu),
        ln.Regression.from_moments(ln.Moments.from_data(moved, y + mu)),
    ):
        assert np.abs(task.coef).max() < 10
        centred = base - base.mean(axis=0)
        np.testing.assert_allclose(centred @ task.coef[:, :3].T, centred @ wanted, atol=1e-9 * (1 + mu))
        np.testing.assert_allclose(task.coef[:, 3], 0, atol=1e-9)


@pytest.mark.parametrize("offset", [-0.3, np.nextafter(-0.3, 0), -0.3 - 1e-12, np.nextafter(-0.3, -1)])
@pytest.mark.parametrize("unit", [1.0, 2.0**-50, 2.0**50])
def test_an_input_that_cancels_leaves_the_bias_to_rescale(offset, unit):
    net = ln.DeepLinearNetwork(([[0.1]], [[1.0]]), ([offset * unit], [2.0 * unit]))
    problem = ln.LayerProblem(net, 1, ln.Moments.from_data([[3.0 * unit]], [[5.0 * unit]]))
    update = ln.IA3().solve(problem)
    np.testing.assert_allclose(update.bias, [3.0 * unit])
    assert problem.risk(update) < 1e-20 * unit**2


def test_what_no_input_explains_of_collinear_data_is_spare(rng):
    x = rng.normal(size=(30, 4))
    x[:, 0], x[:, 2] = 3.0, 2 * x[:, 1]
    y = rng.normal(size=(30, 3))
    moments = ln.Moments.from_data(x, y)
    best = ln.Regression.from_moments(moments)
    net = ln.DeepLinearNetwork([best.coef], [best.intercept])
    assert ln.excess_risk(net, moments) == pytest.approx(0, abs=1e-20)
    assert ln.expected_risk(net, moments) == pytest.approx(np.mean(np.sum((y - net(x)) ** 2, axis=1)))
