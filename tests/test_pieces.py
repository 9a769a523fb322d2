"""A batch a piece at a time, and what is computed once, or not at all."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import replace_lapack

import linnet as ln
from linnet._linalg import factored, has_tie, psd_root
from linnet.errors import ArgumentError, ShapeError


def drawn(rng, batch=(11,), affine=True, shared=False):
    """A network and a shift of width 5, with what may be shared by the whole batch."""
    own = () if shared else batch
    net = ln.DeepLinearNetwork.random([4, 5, 5, 3], rng=rng, batch=batch, biases=affine)
    root = rng.normal(size=(*own, 4, 9))
    cov = root @ np.swapaxes(root, -1, -2)
    train = ln.Regression(
        rng.normal(size=(*batch, 3, 4)),
        cov,
        np.eye(3),
        rng.normal(size=(*own, 4)) if affine else None,
        rng.normal(size=(*batch, 3)) if affine else None,
    )
    return net, ln.Shift.both(train, 0.5, 0.3, rng=rng)


def risks(net, shift):
    problem = ln.LayerProblem(net, 1, shift.train.moments())
    found = {}
    for name, method in {"LoRA": ln.LoRA(2), "S2FT": ln.S2FT([0, 3]), "bias": ln.BitFit()}.items():
        tuned = net.updated(method.solve(problem))
        found[name] = (ln.excess_risk(tuned, shift.train), ln.excess_risk(tuned, shift.test))
    return found


def assert_same(one, other):
    for name in one:
        for a, b in zip(one[name], other[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.sampled_from([(1,), (7,), (11, 2), (3, 1)]),
    affine=st.booleans(),
    shared=st.booleans(),
    size=st.integers(1, 12),
)
def test_pieces_give_what_the_whole_gives(seed, batch, affine, shared, size):
    net, shift = drawn(np.random.default_rng(seed), batch, affine, shared)
    found = ln.in_pieces(risks, net, shift, size=size)
    assert found["LoRA"][0].shape == batch
    assert_same(found, risks(net, shift))


def test_functions_see_pieces_of_the_size_asked_for(rng):
    net, shift = drawn(rng, (10,))
    seen = []
    ln.in_pieces(lambda net, shift: seen.append(net.batch_shape) or net.product, net, shift, size=4)
    assert seen == [(4,), (4,), (2,)]


def test_by_default_a_piece_fits_the_caches(rng, monkeypatch):
    from linnet import batches

    monkeypatch.setattr(batches, "ENTRIES", 3 * 2 * 25)  # of 5 x 5 matrices, two beside each other
    net, shift = drawn(rng, (10, 2))
    seen = []
    ln.in_pieces(lambda net, shift: seen.append(len(net.weights[0])) or net.product, net, shift)
    assert seen == [3, 3, 3, 1]


def test_all_records_have_pieces(rng):
    net, shift = drawn(rng)
    problem = ln.LayerProblem(net, 1, shift.train.moments())
    x, y = rng.normal(size=(11, 30, 4)), rng.normal(size=(11, 30, 3))
    data = ln.Moments.from_data(x, y)
    update = ln.LoRA(2).solve(problem)
    piece = slice(3, 8)
    for record in (net, shift, shift.train, problem, shift.train.moments(), data, update):
        part = record.part(piece)
        assert type(part) is type(record)
        assert part.batch_shape == (5,)
    np.testing.assert_array_equal(data.part(piece).roots[2], data.roots[2][piece])
    np.testing.assert_array_equal(data.part(piece).status, data.status[piece])
    np.testing.assert_array_equal(update.part(piece).left, update.left[piece])
    of_task, part = shift.train.moments(), shift.train.moments().part(piece)
    np.testing.assert_array_equal(part.root, of_task.root[piece])
    np.testing.assert_array_equal(part.status, of_task.status[piece])
    of_data = ln.LayerProblem(net, 1, data)
    np.testing.assert_allclose(
        ln.LoRA(2).solve(of_data.part(piece)).delta, ln.LoRA(2).solve(of_data).delta[piece], atol=1e-10
    )


@pytest.mark.parametrize("library", [jnp, torch], ids=["jax", "torch"])
def test_pieces_in_other_libraries(library, rng):
    net, shift = drawn(rng)
    found = ln.in_pieces(risks, net.to(library), shift.to(library), size=4)
    assert type(found["LoRA"][0]) is type(library.asarray([0.0]))
    assert_same({k: [np.asarray(a) for a in v] for k, v in found.items()}, risks(net, shift))


def test_results_may_be_arrays_tuples_and_lists(rng):
    net, _ = drawn(rng)
    assert ln.in_pieces(lambda net: net.product, net, size=4).shape == (11, 3, 4)
    pair = ln.in_pieces(lambda net: (net.product, [net.offset]), net, size=4)
    assert pair[0].shape == (11, 3, 4)
    assert pair[1][0].shape == (11, 3)
    empty = ln.DeepLinearNetwork.random([2, 2], rng=rng, batch=(0,))
    assert ln.in_pieces(lambda net: net.product, empty).shape == (0, 2, 2)


def test_what_has_no_pieces_is_refused(rng):
    net, shift = drawn(rng)
    with pytest.raises(ArgumentError, match="no record was given"):
        ln.in_pieces(risks)
    with pytest.raises(ArgumentError, match="record 1 is a ndarray"):
        ln.in_pieces(risks, net, np.zeros(3))
    with pytest.raises(ShapeError, match="no batch axis"):
        ln.in_pieces(lambda net: net.product, ln.DeepLinearNetwork.random([2, 2], rng=rng))
    for size in (0, -1, 2.5, True):
        with pytest.raises(ShapeError, match="pieces of size"):
            ln.in_pieces(risks, net, shift, size=size)
    with pytest.raises(ArgumentError, match="returned a float"):
        ln.in_pieces(lambda net: 1.0, net)
    with pytest.raises(ArgumentError, match="returned a NoneType"):
        ln.in_pieces(lambda net: None, net, size=3)
    with pytest.raises(ShapeError, match="broadcast"):
        ln.in_pieces(risks, net, drawn(rng, (5,))[1])


# --- computed once, or not at all ---------------------------------------------------------------------


def counted(monkeypatch, *names):
    calls = dict.fromkeys(names, 0)
    for name in names:
        call = getattr(np.linalg, name)

        def counting(*args, name=name, call=call, **kwargs):
            calls[name] += 1
            return call(*args, **kwargs)

        replace_lapack(monkeypatch, name, counting)
    return calls


def test_all_ranks_cost_one_svd_and_channel_sets_none(rng, monkeypatch):
    net = ln.DeepLinearNetwork.random([6] * 4, rng=rng, batch=(20,))
    task = ln.Regression(rng.normal(size=(20, 6, 6)), np.eye(6))
    problem = ln.LayerProblem(net, 1, task.moments())
    calls = counted(monkeypatch, "svd", "eigh", "eigvalsh", "inv")
    for rank in range(1, 7):
        ln.LoRA(rank).solve(problem)
    assert calls == {"svd": 1, "eigh": 0, "eigvalsh": 0, "inv": 2}  # of the lower and of the upper side
    ln.FullFT().solve(problem)
    assert calls["inv"] == 2
    for channels in ([0], [1, 2], [0, 3, 5]):
        ln.S2FT(channels).solve(problem)
        ln.S2FT(channels, form="columns").solve(problem)
    assert calls == {"svd": 1, "eigh": 0, "eigvalsh": 0, "inv": 2 + 6}  # of small triangles, one a set


def test_a_regular_covariance_is_factored_once(rng, monkeypatch):
    root = rng.normal(size=(20, 6, 12))
    calls = counted(monkeypatch, "cholesky", "inv", "eigh", "eigvalsh", "svd")
    task = ln.Regression(rng.normal(size=(20, 6, 6)), root @ np.swapaxes(root, -1, -2), np.eye(6))
    moments = task.moments()
    assert moments.status.shape == (20,)
    _ = moments.roots
    assert calls == {"cholesky": 2, "inv": 0, "eigh": 0, "eigvalsh": 0, "svd": 0}  # and the noise's


@given(seed=st.integers(0, 2**32 - 1), affine=st.booleans(), batch=st.sampled_from([(), (3,)]))
def test_moments_of_a_task_are_its_moments(seed, affine, batch):
    rng = np.random.default_rng(seed)
    task = drawn(rng, batch, affine)[1].train
    lazy = task.moments()
    if affine:
        np.testing.assert_array_equal(lazy.x_mean, task.mean)
    else:
        assert (lazy.x_mean, lazy.y_mean) == (None, None)
    given_directly = ln.Moments(lazy.xx, lazy.yx, lazy.yy, lazy.x_mean, lazy.y_mean)
    for one, other in zip(lazy.roots, given_directly.roots, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    mean = np.zeros(4) if task.mean is None else task.mean
    centred = lazy.xx - np.einsum("...i,...j->...ij", mean, mean)
    np.testing.assert_allclose(centred, task.signal_cov, atol=1e-10)
    assert lazy.shape == task.shape == (3, 4)
    assert lazy.n is None


def test_moments_of_a_task_with_another_field_are_given_ones(rng):
    lazy = drawn(rng, ())[1].train.moments()
    other = dataclasses.replace(lazy, n=7)
    assert (type(other), other.n) == (ln.Moments, 7)
    np.testing.assert_array_equal(other.xx, lazy.xx)
    assert type(pickle.loads(pickle.dumps(lazy))) is type(lazy)


@pytest.mark.parametrize("field", ["coef", "signal_cov", "noise_cov", "mean"])
def test_vmap_over_the_moments_of_a_task_that_shares_a_field(field, rng):
    net, shift = drawn(rng, (4,), affine=field == "mean")
    task = dataclasses.replace(shift.train, **{field: getattr(shift.train, field)})
    shared = getattr(task, field)
    task = dataclasses.replace(task, **{field: shared[0] if shared.ndim > (1 if field == "mean" else 2) else shared})
    wanted = ln.LoRA(2).solve(ln.LayerProblem(net, 1, task.moments())).delta

    def solve(net, moments):
        return ln.LoRA(2).solve(ln.LayerProblem(net, 1, moments)).delta

    found = jax.vmap(solve)(net.to(jnp), task.to(jnp).moments())
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    found = torch.vmap(solve)(net.to(torch), task.to(torch).moments())
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_an_axis_of_length_one_is_shared_by_all_pieces(rng):
    net, _ = drawn(rng, (1,), affine=False)
    _, shift = drawn(rng, (11,), affine=False)
    assert_same(ln.in_pieces(risks, net, shift, size=3), risks(net, shift))


def test_a_task_follows_the_precision_of_its_problem(rng):
    net, shift = drawn(rng)
    problem = ln.LayerProblem(net, 1, shift.train.to(np, dtype=np.float32).moments())
    assert {a.dtype for a in problem.moments._leaves()} == {np.dtype(np.float64)}
    assert problem.moments.status.shape == (11,)


@pytest.mark.parametrize(("least", "definite"), [(1e-3, True), (1e-9, True), (1e-15, False), (0.0, False)])
def test_a_covariance_is_called_definite_far_from_rank_loss_alone(least, definite, rng):
    frame = ln.haar(4, rng)
    a = (frame * np.array([1.0, 0.9, 0.8, least])) @ frame.T
    found = psd_root((a + a.T) / 2)
    assert bool(found.definite) is definite
    assert np.linalg.matrix_rank(found.root, tol=1e-6) == (4 if least > 1e-12 else 3)


def test_a_bound_that_overflows_proves_nothing():
    left = np.array([[1.0, 2.0], [3.0, 5.0]])
    for bound in (np.inf, 2.0):
        found = factored(1e-16 * left, scale=lambda: np.asarray(1.0), bound=np.asarray(bound))
        assert not found.inverse.any(), "what cancels is zero"


def test_a_scale_is_asked_for_where_a_bound_does_not_settle_the_rank():
    asked = []
    scale = lambda: asked.append(1) or np.asarray(1.0)  # noqa: E731  # one line tells that it was asked for
    factored(np.eye(2), scale=scale, bound=np.asarray(2.0))
    assert not asked
    assert factored(1e-14 * np.eye(2), scale=scale, bound=np.asarray(1e3)).inverse.any()
    assert asked


def test_the_floor_of_ties_is_asked_for_where_there_are_close_ones():
    apart, tied = np.array([3.0, 2.0, 1.0]), np.array([3.0, 2.0, 2.0])
    assert not has_tie(apart, 2, lambda: pytest.fail("nothing is close"))
    assert has_tie(tied, 2, lambda: np.asarray(1e-9))
    assert not has_tie(1e-12 * tied, 2, lambda: np.asarray(1e-9)), "zeros do not tie"


def test_verdicts_on_covariances_do_not_depend_on_neighbours(rng):
    d = 10
    upper = np.triu(np.ones((d, d)), 1)
    upper[0] = 0.0
    tolerance = 8 * 10 * d * np.finfo(float).eps * d
    a = np.diag(np.r_[1.0, np.full(d - 1, 3e-12)]) - 0.95 * tolerance * upper
    singular, above = np.diag(np.r_[np.ones(d - 1), 0.0]), np.eye(d)
    above[0, 1] = np.nan
    skew = np.eye(d)
    skew[0, 1] = 0.5

    def status(*covariances):
        return ln.Regression(np.ones((len(covariances), 2, d)), np.stack(covariances)).status.tolist()

    for c in (a, singular, above, skew, np.eye(d)):
        (alone,) = status(c)
        for beside in (singular, np.eye(d), -np.eye(d)):
            assert status(c, beside)[0] == alone
    assert status(np.eye(d), above, skew, -np.eye(d)) == [0, 1, 2, 2]


def test_roots_do_not_depend_on_neighbours(rng):
    root = rng.normal(size=(30, 6, 6)) * 10.0 ** rng.uniform(-6, 0, size=(30, 1, 6))
    a = root @ np.swapaxes(root, -1, -2)
    whole = psd_root(a)
    for i in range(30):
        alone = psd_root(a[i : i + 1])
        assert bool(alone.definite[0]) == bool(whole.definite[i])
        np.testing.assert_array_equal(alone.root[0], whole.root[i])


def test_definite_is_said_in_units_of_each_variable():
    assert bool(psd_root(np.diag([1e12, 1e-12])).definite)
    close = 1e6 * np.array([[1.0, 1 - 1e-15], [1 - 1e-15, 1.0]])
    assert not bool(psd_root(close).definite)


@given(seed=st.integers(0, 2**32 - 1), affine=st.booleans(), layer=st.integers(0, 2))
def test_bounds_of_scales_are_above_them(seed, affine, layer):
    net, shift = drawn(np.random.default_rng(seed), affine=affine)
    problem = ln.LayerProblem(net, layer, shift.train.moments())
    assert np.all(problem.upper_scale <= problem.upper_bound * (1 + 1e-12))
    assert np.all(problem.reach_scale <= problem.reach_bound * (1 + 1e-12))
