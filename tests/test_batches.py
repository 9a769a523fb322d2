"""A batch equals the loop over its elements, and what fails in it disturbs nothing else."""

import contextlib
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnet as ln
from linnet.errors import MaskedWarning


def every_method(rng, m, n):
    mask = rng.random((m, n)) < 0.5
    mask[0, 0] = True
    return [
        ln.FullFT(),
        ln.LoRA(1),
        ln.LoRA(min(m, n)),
        ln.S2FT([0]),
        ln.S2FT([n - 1], form="columns"),
        ln.SparseFT(mask),
        ln.FrozenFactorLoRA(left=rng.normal(size=(m, 2))),
        ln.FrozenFactorLoRA(right=rng.normal(size=(n, 2))),
        ln.BitFit(),
        ln.IA3(),
        ln.IA3("input"),
        ln.Subspace(rng.normal(size=(m * n, 3))),
    ]


def network(rng, batch, biases, widths=(4, 5, 3, 2)):
    return ln.DeepLinearNetwork.random(list(widths), rng=rng, batch=batch, biases=biases)


def task(rng, batch, means, p=4, q=2):
    a = rng.normal(size=(*batch, p, p))
    return ln.Regression(
        rng.normal(size=(*batch, q, p)),
        a @ np.swapaxes(a, -1, -2),
        np.broadcast_to(0.1 * np.eye(q), (*batch, q, q)),
        rng.normal(size=(*batch, p)) if means else None,
        rng.normal(size=(*batch, q)) if means else None,
    )


def element(record, index, batch):
    """One element of a batched network, task or set of moments."""

    def pick(a, core):
        full = np.broadcast_to(a, (*batch, *a.shape[a.ndim - core :]))
        return full[index]

    if isinstance(record, ln.DeepLinearNetwork):
        biases = None if record.biases is None else tuple(pick(b, 1) for b in record.biases)
        return ln.DeepLinearNetwork(tuple(pick(w, 2) for w in record.weights), biases)
    if isinstance(record, ln.Regression):
        means = [None if v is None else pick(v, 1) for v in (record.mean, record.intercept)]
        return ln.Regression(pick(record.coef, 2), pick(record.signal_cov, 2), pick(record.noise_cov, 2), *means)
    means = [None if v is None else pick(v, 1) for v in (record.x_mean, record.y_mean)]
    factors = tuple(pick(f, axes) for f, axes in zip(record.roots, (2, 2, 0), strict=True))
    return ln.Moments(pick(record.xx, 2), pick(record.yx, 2), pick(record.yy, 2), *means, n=record.n, factors=factors)


SHAPES = [((3,), ()), ((), (3,)), ((3,), (3,)), ((5, 1), (7,)), ((2, 1), (1, 3))]


@pytest.mark.parametrize(("net_batch", "task_batch"), SHAPES)
@given(layer=st.integers(0, 2), affine=st.booleans(), sample=st.sampled_from([None, 2, 20]), seed=st.integers(0, 2**16))
def test_a_batch_equals_the_loop(net_batch, task_batch, layer, affine, sample, seed):
    rng = np.random.default_rng(seed)
    net, train = network(rng, net_batch, affine), task(rng, task_batch, affine)
    moments = train.moments() if sample is None else ln.Moments.from_data(*train.sample(sample, rng=rng))
    problem = ln.LayerProblem(net, layer, moments)
    batch = problem.batch_shape
    assert batch == np.broadcast_shapes(net_batch, task_batch)
    for method in every_method(rng, problem.d_out, problem.d_in):
        update = method.solve(problem)
        risks, excess = problem.risk(update), ln.excess_risk(net.updated(update), train)
        assert np.shape(risks) == np.shape(excess) == batch
        index = tuple(rng.integers(0, b) for b in batch)
        one_net, one_task = element(net, index, batch), element(train, index, batch)
        single = ln.LayerProblem(one_net, layer, element(moments, index, batch))
        alone = method.solve(single)
        delta = np.broadcast_to(update.delta, (*batch, *alone.delta.shape))[index]
        # Samples below the rank leave ill-conditioned problems: rounding differs between one and many.
        size = np.linalg.norm(alone.delta) + 1e-3
        np.testing.assert_allclose(delta, alone.delta, rtol=0, atol=1e-8 * size)
        np.testing.assert_allclose(
            excess[index], ln.excess_risk(one_net.updated(alone), one_task), rtol=1e-8, atol=1e-9
        )
        np.testing.assert_allclose(risks[index], single.risk(alone), rtol=1e-8, atol=1e-9)


def test_the_order_within_a_batch_does_not_matter(rng):
    net, train = network(rng, (6,), True), task(rng, (6,), True)
    order = rng.permutation(6)
    moved_net = ln.DeepLinearNetwork(tuple(w[order] for w in net.weights), tuple(b[order] for b in net.biases))
    m = train.moments()
    moved = ln.Moments(*(a[order] for a in (m.xx, m.yx, m.yy, m.x_mean, m.y_mean)))
    for method in every_method(rng, 3, 5):
        here = method.solve(ln.LayerProblem(net, 1, m)).delta
        there = method.solve(ln.LayerProblem(moved_net, 1, moved)).delta
        np.testing.assert_allclose(there, here[order], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("what", ["weight", "bias", "coef", "covariance", "indefinite", "data"])
def test_failed_elements_are_masked_and_leave_the_others_alone(what, rng):
    net, train = network(rng, (4,), True), task(rng, (4,), True)
    x, y = train.sample(20, rng=rng)
    weights, biases = [w.copy() for w in net.weights], [b.copy() for b in net.biases]
    coef, cov = train.coef.copy(), train.signal_cov.copy()
    if what == "weight":
        weights[2][1, 0, 0] = np.inf
    elif what == "bias":
        biases[0][1, 0] = np.nan
    elif what == "coef":
        coef[1, 0, 0] = np.nan
    elif what == "covariance":
        cov[1, 0, 0] = np.inf
    elif what == "indefinite":
        cov[1] = -np.eye(4)
    elif what == "data":
        x[1, 3, 2] = np.nan
    bad_net = ln.DeepLinearNetwork(tuple(weights), tuple(biases))
    if what == "data":
        good, bad = ln.Moments.from_data(train.sample(20, rng=rng)[0] * 0 + np.nan_to_num(x), y), None
        bad = ln.Moments.from_data(x, y)
    else:
        good = train.moments()
        with np.errstate(invalid="ignore"):
            bad = ln.Regression(coef, cov, train.noise_cov, train.mean, train.intercept).moments()
    fine = [0, 2, 3]
    with np.errstate(invalid="ignore"):
        problem = ln.LayerProblem(bad_net, 1, bad)
        for method in every_method(rng, 3, 5):
            with pytest.warns(MaskedWarning, match="1 of 4 problems could not be solved"):
                update = method.solve(problem)
            expected = method.solve(ln.LayerProblem(net, 1, good)).delta
            assert update.status[1] != 0
            assert np.all(update.status[fine] == 0)
            assert np.all(np.isnan(update.delta[1]))
            np.testing.assert_array_equal(update.delta[fine], expected[fine])
            if update.bias is not None:
                assert np.all(np.isnan(update.bias[1]))
                assert np.all(np.isfinite(update.bias[fine]))


def test_a_tie_in_a_batch_is_masked(rng):
    net = ln.DeepLinearNetwork((np.zeros((3, 3)),))
    values = np.array([[3.0, 2.0, 1.0], [2.0, 2.0, 1.0]])
    train = ln.Regression(values[:, :, None] * np.eye(3), np.eye(3))
    problem = ln.LayerProblem(net, 0, train.moments())
    with pytest.warns(MaskedWarning, match="tie"):
        update = ln.LoRA(1).solve(problem)
    assert update.status.tolist() == [0, 3]
    assert np.isfinite(update.delta[0]).all()
    assert np.isnan(update.delta[1]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(ln.LoRA(1, ties="first").solve(problem).delta).all()
        assert ln.LoRA(2).solve(problem).status.tolist() == [0, 0]


def test_singular_and_regular_elements_solve_side_by_side(rng):
    """The rescaling methods leave their fast path for single elements; the others must not notice."""
    w = rng.normal(size=(4, 3, 5))
    w[2, 1] = 0.0  # a dead channel: singular normal equations
    w[3, 1] = w[3, 0] * (1 + 1e-9)
    net = ln.DeepLinearNetwork((rng.normal(size=(4, 5, 4)), w, rng.normal(size=(4, 2, 3))))
    train = task(rng, (4,), False)
    m = train.moments()
    for method in (ln.IA3(), ln.IA3("input"), ln.SparseFT(np.ones((3, 5), bool))):
        many = method.solve(ln.LayerProblem(net, 1, m)).delta
        for i in range(4):
            one = ln.LayerProblem(element(net, i, (4,)), 1, element(m, i, (4,)))
            np.testing.assert_allclose(many[i], method.solve(one).delta, rtol=1e-9, atol=1e-12)


def test_what_failed_is_masked_in_every_risk_and_factor(rng):
    net = ln.DeepLinearNetwork([np.zeros((4, 4))])
    task = ln.Regression(np.ones((4, 4)), np.stack([np.eye(4), -np.eye(4)]))
    for value in (
        ln.excess_risk(net, task),
        ln.excess_risk(net, task.moments()),
        ln.expected_risk(net, task),
        ln.forgetting(net, net, ln.Shift(task, task)),
    ):
        assert np.isfinite(value[0])
        assert np.isnan(value[1])
    unfinite = ln.Regression(np.ones((2, 4, 4)), np.stack([np.eye(4) * np.nan, np.eye(4)]))
    assert np.isnan(ln.excess_risk(net, unfinite.moments())).tolist() == [True, False]
    assert np.isnan(unfinite.sample(2, rng=rng)[0]).any(axis=(1, 2)).tolist() == [True, False]
    tied = ln.Regression(np.stack([np.diag([3.0, 3, 1, 1]), np.diag([4.0, 3, 1, 1])]), np.eye(4))
    with pytest.warns(MaskedWarning):
        update = ln.LoRA(1).solve(ln.LayerProblem(net, 0, tied.moments()))
    assert np.isnan(update.left).any(axis=(1, 2)).tolist() == [True, False]
    np.testing.assert_allclose(update.left[1] @ update.right[1].T, update.delta[1], atol=1e-12)


@pytest.mark.parametrize("layer", [0, 1])
def test_what_fails_in_a_batch_warns_once_and_in_our_words(layer, rng, recwarn):
    weights = [np.ones((2, 3, 3)), np.ones((2, 3, 3))]
    weights[1 - layer][1, 0, 0] = np.inf
    problem = ln.LayerProblem(ln.DeepLinearNetwork(weights), layer, ln.Regression(np.eye(3), np.eye(3)).moments())
    for method in every_method(rng, 3, 3):
        method.solve(problem)
    x = np.ones((2, 4, 3))
    x[1, 0, 0] = np.inf
    ln.Moments.from_data(x, x)
    assert {w.category for w in recwarn} == {MaskedWarning}, [str(w.message) for w in recwarn]


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e100, 1e200])
def test_extreme_scales_warn_of_nothing(scale, rng, recwarn):
    net, train = network(rng, (), True), task(rng, (), True)
    x, y = train.sample(9, rng=rng)
    for where in range(3):
        weights = [w * (scale if i == where else 1.0) for i, w in enumerate(net.weights)]
        for one in every_method(rng, 3, 5):
            with contextlib.suppress(ln.LinnetError):
                one.solve(ln.LayerProblem(ln.DeepLinearNetwork(weights, net.biases), 1, ln.Moments.from_data(x, y)))
            with contextlib.suppress(ln.LinnetError):
                one.solve(ln.LayerProblem(net, 1, ln.Moments.from_data(x * scale**0.5, y)))
    assert not [str(w.message) for w in recwarn]
