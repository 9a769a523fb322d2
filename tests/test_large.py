"""One large layer, without any full decomposition; here mostly layers that are called large."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import replace_lapack

import linnet as ln
from linnet import large
from linnet._linalg import large as big
from linnet._linalg import psd_root
from linnet.errors import NonFiniteError, RankError

N = 160


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    for name, value in {"LARGE": 40, "BLOCK": 4, "SPARE": 2, "CHECKED": 1, "MOST": 1}.items():
        monkeypatch.setattr(big, name, value)


def orthogonal(rng, n=N):
    return ln.haar(n, rng)


def with_residual(values, rng, layer=1, depth=3):
    """A problem of well-conditioned layers whose whitened residual has the given singular values."""
    n = len(values)
    net = ln.DeepLinearNetwork.with_spectra([n] * (depth + 1), [np.linspace(2, 1, n)] * depth, rng=rng)
    root = np.linalg.cholesky(np.cov(rng.normal(size=(n, 4 * n))))
    residual = (orthogonal(rng, n) * values) @ orthogonal(rng, n)
    coef = net.product + residual @ np.linalg.inv(root)
    return net, ln.LayerProblem(net, layer, ln.Regression(coef, root @ root.T).moments())


def dense(problem, rank, ties="refuse"):
    again = ln.LayerProblem(problem.net, problem.layer, problem.moments)
    _ = again.residual_svd  # once there, it is what LoRA takes
    return ln.LoRA(rank, ties=ties).solve(again)


SPECTRA = {
    "even": np.linspace(1, 0, N),
    "flat but for a few": np.r_[3.0, 2.5, 2.2, 2.0, np.full(N - 4, 1.0)],
    "fast": 2.0 ** -np.arange(N),
    "slow": 1 / np.arange(1, N + 1),
    "of rank three": np.r_[3.0, 2.0, 1.0, np.zeros(N - 3)],
    "of rank four": np.r_[3.0, 2.0, 1.5, 1.0, np.zeros(N - 4)],
    "huge": 1e100 * np.linspace(1, 0, N),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("layer", "depth"), [(1, 3), (0, 2), (1, 2), (0, 1), (2, 5)])
def test_it_is_the_dense_solution(name, layer, depth, rng):
    _, problem = with_residual(SPECTRA[name], rng, layer, depth)
    found = large.lora(problem, 4)
    assert found is not None
    wanted = dense(problem, 4)
    reached, least = problem.risk(ln.LoRA(4).solve(problem)), problem.risk(wanted)
    assert reached <= least * (1 + big.LACKING) + 1e-13 * problem.initial_risk
    np.testing.assert_allclose(found[0] @ found[1].T, wanted.delta, atol=1e-2 * np.linalg.norm(wanted.delta))


def test_the_factors_are_balanced(rng):
    _, problem = with_residual(SPECTRA["even"], rng)
    update = ln.LoRA(3).solve(problem)
    np.testing.assert_allclose(update.left @ update.right.T, update.delta, atol=1e-12)
    np.testing.assert_allclose(update.left.T @ update.left, update.right.T @ update.right, atol=1e-9)


def test_nothing_as_large_is_decomposed(rng, monkeypatch):
    _, problem = with_residual(SPECTRA["slow"], rng)
    for name in ("svd", "eigh", "eigvalsh", "inv", "pinv", "qr"):

        def refuse(a, *args, call=getattr(np.linalg, name), **kwargs):
            assert min(a.shape) < N, "a full decomposition"
            return call(a, *args, **kwargs)

        replace_lapack(monkeypatch, name, refuse)
    assert large.lora(problem, 2) is not None
    assert ln.LoRA(2).solve(problem).factors is not None
    with pytest.raises(AssertionError, match="a full decomposition"):
        _ = problem.residual_svd


@pytest.mark.parametrize("copies", [2, 3, 9])
def test_ties_are_seen(copies, rng):
    values = np.r_[3.0, 2.5, np.full(copies, 2.0), np.linspace(1, 0, N - copies - 2)]
    _, problem = with_residual(values, rng)
    assert large.lora(problem, 3) is None
    with pytest.raises(RankError, match="tie"):
        ln.LoRA(3).solve(problem)
    any_of_them = ln.LoRA(3, ties="first").solve(problem)
    assert problem.risk(any_of_them) == pytest.approx(problem.risk(dense(problem, 3, "first")), rel=1e-10)
    assert large.lora(problem, 2) is not None  # above the tie


def test_a_gap_that_may_be_a_tie_is_left_to_the_full_decomposition(rng):
    values = np.r_[3.0, 2.0, 2.0 * (1 - 1e-6), np.linspace(1, 0, N - 3)]
    _, problem = with_residual(values, rng)
    assert large.lora(problem, 2) is None
    np.testing.assert_array_equal(ln.LoRA(2).solve(problem).delta, dense(problem, 2).delta)


@pytest.mark.parametrize("where", ["upper", "lower", "inputs"])
@pytest.mark.parametrize("least", [0.0, 1e-16])
def test_what_may_lose_rank_is_left_to_the_full_decomposition(where, least, rng):
    graded = np.r_[np.linspace(2, 1, N - 1), least]
    spectra = {"upper": np.linspace(2, 1, N), "lower": np.linspace(2, 1, N), where: graded}
    net = ln.DeepLinearNetwork.with_spectra(
        [N] * 4, [spectra["lower"], np.linspace(2, 1, N), spectra["upper"]], rng=rng
    )
    frame = orthogonal(rng)
    cov = (frame * (graded if where == "inputs" else 1.0)) @ frame.T
    problem = ln.LayerProblem(net, 1, ln.Regression(rng.normal(size=(N, N)), (cov + cov.T) / 2).moments())
    assert large.lora(problem, 2) is None
    update = ln.LoRA(2).solve(problem)
    assert np.isfinite(update.delta).all()
    assert problem.risk(update) == pytest.approx(problem.risk(dense(problem, 2)), rel=1e-10)


def breaking(n, gap):
    """Nearly singular along a direction that the vectors which LAPACK's estimator of norms starts from do not see."""
    u = np.zeros(n)
    u[[10, 12, 14, 16]] = 0.5, -0.5, -0.5, 0.5
    a = np.eye(n) - (1 - gap) * np.outer(u, u)
    a[30, 30] = 0.25
    return a


@pytest.mark.parametrize("side", ["upper", "lower"])
@pytest.mark.parametrize("gap", [2.0**-50, 2.0**-46])
def test_a_side_that_is_nearly_singular_in_one_direction_is_seen(side, gap, rng):
    plain = ln.DeepLinearNetwork.with_spectra([N] * 4, [np.linspace(2, 1, N)] * 3, rng=rng)
    at = 2 if side == "upper" else 0
    weights = [breaking(N, gap) if i == at else w for i, w in enumerate(plain.weights)]
    task = ln.Regression(rng.normal(size=(N, N)), np.eye(N))
    problem = ln.LayerProblem(ln.DeepLinearNetwork(tuple(weights)), 1, task.moments())
    assert large.lora(problem, 2) is None
    np.testing.assert_array_equal(ln.LoRA(2).solve(problem).delta, dense(problem, 2).delta)


@pytest.mark.parametrize("scale", [1e-150, 1e-100, 1e100])
def test_scales_do_not_matter(scale, rng):
    net, problem = with_residual(SPECTRA["even"], rng)
    wanted = ln.LoRA(3).solve(problem).delta
    upper = ln.DeepLinearNetwork((*net.weights[:2], scale * net.weights[2]))
    task = ln.Regression(scale * problem.moments.task.coef, problem.moments.task.signal_cov)
    scaled = ln.LayerProblem(upper, 1, task.moments())
    assert large.lora(scaled, 3) is not None
    np.testing.assert_allclose(ln.LoRA(3).solve(scaled).delta, wanted, atol=1e-6 * np.linalg.norm(wanted))


def test_a_cluster_wider_than_the_block_hides_nothing(monkeypatch):
    monkeypatch.undo()  # at the constants that users have, but for
    monkeypatch.setattr(big, "MOST", 1)  # so that half the width is enough
    rng, n, taken = np.random.default_rng(0), 512, 0
    for _ in range(40):
        copies, gap = int(rng.choice([30, 50, 100, 300])), 10.0 ** rng.uniform(-3.5, -1)
        spread = rng.choice([0.0, 1.0]) * 10.0 ** rng.uniform(-6, -1)
        cluster = (1 - gap) * (1 - spread * rng.random(copies))
        d = np.r_[1.0, np.sort(cluster)[::-1], np.linspace(cluster.min(), 0, n - copies)[1:]]
        found = big.leading(lambda x, d=d: d[:, None] * x, lambda y, d=d: d[:, None] * y, (n, n), 1, large.TIE)
        if found is not None:
            taken += 1
            assert 1 - found[1][0] ** 2 <= big.LACKING * np.sum(d[1:] ** 2)
    assert taken >= 10


@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 5),
    others=st.integers(0, 12),
    decades=st.floats(0, 6),
    spread=st.floats(0, 6),
)
def test_what_squares_lack_is_bounded(seed, k, others, decades, spread):
    """Of a symmetric matrix that is diagonal where something was found, and anything not larger beyond."""
    rng = np.random.default_rng(seed)
    squares = np.sort(1 - 10.0**-spread * rng.random(k + 1))[::-1]
    columns = 10.0**-decades * rng.normal(size=(others, k + 1))
    coupled = np.linalg.norm(columns, axis=0)
    beyond = np.full(others, squares[-1]) * rng.choice([1.0, 0.3], size=others)
    frame = ln.haar(others, rng) if others else np.zeros((0, 0))
    matrix = np.block([[np.diag(squares), columns.T], [columns, (frame * beyond) @ frame.T]])
    largest = np.linalg.eigvalsh(matrix)[::-1][:k].sum()
    assert largest - squares[:-1].sum() <= big._lacking(squares, coupled) + 1e-13


@pytest.mark.parametrize(
    ("following", "coupled", "told"),
    [(0.5, 0.1, True), (0.5, 0.6, False), (0.99999, 0.5, True), (0.99, 0.0101, False)],
)
def test_a_tie_is_told_when_the_next_value_is_known_well_enough(following, coupled, told):
    assert big._is_told(np.array([2.0, 1.0, following]), np.array([0.0, 0.0, coupled]), 1e-4) is told


def test_a_tie_with_the_first_of_many_is_told():
    rng = np.random.default_rng(5)
    for _ in range(60):
        gap, many = large.TIE * rng.uniform(0.9, 0.99), int(rng.integers(30, 80))
        cluster = (1 - gap) - np.r_[0, np.sort(rng.random(many)) * 10.0 ** rng.uniform(-3, -1)]
        d = np.r_[1.5, 1.2, 1.0, cluster, cluster[-1] * np.linspace(rng.uniform(0.5, 1), 0, N - many - 4)]
        found = big.leading(lambda x, d=d: d[:, None] * x, lambda y, d=d: d[:, None] * y, (N, N), 3, large.TIE)
        assert found is None or found[1][2] - found[1][3] <= large.TIE * found[1][2]


def test_small_singular_values_beside_others_as_small_are_waited_for():
    d = np.r_[1, 1e-8 * np.linspace(1, 0, N - 1)]
    found = big.leading(lambda x: d[:, None] * x, lambda y: d[:, None] * y, (N, N), 3, large.TIE)
    np.testing.assert_allclose(found[1][:3], d[:3], rtol=5e-6)


def test_nothing_ties_with_nothing():
    assert big._is_told(np.array([1.0, 1e-30, 0.0]), np.array([0.0, 0.0, 1e-20]), 1e-4)


def test_a_tolerance_of_ranks_is_kept(rng):
    graded = np.r_[np.linspace(2, 1, N - 1), 1e-5]
    net = ln.DeepLinearNetwork.with_spectra([N] * 3, [np.linspace(2, 1, N), graded], rng=rng)
    task = ln.Regression(rng.normal(size=(N, N)), np.eye(N))
    assert large.lora(ln.LayerProblem(net, 0, task.moments()), 2) is not None
    assert large.lora(ln.LayerProblem(net, 0, task.moments(), rtol=1e-4), 2) is None


def test_rank_is_that_of_the_product_and_not_of_a_factor(rng):
    graded = np.r_[np.linspace(2, 1, N - 1), 1e-14]
    lower = (orthogonal(rng) * graded) @ orthogonal(rng)
    net = ln.DeepLinearNetwork((lower, np.eye(N)))
    task = ln.Regression(rng.normal(size=(N, N)), 1e20 * np.eye(N))  # of a root of 1e10, by which the least is 1e-4
    assert large.lora(ln.LayerProblem(net, 1, task.moments()), 2) is None


@pytest.mark.parametrize(("least", "definite"), [(1e-4, True), (1e-12, False)])
def test_a_large_covariance_is_called_definite_far_from_rank_loss_alone(least, definite, rng):
    frame = orthogonal(rng)
    a = (frame * np.r_[np.linspace(2, 1, N - 1), least]) @ frame.T
    found = psd_root((a + a.T) / 2)
    assert bool(found.definite) is definite
    np.testing.assert_allclose(found.root @ found.root.T, a, atol=1e-12)


@pytest.mark.parametrize("scale", [1e160, 1e308])
def test_a_large_problem_that_overflows_is_refused_when_it_is_built(scale):
    net = ln.DeepLinearNetwork((scale * np.eye(N),) * 3)
    with pytest.raises(NonFiniteError):
        ln.LayerProblem(net, 1, ln.Regression(np.eye(N), np.eye(N)).moments())


def test_small_singular_values_are_found_too(rng):
    for tail in ([1e-6, 5e-7, 1e-7], [3e-8, 1e-8, 1e-9]):
        values = np.r_[1.0, tail, np.zeros(N - 4)]
        a = (orthogonal(rng) * values) @ orthogonal(rng)
        found = big.leading(lambda x, a=a: a @ x, lambda y, a=a: a.T @ y, a.shape, 3, large.TIE)
        np.testing.assert_allclose(found[1], values[:4], rtol=1e-4)
    for beside in (0.0, 2e-8):
        values = np.r_[1.0, 3e-8, 3e-8, beside * np.linspace(1, 0, N - 3)]
        _, problem = with_residual(values, rng)
        assert large.lora(problem, 2) is None, "a tie"


def test_what_is_not_taken_so():
    rng = np.random.default_rng(0)
    square = ln.DeepLinearNetwork.random([N] * 4, rng=rng)
    task = ln.Regression(rng.normal(size=(N, N)), np.eye(N))
    assert large.lora(ln.LayerProblem(square, 1, task.moments()), 2) is not None
    assert large.lora(ln.LayerProblem(square, 1, task.moments()), 0) is None
    assert large.lora(ln.LayerProblem(square, 1, task.moments()), N // 8) is None, "the rank is not few"
    biased = ln.DeepLinearNetwork.random([N] * 4, rng=rng, biases=True)
    assert large.lora(ln.LayerProblem(biased, 1, task.moments()), 2) is None
    moved = ln.Regression(task.coef, task.signal_cov, mean=np.ones(N))
    assert large.lora(ln.LayerProblem(square, 1, moved.moments()), 2) is None
    narrow = ln.DeepLinearNetwork.random([N, N, 48, N], rng=rng)
    assert large.lora(ln.LayerProblem(narrow, 1, task.moments()), 2) is None
    single = ln.LayerProblem(square, 1, task.moments()).net.to(np, dtype=np.float32)
    assert large.lora(ln.LayerProblem(single, 1, task.to(np, dtype=np.float32).moments()), 2) is None


def test_given_moments_are_as_good_as_a_task(rng):
    net, problem = with_residual(SPECTRA["even"], rng)
    m = problem.moments
    given_directly = ln.LayerProblem(net, 1, ln.Moments(m.xx, m.yx, m.yy))
    assert large.lora(given_directly, 3) is not None
    reached = problem.risk(ln.LoRA(3).solve(given_directly))
    assert reached <= problem.risk(dense(problem, 3)) * (1 + big.LACKING)


def test_overflow_is_refused(rng):
    net = ln.DeepLinearNetwork.random([N] * 4, rng=rng)
    task = ln.Regression(rng.normal(size=(N, N)), np.eye(N))
    for scale in (1e200, 1e308):
        huge = ln.DeepLinearNetwork(tuple(scale * w for w in net.weights))
        with pytest.raises(ln.LinnetError):
            ln.LoRA(2).solve(ln.LayerProblem(huge, 1, task.moments()))


@given(seed=st.integers(0, 2**32 - 1), decades=st.floats(0, 12), triangle=st.booleans(), power=st.integers(-180, 100))
def test_norms_are_not_underestimated(seed, decades, triangle, power):
    rng = np.random.default_rng(seed)
    a = (orthogonal(rng, 48) * np.logspace(0, -decades, 48)) @ orthogonal(rng, 48)
    a = 10.0**power * (np.linalg.cholesky(a @ a.T + 1e-8 * np.eye(48)) if triangle else a)
    s = np.linalg.svd(a, compute_uv=False)
    assert s[0] <= big.norm_of(a) <= 1.01 * big.MARGIN * s[0]
    inverse = big.MARGIN * big.length(big.solved(a, big.probes(48)))
    assert 1 / s[-1] <= inverse <= 200 * big.MARGIN / s[-1]
    b = rng.normal(size=(48, 3))
    for transposed, matrix in ((False, a), (True, a.T)):
        x = big.solved(a, b, transposed=transposed)
        assert big.length(matrix @ x - b) <= 1e-12 * s[0] * big.length(x) + 1e-12


@given(
    seed=st.integers(0, 2**32 - 1),
    blocks=st.integers(8, 14),
    more=st.integers(0, 20),
    k=st.integers(1, 6),
    tall=st.booleans(),
)
def test_singular_triplets_are_the_largest(seed, blocks, more, k, tall):
    rng = np.random.default_rng(seed)
    side = blocks * max(big.BLOCK, k + big.SPARE)  # so that the bases can grow to all of it
    values = rng.exponential(size=side) * rng.choice([1.0, 0.0, 1e-9], size=side, p=[0.7, 0.2, 0.1])
    a = (orthogonal(rng, side + more)[:, :side] * values) @ orthogonal(rng, side)
    a = a if tall else a.T
    found = big.leading(lambda x: a @ x, lambda y: a.T @ y, a.shape, k, large.TIE)
    s = np.linalg.svd(a, compute_uv=False)
    assert found is not None
    u, values, vt = found
    assert np.all(values <= s[: k + 1] * (1 + 1e-12) + 1e-14 * s[0])
    assert np.sum(s[:k] ** 2 - values[:k] ** 2) <= big.LACKING * np.sum(s[k:] ** 2) + 1e-12 * s[0] ** 2
    if s[k - 1] > 1e-10 * s[0]:
        gaps = 1 - s[k] / s[k - 1], 1 - values[k] / values[k - 1]
        assert (gaps[0] <= large.TIE) == (gaps[1] <= large.TIE) or abs(gaps[0] - large.TIE) < 1e-3 * large.TIE
    np.testing.assert_allclose(u.T @ u, np.eye(k + 1), atol=1e-10)
    np.testing.assert_allclose(a @ vt.T, u * values, atol=1e-12 * s[0])  # exact, by construction


def test_inverses_of_large_matrices(rng):
    a = rng.normal(size=(N, N))
    np.testing.assert_allclose(big.inverted(a) @ a, np.eye(N), atol=1e-9)
    assert big.inverted(np.zeros((N, N))) is None
    assert big.inverted(np.full((N, N), np.nan)) is None
    assert big.inverted(np.ones((N, N))) is None or np.linalg.norm(big.inverted(np.ones((N, N)))) > 1e12


def test_a_layer_as_wide_as_the_threshold(monkeypatch):
    monkeypatch.undo()
    assert big.LARGE == 1024
    rng = np.random.default_rng(1)
    net = ln.DeepLinearNetwork.random([1024] * 4, rng=rng)
    problem = ln.LayerProblem(net, 1, ln.Regression(rng.normal(size=(1024, 1024)) / 32, np.eye(1024)).moments())
    assert large.lora(problem, 16) is not None
    assert problem.risk(ln.LoRA(16).solve(problem)) == pytest.approx(problem.risk(dense(problem, 16)), rel=big.LACKING)
