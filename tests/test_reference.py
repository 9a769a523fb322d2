"""The twins themselves, and closed forms against exact arithmetic as problems become ill-conditioned."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from flint import fmpq_mat

import linnet as ln
from linnet import reference
from linnet.errors import RankError, ShapeError
from linnet.reference.exact import pseudo_inverse, rational

ROOT = Path(__file__).parent.parent


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def whole_numbers(rng, ranks=(2, 2, 2), biases=True):
    """A problem whose floats are small integers: ranks and solutions are exact."""
    widths = [3, 3, 4, 3]

    def layer(m, n, r):
        return (rng.integers(-2, 3, size=(m, r)) @ rng.integers(-2, 3, size=(r, n))).astype(float)

    weights = tuple(layer(m, n, r) for m, n, r in zip(widths[1:], widths[:-1], ranks, strict=True))
    offsets = tuple(rng.integers(-2, 3, size=m).astype(float) for m in widths[1:]) if biases else None
    x, y = rng.integers(-3, 4, size=(8, 3)).astype(float), rng.integers(-3, 4, size=(8, 3)).astype(float)
    return ln.LayerProblem(ln.DeepLinearNetwork(weights, offsets), 1, ln.Moments.from_data(x, y))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("biases", [True, False])
def test_exact_and_dense_twins_and_closed_forms_agree_at_exact_rank_loss(seed, biases):
    rng = np.random.default_rng(seed)
    problem = whole_numbers(rng, biases=biases)
    mask = rng.random((4, 3)) < 0.6
    mask[0, 0] = True
    for method in (
        ln.FullFT(),
        ln.S2FT([0, 3]),
        ln.S2FT([1], form="columns"),
        ln.SparseFT(mask),
        ln.FrozenFactorLoRA(left=rng.integers(-2, 3, size=(4, 3))),
        ln.FrozenFactorLoRA(right=rng.integers(-2, 3, size=(3, 2))),
        ln.BitFit(),
        ln.IA3(),
        ln.IA3("input"),
        ln.Subspace(rng.integers(-2, 3, size=(12, 4))),
    ):
        exact, dense = reference.exact_least_squares(method, problem), reference.least_squares(method, problem)
        update = method.solve(problem)
        size = np.linalg.norm(exact.to_numpy()) + 1e-3
        np.testing.assert_allclose(dense.delta, exact.to_numpy(), atol=1e-10 * size, rtol=0)
        np.testing.assert_allclose(update.delta, exact.to_numpy(), atol=1e-10 * size, rtol=0)
        if dense.bias is not None:
            bias = rational(dense.bias[:, None]) - exact.bias
            assert max(abs(float(b)) for b in bias.entries()) < 1e-10
            np.testing.assert_allclose(update.bias, dense.bias, atol=1e-10)
    for rank in range(4):
        exact = reference.exact_low_rank(problem, rank)
        size = np.linalg.norm(exact.to_numpy()) + 1e-3
        for other in (reference.low_rank(problem, rank), ln.LoRA(rank).solve(problem)):
            np.testing.assert_allclose(other.delta, exact.to_numpy(), atol=1e-9 * size, rtol=0)


def test_exact_pseudo_inverse_meets_the_conditions_of_penrose(rng):
    for shape, rank in (((3, 5), 2), ((4, 2), 2), ((3, 3), 0), ((1, 4), 1)):
        a = rng.integers(-3, 4, size=(shape[0], rank)) @ rng.integers(-3, 4, size=(rank, shape[1]))
        m = fmpq_mat(*shape, [int(v) for v in a.ravel()])
        p = pseudo_inverse(m)
        assert m * p * m == m
        assert p * m * p == p
        assert (m * p).transpose() == m * p
        assert (p * m).transpose() == p * m


def test_the_exact_truncation_refuses_a_tie_and_takes_a_multiple_value_whole():
    net = ln.DeepLinearNetwork((np.zeros((3, 3)),))
    task = ln.Regression(np.diag([2.0, 2.0, 1.0]), np.eye(3))
    problem = ln.LayerProblem(net, 0, task.moments())
    with pytest.raises(RankError, match="tie"):
        reference.exact_low_rank(problem, 1)
    np.testing.assert_allclose(reference.exact_low_rank(problem, 2).to_numpy(), np.diag([2.0, 2.0, 0.0]), atol=1e-15)


def test_a_certificate_notices_what_is_not_optimal_or_not_least(rng):
    net = ln.DeepLinearNetwork.random([4, 3, 5, 2], rng=rng)
    problem = ln.LayerProblem(net, 1, ln.Regression(rng.normal(size=(2, 4)), np.eye(4)).moments())
    update = ln.LoRA(1).solve(problem)
    assert reference.certify_low_rank(problem, update, 1).worst < 1e-12

    def with_factors(u, v):
        return ln.Update(u @ v.T, 1, factors=(u, v))

    u, v = update.left, update.right
    assert reference.certify_low_rank(problem, with_factors(1.01 * u, v), 1).excess > 1e-6
    hidden = np.linalg.svd(net.upper(1))[2][-1:].T
    assert reference.certify_low_rank(problem, with_factors(u + hidden, v), 1).left_leak > 1e-3
    assert reference.certify_low_rank(problem, with_factors(2 * u, v / 2), 1).factor_gap > 1e-3
    full = ln.LoRA(2).solve(problem)
    assert reference.certify_low_rank(problem, full, 1).rank_excess > 1e-3


def test_twins_take_one_problem_at_a_time(rng):
    net = ln.DeepLinearNetwork.random([3, 2], rng=rng, batch=(2,))
    problem = ln.LayerProblem(net, 0, ln.Regression(rng.normal(size=(2, 3)), np.eye(3)).moments())
    for act in (
        lambda: reference.least_squares(ln.FullFT(), problem),
        lambda: reference.exact_least_squares(ln.FullFT(), problem),
        lambda: reference.optimal_risk(problem, 1),
        lambda: reference.exact_low_rank(problem, 1),
    ):
        with pytest.raises(ShapeError, match="one problem at a time"):
            act()


@pytest.mark.parametrize("side", ["upper", "lower", "covariance"])
def test_errors_grow_no_faster_than_the_condition_number(side):
    bench = load(ROOT / "benchmarks" / "conditioning.py")
    for condition in (1.0, 1e3, 1e6, 1e9, 1e12):
        for seed in range(3):
            rng = np.random.default_rng([7, seed])
            layer = bench.problem(side, condition, rng)
            for name, error in bench.errors(layer, rng):
                assert error <= 100 * bench.EPS * condition, (name, condition, error)


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("seed", range(3))
def test_rescalings_of_nearly_parallel_channels_do_not_square_the_condition_number(angle, seed):
    """Two channels that do nearly the same: their normal equations have the condition number 1/angle^2."""
    rng = np.random.default_rng(seed)
    w, upper = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    w[1] = w[0] + angle * rng.normal(size=4)
    upper[:, 1] = upper[:, 0] + angle * rng.normal(size=4)
    net = ln.DeepLinearNetwork((ln.haar(4, rng), w, upper))
    start = ln.LayerProblem(net, 1, ln.Regression(net.product, np.eye(4)).moments())
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = mask[3, 3] = True
    for method in (ln.IA3(), ln.SparseFT(mask)):
        # A residual that the method can remove: what is left over would square the condition number for anyone.
        p = method.directions(start)
        wanted = (p @ rng.normal(size=p.shape[-1])).reshape(4, 4)
        task = ln.Regression(net.product + upper @ wanted @ net.weights[0], np.eye(4))
        problem = ln.LayerProblem(net, 1, task.moments())
        error = reference.relative_error(method.solve(problem).delta, reference.exact_least_squares(method, problem))
        condition = np.linalg.cond(np.kron(upper, np.eye(4)) @ p)
        assert error <= 100 * np.finfo(float).eps * condition, (type(method), error)


@pytest.mark.parametrize("unit", [1e-8, 1e-4, 1e4, 1e8])
@pytest.mark.parametrize("n", [3, 40])
def test_an_input_in_other_units_is_the_same_problem(unit, n, rng):
    """One input a hundred million times larger: its square is beyond float64 beside the others'."""
    x, y = rng.normal(size=(n, 5)) + 1.0, rng.normal(size=(n, 2))
    scale = np.array([1.0, unit, 1.0, 1.0, 1.0])
    for first in (x[:, :5], x @ np.diag([1, 1, 1, 1, 0.0])):
        for make in (ln.Moments.from_data, lambda x, y: ln.Regression.from_data(x, y).moments()):
            net = ln.DeepLinearNetwork.random([5, 4, 2], rng=np.random.default_rng(0), biases=True)
            moved = ln.DeepLinearNetwork((net.weights[0] / scale, net.weights[1]), net.biases)
            here, there = (ln.LayerProblem(a, 1, make(b, y)) for a, b in ((net, first), (moved, first * scale)))
            for method in (ln.FullFT(), ln.LoRA(1), ln.S2FT([1]), ln.IA3(), ln.S2FT([0, 2], form="columns")):
                wanted = method.solve(here).delta
                np.testing.assert_allclose(method.solve(there).delta, wanted, atol=1e-9 * np.linalg.norm(wanted))


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_data_are_fitted_as_well_as_a_least_squares_solver_fits_them(condition, rng):
    """The condition number of the data enters once, not squared as in their second moments."""
    q = ln.haar(4, rng)
    x = (rng.normal(size=(30, 4)) @ q * np.geomspace(1, 1 / condition, 4)) @ q.T
    net = ln.DeepLinearNetwork((np.zeros((2, 4)),))
    coef = rng.normal(size=(2, 4))
    update = ln.FullFT().solve(ln.LayerProblem(net, 0, ln.Moments.from_data(x, x @ coef.T)))
    assert np.linalg.norm(update.delta - coef) <= 100 * np.finfo(float).eps * condition * np.linalg.norm(coef)


@pytest.mark.parametrize("size", [0, 1, 4])
def test_roots_of_covariances_of_any_rank(size, rng):
    from linnet._linalg import psd_root

    for rank in range(size + 1):
        factor = rng.integers(-3, 4, size=(7, size, rank)) * np.array([1e6, 1, 1e-6, 1])[:size, None]
        a = factor @ np.swapaxes(factor, 1, 2)
        a[3] = 0.0
        found = psd_root(a)
        root, inverse = found.root, found.inverse
        for one, r, left in zip(a, root, inverse, strict=True):
            unit = np.sqrt(np.where(np.diagonal(one) > 0, np.diagonal(one), 1.0))
            np.testing.assert_allclose(r @ r.T / np.outer(unit, unit), one / np.outer(unit, unit), atol=1e-14)
            known = np.linalg.matrix_rank(one / np.outer(unit, unit), tol=1e-10, hermitian=True) if size else 0
            np.testing.assert_allclose(left @ r, np.diag(np.diagonal(left @ r).round()), atol=1e-9)
            assert np.trace(left @ r) == pytest.approx(known)
