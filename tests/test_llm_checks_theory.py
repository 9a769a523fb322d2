"""The checks of theorems: their numbers are what plain computation gives, and a violation is seen."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_language import language
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from linnet.errors import ArgumentError, StructureError
from linnet.llm.bridge import BridgeRow
from linnet.llm.capacity import LIPSCHITZ, ROUNDING
from linnet.llm.checks import CHECKS, bridge, capacity, matched, sensitivity, spectrum
from linnet.llm.checks.base import judge
from linnet.llm.checks.deltas import deltas, merged, put
from linnet.llm.checks.workbench import BUDGETS, SEEDS, Workbench
from linnet.llm.objective import LowRank, Tangent
from linnet.llm.sensitivity import Comparison
from linnet.llm.structure import ROLES
from linnet.llm.systems import S2FT, FullFT, LoRA, places
from linnet.llm.training import evaluate

SMALL = dataclasses.replace(BUDGETS["quick"], steps=3, batch_size=2, train=8, evaluated=4, beyond=4, tokens=12)
NAMES = ("llm/capacity", "llm/spectrum", "llm/sensitivity", "llm/bridge")


@pytest.fixture(scope="module")
def benches():
    return {kind: Workbench(language(kind), SMALL) for kind in ("causal", "encoder")}


@pytest.fixture(scope="module")
def numbers(benches):
    """Return the numbers of the checks on both models, measured once."""
    return {(name, kind): CHECKS[name].measure(bench, 0) for name in NAMES for kind, bench in benches.items()}


# --- all: promises and numbers belong together -----------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "encoder"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_promised_is_measured(benches, numbers, name, kind):
    promises = CHECKS[name].promises(benches[kind])
    effects = {e.name: e for e in judge(promises, [numbers[name, kind]])}
    assert set(effects) == set(promises)
    assert {e.verdict for e in effects.values() if e.promise.sense == "at_most"} <= {"agrees"}
    assert all(math.isfinite(value) for value in numbers[name, kind].values())


def test_only_models_without_gates_have_stacks(benches):
    promised = {kind: set(CHECKS["llm/capacity"].promises(bench)) for kind, bench in benches.items()}
    assert promised["causal"] == {"layers", "depth"}
    assert promised["encoder"] - promised["causal"] == {"product", "printed", "linnet's own"}


def test_a_model_of_one_block_has_no_halves():
    assert set(CHECKS["llm/capacity"].promises(Workbench(language("causal", num_hidden_layers=1), SMALL))) == {"layers"}


def test_seeds_are_measured_alike(benches, numbers):
    """Critical ranks differ from seed to seed, and names of numbers must not."""
    other = CHECKS["llm/spectrum"].measure(benches["encoder"], 42)
    assert list(other) == list(numbers["llm/spectrum", "encoder"])
    assert other != numbers["llm/spectrum", "encoder"]


# --- capacity ---------------------------------------------------------------------------------------


def tuned_and_frozen(bench, recipe, seed=0):
    """Return a model before and after training, with the same head, and what it is asked."""
    name = bench.main_task
    task = bench.task(name, seed)
    with bench.trained(recipe, name, seed) as (prepared, ask):
        tuned = copy.deepcopy(prepared.model)
    frozen = bench.fresh(task, seed).eval()
    for head in bench.heads:
        frozen.get_submodule(head).load_state_dict(tuned.get_submodule(head).state_dict())
    inside = next(s for s in task.evaluation.values() if s.distance == "in").examples
    inputs = ask.batch(inside).inputs
    inputs.pop("logits_to_keep", None)
    return frozen, tuned, inputs


def seen_by(model, names, inputs):
    """Return inputs and outputs of modules, and the logits, of the tokens that are not padding."""
    seen, mask = {}, inputs["attention_mask"].bool()
    handles = [
        model.get_submodule(n).register_forward_hook(lambda m, a, out, n=n: seen.update({n: (a[0][mask], out[mask])}))
        for n in names
    ]
    with torch.no_grad():
        logits = model(**inputs).logits
    for handle in handles:
        handle.remove()
    return seen, logits[mask] if logits.ndim == 3 else logits


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_layers_of_full_fine_tuning_move_as_a_plain_pass_says(benches, numbers, kind):
    bench = benches[kind]
    frozen, tuned, inputs = tuned_and_frozen(bench, FullFT())
    bends = {"causal": ("gate_proj", torch.nn.functional.silu, "silu")}.get(
        kind, ("intermediate.dense", torch.nn.functional.gelu, "gelu")
    )
    names = capacity.layers(bench)
    assert len(names) == {"causal": 14, "encoder": 12}[kind]
    assert {n for n, after in names.items() if after != "identity"} == {n for n in names if n.endswith(bends[0])}
    seen, logits = seen_by(frozen, names, inputs)
    ratios = []
    with torch.no_grad():
        for name in names:
            before, after = (m.get_submodule(name) for m in (frozen, tuned))
            function, slope = (bends[1], LIPSCHITZ[bends[2]]) if name.endswith(bends[0]) else (lambda x: x, 1.0)
            x = seen[name][0]
            moved = (function(after(x)) - function(before(x))).norm(dim=1)
            phi = after.weight - before.weight
            if before.bias is not None:
                phi = torch.cat([phi, (after.bias - before.bias)[:, None]], dim=1)
                x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
            ratios.append(float((moved / (slope * torch.linalg.matrix_norm(phi, 2) * x.norm(dim=1))).max()))
    found = numbers["llm/capacity", kind]
    assert found["full FT: layers, worst"] == pytest.approx(max(ratios), rel=1e-8)
    assert found["full FT: layers, median"] == pytest.approx(float(np.median(ratios)), rel=1e-8)
    worst = max(found[f"{label}: layers, worst"] for label in ("LoRA", "S2FT", "full FT"))
    assert found["layers"] == worst
    with torch.no_grad():
        moved = seen_by(tuned, [], inputs)[1] - logits
    assert found["full FT: network"] == pytest.approx(
        float(moved.norm(dim=-1).mean() / logits.norm(dim=-1).mean()), rel=1e-8
    )


@pytest.mark.parametrize("label", ["LoRA", "S2FT"])
def test_the_network_moves_by_adapters_as_a_plain_pass_says(benches, numbers, label):
    bench = benches["causal"]
    recipe = {"LoRA": matched.lora, "S2FT": matched.s2ft}[label](bench, "chain_sum")
    frozen, tuned, inputs = tuned_and_frozen(bench, recipe)
    before, after = (seen_by(model, [], inputs)[1] for model in (frozen, tuned))
    share = float((after - before).norm(dim=-1).mean() / before.norm(dim=-1).mean())
    assert numbers["llm/capacity", "causal"][f"{label}: network"] == pytest.approx(share, rel=1e-6)


def test_halves_are_compared_at_the_same_sum_of_norms(benches, numbers):
    bench = benches["causal"]
    frozen, _, inputs = tuned_and_frozen(bench, FullFT())
    logits = seen_by(frozen, [], inputs)[1]
    logs = []
    for make in (matched.lora, matched.s2ft):
        increments, _ = capacity.trained(bench, make(bench, "chain_sum"), 0, frozen)
        halves = [{n: d for n, d in increments.items() if n.startswith(f"model.layers.{k}.")} for k in (0, 1)]
        slopes = {n: LIPSCHITZ["silu"] if "gate" in n else 1.0 for n in increments}
        sums = [sum(slopes[n] * float(torch.linalg.matrix_norm(d, 2)) for n, d in half.items()) for half in halves]
        moved = []
        for half, total in zip(halves, sums, strict=True):
            model = copy.deepcopy(frozen)
            with torch.no_grad():
                for n, d in half.items():
                    model.get_parameter(n).add_(d / total * min(sums))
            moved.append(float((seen_by(model, [], inputs)[1] - logits).norm(dim=-1).mean()))
        logs.append(math.log(moved[1] / moved[0]))
    assert numbers["llm/capacity", "causal"]["depth"] == pytest.approx(sum(logs) / 2, rel=1e-5)


@pytest.fixture
def planted(monkeypatch):
    """Return a bench on which training adds what breaks eq. (29): on a layer above a large one, that was nearly zero.

    As in docs/proofs/capacity.md: W_1 is large, W_2 nothing, and the increment is one of W_2 alone.
    """
    bench = Workbench(language("encoder"), SMALL)
    second = "encoder.encoder.layer.0.output.dense.weight"
    model = bench.language.model.encoder.layer[0]
    with torch.no_grad():
        model.intermediate.dense.bias.fill_(0.0)
        model.intermediate.dense.weight.copy_(100 * torch.eye(48, 32, dtype=torch.float64))
        model.output.dense.weight.zero_()

    def trained(bench, recipe, seed, frozen):
        drawn = 1e-3 * torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        others = {f"{name}.weight": drawn for name in capacity.layers(bench) if name.endswith("value")}
        return others | {second: torch.eye(32, 48, dtype=torch.float64)}, 1

    monkeypatch.setattr(capacity, "trained", trained)
    return bench


def test_a_violation_of_eq_29_is_seen(planted):
    check = CHECKS["llm/capacity"]
    found = check.measure(planted, 0)
    words = {e.name: e.verdict for e in judge(check.promises(planted), [found])}
    assert found["product"] > 5
    assert (words["product"], words["layers"], words["linnet's own"]) == ("disagrees", "agrees", "agrees")
    assert found["full FT: by token, worst"] <= 1 + ROUNDING


def test_what_nn_linear_is_not_is_refused(benches, monkeypatch):
    bench = Workbench(language("causal"), SMALL)
    bench.language.model.model.layers[0].mlp.up_proj = Conv1D(48, 32)
    with pytest.raises(StructureError, match=r"layers\.0\.mlp\.up_proj is a Conv1D; the bounds"):
        capacity.layers(bench)
    bench = Workbench(language("causal"), SMALL)
    monkeypatch.setattr(bench.language.model.config, "hidden_act", "softmax")
    with pytest.raises(StructureError, match="no Lipschitz constant for 'softmax'"):
        capacity.layers(bench)


def test_increments_in_one_half_are_refused(benches, monkeypatch):
    bench = benches["causal"]
    only = {"model.layers.1.mlp.up_proj.weight": torch.ones(48, 32, dtype=torch.float64)}
    monkeypatch.setattr(capacity, "trained", lambda *_: (only, 1))
    with pytest.raises(StructureError, match="one half of the blocks alone"):
        CHECKS["llm/capacity"].measure(bench, 0)


# --- spectrum ---------------------------------------------------------------------------------------


def of_rank(matrix, rank):
    u, s, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
    return torch.tensor((u[:, :rank] * s[:rank]) @ vt[:rank]), s


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_losses_are_those_of_truncated_weights(benches, numbers, kind):
    bench, found = benches[kind], numbers["llm/spectrum", kind]
    name = bench.main_task
    task = bench.task(name, 0)
    frozen, tuned, _ = tuned_and_frozen(bench, FullFT())
    maps = [f"{n}.weight" for n in capacity.layers(bench)]
    values = {}
    inside = next(s for s in task.evaluation.values() if s.distance == "in").examples
    losses = {"whole": evaluate(tuned, bench.learner(task), inside).loss}
    learned = {"whole": evaluate(tuned, bench.learner(task), task.train[:8]).loss}
    labels = [f"critical rank ({share})" for share in spectrum.SHARES]
    for label, rank in {"rank 0": 0, "rank 4": 4, **{n: int(found[f"{n}: rank"]) for n in labels}}.items():
        model = copy.deepcopy(tuned)
        with torch.no_grad():
            for n in maps:
                base = frozen.get_parameter(n)
                part, values[n] = of_rank(tuned.get_parameter(n).detach() - base, rank)
                model.get_parameter(n).copy_(base + part)
        losses[label] = evaluate(model, bench.learner(task), inside).loss
        learned[label] = evaluate(model, bench.learner(task), task.train[:8]).loss
        if label != "rank 0":
            # Two blocks: those that the bound is measured in are all.
            assert found[f"{label}: cost"] == pytest.approx(learned[label] - learned["whole"], abs=1e-11)
    for label, loss in losses.items():
        assert found[f"{label}: loss in"] == pytest.approx(loss, rel=1e-10)
        assert found[f"{label}: training loss"] == pytest.approx(learned[label], rel=1e-10)
    for share, part in spectrum.SHARES.items():
        assert found[f"plateau ({share})"] == pytest.approx(
            spectrum.LOSS.little - (losses[f"critical rank ({share})"] - losses["whole"]), abs=1e-12
        )
        rank, energy = int(found[f"critical rank ({share}): rank"]), sum(float((s**2).sum()) for s in values.values())
        beyond = [sum(float((s[r:] ** 2).sum()) for s in values.values()) for r in (rank - 1, rank)]
        assert beyond[1] < part * energy <= beyond[0]
        assert found[f"critical rank ({share}): root of the energy"] == pytest.approx(math.sqrt(beyond[1]), rel=1e-8)


def test_the_bound_is_slope_times_root_of_energy(numbers):
    for kind in ("causal", "encoder"):
        found = numbers["llm/spectrum", kind]
        others = ("rank 1", "rank 4", "critical rank (10 %)", "critical rank (1 %)")
        for label in others:
            bound = found[f"{label}: slope"] * found[f"{label}: root of the energy"]
            ratio = abs(found[f"{label}: cost"]) / (bound + found[f"{label}: gap"])
            assert found[f"{label}: cost over bound"] == pytest.approx(ratio, rel=1e-10)
        assert found["bound"] == pytest.approx(max(found[f"{n}: cost over bound"] for n in (*others, "rank 16")))
        assert 0 < found["bound"] < 1


def test_only_the_last_blocks_are_cut_for_the_bound(benches, monkeypatch):
    bench = benches["encoder"]
    monkeypatch.setattr(spectrum, "BLOCKS", 1)
    seen = []
    cuts = spectrum.spectrum.cuts

    def watched(objective, increments, ranks, *, points):
        seen.append((len(objective.point), len(increments), points))
        return cuts(objective, increments, ranks, points=points)

    monkeypatch.setattr(spectrum.spectrum, "cuts", watched)
    CHECKS["llm/spectrum"].measure(bench, 0)
    assert seen == [(6, 6, spectrum.POINTS)]


def test_a_gain_beyond_the_critical_rank_is_seen(benches, monkeypatch):
    """Losses that fall with the rank to the very end: the whole increment is better by more than little."""
    check, bench = CHECKS["llm/spectrum"], benches["encoder"]

    def falling(model, frozen, increments, ask, sets, ranks):
        return {None: [0.1, 0.1], 0: [0.7, 0.7]} | {rank: [0.2, 0.2] for rank in ranks}

    def rising(model, frozen, increments, ask, sets, ranks):
        return {None: [0.7, 0.7], 0: [0.7, 0.7]} | {rank: [0.2, 0.2] for rank in ranks}

    for told, word in ((falling, "disagrees"), (rising, "agrees")):
        monkeypatch.setattr(spectrum, "lost", told)
        measured = [check.measure(bench, 0)] * 2  # an interval takes two
        words = {e.name: e.verdict for e in judge(check.promises(bench), measured)}
        assert {words[f"plateau ({share})"] for share in spectrum.SHARES} == {word}


def test_a_cost_above_the_bound_is_seen(benches, monkeypatch):
    check, bench = CHECKS["llm/spectrum"], benches["encoder"]
    cuts = spectrum.spectrum.cuts

    def steep(*args, **options):
        found = cuts(*args, **options)
        worst = dataclasses.replace(found[-1], cost=-1.1 * (found[-1].bound + found[-1].gap))  # a fall counts alike
        return [*found[:-1], worst]

    monkeypatch.setattr(spectrum.spectrum, "cuts", steep)
    effects = {e.name: e for e in judge(check.promises(bench), [check.measure(bench, 0)])}
    assert effects["bound"].verdict == "disagrees"
    assert effects["bound"].mean == pytest.approx(1.1)


# --- sensitivity ------------------------------------------------------------------------------------

RECIPES = {"full FT": lambda bench: FullFT(), "LoRA": lambda bench: LoRA(rank=2), "S2FT": lambda bench: s2ft_of(bench)}


def s2ft_of(bench):
    return matched.s2ft(bench, bench.main_task, targets=("query", "output", "up", "down"))


@pytest.mark.parametrize("kind", ["causal", "encoder"])
@pytest.mark.parametrize("label", RECIPES)
def test_a_merged_model_computes_what_the_trained_one_does(benches, kind, label):
    bench = benches[kind]
    task = bench.task(bench.main_task, 0)
    with bench.trained(RECIPES[label](bench), bench.main_task, 0) as (prepared, ask):
        plain = merged(bench, prepared, bench.main_task, 0)
        wanted = evaluate(prepared.model, ask, task.train).losses
    found = evaluate(plain, ask, task.train).losses
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert abs(found - evaluate(bench.fresh(task, 0), ask, task.train).losses).max() > 1e-6
    assert not any(p.requires_grad for p in plain.parameters())


@pytest.mark.parametrize("kind", ["causal", "encoder"])
@pytest.mark.parametrize("label", RECIPES)
def test_a_step_of_what_is_trained_moves_the_weights_as_the_objective_says(benches, kind, label):
    """Nudge everything that a system trains in the last block: the plain weights move within the objective's space."""
    bench = benches[kind]
    with bench.trained(RECIPES[label](bench), bench.main_task, 0) as (prepared, ask):
        objective, epsilon = sensitivity.objectives(bench, prepared, ask, 0)
        names = [f"{name}.weight" for name in sensitivity.last_maps(bench.specimen(bench.main_task))]
        before = merged(bench, prepared, bench.main_task, 0)
        with torch.no_grad():
            for name, p in prepared.model.named_parameters():
                if p.requires_grad and any(name.startswith(n.removesuffix(".weight")) for n in names) and p.ndim == 2:
                    p.add_(1e-7 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())).to(p))
        after = merged(bench, prepared, bench.main_task, 0)
    moved = torch.cat([(after.get_parameter(n) - before.get_parameter(n)).reshape(-1) for n in names])
    assert float(moved.norm()) > 0
    assert len(epsilon) == len(moved)
    inside = objective.pushed(objective.pulled(moved))  # J J^T is the projector on what can be reached
    assert float((inside - moved).norm()) < (1e-5 if label == "LoRA" else 1e-9) * float(moved.norm())
    if label != "full FT":
        other = torch.randn(len(moved), generator=torch.Generator().manual_seed(0), dtype=moved.dtype)
        assert float((objective.pushed(objective.pulled(other)) - other).norm()) > 0.1 * float(other.norm())


def test_tangents_are_all_that_a_step_of_factors_makes():
    draw = torch.Generator().manual_seed(0)
    u, v = (torch.randn(n, 2, generator=draw, dtype=torch.float64) for n in (5, 4))
    tangent = Tangent.at([(u, v)])

    def made(g, point):
        at = torch.zeros(sum(t.numel() for t in point), dtype=torch.float64)
        shapes = [t.shape for t in point]

        def flat(x):
            parts = x.split([s.numel() for s in shapes])
            return g([p + t.view(s) for p, t, s in zip(point, parts, shapes, strict=True)])[0].reshape(-1)

        return torch.autograd.functional.jacobian(flat, at)

    plain, ours = made(LowRank(), [u, v]), made(tangent, tangent.origin)
    rank = 2 * (5 + 4) - 2 * 2  # the dimension of matrices of rank 2
    assert torch.linalg.matrix_rank(plain) == torch.linalg.matrix_rank(ours) == rank
    assert torch.linalg.matrix_rank(torch.cat([plain, ours], dim=1)) == rank
    values = torch.linalg.svdvals(ours)
    torch.testing.assert_close(values[:rank], torch.ones(rank, dtype=torch.float64))
    assert float(values[rank:].max()) < 1e-12
    # Factors of lower rank reach less, and none at all reach nothing.
    thin = Tangent.at([(torch.cat([u[:, :1], u[:, :1]], dim=1), v)])
    assert thin.left[0].shape == (5, 1)
    none = Tangent.at([(u[:, :0], v[:, :0])])
    assert none(none.origin)[0].shape == (5, 4)


def test_a_quarter_of_the_answers_is_wrong(benches):
    examples = benches["encoder"].task("reviews", 0).train
    clean, wrong = sensitivity.disturbed(examples)
    assert clean == list(examples)
    changed = [i for i, (a, b) in enumerate(zip(clean, wrong, strict=True)) if a.label != b.label]
    assert len(changed) == round(len(examples) / 4)
    assert all(a.text == b.text for a, b in zip(clean, wrong, strict=True))
    with pytest.raises(ArgumentError, match="the same answer"):
        sensitivity.disturbed([examples[0]] * 4)


def test_one_damping_makes_all_hessians_definite(numbers):
    for kind in ("causal", "encoder"):
        found = numbers["llm/sensitivity", kind]
        lowest = [found[f"{label}: lowest eigenvalue"] for label in RECIPES]
        assert found["damping"] == pytest.approx(2 * -min(0.0, *lowest))
        for label in ("LoRA", "S2FT"):
            own, full = (found[f"{which}: own extra loss"] for which in (label, "full FT"))
            assert 0 <= own < full  # of fewer directions
            assert found[f"{label}: extra, as found"] == pytest.approx(own - full)
            error = found[f"{label}: extra, error"]
            assert 0 < error < 1e-3 * full
            assert found[f"{label}: extra"] == pytest.approx(own - full + error, rel=1e-9)


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_epsilon_is_what_wrong_answers_add_to_the_gradient(benches, kind):
    bench = benches[kind]
    task = bench.task(bench.main_task, 0)
    clean, wrong = sensitivity.disturbed(task.train[: sensitivity.EXAMPLES])
    with bench.trained(FullFT(), bench.main_task, 0) as (prepared, ask):
        _, epsilon = sensitivity.objectives(bench, prepared, ask, 0)
        names = [f"{name}.weight" for name in sensitivity.last_maps(prepared.model)]
        weights = [prepared.model.get_parameter(n) for n in names]
        gradients = [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, weights)])
            for loss in (ask.outcome(prepared.model, ask.batch(part)).losses.mean() for part in (clean, wrong))
        ]
    torch.testing.assert_close(epsilon, gradients[1] - gradients[0], rtol=1e-9, atol=1e-12)


def test_a_model_that_keeps_its_weights_turned_moves_as_the_objective_says():
    """GPT-2's parameters are (in, out): nudge what S2FT and LoRA train in the last block."""
    torch.manual_seed(0)
    plain = language("causal")
    ends = {"vocab_size": len(plain.tokenizer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=512, **ends)).double().eval()
    tiny = dataclasses.replace(plain, model=model.requires_grad_(False))
    bench = Workbench(tiny, SMALL)
    for recipe in (LoRA(rank=2), S2FT(most=200, targets=("query", "output", "up", "down"))):
        with bench.trained(recipe, "chain_sum", 0) as (prepared, ask):
            objective, _ = sensitivity.objectives(bench, prepared, ask, 0)
            names = [f"{name}.weight" for name in sensitivity.last_maps(model)]
            before = merged(bench, prepared, "chain_sum", 0)
            with torch.no_grad():
                for name, p in prepared.model.named_parameters():
                    if p.requires_grad and ".h.1." in name and p.ndim == 2:
                        p.add_(1e-7 * torch.randn(p.shape, dtype=p.dtype))
            after = merged(bench, prepared, "chain_sum", 0)
        moved = torch.cat([(after.get_parameter(n) - before.get_parameter(n)).reshape(-1) for n in names])
        assert float(moved.norm()) > 0
        assert float((objective.pushed(objective.pulled(moved)) - moved).norm()) < 1e-5 * float(moved.norm())


def test_a_difference_within_its_error_is_none(benches, monkeypatch):
    monkeypatch.setattr(sensitivity, "compared", lambda peft, full: Comparison(*[1.0, -1.0, 1.0, -1.0], *[2.0] * 4))
    numbers = CHECKS["llm/sensitivity"].measure(benches["encoder"], 0)
    assert {numbers[f"LoRA: {reading}"] for reading in sensitivity.READINGS} == {0.0}
    assert numbers["LoRA: left, as found"] == -1.0


def test_the_printed_formula_is_the_finding(benches):
    promises = CHECKS["llm/sensitivity"].promises(benches["causal"])
    assert {name for name, promise in promises.items() if promise.counts} == {"LoRA: printed", "S2FT: printed"}


# --- bridge -----------------------------------------------------------------------------------------


def test_every_map_is_dealt_to_one_seed(benches):
    for bench in benches.values():
        model = bench.specimen(bench.main_task)
        dealt = [layer.name for seed in SEEDS for layer in bridge.dealt(model, seed)]
        maps = places.maps(model, ROLES)
        assert sorted(dealt) == sorted(maps)
        for layer in bridge.dealt(model, 0):
            assert layer.shape == tuple(maps[layer.name].weight.shape)
            assert layer.columns == layer.name.endswith(("o_proj", "down_proj", "output.dense"))


def test_methods_train_equally_many_parameters():
    layer = bridge.Layer("", True, (384, 1536))
    methods = layer.methods(3)
    assert len(methods["S2FT"].channels) * 384 == pytest.approx(methods["LoRA"].rank * (384 + 1536), abs=384)
    assert not np.array_equal(methods["S2FT"].channels, layer.methods(4)["S2FT"].channels)


def seen_and_asked(bench, model, layer, examples):
    """Return what a layer sees and says of examples, and the loss' gradient in that, a row a token."""
    ask, found = bench.learner(bench.task(bench.main_task, 0)), []
    model.requires_grad_(True)
    for start in range(0, len(examples), 8):
        batch, kept = ask.batch(examples[start : start + 8]), []
        keep = batch.inputs["attention_mask"].bool()
        handle = model.get_submodule(layer.name).register_forward_hook(
            lambda _, args, out, kept=kept: kept.append((args[0].detach(), out)) or None
        )
        loss = ask.outcome(model, batch).losses.mean()
        handle.remove()
        gradient = torch.autograd.grad(loss, kept[0][1])[0]
        found.append([t[keep].detach().numpy() for t in (*kept[0], gradient)])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize(("kind", "dtype"), [("causal", torch.float64), ("causal", torch.float32), ("encoder", None)])
def test_the_prediction_of_full_fine_tuning_is_least_squares(benches, numbers, kind, dtype):
    single = dtype == torch.float32
    bench = Workbench(language(kind, dtype=dtype), SMALL) if single else benches[kind]
    found = CHECKS["llm/bridge"].measure(bench, 0) if single else numbers["llm/bridge", kind]
    task = bench.task(bench.main_task, 0)
    model = bench.fresh(task, 0).eval().double()  # in which all of it is computed, whatever the model comes in
    away = [e for s in task.evaluation.values() if s.distance == bench.away for e in s.examples]
    away = away[: len(next(s for s in task.evaluation.values() if s.distance == bench.away).examples)]
    shares, beyond = [], []
    for layer in bridge.dealt(model, 0):
        x, z, g = seen_and_asked(bench, model, layer, task.train[: bridge.EXAMPLES])
        step = np.linalg.norm(z) / np.linalg.norm(g)
        delta = np.linalg.lstsq(x, -step * g, rcond=None)[0]
        for where, out in ((task.train, shares), (away, beyond)):
            x, _, g = seen_and_asked(bench, model, layer, where[: bridge.EXAMPLES])
            wanted, affine = -step * g, np.column_stack([x, np.ones(len(x))])
            # What the best affine map leaves is no part of an excess risk.
            least = ((wanted - affine @ np.linalg.lstsq(affine, wanted, rcond=None)[0]) ** 2).sum()
            out.append((((wanted - x @ delta) ** 2).sum() - least) / ((wanted**2).sum() - least))
    assert found["full FT: predicted"] == pytest.approx(np.mean(shares), abs=1e-9)
    assert found["full FT: predicted away"] == pytest.approx(np.mean(beyond), rel=1e-6)
    assert found["layers"] == len(shares)


def test_risks_are_shares_of_the_frozen_layers():
    rows = [
        BridgeRow(m, 1, data, 1, 0.0, before, predicted, reached, 0.0, 1, 0.0, 0.0, 0.0)
        for m in ("LoRA", "S2FT")
        for data in ("train", "away")
        for before, predicted, reached in ((2.0, 1.0, 1.5), (4.0, 1.0, 1.4))
    ]
    found = bridge._numbers(rows)
    assert found["LoRA: reached"] == pytest.approx((0.25 + 0.1) / 2)
    assert found["LoRA: not below"] == pytest.approx(-0.1)
    assert found["S2FT: predicted"] == pytest.approx((0.5 + 0.25) / 2)
    assert found["S2FT: reached away"] == pytest.approx((0.75 + 0.35) / 2)
    lower = [dataclasses.replace(row, reached=row.predicted - 0.2) for row in rows]
    assert bridge._numbers(lower)["LoRA: not below"] == pytest.approx(0.1)


def test_the_order_is_told_only_where_guessing_fails():
    def rows(orders):
        return [
            BridgeRow(m, 1, data, 1, 0.0, 1.0, predicted[m], reached[m], 0.0, 1, 0.0, 0.0, 0.0)
            for first, second in orders
            for data in ("train", "away")
            for predicted, reached in [({"LoRA": first, "S2FT": 0.5}, {"LoRA": second, "S2FT": 0.5})]
            for m in ("LoRA", "S2FT")
        ]

    better, worse = 0.1, 0.9
    for right in (6, 9):  # to the bit: five seeds of a rounding error would be below 0 with certainty
        always = [(worse, worse)] * right + [(worse, better)]
        assert bridge._numbers(rows(always))["order"] == 0.0
    told = [(worse, worse)] * 6 + [(better, better)] * 4
    assert bridge._numbers(rows(told))["order"] == pytest.approx(1 - 0.6)
    wrong = [(worse, better)] * 5 + [(better, worse)] * 5
    assert bridge._numbers(rows(wrong))["order"] == pytest.approx(-0.5)


def test_increments_of_a_model_that_keeps_its_weights_turned_are_turned_back():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=13, n_positions=16)).eval()
    plain, ids = copy.deepcopy(model), torch.arange(6)[None]
    with LoRA(rank=2).prepare(model) as prepared:
        for n, p in prepared.model.named_parameters():
            if "lora_B" in n:
                p.data.normal_()
        found, wanted = deltas(prepared.model), prepared.model(ids).logits.detach()
    assert found["transformer.h.0.attn.c_attn"].shape == (24, 8)
    put(plain, found)
    torch.testing.assert_close(plain(ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_layers_that_cannot_be_read_are_refused(benches, monkeypatch):
    model = copy.deepcopy(benches["causal"].language.model)
    model.model.layers[0].mlp.up_proj = Conv1D(48, 32)
    with pytest.raises(StructureError, match=r"mlp\.up_proj is a Conv1D; the bridge reads nn\.Linear"):
        bridge.dealt(model, 0)
