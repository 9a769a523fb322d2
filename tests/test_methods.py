"""Every closed form against its slow twin, on drawn structure; and what the solutions are invariant to."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import assume_well_conditioned, cases, clear

import linnet as ln
from linnet import reference
from linnet.errors import RankError
from linnet.reference.dense import affine_directions, whiten

LINEAR = [
    "full",
    "rows",
    "columns",
    "sparse",
    "left",
    "left singular",
    "right",
    "right singular",
    "bias",
    "ia3 output",
    "ia3 input",
    "subspace",
    "subspace singular",
]


def linear_method(name, problem, rng):
    """A linear method that fits ``problem``, its own structure drawn too."""
    m, n = problem.d_out, problem.d_in
    if name == "full":
        return ln.FullFT()
    if name == "rows":
        return ln.S2FT(rng.permutation(m)[: rng.integers(1, m + 1)])
    if name == "columns":
        return ln.S2FT(rng.permutation(n)[: rng.integers(1, n + 1)], form="columns")
    if name == "sparse":
        mask = rng.random((m, n)) < 0.4
        mask[rng.integers(m), rng.integers(n)] = True
        return ln.SparseFT(mask)
    if name == "bias":
        return ln.BitFit()
    if name.startswith("ia3"):
        return ln.IA3(name.split()[1])
    size = {"left": m, "right": n, "subspace": m * n}[name.split()[0]]
    k = int(rng.integers(1, min(size, 8) + 1))
    basis = rng.normal(size=(size, k))
    if name.endswith("singular"):  # a direction twice, and one of zeros
        basis = np.column_stack([basis[:, :1], 2 * basis, 0 * basis[:, :1]])
    if name.startswith("left"):
        return ln.FrozenFactorLoRA(left=basis)
    if name.startswith("right"):
        return ln.FrozenFactorLoRA(right=basis)
    return ln.Subspace(basis)


def close(found, wanted, natural, rtol=1e-9):
    """Relative agreement; ``natural`` is the size that rounding errors are relative to where ``wanted`` is 0."""
    return np.linalg.norm(found - wanted) <= rtol * np.linalg.norm(wanted) + 1e-12 * natural


def natural_size(case):
    """|upper^+| |y| |reach^+|: the size of an update that is not small by cancellation."""
    w = whiten(case.problem)
    parts = [np.linalg.norm(np.linalg.pinv(a, rcond=1e-10)) for a in (w.upper, w.reach)]
    return parts[0] * parts[1] * np.sqrt(case.power)


@pytest.mark.parametrize("name", LINEAR)
@given(case=cases())
def test_linear_method_equals_dense_least_squares(name, case):
    assume_well_conditioned(case)
    problem = case.problem
    method = linear_method(name, problem, case.rng)
    w = whiten(problem)
    p, _ = affine_directions(method, problem)
    size = w.size[0] * w.size[1] * np.linalg.norm(p)
    assume(clear(np.kron(w.upper, w.reach.T) @ p, max(size, 1e-300)))
    update, twin = method.solve(problem), reference.least_squares(method, problem)
    natural = natural_size(case)
    assert close(update.delta, twin.delta, natural)
    assert (update.bias is None) == (twin.bias is None)
    if twin.bias is not None:
        assert close(update.bias, twin.bias, natural)
    assert problem.risk(update) == pytest.approx(twin.risk, rel=1e-9, abs=1e-12 * case.power)


@given(case=cases(), data=st.data())
def test_lora_is_the_least_norm_optimum_of_its_rank(case, data):
    assume_well_conditioned(case)
    problem = case.problem
    rank = data.draw(st.integers(0, min(problem.d_out, problem.d_in)))
    update = ln.LoRA(rank, ties="first").solve(problem)
    natural = max(natural_size(case), 1e-300)
    optimum = reference.optimal_risk(problem, rank)
    assert problem.risk(update) == pytest.approx(optimum, rel=1e-9, abs=1e-12 * case.power)
    assert update.left.shape == (problem.d_out, rank)
    assert update.right.shape == (problem.d_in, rank)
    assert np.linalg.norm(update.left @ update.right.T - update.delta) <= 1e-12 * natural
    certificate = reference.certify_low_rank(problem, update, rank)
    size = np.linalg.norm(update.delta)
    if size > 1e-9 * natural:
        assert certificate.worst < 1e-9 * max(1.0, 1e-3 * natural / size)
        for _ in range(5):
            other = reference.equal_risk_competitor(problem, update, case.rng)
            assert reference.twin_risk(problem, other) == pytest.approx(optimum, rel=1e-9, abs=1e-12 * case.power)
            assert np.linalg.norm(other, "nuc") >= np.linalg.norm(update.delta, "nuc") - 1e-9 * natural


@given(case=cases(), data=st.data())
def test_lora_equals_its_twin_where_it_is_unique_and_refuses_elsewhere(case, data):
    assume_well_conditioned(case)
    problem = case.problem
    rank = data.draw(st.integers(0, min(problem.d_out, problem.d_in)))
    w = whiten(problem)
    projected = w.upper @ np.linalg.pinv(w.upper, rcond=1e-10) @ w.target
    projected = projected @ np.linalg.pinv(w.reach[:-1], rcond=1e-10) @ w.reach[:-1]
    s = np.append(np.linalg.svd(projected, compute_uv=False), np.zeros(20))
    scale = np.sqrt(case.power)
    if rank == 0 or s[rank - 1] < 1e-12 * scale or s[rank - 1] - s[rank] > 1e-3 * s[0]:
        twin = reference.low_rank(problem, rank)
        assert close(ln.LoRA(rank).solve(problem).delta, twin.delta, 10 * natural_size(case))
    elif s[rank - 1] - s[rank] < 1e-13 * s[0] and s[rank - 1] > 1e-3 * scale:
        with pytest.raises(RankError, match="tie"):
            ln.LoRA(rank).solve(problem)
    else:
        assume(False)


# --- invariances -----------------------------------------------------------------------------------


def rotated(m, a, b):
    """Return the moments of (a x, b y): each entry exact in units of its own variables.

    Of a @ xx @ a.T it is in those of the largest alone: of a rotated variable that is small, rounding would be data.
    """
    second = np.block([[m.xx, m.yx.T], [m.yx, m.yy]])
    mean = np.zeros(len(second)) if m.x_mean is None else np.concatenate([m.x_mean, m.y_mean])
    values, vectors = np.linalg.eigh(second - np.outer(mean, mean))
    cut = 1e-14 * np.linalg.norm(second)
    root = np.column_stack([vectors * np.sqrt(np.where(values > cut, values, 0.0)), mean])
    x, y = a @ root[: len(a)], b @ root[len(a) :]
    means = [None, None] if m.x_mean is None else [x[:, -1], y[:, -1]]
    return ln.Moments(x @ x.T, y @ x.T, y @ y.T, *means)


@given(case=cases(), data=st.data())
def test_orthogonal_changes_of_basis_of_inputs_and_outputs_change_nothing(case, data):
    assume_well_conditioned(case)
    problem, net, m = case.problem, case.problem.net, case.problem.moments
    rng = case.rng
    a, b = ln.haar(net.widths[0], rng), ln.haar(net.widths[-1], rng)
    weights = list(net.weights)
    weights[0] = weights[0] @ a.T
    weights[-1] = b @ weights[-1]
    biases = None if net.biases is None else [*net.biases[:-1], b @ net.biases[-1]]
    moved = ln.LayerProblem(
        ln.DeepLinearNetwork(tuple(weights), biases),
        problem.layer,
        rotated(m, a, b),
    )
    left = b if problem.layer == net.depth - 1 else np.eye(problem.d_out)
    right = a if problem.layer == 0 else np.eye(problem.d_in)
    natural = natural_size(case)
    methods = [ln.FullFT(), ln.LoRA(data.draw(st.integers(0, min(problem.d_out, problem.d_in))), ties="first")]
    for method in methods:
        here, there = method.solve(problem), method.solve(moved)
        assert moved.risk(there) == pytest.approx(problem.risk(here), rel=1e-9, abs=1e-12 * case.power)
        if isinstance(method, ln.FullFT):
            assert close(there.delta, left @ here.delta @ right.T, natural)


@pytest.mark.parametrize("name", [n for n in LINEAR if not n.startswith("ia3 input")])
@given(case=cases(), scale=st.sampled_from([1e-6, 0.5, 3.0, 1e6]))
def test_units_of_the_targets_scale_updates(name, case, scale):
    """Scaling y and the last layer scales the map; what is trained below the last layer stays."""
    assume_well_conditioned(case)
    problem, net, m = case.problem, case.problem.net, case.problem.moments
    assume(problem.layer < net.depth - 1)
    method = linear_method(name, problem, case.rng)
    w = whiten(problem)
    p, _ = affine_directions(method, problem)
    assume(clear(np.kron(w.upper, w.reach.T) @ p, max(w.size[0] * w.size[1] * np.linalg.norm(p), 1e-300)))
    biases = None if net.biases is None else (*net.biases[:-1], scale * net.biases[-1])
    ym = None if m.y_mean is None else scale * m.y_mean
    moved = ln.LayerProblem(
        ln.DeepLinearNetwork((*net.weights[:-1], scale * net.weights[-1]), biases),
        problem.layer,
        ln.Moments(m.xx, scale * m.yx, scale**2 * m.yy, m.x_mean, ym),
    )
    assert close(method.solve(moved).delta, method.solve(problem).delta, natural_size(case))


@given(case=cases(), data=st.data())
def test_permuting_the_channels_permutes_the_updates(case, data):
    assume_well_conditioned(case)
    problem, net = case.problem, case.problem.net
    layer = problem.layer
    assume(layer < net.depth - 1)
    order = case.rng.permutation(problem.d_out)
    weights = list(net.weights)
    weights[layer], weights[layer + 1] = weights[layer][order], weights[layer + 1][:, order]
    biases = None if net.biases is None else list(net.biases)
    if biases is not None:
        biases[layer] = biases[layer][order]
    moved = ln.LayerProblem(ln.DeepLinearNetwork(tuple(weights), biases), layer, problem.moments)
    chosen = data.draw(st.sets(st.integers(0, problem.d_out - 1), min_size=1))
    there = [int(np.flatnonzero(order == c)[0]) for c in chosen]
    natural = natural_size(case)
    for here, other in ((ln.FullFT(), ln.FullFT()), (ln.S2FT(sorted(chosen)), ln.S2FT(there))):
        assert close(other.solve(moved).delta, here.solve(problem).delta[order], natural)


@given(case=cases(), data=st.data())
def test_splitting_a_frozen_layer_in_two_changes_nothing(case, data):
    assume_well_conditioned(case)
    problem, net = case.problem, case.problem.net
    assume(net.depth > 1)
    frozen = data.draw(st.sampled_from([i for i in range(net.depth) if i != problem.layer]))
    basis = ln.haar(net.widths[frozen], case.rng)
    weights = [*net.weights[:frozen], basis, net.weights[frozen] @ basis.T, *net.weights[frozen + 1 :]]
    biases = None
    if net.biases is not None:
        biases = [*net.biases[:frozen], np.zeros(len(basis)), *net.biases[frozen:]]
    layer = problem.layer + (frozen < problem.layer)
    split = ln.LayerProblem(ln.DeepLinearNetwork(tuple(weights), biases), layer, problem.moments)
    natural = natural_size(case)
    for name in ("full", "rows", "columns", "bias", "ia3 output", "right"):
        method = linear_method(name, problem, case.rng)
        w = whiten(problem)
        p, _ = affine_directions(method, problem)
        if not clear(np.kron(w.upper, w.reach.T) @ p, max(w.size[0] * w.size[1] * np.linalg.norm(p), 1e-300)):
            continue
        assert close(method.solve(split).delta, method.solve(problem).delta, natural)


# --- what no random drawing hits -------------------------------------------------------------------


def orthogonal_pieces(rng, d):
    """Bases of complementary subspaces of R^d."""
    q = ln.haar(d, rng)
    k = max(1, d // 2)
    return q[:, :k], q[:, k:]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("middle", [0, 2])
def test_layers_whose_product_cancels_leave_nothing_to_train(seed, middle):
    """Rounding error must not be taken for signal: every update is zero, to the last digit."""
    rng = np.random.default_rng(seed)
    d, p, q, m = (int(rng.integers(2, 9)) for _ in range(4))
    first, second = orthogonal_pieces(rng, d)
    frame = np.column_stack([first, second])
    between = [frame @ np.diag(rng.uniform(0.5, 2, size=d)) @ frame.T for _ in range(middle)]
    task = ln.Regression(rng.normal(size=(q, p)), np.eye(p))
    into = [first @ rng.normal(size=(first.shape[1], p)), *between, rng.normal(size=(d, d - first.shape[1])) @ second.T]
    below = ln.DeepLinearNetwork((*into, rng.normal(size=(m, d)), rng.normal(size=(q, m))))
    out = [first @ rng.normal(size=(first.shape[1], m)), *between, rng.normal(size=(q, d - first.shape[1])) @ second.T]
    above = ln.DeepLinearNetwork((rng.normal(size=(m, p)), *out))
    for problem in (
        ln.LayerProblem(below, len(into), task.moments()),
        ln.LayerProblem(above, 0, task.moments()),
    ):
        for name in (*LINEAR, "lora"):
            if name == "bias" or (name == "ia3 output" and problem.net.biases is not None):
                continue
            method = ln.LoRA(1) if name == "lora" else linear_method(name, problem, rng)
            assert np.all(method.solve(problem).delta == 0.0), name


@pytest.mark.parametrize("seed", range(20))
def test_directions_that_no_input_reaches_stay_untouched(seed):
    rng = np.random.default_rng(seed)
    d, p, q, m = (int(rng.integers(2, 9)) for _ in range(4))
    seen, unseen = orthogonal_pieces(rng, d)
    lower = seen @ rng.normal(size=(seen.shape[1], p))
    net = ln.DeepLinearNetwork((lower, rng.normal(size=(m, unseen.shape[1])) @ unseen.T, rng.normal(size=(q, m))))
    problem = ln.LayerProblem(net, 1, ln.Regression(rng.normal(size=(q, p)), np.eye(p)).moments())
    blind = unseen @ rng.normal(size=(unseen.shape[1], 2))
    basis = np.stack([np.outer(rng.normal(size=m), blind[:, i]).ravel() for i in (0, 1)], axis=1)
    for method in (ln.FrozenFactorLoRA(right=blind), ln.Subspace(basis), ln.IA3()):
        assert np.linalg.norm(method.solve(problem).delta) < 1e-12


def test_two_problems_worked_by_hand():
    net = ln.DeepLinearNetwork((np.zeros((2, 2)), np.diag([2.0, 0.0])))
    task = ln.Regression([[4.0, 0.0], [0.0, 5.0]], np.diag([1.0, 0.0]), noise_cov=np.eye(2))
    problem = ln.LayerProblem(net, 0, task.moments())
    for method in (ln.FullFT(), ln.LoRA(1), ln.S2FT([0]), ln.S2FT([0], form="columns")):
        np.testing.assert_allclose(method.solve(problem).delta, [[2.0, 0.0], [0.0, 0.0]], atol=1e-15)
        assert problem.risk(method.solve(problem)) == pytest.approx(2.0)
    np.testing.assert_array_equal(ln.S2FT([1]).solve(problem).delta, np.zeros((2, 2)))
    factors = ln.LoRA(2).solve(problem)
    np.testing.assert_allclose(np.abs(factors.left), [[np.sqrt(2), 0], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(np.abs(factors.right), [[np.sqrt(2), 0], [0, 0]], atol=1e-15)


@pytest.mark.parametrize("seed", range(30))
def test_lora_where_frozen_layers_hide_part_of_the_residual(seed):
    """Ranks below that of the reachable residual, upper and lower layers that are not onto."""
    rng = np.random.default_rng(seed)
    p, d, m, q = (int(rng.integers(3, 9)) for _ in range(4))
    ranks = [int(rng.integers(2, min(p, d) + 1)), min(m, d), int(rng.integers(2, min(q, m) + 1))]
    net = ln.DeepLinearNetwork.random([p, d, m, q], rng=rng, ranks=ranks, biases=bool(seed % 2))
    task = ln.Regression(rng.normal(size=(q, p)), np.eye(p), 0.1 * np.eye(q), rng.normal(size=p))
    problem = ln.LayerProblem(net, 1, task.moments())
    for rank in range(1, min(ranks) + 1):
        update, twin = ln.LoRA(rank).solve(problem), reference.low_rank(problem, rank)
        assert np.linalg.norm(update.delta - twin.delta) <= 1e-8 * np.linalg.norm(twin.delta)
        assert problem.risk(update) == pytest.approx(reference.optimal_risk(problem, rank), rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_a_tie_is_seen_through_rounding_error(seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(3, 8))
    values = np.sort(rng.uniform(1, 3, size=d))[::-1]
    values[1] = values[0]
    net = ln.DeepLinearNetwork((ln.haar(d, rng), np.zeros((d, d)), ln.haar(d, rng)))
    residual = (ln.haar(d, rng) * values) @ ln.haar(d, rng)
    problem = ln.LayerProblem(net, 1, ln.Regression(residual, np.eye(d)).moments())
    with pytest.raises(RankError, match="tie"):
        ln.LoRA(1).solve(problem)
    first = ln.LoRA(1, ties="first").solve(problem)
    assert problem.risk(first) == pytest.approx(np.sum(values[1:] ** 2))
    assert problem.risk(ln.LoRA(2).solve(problem)) == pytest.approx(np.sum(values[2:] ** 2))


def test_updates_touch_only_what_they_train(rng):
    """The twins take the trained directions on trust; this says which they are."""
    net = ln.DeepLinearNetwork.random([4, 5, 3, 4], rng=rng, biases=True)
    problem = ln.LayerProblem(net, 1, ln.Regression(rng.normal(size=(4, 4)), np.eye(4), mean=np.ones(4)).moments())
    w, b = net.weights[1], net.biases[1]
    rows = ln.S2FT([2, 1]).solve(problem).delta
    assert np.all(rows[0] == 0)
    assert np.all(rows[1:] != 0)
    columns = ln.S2FT([1, 4], form="columns").solve(problem).delta
    assert np.all(columns[:, [0, 2, 3]] == 0)
    assert np.all(columns[:, [1, 4]] != 0)
    mask = rng.random((3, 5)) < 0.5
    np.testing.assert_array_equal(ln.SparseFT(mask).solve(problem).delta != 0, mask)
    u, v = rng.normal(size=(3, 2)), rng.normal(size=(5, 2))
    left, right = ln.FrozenFactorLoRA(left=u).solve(problem), ln.FrozenFactorLoRA(right=v).solve(problem)
    np.testing.assert_allclose(left.delta, u @ left.right.T)
    np.testing.assert_allclose(right.delta, right.left @ v.T)
    np.testing.assert_array_equal(left.left, u)
    output = ln.IA3().solve(problem)
    scaling = output.delta / w
    np.testing.assert_allclose(scaling, np.broadcast_to(scaling[:, :1], w.shape))
    np.testing.assert_allclose(output.bias, scaling[:, 0] * b)
    received = ln.IA3("input").solve(problem)
    np.testing.assert_allclose(received.delta / w, np.broadcast_to((received.delta / w)[:1], w.shape))
    assert received.bias is None
    bias = ln.BitFit().solve(problem)
    assert np.all(bias.delta == 0)
    assert np.all(bias.bias != 0)
    basis = rng.normal(size=(15, 2))
    flat = ln.Subspace(basis).solve(problem).delta.ravel()
    np.testing.assert_allclose(basis @ np.linalg.lstsq(basis, flat, rcond=None)[0], flat, atol=1e-12)


def test_masks_of_different_sizes_in_a_batch_are_solved_as_each_alone():
    rng = np.random.default_rng(3)
    net = ln.DeepLinearNetwork.random([5, 4, 3], rng=rng, batch=(6,))
    task = ln.Regression(rng.normal(size=(6, 3, 5)), np.eye(5), 0.1 * np.eye(3))
    problem = ln.LayerProblem(net, 0, task.moments())
    sizes = [1, 2, 3, 5, 8, 20]
    masks = np.array([np.isin(np.arange(20), rng.permutation(20)[:k]).reshape(4, 5) for k in sizes])
    together = ln.SparseFT(masks).solve(problem).delta
    assert not together[~masks].any()
    for i, mask in enumerate(masks):
        alone = ln.LayerProblem(
            ln.DeepLinearNetwork([w[i] for w in net.weights]),
            0,
            ln.Regression(task.coef[i], np.eye(5), 0.1 * np.eye(3)).moments(),
        )
        np.testing.assert_allclose(together[i], ln.SparseFT(mask).solve(alone).delta, atol=1e-9)
