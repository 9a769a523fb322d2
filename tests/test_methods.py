"""Every closed form against its slow twin, on drawn structure; and what the solutions are invariant to."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import assume_well_conditioned, cases, clear, networks

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
