"""Partial back-propagation against plain autograd: the same gradient, less of it, from less."""

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linnet.llm.linear import COLUMNS, ROWS, PartialLinear, Resident, gathered, place, put, take

OUT, IN, BATCH, LENGTH = 6, 5, 2, 3


@st.composite
def problems(draw):
    axis = draw(st.sampled_from([ROWS, COLUMNS]))
    size = OUT if axis == ROWS else IN
    sets = draw(
        st.lists(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True), min_size=1, max_size=2)
    )
    return axis, sets, draw(st.booleans()), draw(st.integers(0, 2**31))


def drawn(seed, dtype, *shape):
    generator = torch.Generator().manual_seed(seed)
    if dtype is int:
        return torch.randint(-8, 9, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def both(axis, sets, with_bias, seed, dtype, steps=1):
    """Return gradients of (x, bias, increments) by partial back-propagation, and sliced from the full ones."""
    base = drawn(seed, dtype, OUT, IN)
    places = [place(s) for s in sets]
    deltas = [
        drawn(seed + 1 + i, dtype, *((len(s), IN) if axis == ROWS else (OUT, len(s)))) for i, s in enumerate(sets)
    ]
    weight = base.clone()
    for where, delta in zip(places, deltas, strict=True):
        put(weight, axis, where, take(weight, axis, where) + delta)
    bias = drawn(seed + 5, dtype, OUT) if with_bias else None
    deltas = [d.requires_grad_() for d in deltas]
    mine, full = weight.clone(), weight.clone().requires_grad_()
    biases = [None if bias is None else bias.clone().requires_grad_() for _ in range(2)]
    inputs = []
    for step in range(steps):  # gradients accumulate
        x = drawn(seed + 10 + step, dtype, BATCH, LENGTH, IN)
        upstream = drawn(seed + 20 + step, dtype, BATCH, LENGTH, OUT)
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        resident = Resident(mine, axis, tuple(places), lambda: contextlib.nullcontext(mine))
        out = PartialLinear.apply(one, biases[0], resident, *deltas)
        twin = torch.nn.functional.linear(other, full, biases[1])
        assert torch.equal(out, twin)
        out.backward(upstream)
        twin.backward(upstream)
        inputs.append((one.grad, other.grad))
    slices = [(d.grad, take(full.grad, axis, where)) for d, where in zip(deltas, places, strict=True)]
    rest = [] if bias is None else [(biases[0].grad, biases[1].grad)]
    assert mine.grad is None
    return [*inputs, *rest, *slices]


@given(problems())
def test_on_integers_the_slice_is_exact(problem):
    for mine, full in both(*problem, int, steps=3):
        assert torch.equal(mine, full)


@given(problems())
def test_in_float64_it_agrees_to_1e_13(problem):
    for mine, full in both(*problem, torch.float64, steps=3):
        assert (mine - full).abs().max() <= 1e-13 * full.abs().max().clamp_min(1)


@given(problems())
def test_in_bfloat16_it_agrees_within_rounding(problem):
    for mine, full in both(*problem, torch.bfloat16):
        assert (mine - full).abs().max() <= 2**-7 * full.abs().max().clamp_min(1)


@given(problems())
def test_the_slow_twin_has_the_same_output_and_gradient(problem):
    axis, sets, _, seed = problem
    where = place(sets[0])
    base = drawn(seed, int, OUT, IN)
    delta = drawn(seed + 1, int, *((len(sets[0]), IN) if axis == ROWS else (OUT, len(sets[0]))))
    x = drawn(seed + 2, int, BATCH, LENGTH, IN)
    upstream = drawn(seed + 3, int, BATCH, LENGTH, OUT)
    grads = []
    for fast in (True, False):
        d, y = delta.clone().requires_grad_(), x.clone().requires_grad_()
        if fast:
            weight = base.clone()
            put(weight, axis, where, take(weight, axis, where) + delta)
            out = PartialLinear.apply(
                y, None, Resident(weight, axis, (where,), lambda w=weight: contextlib.nullcontext(w)), d
            )
        else:
            out = y @ base.T + gathered(y, axis, where, d, OUT)
        out.backward(upstream)
        grads.append((out.detach(), d.grad, y.grad))
    for mine, twin in zip(*grads, strict=True):
        assert torch.equal(mine, twin)


@pytest.mark.parametrize(("axis", "kept"), [(COLUMNS, 2), (ROWS, 64)])
@pytest.mark.parametrize("channels", [[3, 4], [9, 1]])
def test_of_columns_only_the_slice_of_the_input_is_kept(axis, kept, channels):
    x = torch.randn(7, 64, requires_grad=True)
    weight, delta = torch.randn(64, 64), torch.zeros((64, 2) if axis == COLUMNS else (2, 64), requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        resident = Resident(weight, axis, (place(channels),), lambda: contextlib.nullcontext(weight))
        PartialLinear.apply(x * 1, None, resident, delta)
    others = [
        t for t in saved if t is not delta and t.untyped_storage().data_ptr() != delta.untyped_storage().data_ptr()
    ]
    assert [t.untyped_storage().nbytes() for t in others] == [7 * kept * 4]


def test_what_was_not_asked_for_is_not_computed():
    weight = torch.randn(4, 4)
    resident = Resident(weight, COLUMNS, (slice(0, 1), slice(1, 2)), lambda: contextlib.nullcontext(weight))
    on, off = torch.zeros(4, 1, requires_grad=True), torch.zeros(4, 1)
    x = torch.randn(3, 4)
    PartialLinear.apply(x, None, resident, on, off).sum().backward()
    assert on.grad is not None
    assert off.grad is None
    assert x.grad is None


def test_a_second_derivative_is_refused_and_the_twin_has_it():
    weight, delta = torch.randn(3, 3).double(), torch.zeros(3, 1, requires_grad=True, dtype=torch.double)
    x = torch.randn(2, 3).double().requires_grad_()
    resident = Resident(weight, COLUMNS, (slice(0, 1),), lambda: contextlib.nullcontext(weight))
    (grad,) = torch.autograd.grad(
        PartialLinear.apply(x, None, resident, delta).square().sum(), delta, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()

    def loss(d):
        return (x @ weight.T + gathered(x, COLUMNS, slice(0, 1), d, 3)).square().sum()

    hessian = torch.autograd.functional.hessian(loss, delta)
    assert hessian.abs().max() > 0


def test_neighbours_in_order_are_a_slice():
    assert place([3, 4, 5]) == slice(3, 6)
    assert torch.equal(place([4, 3]), torch.tensor([4, 3]))
    assert torch.equal(place([3, 5]), torch.tensor([3, 5]))
