"""Exact risks against samples and against each other."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import assume_well_conditioned, cases

import linnet as ln


def test_risk_is_what_samples_average(rng):
    net = ln.DeepLinearNetwork.random([3, 4, 2], rng=rng, biases=True)
    a = rng.normal(size=(3, 3))
    task = ln.Regression(rng.normal(size=(2, 3)), a @ a.T, 0.5 * np.eye(2), rng.normal(size=3), rng.normal(size=2))
    n = 40_000
    x, y = task.sample(n, rng=rng)
    errors = np.sum((y - net(x)) ** 2, axis=1)
    sem = errors.std() / np.sqrt(n)
    assert sem < 0.02 * errors.mean()
    assert abs(errors.mean() - ln.expected_risk(net, task)) <= 5 * sem
    noise = np.trace(task.noise_cov)
    assert ln.expected_risk(net, task) == pytest.approx(ln.excess_risk(net, task) + noise)
    assert ln.expected_risk(net, ln.Moments.from_data(x, y)) == pytest.approx(errors.mean())


@given(case=cases())
def test_excess_risk_from_moments_equals_that_from_the_task_through_the_origin(case):
    net, task = case.problem.net, case.task
    if task.mean is None and task.intercept is None and net.biases is None:
        value = ln.excess_risk(net, task)
        assert ln.excess_risk(net, task.moments()) == pytest.approx(value, abs=1e-11 * (1 + case.power))
    assert ln.expected_risk(net, task) == pytest.approx(
        ln.expected_risk(net, task.moments()), rel=1e-10, abs=1e-12 * (1 + case.power)
    )


@given(case=cases(sample=st.just(False)), data=st.data())
def test_fine_tuning_never_raises_the_risk_it_minimises_and_more_freedom_never_hurts(case, data):
    assume_well_conditioned(case)
    problem = case.problem
    slack = 1e-10 * (1 + case.power)
    full = problem.risk(ln.FullFT().solve(problem))
    risks = [problem.risk(ln.LoRA(r, ties="first").solve(problem)) for r in range(min(problem.d_out, problem.d_in) + 1)]
    assert risks[0] == pytest.approx(ln.expected_risk(problem.net, problem.moments), abs=slack)
    assert all(a >= b - slack for a, b in itertools.pairwise(risks))
    assert risks[-1] == pytest.approx(full, abs=slack)
    channel = data.draw(st.integers(0, problem.d_out - 1))
    rows = problem.risk(ln.S2FT([channel]).solve(problem))
    assert full - slack <= rows <= risks[0] + slack


def test_forgetting_and_bias_variance(rng):
    net = ln.DeepLinearNetwork.random([4, 3, 3], rng=rng)
    train = ln.Regression(rng.normal(size=(3, 4)), np.eye(4), 0.3 * np.eye(3))
    shift = ln.Shift.label(train, 1.0, rng=rng)
    problem = ln.LayerProblem(net, 0, train.moments())
    tuned = net.updated(ln.FullFT().solve(problem))
    expected = ln.excess_risk(tuned, shift.test) - ln.excess_risk(net, shift.test)
    assert ln.forgetting(net, tuned, shift) == pytest.approx(expected)
    sample = ln.Moments.from_data(*train.sample(30, rng=rng))
    parts = ln.bias_variance(ln.FullFT(), problem, sample, train)
    assert parts.bias == pytest.approx(ln.excess_risk(tuned, train))
    fitted = net.updated(ln.FullFT().solve(ln.LayerProblem(net, 0, sample)))
    gap = fitted.product - tuned.product
    assert parts.variance == pytest.approx(np.sum(gap**2))
    for eta in (0.1, 1.0, 10.0):
        assert ln.excess_risk(fitted, train) <= (1 + eta) * parts.bias + (1 + 1 / eta) * parts.variance


def test_a_single_risk_is_a_float(rng):
    net = ln.DeepLinearNetwork.random([3, 2], rng=rng)
    task = ln.Regression(rng.normal(size=(2, 3)), np.eye(3))
    assert type(ln.excess_risk(net, task)) is float
    assert type(ln.expected_risk(net, task)) is float
    assert type(ln.excess_risk(net, task.moments())) is float
    many = ln.DeepLinearNetwork.random([3, 2], rng=rng, batch=(4, 1))
    assert ln.excess_risk(many, task).shape == (4, 1)
