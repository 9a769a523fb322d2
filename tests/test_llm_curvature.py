"""Curvature by products against dense Hessians of tiny networks, and sensitivity against the core's closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

pytest.importorskip("transformers")
from torch_layers import middle_layer, tensor
from transformers import BertConfig, BertForSequenceClassification

import linnet as ln
from linnet.errors import ArgumentError, NonFiniteError, NotPSDError, ShapeError
from linnet.llm.krylov import Krylov, extremes, solve, trace
from linnet.llm.objective import Channels, LowRank, Objective, disturbance, model_loss
from linnet.llm.sensitivity import compared, sensitivity
from linnet.llm.vectors import flat, norm
from linnet.sweep.studies.sensitivity import quadratic, readings

NAMES = ["bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.1.attention.self.query.weight"]


def matrix(operator, like):
    """The slow twin: an operator applied to every unit vector."""
    return torch.stack([operator(e) for e in torch.eye(len(like), dtype=like.dtype)], dim=1)


def dense_hessian(objective):
    """The slow twin: the Hessian by ``torch.func``, forward over reverse, of the whole flat loss."""

    def loss(vector):
        weights = objective.weights(objective.split(vector))
        return sum(part(weights) for part in objective.losses) / len(objective.losses)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.autograd.functional.hessian(loss, flat(objective.point))


@pytest.fixture(scope="module")
def bert():
    """A transformer whose every step is in double precision: Llama's norms and softmax are in single precision."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=10,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        num_labels=3,
        initializer_range=0.5,
    )
    return BertForSequenceClassification(config).double().eval()


def batch(model, seed):
    """The loss of four random sequences with random labels, as a function of the weights ``NAMES``."""
    generator = torch.Generator().manual_seed(seed)
    ids, labels = (torch.randint(0, n, shape, generator=generator) for n, shape in ((11, (4, 6)), (3, (4,))))
    return model_loss(model, NAMES, lambda call: cross_entropy(call(input_ids=ids).logits, labels))


@pytest.fixture(scope="module")
def objective(bert):
    """Two batches, in two matrices of a transformer; 144 parameters."""
    parameters = dict(bert.named_parameters())
    return Objective([batch(bert, 1), batch(bert, 2)], [parameters[name] for name in NAMES])


@pytest.fixture(scope="module")
def lora(objective):
    """The same loss in LoRA's factors of rank 2."""
    torch.manual_seed(2)
    phi = [0.3 * torch.randn(n, 2, dtype=torch.float64) for w in objective.point for n in w.shape]
    return Objective(objective.losses, phi, objective.point, LowRank(scale=0.5))


@pytest.fixture(scope="module")
def hessian(objective):
    return dense_hessian(objective)


def close(found, wanted, rtol=1e-8):
    found, wanted = torch.as_tensor(found), torch.as_tensor(wanted)
    return float((found - wanted).norm()) <= rtol * float(wanted.norm())


# --- products -------------------------------------------------------------------------------------


def test_products_are_those_of_the_dense_hessian(objective, hessian):
    assert close(matrix(objective.hessian, objective.like), hessian, 1e-12)
    assert float(torch.linalg.eigvalsh(hessian)[0]) < -1e-3  # a real network's: indefinite


def test_products_in_the_trained_parameters_have_the_curvature_of_g(objective, lora):
    assert close(matrix(lora.hessian, lora.like), dense_hessian(lora), 1e-12)
    jacobian = matrix(lora.pushed, lora.like)
    moved = dense_hessian(lora.at_weights)
    assert close(matrix(lora.projected, lora.like), jacobian.T @ moved @ jacobian, 1e-12)
    assert close(matrix(lora.pulled, objective.like), jacobian.T, 1e-14)
    # linnet/peft-hessian: what is missing of J^T H J is 2 <G, dU dV^T>, G the gradient in the weights.
    way = torch.randn(lora.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    missing = way @ (lora.hessian(way) - lora.projected(way))
    slope = lora.at_weights.split(lora.at_weights.gradient())
    u_1, v_1, u_2, v_2 = lora.split(way)
    twice = 2 * 0.5 * ((slope[0] * (u_1 @ v_1.T)).sum() + (slope[1] * (u_2 @ v_2.T)).sum())
    assert abs(twice) > 1e-3
    assert missing.item() == pytest.approx(twice.item(), rel=1e-9)


def test_channels_are_a_coordinate_subspace(objective, hessian):
    shapes = [tuple(w.shape) for w in objective.point]
    g = Channels(shapes, [[1, 7], [0, 3, 4]], [1, 0])
    phi = [torch.zeros(8, 2, dtype=torch.float64), torch.zeros(3, 8, dtype=torch.float64)]
    s2ft = Objective(objective.losses, phi, objective.point, g)
    chosen = [i * 10 + c for i in range(8) for c in (1, 7)] + [80 + i * 8 + j for i in (0, 3, 4) for j in range(8)]
    wanted = hessian[chosen][:, chosen]
    assert close(matrix(s2ft.hessian, s2ft.like), wanted, 1e-12)
    assert close(matrix(s2ft.projected, s2ft.like), wanted, 1e-12)
    assert close(s2ft.gradient(), objective.gradient()[chosen], 1e-12)


def test_a_layer_without_channels_does_not_move():
    g = Channels([(4, 5), (2, 3)], [[], [1]], [0, 1])
    still, moved = g([torch.zeros(0, 5), torch.ones(2, 1)])
    assert torch.equal(still, torch.zeros(4, 5))
    assert moved.tolist() == [[0.0, 1.0, 0.0]] * 2


def test_gradient_and_value_are_those_at_a_step(objective):
    step = 0.1 * torch.randn(objective.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = Objective(objective.losses, [w + s for w, s in zip(objective.point, objective.split(step), strict=True)])
    assert objective.value(step) == pytest.approx(moved.value(), rel=1e-14)
    assert close(objective.gradient(step), moved.gradient(), 1e-13)
    assert not close(objective.gradient(), moved.gradient(), 1e-3)


def test_the_model_is_left_alone(bert, objective):
    before = {name: p.detach().clone() for name, p in bert.named_parameters()}
    objective.hessian(torch.ones(objective.size, dtype=torch.float64))
    assert all(torch.equal(p, before[name]) for name, p in bert.named_parameters())
    assert all(p.grad is None for p in bert.parameters())


def test_single_precision_agrees(bert, objective):
    single = BertForSequenceClassification(bert.config).float().eval()
    single.load_state_dict(bert.state_dict())
    here = Objective([batch(single, 1), batch(single, 2)], [w.float() for w in objective.point])
    way = torch.randn(here.size, generator=torch.Generator().manual_seed(3))
    assert close(here.hessian(way).double(), objective.hessian(way.double()), 1e-5)
    ends, there = extremes(here.hessian, here.like), extremes(objective.hessian, objective.like)
    assert ends.largest == pytest.approx(there.largest, rel=1e-4)


def test_what_is_linear_has_no_curvature():
    line = Objective([lambda w: w[0].sum() + 0 * w[1].sum()], [torch.ones(3), torch.ones(2)])
    assert torch.equal(line.hessian(torch.ones(5)), torch.zeros(5))


# --- eigenvalues, systems, traces -----------------------------------------------------------------


def test_extreme_eigenvalues_lie_within_their_residuals(objective, hessian):
    values = torch.linalg.eigvalsh(hessian).numpy()
    for steps in (5, 20, 144):
        ends = extremes(objective.hessian, objective.like, steps=steps, tolerance=0.0)
        assert ends.steps == steps
        for found, residual in ((ends.smallest, ends.smallest_residual), (ends.largest, ends.largest_residual)):
            assert np.abs(values - found).min() <= residual * (1 + 1e-9) + 1e-12
            assert values[0] - 1e-12 <= found <= values[-1] + 1e-12
        assert values[-1] - ends.largest <= ends.missed() + 1e-12
        assert ends.smallest - values[0] <= ends.missed() + 1e-12
    assert (ends.smallest, ends.largest) == pytest.approx((values[0], values[-1]), rel=1e-9)
    assert extremes(objective.hessian, objective.like).steps < 144  # stops when both ends are found


def test_missed_bounds_what_lanczos_has_not_seen():
    """One eigenvalue far out that a random start hardly sees: the bound must cover it all the same."""
    values = torch.cat([torch.ones(1, dtype=torch.float64), torch.linspace(-1, 0.5, 2000, dtype=torch.float64)])
    seen = [extremes(lambda v: values * v, values, steps=20, tolerance=0.0, seed=s) for s in range(20)]
    assert all(ends.largest <= 1 + 1e-12 and 1 - ends.largest <= ends.missed() < np.inf for ends in seen)
    assert extremes(lambda v: values * v, values, steps=2, tolerance=0.0).missed() == np.inf


@pytest.mark.parametrize(("steps", "share"), [(3, 0.1), (5, 0.02), (8, 0.3)])
def test_the_share_that_lanczos_misses_is_bounded_and_attained(steps, share):
    """The lemma of ``missed``: at the extremal points, with the part b_1 along the end that it needs to be missed."""
    angles = np.pi * (2 * np.arange(1, steps + 1) - 1) / (2 * steps - 1)
    values = np.append(np.cos(angles), 1 + 2 * share / (1 - share))
    limit = 1 / np.cosh((2 * steps - 1) * np.arctanh(share**0.5))
    most = 0.0
    for seed in range(200):
        part = np.random.default_rng(seed).dirichlet(np.ones(steps))
        start = tensor(np.append(np.sqrt(part * (1 - limit**2)), limit))
        space = Krylov(lambda v: tensor(values) * v, [start], steps)
        while space.grow():
            pass
        missed = (values[-1] - np.linalg.eigvalsh(space.matrix)[-1]) / (values[-1] - values.min())
        assert missed <= share * (1 + 1e-9)
        most = max(most, missed / share)
    assert most > 0.8


def test_a_krylov_space_ends_where_it_is_complete():
    values = torch.tensor([2.0, 2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    space = Krylov(lambda v: values * v, [torch.ones(5, dtype=torch.float64)], 5)
    while space.grow():
        pass
    assert space.steps == 3
    np.testing.assert_allclose(np.linalg.eigvalsh(space.matrix), [0, 1, 2], atol=1e-12)
    np.testing.assert_allclose((space.basis @ space.basis.mT).numpy(), np.eye(3), atol=1e-12)


def test_a_system_is_solved_and_its_residual_is_the_true_one(objective, hessian):
    damping = 1.1 * abs(float(torch.linalg.eigvalsh(hessian)[0]))
    shifted = hessian + damping * torch.eye(len(hessian), dtype=torch.float64)
    b = objective.gradient()
    found = solve(lambda v: objective.hessian(v) + damping * v, b)
    assert found.converged
    assert found.relative <= 1e-10
    assert close(found.residual, b - shifted @ found.x, 1e-3)
    assert close(found.x, torch.linalg.solve(shifted, b))
    short = solve(lambda v: objective.hessian(v) + damping * v, b, steps=4)
    assert not short.converged
    assert norm(b - shifted @ short.x) / norm(b) == pytest.approx(short.relative, rel=1e-9)


def test_a_singular_system_is_solved_in_its_range():
    values = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    found = solve(lambda v: values * v, torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64))
    assert found.converged
    assert close(found.x, torch.tensor([1.0, 2.0, 0.0]))
    zero = solve(lambda v: values * v, torch.zeros(3, dtype=torch.float64))
    assert zero.converged
    assert zero.steps == 0


def test_what_rounding_makes_of_an_empty_direction_is_not_followed():
    """A null direction curved by 1e-20 in place of 0, and a right-hand side that rounding gave a part along it."""
    values = torch.tensor([1.0, 1e-20], dtype=torch.float64)
    b = torch.tensor([0.0, 1e-12], dtype=torch.float64)
    found = solve(lambda v: values * v, b, scale=1.0)
    assert norm(found.x) == 0
    assert not found.converged
    assert solve(lambda v: values * v, b).x[1] == pytest.approx(1e8)  # without the scale it is what was asked for


def test_negative_curvature_is_refused_and_not_inverted(objective):
    with pytest.raises(NotPSDError, match="damping"):
        solve(objective.hessian, objective.gradient())


def test_trace_of_random_signs(objective, hessian):
    truth = float(hessian.trace())
    found = trace(objective.hessian, objective.like, probes=100)
    assert abs(found.mean - truth) <= 5 * found.standard_error
    off = hessian - torch.diag(hessian.diagonal())
    assert found.standard_error == pytest.approx(float((2 * (off**2).sum() / 100).sqrt()), rel=0.3)
    exact = trace(lambda v: torch.arange(5.0) * v, torch.zeros(5), probes=2)
    assert exact.mean == 10
    assert exact.standard_error == 0


# --- sensitivity ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear():
    return middle_layer([6, 5, 4, 6], samples=40)


def test_the_quadratic_is_the_core_s(linear):
    problem, objective = linear
    hessian, gradient = quadratic(problem)
    assert close(matrix(objective.hessian, objective.like), tensor(hessian), 1e-12)
    assert close(objective.gradient(), tensor(gradient), 1e-12)
    assert objective.value() == pytest.approx(problem.initial_risk, rel=1e-12)


@pytest.mark.parametrize("form", ["rows", "columns"])
def test_sensitivity_is_the_core_s(linear, form):
    problem, objective = linear
    hessian, gradient = quadratic(problem)
    method = ln.S2FT([0, 2], form=form)
    basis = np.asarray(method.directions(problem))
    eps = np.random.default_rng(6).normal(size=(20, 1))
    wanted = {name: float(value[0]) for name, value in readings(hessian, gradient, basis, eps).items()}
    axis = 0 if form == "rows" else 1
    start = torch.zeros((2, 5) if form == "rows" else (4, 2), dtype=torch.float64)
    peft = Objective(objective.losses, [start], objective.point, Channels([(4, 5)], [[0, 2]], [axis]))
    full, part = sensitivity(objective, tensor(eps[:, 0])), sensitivity(peft, tensor(eps[:, 0]))
    found = compared(part, full)
    for name in ("extra", "left", "clean", "printed"):
        assert getattr(found, name) == pytest.approx(wanted[name], rel=1e-8)
        assert abs(getattr(found, name) - wanted[name]) <= getattr(found, f"{name}_error") + 1e-10 * abs(wanted[name])
    later = compared(replace(part, loss=part.loss + 1), full)  # trained from another start
    assert (later.left - found.left, later.clean - found.clean, later.extra) == pytest.approx((1, 1, found.extra))
    assert (part.extra, full.extra) == pytest.approx((wanted["extra_peft"], wanted["extra_full"]), rel=1e-8)
    assert (part.reading, part.curvature.definite, part.parameters) == ("plain", "positive definite", basis.shape[1])
    # The network is quadratic in one layer: the model is exact.
    assert part.extra_network == pytest.approx(part.extra, rel=1e-8)
    # And so the least losses are those of the solutions in closed form.
    assert part.loss + part.optimum == pytest.approx(problem.risk(method.solve(problem)), rel=1e-9)
    assert full.loss + full.optimum == pytest.approx(problem.risk(ln.FullFT().solve(problem)), rel=1e-9)


def test_lora_is_read_at_its_optimum_with_its_true_hessian(linear):
    problem, objective = linear
    update = ln.LoRA(2).solve(problem)
    tuned = Objective(objective.losses, [tensor(update.left), tensor(update.right)], objective.point, LowRank())
    assert norm(tuned.gradient()) < 1e-12
    assert norm(tuned.at_weights.gradient()) > 1e-2  # a slope that the rank does not follow: eq. (50) fails here
    eps = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    jacobian = matrix(tuned.pushed, tuned.like)
    halves = {}
    for kind, dense in (("true", dense_hessian(tuned)), ("projected", matrix(tuned.projected, tuned.like))):
        halves[kind] = float(eps @ jacobian @ torch.linalg.pinv(dense, rtol=1e-10) @ jacobian.T @ eps) / 2
        found = sensitivity(tuned, eps, hessian=kind)
        assert found.extra == pytest.approx(halves[kind], rel=1e-8)
        assert found.curvature.definite == "singular"  # U M and V M^-T are the same update
        assert (found.gradient, found.optimum) == pytest.approx((0, 0), abs=1e-12)
        # As printed: by bases of the tangent space and its complement.
        tangents = torch.linalg.svd(jacobian)[0][:, : torch.linalg.matrix_rank(jacobian)]
        across = (eps - tangents @ (tangents.T @ eps)) @ tuned.at_weights.gradient()
        assert found.printed == pytest.approx(halves[kind] + float(across), rel=1e-8)
    assert halves["true"] > 1.01 * halves["projected"]


def test_an_indefinite_hessian_is_refused_damped_or_restricted_but_never_silently(objective, hessian):
    values, vectors = torch.linalg.eigh(hessian)
    eps = torch.randn(objective.size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    slope = objective.gradient()
    with pytest.raises(NotPSDError, match="indefinite"):
        sensitivity(objective, eps, spectrum_steps=144)
    for name in ("damping", "ridge"):  # the same, where the weights themselves are trained
        found = sensitivity(objective, eps, **{name: 0.5 - float(values[0])})
        shifted = hessian + (0.5 - values[0]) * torch.eye(len(values), dtype=torch.float64)
        check(found, lambda e, s: float(e @ torch.linalg.solve(s, e)) / 2, shifted, slope, eps)
        assert (found.reading, found.curvature.definite) == ("damped", "positive definite")
    cutoff = 0.02
    found = sensitivity(objective, eps, cutoff=cutoff, steps=144, spectrum_steps=144)
    kept = values > cutoff
    part = vectors[:, kept]
    check(found, lambda e, s: float(((part.T @ e) ** 2 / values[kept]).sum()) / 2, hessian, slope, eps, 1e-7)
    assert (found.reading, found.curvature.definite, found.cutoff) == ("restricted", "indefinite", cutoff)
    assert found.residual is None
    assert (found.kept, found.dropped) == (int(kept.sum()), int((~kept).sum()))
    assert found.curvature.smallest == pytest.approx(float(values[0]), rel=1e-6)


def check(found, half, dense, slope, eps, rtol=1e-8):
    """The readings by their definitions: half(e, S) is e^T S^+ e / 2."""
    assert found.extra == pytest.approx(half(eps, dense), rel=rtol)
    assert found.optimum == pytest.approx(-half(slope, dense), rel=rtol)
    assert found.left == pytest.approx(-half(slope + eps, dense), rel=rtol)
    assert found.clean == pytest.approx(half(eps, dense) - half(slope, dense), rel=rtol)


def test_damping_is_of_the_weights_whatever_is_trained(lora):
    """lambda/2 |theta - theta*|^2 has the Hessian lambda J^T J at theta*: one penalty for all methods."""
    jacobian = matrix(lora.pushed, lora.like)
    eps = 0.1 * torch.randn(jacobian.shape[0], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    dense = dense_hessian(lora) + 3.0 * jacobian.T @ jacobian + 2.0 * torch.eye(lora.size, dtype=torch.float64)
    found = sensitivity(lora, eps, damping=3.0, ridge=2.0)
    check(found, lambda e, s: float(e @ torch.linalg.solve(s, e)) / 2, dense, lora.gradient(), jacobian.T @ eps)
    assert found.extra_network != pytest.approx(found.extra, rel=1e-6)  # no quadratic: said beside it
    assert found.extra_network == pytest.approx(found.extra, rel=0.1)


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_error_bounds_hold_where_systems_are_not_solved(objective, hessian, steps):
    values = torch.linalg.eigvalsh(hessian)
    eps = torch.randn(objective.size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    shifted = hessian + (0.02 - values[0]) * torch.eye(len(values), dtype=torch.float64)
    exact = float(eps @ torch.linalg.solve(shifted, eps)) / 2
    found = sensitivity(objective, eps, damping=0.02 - float(values[0]), steps=steps, spectrum_steps=144)
    assert 1e-6 * exact < exact - found.extra <= found.extra_error
    assert found.extra_error <= 20 * (exact - found.extra)  # and they say something
    assert found.residual > 1e-3


def test_disturbance_is_the_gradient_that_other_data_add(bert, objective, lora):
    other = batch(bert, 3)
    eps = disturbance(objective, replace(objective, losses=[other]))
    assert close(eps + objective.gradient(), replace(objective, losses=[other]).gradient(), 1e-12)
    assert disturbance(lora, replace(lora, losses=[other])).shape == eps.shape  # in the weights


# --- what is refused ------------------------------------------------------------------------------


def test_chance_in_the_loss_is_refused():
    generator = torch.Generator().manual_seed(0)
    noisy = Objective([lambda w: (w[0] * torch.rand(3, generator=generator)).sum()], [torch.ones(3)])
    with pytest.raises(ArgumentError, match="dropout"):
        sensitivity(noisy, torch.ones(3))


def test_what_does_not_fit_is_refused(bert, objective, lora):
    with pytest.raises(ArgumentError, match="no parameter 'lm'"):
        model_loss(bert, ["lm"], lambda call: call().loss)
    with pytest.raises(ArgumentError, match="no parameter is named"):
        model_loss(bert, [], lambda call: call().loss)
    with pytest.raises(ArgumentError, match="at least one loss"):
        Objective([], objective.point)
    with pytest.raises(ArgumentError, match="belong together"):
        Objective(objective.losses, objective.point, g=LowRank())
    with pytest.raises(ArgumentError, match="one floating dtype"):
        Objective(objective.losses, [torch.ones(2), torch.ones(2, dtype=torch.float64)])
    with pytest.raises(ShapeError, match="increments of shapes"):
        Objective(objective.losses, lora.point[:2], objective.point, LowRank())
    with pytest.raises(ShapeError, match="U and V"):
        Objective(objective.losses, lora.point[:3], objective.point, LowRank())
    with pytest.raises(ShapeError, match="flatten"):
        objective.hessian(torch.ones(3))
    with pytest.raises(ShapeError, match="flatten"):
        sensitivity(lora, torch.ones(lora.size), damping=3.0, ridge=2.0)
    with pytest.raises(ArgumentError, match="negative"):
        sensitivity(objective, objective.like, damping=-1.0)
    with pytest.raises(NonFiniteError, match="loss"):
        Objective([lambda w: w[0].log().sum()], [torch.zeros(1)]).value()
    with pytest.raises(NonFiniteError, match="gradient"):
        Objective([lambda w: w[0].sqrt().sum()], [torch.zeros(1)]).gradient()
    with pytest.raises(NonFiniteError, match="product"):
        extremes(lambda v: v / 0, torch.ones(3))
    with pytest.raises(ArgumentError, match="at least 2"):
        trace(objective.hessian, objective.like, probes=1)
    damped = sensitivity(objective, objective.like, damping=5.0)
    with pytest.raises(ArgumentError, match="both alike"):
        compared(replace(damped, damping=1.0), damped)
