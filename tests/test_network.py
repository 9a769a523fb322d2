"""Networks: products, builders with prescribed structure, pre-training to a stated tolerance."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import networks

import linnet as ln
from linnet.errors import RankError


@given(net=networks(), data=st.data())
def test_maps_agree_with_the_layers_one_by_one(net, data):
    layer = data.draw(st.integers(0, net.depth - 1))
    x = np.random.default_rng(0).normal(size=(5, net.widths[0]))
    biases = net.biases or [np.zeros(d) for d in net.widths[1:]]
    h, entering = x, None
    for i, (w, b) in enumerate(zip(net.weights, biases, strict=True)):
        if i == layer:
            entering = h
        h = h @ w.T + b
    np.testing.assert_allclose(net(x), h, atol=1e-12)
    np.testing.assert_allclose(net.upper(layer) @ net.weights[layer] @ net.lower(layer), net.product, atol=1e-12)
    below = net.offset_below(layer)
    np.testing.assert_allclose(x @ net.lower(layer).T + (0 if below is None else below), entering, atol=1e-12)
    assert net.lower(layer).shape == (net.widths[layer], net.widths[0])
    assert net.upper(layer).shape == (net.widths[-1], net.widths[layer + 1])


def test_an_update_is_added_and_brings_a_bias_where_there_was_none(rng):
    net = ln.DeepLinearNetwork.random([3, 4, 2], rng=rng)
    update = ln.Update(rng.normal(size=(4, 3)), 0, bias=rng.normal(size=4))
    tuned = net.updated(update)
    x = rng.normal(size=(6, 3))
    expected = (x @ (net.weights[0] + update.delta).T + update.bias) @ net.weights[1].T
    np.testing.assert_allclose(tuned(x), expected)
    assert net.biases is None
    np.testing.assert_allclose(net(x), x @ net.product.T)


def test_random_networks_have_the_ranks_they_are_asked_for(rng):
    net = ln.DeepLinearNetwork.random([6, 5, 4], rng=rng, batch=(3,), ranks=[2, 0], biases=True)
    assert np.linalg.matrix_rank(net.weights[0]).tolist() == [2, 2, 2]
    assert np.linalg.matrix_rank(net.weights[1]).tolist() == [0, 0, 0]
    assert net.batch_shape == (3,)
    assert net.biases[0].shape == (3, 5)


def test_spectra_are_prescribed(rng):
    net = ln.DeepLinearNetwork.with_spectra([4, 3, 5], [[2, 1, 1], [3]], rng=rng, batch=(2,))
    values = [np.linalg.svd(w, compute_uv=False) for w in net.weights]
    np.testing.assert_allclose(values[0], [[2, 1, 1]] * 2, atol=1e-13)
    np.testing.assert_allclose(values[1], [[3, 0, 0]] * 2, atol=1e-13)


@pytest.mark.parametrize("draw", [True, False])
def test_balanced_networks_are_balanced(draw, rng):
    product = rng.normal(size=(3, 4)) @ np.diag([1, 1, 0, 0]) @ rng.normal(size=(4, 4))
    net = ln.DeepLinearNetwork.balanced([4, 2, 5, 3], product, rng=rng if draw else None)
    np.testing.assert_allclose(net.product, product, atol=1e-12)
    for below, above in zip(net.weights[:-1], net.weights[1:], strict=True):
        np.testing.assert_allclose(above.T @ above, below @ below.T, atol=1e-12)
    with pytest.raises(RankError):
        ln.DeepLinearNetwork.balanced([4, 1, 3], product)


def test_haar_matrices_are_orthogonal_with_mean_zero(rng):
    q = ln.haar(3, rng, (4000,))
    np.testing.assert_allclose(q @ np.swapaxes(q, -1, -2), np.broadcast_to(np.eye(3), q.shape), atol=1e-13)
    assert np.abs(q.mean(axis=0)).max() < 5 / np.sqrt(3 * 4000)


@pytest.mark.parametrize("widths", [(4, 3), (5, 2, 4), (3, 5, 5, 2)])
def test_pretraining_reaches_its_tolerance_and_the_best_of_the_widths(widths, rng):
    p, q = widths[0], widths[-1]
    a = rng.normal(size=(p, p))
    task = ln.Regression(rng.normal(size=(q, p)), a @ a.T / p + 0.1 * np.eye(p), np.eye(q), rng.normal(size=p))
    net = ln.DeepLinearNetwork.pretrained(widths, task, rng=rng, tolerance=1e-6)
    w, v = np.linalg.eigh(task.signal_cov)
    goal = task.coef @ (v * np.sqrt(w)) @ v.T
    s = np.linalg.svd(goal, compute_uv=False)
    best = np.sum(s[min(widths) :] ** 2)
    assert best - 1e-9 <= ln.excess_risk(net, task) <= best + 1.0001e-6 * np.sum(s**2)


def test_pretraining_of_a_usual_size_takes_seconds(rng):
    task = ln.Regression(rng.normal(size=(10, 64)), np.eye(64))
    start = time.process_time()
    net = ln.DeepLinearNetwork.pretrained([64, 32, 16, 10], task, rng=rng)
    assert time.process_time() - start < 30
    assert ln.excess_risk(net, task) <= 1.0001e-6 * np.sum(task.coef**2)


def test_pretraining_on_nothing_gives_the_zero_map(rng):
    task = ln.Regression(np.zeros((2, 3)), np.eye(3))
    assert ln.excess_risk(ln.DeepLinearNetwork.pretrained([3, 2, 2], task, rng=rng), task) == 0.0
