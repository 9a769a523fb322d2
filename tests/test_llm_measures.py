"""Capacity, spectra and the bridge: against the core where its closed forms apply, and against slow twins."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

pytest.importorskip("transformers")
from torch_layers import middle_layer, tensor
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import linnet as ln
from linnet.errors import ArgumentError, NonFiniteError, RankError, ShapeError
from linnet.llm import bridge, capacity, spectrum
from linnet.llm.capacity import Layer, layer_displacement, network_displacements, spectral_norm, stack_displacement
from linnet.llm.objective import Objective, model_loss
from linnet.sweep.studies.capacity import bounds
from linnet.trials import Activated
from linnet.trials.algebra import FloatMatrix
from paper_checks.linnet.capacity import how_far_increments_move_the_output
from paper_checks.liu2025.theorem_2 import by_the_largest_norm, by_the_layers_above, one_layer


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- capacity: constants and norms ----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(capacity.LIPSCHITZ))
def test_lipschitz_constants_are_the_steepest_slopes(name):
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(capacity._FUNCTIONS[name](x).sum(), x)[0].abs().max().item()
    assert slope <= capacity.lipschitz(name) * (1 + 1e-12)
    assert capacity.lipschitz(name) <= slope + 1e-7
    assert capacity._FUNCTIONS[name](torch.zeros(1)).item() == 0


def test_activations_are_those_of_transformers():
    from transformers.activations import ACT2FN

    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    for name in set(capacity.LIPSCHITZ) - {"identity"}:
        wanted = ACT2FN[name](x)
        torch.testing.assert_close(capacity._FUNCTIONS[name](x), wanted, rtol=1e-5, atol=1e-6)


def test_gelu_s_constant_is_the_core_s():
    from linnet.trials.settings.activated import LIPSCHITZ

    assert capacity.lipschitz("gelu") == pytest.approx(float(LIPSCHITZ["gelu"]), rel=1e-8)
    assert capacity.lipschitz("gelu") <= float(LIPSCHITZ["gelu"])  # which is rounded up


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 7), (6, 6)])
def test_spectral_norm(shape):
    a = drawn(*shape)
    truth = float(np.linalg.norm(a.numpy(), 2))
    exact, wide = spectral_norm(a), spectral_norm(a, exact=0)
    assert exact.lower <= truth <= exact.upper <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-9) <= wide.lower <= truth <= wide.upper  # Lanczos is through after min(shape) steps
    assert wide.upper <= float(np.linalg.norm(a)) * (1 + 1e-12)


def test_wide_norm_takes_the_better_of_two_certain_bounds():
    assert spectral_norm(torch.eye(50), exact=0).upper == pytest.approx(1, rel=1e-9)  # Frobenius says 7
    rank_one = torch.outer(drawn(50), drawn(50, seed=1))
    assert spectral_norm(rank_one, exact=0).upper == pytest.approx(float(rank_one.norm()), rel=1e-9)
    assert spectral_norm(torch.zeros(3, 4)).upper == 0


# --- capacity: stacks -----------------------------------------------------------------------------


def test_constants_of_a_linear_stack_are_the_core_s():
    weights, increments = drawn(4, 6, 6), drawn(4, 6, 6, seed=1, scale=0.3)
    norms = [torch.linalg.matrix_norm(a, 2).numpy() for a in (weights, increments, weights + increments)]
    wanted = bounds(*norms)
    found = stack_displacement([Layer(w, d) for w, d in zip(weights, increments, strict=True)], drawn(10, 6, seed=2))
    names = {"printed": "printed", "product": "product", "bound": "capacity", "bound_norms": "capacity, norms"}
    for core, here in names.items():
        assert found.bound(here).constant == pytest.approx(float(wanted[core]), rel=1e-10)
    product, tuned = torch.eye(6).double(), torch.eye(6).double()
    for w, d in zip(weights, increments, strict=True):
        product, tuned = w @ product, (w + d) @ tuned
    x = drawn(10, 6, seed=2)
    ratios = (x @ (tuned - product).mT).norm(dim=1) / x.norm(dim=1)
    assert found.relative == pytest.approx(float(ratios.max()), rel=1e-12)
    assert found.bound("capacity").ratio == pytest.approx(found.relative / found.bound("capacity").constant, rel=1e-12)


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "gelu"])
def test_bounds_and_displacement_are_those_of_the_claims(activation):
    """One input, and the claims of Theorem 2 as they are on trial."""
    weights = [drawn(4, 3), drawn(5, 4, seed=1), drawn(2, 5, seed=2)]
    increments = [drawn(*w.shape, seed=3 + i, scale=0.4) for i, w in enumerate(weights)]
    x = drawn(1, 3, seed=9)

    def matrices(many):
        return [FloatMatrix(w.numpy()[None]) for w in many]

    instance = {"weights": matrices(weights), "increments": matrices(increments), "x": matrices([x.mT])[0]}
    view = Activated.view(instance | {"activation": activation, "norm": "spectral"})
    found = stack_displacement([Layer(w, d, activation) for w, d in zip(weights, increments, strict=True)], x)
    length = float(x.norm())
    for name, claim in (("product", by_the_layers_above), ("printed", by_the_largest_norm)):
        moved, stated = claim.function(view)
        assert found.largest == pytest.approx(float(moved[0]), rel=1e-9)
        assert found.bound(name).constant * length == pytest.approx(float(stated[0]), rel=1e-7)
    (moved, first), (_, second) = how_far_increments_move_the_output.function(view)
    assert found.bound("capacity").constant * length == pytest.approx(float(first[0]), rel=1e-7)
    assert found.bound("capacity, norms").constant * length == pytest.approx(float(second[0]), rel=1e-7)
    moved, stated = one_layer.function(view)
    single = layer_displacement(Layer(weights[0], increments[0], activation), x)
    assert single.largest == pytest.approx(float(moved[0]), rel=1e-9)
    assert single.bound("layer").constant * length == pytest.approx(float(stated[0]), rel=1e-7)


def test_the_counterexamples_of_theorem_2_are_seen():
    """docs/proofs/capacity.md: W = (2, 0), Phi = (0, 1) moves by 2 where eq. (29) allows 1; W = Phi = (1, 1) by 3
    where eq. (6) allows 2."""
    one = torch.ones(1, 1)
    found = stack_displacement([Layer(2 * one, 0 * one), Layer(0 * one, one)], one)
    assert (found.largest, found.bound("product").constant) == pytest.approx((2, 1))
    assert found.bound("product").violated == 1
    assert found.bound("product").ratio == pytest.approx(2)
    assert found.bound("capacity").violated == found.bound("capacity, inputs").violated == 0
    found = stack_displacement([Layer(one, one), Layer(one, one)], one)
    assert (found.largest, found.bound("printed").constant) == pytest.approx((3, 2))
    assert found.bound("printed").violated == 1
    for name in ("capacity", "capacity, norms", "capacity, inputs"):  # and these are attained
        assert found.bound(name).ratio == pytest.approx(1)
        assert found.bound(name).violated == 0


def test_true_bounds_hold_with_biases_and_nearly_bind():
    """Positive numbers and ReLU: nothing is lost but by the norms of the constant 1 beside the input."""
    generator = torch.Generator().manual_seed(3)
    for seed in range(20):
        shapes = [(4, 3), (5, 4), (2, 5)]
        layers = [
            Layer(
                drawn(*shape, seed=seed + 31 * i),
                drawn(*shape, seed=seed + 37 * i + 1, scale=0.5),
                ("gelu", "silu", "identity")[i],
                drawn(shape[0], seed=seed + 2),
                drawn(shape[0], seed=seed + 3, scale=0.1),
            )
            for i, shape in enumerate(shapes)
        ]
        found = stack_displacement(layers, torch.randn(50, 3, generator=generator, dtype=torch.float64))
        for name in ("capacity", "capacity, norms", "capacity, inputs"):
            assert found.bound(name).violated == 0
        assert found.bound("capacity").constant <= found.bound("capacity, norms").constant * (1 + 1e-12)
        assert found.bound("capacity").ratio <= found.bound("capacity, inputs").ratio
    one = torch.ones(1, 1)
    bound = stack_displacement([Layer(one, one, "relu", one[0], one[0])] * 2, one).bound("capacity, inputs")
    assert bound.ratio == pytest.approx(1)  # 2 h + 2 twice on 1: from 3 to 10, by (1 + 1) 2 + (2 + 1)


def test_a_bias_is_a_weight_of_the_constant():
    w, phi, b, beta = drawn(4, 3), drawn(4, 3, seed=1), drawn(4, seed=2), drawn(4, seed=3)
    x = drawn(20, 3, seed=4)
    seen = torch.cat([x, torch.ones(20, 1)], dim=1)
    with_bias = layer_displacement(Layer(w, phi, "gelu", b, beta), x)
    as_weight = layer_displacement(
        Layer(torch.cat([w, b[:, None]], 1), torch.cat([phi, beta[:, None]], 1), "gelu"), seen
    )
    assert with_bias.bound("layer").constant == pytest.approx(as_weight.bound("layer").constant, rel=1e-12)
    assert with_bias.bound("layer").ratio == pytest.approx(as_weight.bound("layer").ratio, rel=1e-12)
    frozen_bias = layer_displacement(Layer(w, phi, "gelu", b), x)  # which does not matter to eq. (26)
    assert frozen_bias.bound("layer").constant == pytest.approx(
        capacity.lipschitz("gelu") * float(torch.linalg.matrix_norm(phi, 2)), rel=1e-10
    )


def test_a_stack_with_biases_is_one_without_on_a_constant():
    """ReLU passes the constant 1 on by itself: the same network, written with biases and without."""
    shapes, x = [(4, 3), (5, 4), (2, 5)], drawn(30, 3, seed=40)
    with_biases, without = [], []
    for i, (m, n) in enumerate(shapes):
        w, phi = drawn(m, n, seed=i), drawn(m, n, seed=10 + i, scale=0.3)
        b, beta = drawn(m, seed=20 + i), drawn(m, seed=30 + i, scale=0.3)
        with_biases.append(Layer(w, phi, "relu", b, beta))
        pair = [torch.cat([a, c[:, None]], dim=1) for a, c in ((w, b), (phi, beta))]
        if i < 2:
            corner = torch.eye(n + 1, dtype=torch.float64)[-1:]
            pair = [torch.cat([pair[0], corner]), torch.cat([pair[1], 0 * corner])]
        without.append(Layer(*pair, "relu"))
    found = stack_displacement(with_biases, x)
    wanted = stack_displacement(without, torch.cat([x, torch.ones(30, 1)], dim=1))
    assert found.largest == pytest.approx(wanted.largest, rel=1e-12)
    for name in ("product", "printed", "capacity", "capacity, norms"):
        assert found.bound(name).constant == pytest.approx(wanted.bound(name).constant, rel=1e-10)
        assert found.bound(name).ratio == pytest.approx(wanted.bound(name).ratio, rel=1e-10)


def test_the_bound_token_by_token_is_the_line_of_the_proof():
    w, phi, x = [drawn(4, 3), drawn(2, 4, seed=1)], [drawn(4, 3, seed=2), drawn(2, 4, seed=3)], drawn(9, 3, seed=4)
    b, beta = drawn(4, seed=5), drawn(4, seed=6)
    found = stack_displacement([Layer(w[0], phi[0], "gelu", b, beta), Layer(w[1], phi[1], "silu")], x)
    gelu, silu = capacity.lipschitz("gelu"), capacity.lipschitz("silu")
    hidden = torch.nn.functional.gelu(x @ w[0].mT + b)
    moved = torch.nn.functional.gelu(x @ (w[0] + phi[0]).mT + b + beta)
    ends = [torch.nn.functional.silu(h @ m.mT) for h, m in ((hidden, w[1]), (moved, w[1] + phi[1]))]
    through = silu * float(torch.linalg.matrix_norm(w[1] + phi[1], 2))
    allowed = through * gelu * (x @ phi[0].mT + beta).norm(dim=1) + silu * (hidden @ phi[1].mT).norm(dim=1)
    ratio = float(((ends[1] - ends[0]).norm(dim=1) / allowed).max())
    assert found.bound("capacity, inputs").ratio == pytest.approx(ratio, rel=1e-10)


def test_tokens_of_zero_count_apart():
    found = layer_displacement(Layer(drawn(3, 3), drawn(3, 3, seed=1)), torch.zeros(4, 3))
    assert (found.largest, found.relative, found.bound("layer").ratio, found.bound("layer").violated) == (0, 0, 0, 0)


# --- capacity: networks ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        num_labels=3,
        initializer_range=0.5,
    )
    return BertForSequenceClassification(config).double().eval()


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).double().eval()


IDS = torch.arange(12).reshape(2, 6) % 11
FFN = [("bert.encoder.layer.1.intermediate.dense", "gelu"), ("bert.encoder.layer.1.output.dense", "identity")]


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def small(model, names, scale=0.05):
    parameters = dict(model.named_parameters())
    return {n: drawn(*parameters[n].shape, seed=i, scale=scale) for i, n in enumerate(names)}


def test_displacements_of_a_transformer(bert):
    names = [f"{module}.{kind}" for module, _ in FFN for kind in ("weight", "bias")]
    increments = small(bert, [*names, "bert.encoder.layer.0.attention.self.value.weight"])
    before = {n: p.detach().clone() for n, p in bert.named_parameters()}
    seen = {}

    def note(name):
        return lambda module, args, output: seen.setdefault(name, []).append((args[0], output))

    handles = [bert.get_submodule(n).register_forward_hook(note(n)) for n, _ in FFN]
    frozen = bert(input_ids=IDS).logits.detach()
    for handle in handles:
        handle.remove()
    rows = network_displacements(
        bert,
        increments,
        lambda call: call(input_ids=IDS),
        layers={FFN[0][0]: "gelu", FFN[1][0]: "identity"},
        stacks={"ffn 1": FFN},
        blocks=["bert.encoder.layer.0", "bert.encoder.layer.1"],
    )
    assert all(torch.equal(p, before[n]) for n, p in bert.named_parameters())
    by_name = {row.name: row for row in rows}
    assert [row.name for row in rows][-1] == "network"
    # The layers and the stack, computed by hand on what they see in the frozen network.
    x = seen[FFN[0][0]][0][0].detach().reshape(-1, 8)
    parameters = {n: p.detach() for n, p in bert.named_parameters()}

    def made(inputs, module, tuned):
        w, b = (parameters[f"{module}.{kind}"] for kind in ("weight", "bias"))
        if tuned:
            w, b = (p + increments[f"{module}.{kind}"] for p, kind in ((w, "weight"), (b, "bias")))
        return inputs @ w.mT + b

    hidden = [torch.nn.functional.gelu(made(x, FFN[0][0], t)) for t in (False, True)]
    assert by_name[FFN[0][0]].largest == pytest.approx(float((hidden[1] - hidden[0]).norm(dim=1).max()), rel=1e-10)
    moved = made(hidden[1], FFN[1][0], True) - made(hidden[0], FFN[1][0], False)
    assert by_name["ffn 1"].largest == pytest.approx(float(moved.norm(dim=1).max()), rel=1e-10)
    assert by_name["ffn 1"].bound("capacity").violated == by_name["ffn 1"].bound("capacity, inputs").violated == 0
    assert 0.01 < by_name["ffn 1"].bound("capacity, inputs").ratio <= 1
    # The blocks and the network, by a tuned copy.
    copy = BertForSequenceClassification(bert.config).double().eval()
    copy.load_state_dict({n: p + increments.get(n, 0.0) for n, p in bert.state_dict().items()})
    outputs = []
    for model in (bert, copy):
        found = model(input_ids=IDS, output_hidden_states=True)
        outputs.append((*found.hidden_states[1:], found.logits))
    carried = [
        float((a - b).detach().reshape(-1, a.shape[-1]).norm(dim=1).mean()) for a, b in zip(*outputs, strict=True)
    ]
    assert by_name["bert.encoder.layer.0"].carried == pytest.approx(carried[0], rel=1e-9)
    assert by_name["bert.encoder.layer.1"].carried == pytest.approx(carried[1], rel=1e-9)
    assert by_name["network"].mean == pytest.approx(carried[2], rel=1e-9)
    assert by_name["network"].size == pytest.approx(float(frozen.norm(dim=1).mean()), rel=1e-9)
    # Of the first block nothing is below: its own displacement is all there is. The second adds to it.
    first, second = by_name["bert.encoder.layer.0"], by_name["bert.encoder.layer.1"]
    assert first.mean == pytest.approx(first.carried, rel=1e-9)
    assert second.mean != pytest.approx(second.carried, rel=1e-3)
    # And nothing is pretended.
    for name in ("bert.encoder.layer.1", "network"):
        assert by_name[name].bounds == ()
        assert any("attention" in why for why in by_name[name].unbounded)
        assert any("normalisation" in why for why in by_name[name].unbounded)
        assert not any("gate" in why for why in by_name[name].unbounded)
    with pytest.raises(ArgumentError, match=r"no bound 'capacity'.*attention"):
        by_name["network"].bound("capacity")


def test_gates_are_named_and_default_layers_are_those_that_moved(llama):
    names = ["model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.down_proj.weight"]
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    rows = network_displacements(
        llama,
        small(llama, names),
        lambda call: call(input_ids=IDS, use_cache=False),
        blocks=["model.layers.0", "model.layers.1"],
        mask=mask,
    )
    kinds = {row.name: row.kind for row in rows}
    assert kinds == {
        "model.layers.1.mlp.gate_proj": "layer",
        "model.layers.1.mlp.down_proj": "layer",
        "model.layers.0": "block",
        "model.layers.1": "block",
        "network": "network",
    }
    assert {row.tokens for row in rows} == {9}
    assert any("gate" in why for why in rows[-1].unbounded)
    by_name = {row.name: row for row in rows}
    assert by_name["model.layers.0"].largest == by_name["model.layers.0"].carried == 0
    assert by_name["model.layers.1"].largest > 0
    # A linear map without an activation moves by what its increment does: the bound is the norm alone.
    gate = by_name["model.layers.1.mlp.gate_proj"]
    assert gate.relative == pytest.approx(gate.bound("layer").ratio * gate.bound("layer").constant, rel=1e-9)
    with pytest.raises(ArgumentError, match="use_cache=False"):
        network_displacements(llama, small(llama, names), lambda call: call(input_ids=IDS), blocks=["model.layers.1"])


def test_what_capacity_refuses(bert):
    def run(call):
        return call(input_ids=IDS)

    weight = f"{FFN[0][0]}.weight"
    moved, before = small(bert, [weight]), hooks(bert)
    with pytest.raises(ArgumentError, match="Lipschitz constant for 'softmax'"):
        capacity.lipschitz("softmax")
    with pytest.raises(ArgumentError, match="no parameter 'x'"):
        network_displacements(bert, {"x": torch.zeros(1)}, run)
    with pytest.raises(ShapeError, match="an increment of shape"):
        network_displacements(bert, {weight: torch.zeros(2, 2)}, run)
    with pytest.raises(ArgumentError, match="no module 'x'"):
        network_displacements(bert, moved, run, blocks=["x"])
    with pytest.raises(ArgumentError, match="LayerNorm"):
        network_displacements(bert, moved, run, layers={"bert.embeddings.LayerNorm": "identity"})
    with pytest.raises(ArgumentError, match="without layers"):
        network_displacements(bert, moved, run, stacks={"a": []})
    with pytest.raises(ArgumentError, match="no token"):
        network_displacements(bert, moved, run, mask=torch.zeros(2, 6))
    with pytest.raises(ShapeError, match="a mask of shape"):
        network_displacements(bert, moved, run, mask=torch.ones(2, 5))
    with pytest.raises(ShapeError, match="4 outputs below one with 5"):
        stack_displacement([Layer(drawn(4, 3), drawn(4, 3)), Layer(drawn(2, 5), drawn(2, 5))], drawn(1, 3))
    with pytest.raises(ShapeError, match="inputs of 2"):
        layer_displacement(Layer(drawn(4, 3), drawn(4, 3)), drawn(1, 2))
    with pytest.raises(ShapeError, match="bias of shape"):
        Layer(drawn(4, 3), drawn(4, 3), bias=drawn(3))
    with pytest.raises(NonFiniteError, match="norm bounds nothing"):
        spectral_norm(torch.full((2, 2), torch.nan))
    with pytest.raises(ShapeError, match="give a matrix"):
        spectral_norm(torch.zeros(3))
    assert hooks(bert) == before  # whatever failed


# --- spectrum -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear():
    return middle_layer([7, 5, 4, 6], samples=50)


def test_cutting_full_fine_tuning_costs_what_the_core_says(linear):
    problem, objective = linear
    best = np.asarray(ln.FullFT().solve(problem).delta)
    upper, root = np.asarray(problem.upper), np.asarray(problem.root)
    for cut in spectrum.cuts(objective, [tensor(best)], range(5)):
        u, s, vt = np.linalg.svd(best, full_matrices=False)
        kept = (u[:, : cut.rank] * s[: cut.rank]) @ vt[: cut.rank]
        cost = float(np.sum((upper @ (kept - best) @ root) ** 2))  # linnet/rank-returns
        assert cut.energy == pytest.approx(float(np.sum(s[cut.rank :] ** 2)), abs=1e-12)
        assert cut.loss == pytest.approx(problem.risk(ln.Update(kept, 1)), rel=1e-10)
        assert cut.cost == pytest.approx(cost, rel=1e-9, abs=1e-12)
        assert cut.straight == pytest.approx(cost, rel=1e-9, abs=1e-12)  # a quadratic
        assert cut.gap <= 1e-12 + 1e-10 * cost
        # The gradient grows all the way from the optimum to the cut: L is its length there, as in eq. (36) on trial.
        slope = 2 * upper.T @ (upper @ kept @ np.asarray(problem.gram) - np.asarray(problem.cross))
        assert cut.slope == pytest.approx(float(np.linalg.norm(slope)), rel=1e-9, abs=1e-12)
        assert cut.cost <= cut.half * (1 + 1e-9) + 1e-12
        assert cut.bound == pytest.approx(2 * cut.half, rel=1e-9, abs=1e-12)
        assert cut.parameters == min(cut.rank * 9, 20)
    with pytest.raises(RankError, match="rank -1"):
        spectrum.cuts(objective, [tensor(best)], [-1])


def test_what_no_quadratic_costs_is_seen_by_the_points_on_the_way(bert):
    names = [f"{module}.weight" for module, _ in FFN]
    parameters = dict(bert.named_parameters())
    loss = model_loss(bert, names, lambda call: cross_entropy(call(input_ids=IDS).logits, torch.tensor([0, 2])))
    objective = Objective([loss], [parameters[n] for n in names])
    increments = list(small(bert, names, scale=0.3).values())
    few, many = (spectrum.cuts(objective, increments, [2], points=p)[0] for p in (2, 65))
    assert few.cost == many.cost
    assert few.straight == few.integral  # two points: the trapezoid
    assert many.gap < 1e-3 * abs(many.cost) < few.gap
    assert abs(many.cost) <= many.bound + many.gap
    assert few.slope <= many.slope
    assert abs(many.straight - many.cost) > 1e-3 * abs(many.cost)  # no quadratic
    assert many.energy == pytest.approx(
        sum(float((torch.linalg.svdvals(d)[2:] ** 2).sum()) for d in increments), rel=1e-10
    )


def test_simpson_and_trapezoid():
    t = np.linspace(0, 1, 5)
    assert spectrum._rule(5) @ t**3 == pytest.approx(1 / 4)  # exact to the third degree
    assert spectrum._rule(4) @ np.linspace(0, 1, 4) == pytest.approx(1 / 2)
    assert all((spectrum._rule(n) > 0).all() and spectrum._rule(n).sum() == pytest.approx(1) for n in (2, 3, 4, 7))


def test_spectra_and_the_critical_rank():
    u, v = torch.linalg.qr(drawn(6, 4))[0], torch.linalg.qr(drawn(5, 4, seed=1))[0]
    values = tensor([3.0, 2.0, 1.0, 0.5])
    increments = {"a": (u * values) @ v.mT, "bias": drawn(3), "b": torch.eye(2)}
    first, second = spectrum.spectra(increments)
    assert (first.name, second.name) == ("a", "b")
    np.testing.assert_allclose(first.values, [3, 2, 1, 0.5, 0], atol=1e-12)
    np.testing.assert_allclose(first.tails, [14.25, 5.25, 1.25, 0.25, 0, 0], atol=1e-12)
    np.testing.assert_allclose(first.curve, 1 - first.tails / 14.25, atol=1e-12)
    assert first.effective_rank == pytest.approx(14.25**2 / (81 + 16 + 1 + 0.0625))
    assert second.effective_rank == pytest.approx(2)
    # eq. (34) asks for less than epsilon, so that epsilon itself is not enough.
    assert [first.critical_rank(e) for e in (100, 14.26, 5.26, 5.24, 1.0, 0.1, 1e-9)] == [0, 0, 1, 2, 3, 4, 4]
    assert second.critical_rank(2.0) == 1
    assert spectrum.critical_rank([first, second], 3.0) == 2  # 1.25 + 0, and not 5.25 + 1
    assert spectrum.critical_rank([first, second], 6.3) == 1
    with pytest.raises(ArgumentError, match="above 0"):
        first.critical_rank(0.0)
    cut = spectrum.truncated(increments, 2)
    assert torch.equal(cut["bias"], increments["bias"])
    np.testing.assert_allclose(torch.linalg.svdvals(cut["a"]), [3, 2, 0, 0, 0], atol=1e-12)
    assert float((cut["a"] - increments["a"]).norm() ** 2) == pytest.approx(first.tails[2])  # eq. (33)
    with pytest.raises(ArgumentError, match="no increment is a matrix"):
        spectrum.spectra({"bias": drawn(3)})
    with pytest.raises(ArgumentError, match="at least one"):
        spectrum.critical_rank([], 1.0)
    with pytest.raises(NonFiniteError, match="increment of a"):
        spectrum.spectra({"a": torch.full((2, 2), torch.inf)})
    with pytest.raises(NonFiniteError, match="increment of a"):
        spectrum.truncated({"a": torch.full((2, 2), torch.nan)}, 1)


def test_peaks_are_the_core_s_kurtosis():
    from linnet.sweep.studies.increments import measure

    rng = np.random.default_rng(1)
    net = ln.DeepLinearNetwork.random([6, 5, 4], rng=rng)
    problem = ln.LayerProblem(net, 0, ln.Moments.from_data(rng.normal(size=(40, 6)), rng.normal(size=(40, 4))))
    for method in (ln.FullFT(), ln.LoRA(1), ln.S2FT([1, 3])):
        delta = np.asarray(method.solve(problem).delta)
        wanted = measure(method, problem, "", 1.0, np.linspace(-1, 1, 3), turns=False)
        (found, everything) = spectrum.peaks({"w": tensor(delta)})
        assert found.kurtosis == pytest.approx(wanted["kurtosis"], rel=1e-12)
        assert found.kurtosis_trained == pytest.approx(wanted["kurtosis_trained"], rel=1e-12)
        assert (found.rms, found.zeros) == pytest.approx((wanted["rms"], wanted["zeros"]), rel=1e-12)
        assert found.near == np.mean(np.abs(delta) <= 0.01 * np.abs(delta).max())
        assert everything.kurtosis == found.kurtosis


def test_peaks_of_all_entries_together_are_in_one_unit():
    parts = {"a": drawn(30, 40), "b": drawn(20, 10, seed=1, scale=10), "still": torch.zeros(5)}
    *each, everything = spectrum.peaks(parts, share=0.1)
    entries = torch.cat([p.reshape(-1) for p in parts.values()])
    assert everything.entries == 1405
    assert everything.kurtosis == pytest.approx(float((entries**4).mean() / (entries**2).mean() ** 2), rel=1e-12)
    assert everything.near == pytest.approx(float((entries.abs() <= 0.1 * entries.abs().max()).double().mean()))
    assert everything.zeros == pytest.approx(5 / 1405)
    assert [p.name for p in each] == ["a", "b", "still"]
    assert each[2].kurtosis is None
    assert abs(each[0].kurtosis - 3) < 0.5  # Gaussian, 1200 entries: standard error 0.14
    with pytest.raises(ArgumentError, match="train first"):
        spectrum.peaks({"still": torch.zeros(5)})
    with pytest.raises(ArgumentError, match="train first"):
        spectrum.peaks({})


# --- bridge ---------------------------------------------------------------------------------------


def activations(seed, tokens=80, d_in=9, d_out=6, drift=0.0):
    """Inputs of uneven size, and targets that are no linear function of them."""
    x = drawn(tokens, d_in, seed=seed) * torch.logspace(0, -1, d_in, dtype=torch.float64) + drift
    return x, torch.tanh(x @ drawn(d_in, d_out, seed=99)) + 0.1 * drawn(tokens, d_out, seed=seed + 1)


METHODS = {
    "full FT": ln.FullFT(),
    "LoRA 2": ln.LoRA(2),
    "S2FT rows": ln.S2FT([0, 4]),
    "S2FT columns": ln.S2FT([1, 2, 7], form="columns"),
}


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_closed_forms_are_what_gradient_descent_reaches(with_bias):
    weight, bias = drawn(6, 9, seed=5, scale=0.2), drawn(6, seed=6) if with_bias else None
    data, other = activations(0), activations(10, tokens=70, drift=0.3)
    rows = bridge.bridge(weight, bias, data, METHODS, others={"shifted": other})
    assert [(row.method, row.data) for row in rows] == [(m, d) for m in METHODS for d in ("train", "shifted")]
    found = {(row.method, row.data): row for row in rows}
    for name, method in METHODS.items():
        row = found[name, "train"]
        assert row.reached == pytest.approx(row.predicted, rel=1e-6)
        assert found[name, "shifted"].reached == pytest.approx(found[name, "shifted"].predicted, rel=1e-4)
        assert row.gradient < 1e-6
        assert row.apart < 1e-3
        assert row.predicted < row.before
        # By hand, token by token, without the core: least squares over the entries that are trained.
        x, y = data
        missing = y - x @ weight.mT - (0 if bias is None else bias)
        if isinstance(method, ln.S2FT):
            where = list(method.channels)
            seen, wanted = (x, missing[:, where]) if method.form == "rows" else (x[:, where], missing)
            least = torch.linalg.lstsq(seen, wanted).solution
            left = float((wanted - seen @ least).square().sum() + missing.square().sum() - wanted.square().sum())
            affine = torch.cat([x, torch.ones(len(x), 1)], dim=1)
            floor = float((y - affine @ torch.linalg.lstsq(affine, y).solution).square().sum())
            assert row.unexplained == pytest.approx(floor / len(x), rel=1e-9)
            assert row.predicted + row.unexplained == pytest.approx(left / len(x), rel=1e-9)
    assert found["full FT", "train"].predicted < found["LoRA 2", "train"].predicted
    assert found["LoRA 2", "train"].parameters == 30
    assert found["S2FT columns", "train"].parameters == 18


def test_descent_that_stops_early_is_told_apart():
    weight, data = drawn(6, 9, seed=5, scale=0.2), activations(0)
    for training in (bridge.Training(steps=1), bridge.Training("adam", steps=30)):
        row = bridge.bridge(weight, None, data, {"full FT": ln.FullFT()}, training=training)[0]
        assert row.predicted * 1.001 < row.reached < row.before
        assert row.gradient > 1e-4
    steps = bridge.Training("adam", steps=3000, rate=0.2)
    row = bridge.bridge(weight, None, data, {"full FT": ln.FullFT()}, training=steps)[0]
    assert row.reached == pytest.approx(row.predicted, rel=1e-3)


def test_training_on_factors_is_training_on_tokens():
    """The QR factors in place of the tokens: the same objective, up to a constant, and the same gradient."""
    weight, (x, y) = drawn(6, 9, seed=5, scale=0.2), activations(0)
    missing = y - x @ weight.mT
    q, r = torch.linalg.qr(x)
    lengths = []
    for inputs, wanted in ((x, missing), (r, q.mT @ missing)):
        trained, increment, distance = bridge._parametrised(ln.LoRA(2), inputs, wanted, seed=3)
        with torch.no_grad():
            trained[0] += drawn(6, 2, seed=8)
        lengths.append((distance().item(), *torch.autograd.grad(distance(), trained), increment()))
    constant = float((missing - q @ (q.mT @ missing)).square().sum())
    assert lengths[0][0] == pytest.approx(lengths[1][0] + constant, rel=1e-12)
    for a, b in zip(lengths[0][1:], lengths[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def losses(model, masks=None):
    batches = [IDS, (IDS + 3) % 11]
    labels = [torch.tensor([0, 2]), torch.tensor([1, 1])]
    return [
        lambda m, ids=ids, wanted=wanted: cross_entropy(m(input_ids=ids).logits, wanted)
        for ids, wanted in zip(batches, labels, strict=True)
    ]


def test_a_gradient_target_has_the_loss_own_gradient_and_lowers_it(bert):
    name = FFN[1][0]
    layer, runs = bert.get_submodule(name), losses(bert)
    seen = bridge.collect(bert, [name], runs, gradient=True)[name]
    assert seen.inputs.shape == (24, 12)
    assert seen.outputs.shape == (24, 8)
    assert seen.loss == pytest.approx(sum(run(bert).item() for run in runs) / 2, rel=1e-12)
    torch.testing.assert_close(seen.outputs, seen.inputs @ layer.weight.mT + layer.bias)
    targets = bridge.gradient_targets(bert, name, runs, seen)
    assert targets.after < targets.before == seen.loss
    assert targets.after == min(loss for _, loss in targets.tried)
    # The core's gradient of the layer's risk, -2 E[(y - f) h^T], is the loss' own times 2 step over the tokens.
    problem = bridge.layer_problem(layer.weight, layer.bias, seen.inputs, targets.values)
    (wanted,) = torch.autograd.grad(sum(run(bert) for run in runs), layer.weight)
    np.testing.assert_allclose(-2 * problem.cross, 2 * targets.step / 24 * wanted.numpy(), rtol=1e-9, atol=1e-14)
    # And an increment along its solution lowers the loss of the network too.
    update = ln.LoRA(2).solve(problem).delta
    with torch.no_grad():
        try:
            layer.weight += tensor(update)
            lower = sum(run(bert).item() for run in runs) / 2
        finally:
            layer.weight -= tensor(update)
    assert lower < seen.loss


def test_collecting_keeps_what_masks_say(bert):
    masks = [torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]), torch.ones(2, 6)]
    name, runs = FFN[1][0], losses(bert)
    trained = {n: p.requires_grad for n, p in bert.named_parameters()}
    every = bridge.collect(bert, [name], runs, gradient=True)[name]
    assert {n: p.requires_grad for n, p in bert.named_parameters()} == trained
    some = bridge.collect(bert, [name], runs, masks=masks, gradient=True)[name]
    keep = torch.cat([m.reshape(-1) for m in masks]).bool()
    for field in ("inputs", "outputs", "gradient"):
        assert torch.equal(getattr(some, field), getattr(every, field)[keep])
    with torch.no_grad():
        plain = bridge.collect(bert, [name], runs)[name]
    assert plain.gradient is None
    assert torch.equal(plain.inputs, every.inputs)
    targets = bridge.gradient_targets(bert, name, runs, some, masks=masks, steps=[0.01])
    assert targets.values.shape == (15, 8)
    assert targets.after < targets.before


def test_layers_are_collected_together_as_each_alone(bert):
    names = [FFN[1][0], "bert.encoder.layer.0.attention.self.query", FFN[0][0]]
    together = bridge.collect(bert, names, losses(bert), gradient=True)
    assert list(together) == names
    for name in names:
        alone = bridge.collect(bert, [name], losses(bert), gradient=True)[name]
        for field in ("inputs", "outputs", "gradient"):
            torch.testing.assert_close(getattr(together[name], field), getattr(alone, field), rtol=1e-12, atol=1e-15)
    with pytest.raises(ArgumentError, match="0 layers"):
        bridge.collect(bert, [], losses(bert))


def test_a_teacher_is_followed_to_the_end_by_full_fine_tuning():
    weight, bias = drawn(6, 9, seed=5), drawn(6, seed=6)
    increment = drawn(6, 9, seed=7, scale=0.1)
    x = activations(0)[0]
    targets = bridge.teacher_targets(x, weight + increment, bias)
    problem = bridge.layer_problem(weight, bias, x, targets.values)
    np.testing.assert_allclose(ln.FullFT().solve(problem).delta, increment.numpy(), rtol=1e-8, atol=1e-12)
    assert float(problem.moments.roots[2]) < 1e-20
    rows = bridge.bridge(weight, bias, (x, targets.values), {"LoRA 3": ln.LoRA(3)})
    root = torch.linalg.qr(x)[1].mT / len(x) ** 0.5
    tail = torch.linalg.svdvals(increment @ root)[3:] ** 2  # linnet/rank-returns: LoRA leaves the discarded energy of M
    assert rows[0].predicted == pytest.approx(float(tail.sum()), rel=1e-8)
    assert rows[0].reached == pytest.approx(float(tail.sum()), rel=1e-6)


def test_what_the_bridge_refuses(bert):
    name, runs = FFN[1][0], losses(bert)
    before = hooks(bert)
    seen = bridge.collect(bert, [name], runs, gradient=True)[name]
    with pytest.raises(ArgumentError, match="no module of the model"):
        bridge.collect(bert, ["x"], runs)
    with pytest.raises(ArgumentError, match="a LayerNorm of the model"):
        bridge.collect(bert, ["bert.embeddings.LayerNorm"], runs)
    with pytest.raises(ArgumentError, match="a mask for each"):
        bridge.collect(bert, [name], runs, masks=[])
    with pytest.raises(ArgumentError, match=r"calls .* 2 times"):
        bridge.collect(bert, [name], [lambda m: [m(input_ids=IDS), m(input_ids=IDS)]])
    with pytest.raises(ArgumentError, match="no loss"):
        bridge.collect(bert, [name], [lambda m: m(input_ids=IDS)], gradient=True)
    with pytest.raises(ShapeError, match="a mask of shape"):
        bridge.collect(bert, [name], runs, masks=[torch.ones(2, 5)] * 2)
    with pytest.raises(ArgumentError, match="collect with gradient=True"):
        bridge.gradient_targets(bert, name, runs, bridge.collect(bert, [name], runs)[name])
    with pytest.raises(ArgumentError, match="no step lowers"):
        bridge.gradient_targets(bert, name, runs, seen, steps=[0.0])
    with pytest.raises(ShapeError, match="a weight of shape"):
        bridge.teacher_targets(seen.inputs, torch.zeros(3, 3))
    weight, data = drawn(6, 9), activations(0)
    with pytest.raises(ArgumentError, match="IA3 is not trained"):
        bridge.bridge(weight, None, data, {"IA3": ln.IA3("output")})
    with pytest.raises(ArgumentError, match='"train" names'):
        bridge.bridge(weight, None, data, {}, others={"train": data})
    assert hooks(bert) == before
