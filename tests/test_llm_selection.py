"""Which units S2FT trains: budgets, strategies, groups, calibration."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from torch import nn
from transformers_at_hand import NAMES, batch, same, tiny, weights

from linnet.errors import ArgumentError, BudgetError
from linnet.llm import S2FTConfig, calibrate, find
from linnet.llm.selection import choose, granule, random_scores, shares
from linnet.llm.structure import Projection, Structure, weight

EVERY = ["query", "key", "value", "output", "up", "down"]


def heads(units, shared):
    part = Projection("m", 0, units)
    return Structure("attention", "b.0", dict.fromkeys(("query", "key", "value"), part), part, units, 1, shared)


def n_trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("targets", [["output", "down"], EVERY, ["down"], ["key"]], ids=lambda t: "+".join(t))
@pytest.mark.parametrize("name", NAMES)
def test_a_budget_is_used_and_never_exceeded(name, targets):
    total = sum(p.numel() for p in tiny(name).parameters())
    for budget in (100, 300, 700):
        try:
            model = get_peft_model(tiny(name), S2FTConfig(n_parameters=budget, targets=targets))
        except BudgetError:
            assert budget < 2 * 24 * 16 or targets == ["key"]
            continue
        assert 0 < n_trained(model) <= budget
        if "down" in targets:  # channels are small: little is left over
            assert n_trained(model) > budget - 2 * (48 if len(targets) > 2 else 16) or targets == EVERY
    ratio = get_peft_model(tiny(name), S2FTConfig(ratio=0.12, targets="down"))
    assert 0.12 * total - 2 * 16 < n_trained(ratio) <= 0.12 * total


def test_blocks_get_the_same_and_matrices_as_fair_a_share_as_heads_allow():
    model = tiny("llama-mha")
    found = find(model)
    given = shares(model, found, ["output", "down"], 2 * (64 + 5 * 16) + 31)
    assert [(s.structure.kind, s.units) for s in given] == [("attention", 1), ("feed_forward", 5)] * 2
    poor = shares(model, found, ["output", "down"], 2 * 63)  # less than one head: channels alone
    assert [(s.structure.kind, s.units) for s in poor] == [("feed_forward", 3)] * 2
    model = get_peft_model(tiny(), S2FTConfig(n_parameters=100, blocks=[1]))
    assert {key.split("/")[0] for key in model.peft_config["default"].units} == {"model.layers.1"}


@given(st.sampled_from([1, 2, 3]), st.integers(1, 4), st.integers(0, 2**31), st.data())
def test_the_choice_is_the_best_that_can_lie_side_by_side(shared, groups, seed, data):
    n = shared * groups
    structure, k = heads(n, shared), data.draw(st.integers(1, n))
    scores = np.random.default_rng(seed).integers(0, 6, n).astype(float)
    largest = data.draw(st.booleans())
    chosen = choose(structure, ["output"], k, scores, largest=largest)
    assert len(set(chosen)) == k

    def side_by_side(units):
        taken = [sum(u // shared == g for u in units) for g in range(groups)]
        return sum(0 < t < shared for t in taken) <= 1

    assert side_by_side(chosen)
    allowed = [u for u in itertools.combinations(range(n), k) if side_by_side(u)]
    best = (max if largest else min)(scores[list(u)].sum() for u in allowed)
    assert scores[chosen].sum() == best


@pytest.mark.parametrize(("shared", "k", "expected"), [(1, 2, 1 / 2), (2, 2, 1 / 2), (2, 3, 3 / 4)])
def test_random_selections_are_all_equally_likely(shared, k, expected):
    """Over 4000 seeds: each head as often as any other, and each allowed set, within 5 standard errors."""
    structure, n = heads(4, shared), 4000
    sets = [frozenset(choose(structure, ["output"], k, random_scores(structure, s), largest=False)) for s in range(n)]
    for u in range(4):
        share = np.mean([u in s for s in sets])
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / n)
    counts = np.array([sets.count(s) for s in set(sets)])
    p = 1 / len(counts)
    assert (abs(counts / n - p) < 5 * np.sqrt(p * (1 - p) / n)).all()
    assert len(counts) == {(1, 2): 6, (2, 2): 2, (2, 3): 4}[shared, k]


def test_a_shared_key_is_trained_with_all_its_heads():
    structure = heads(6, 3)
    assert (granule(structure, ["output"]), granule(structure, ["output", "value"])) == (1, 3)
    assert choose(structure, ["value"], 3, np.arange(6.0), largest=True) == [5, 4, 3]
    assert sorted(choose(structure, ["value"], 3, np.arange(6.0), largest=False, excluded=[1])) == [3, 4, 5]
    with pytest.raises(BudgetError, match="2 are excluded"):
        choose(structure, ["value"], 3, np.arange(6.0), largest=True, excluded=[1, 4])


def test_a_seed_is_the_same_selection_and_another_seed_another():
    def units(**config):
        return get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.1, **config)).peft_config["default"].units

    assert units(seed=3) == units(seed=3) != units(seed=4)
    first = units(seed=3)
    channels = [v for k, v in first.items() if "feed" in k]
    assert channels[0] != channels[1]


def reference_scores(name, strategy, batches):
    """The definitions, one token and one batch at a time, for down and output of every block."""
    model = tiny(name)
    inputs = {}
    found = find(model)

    def keep(key):
        return lambda module, args, out: inputs.setdefault(key, []).append(args[0].detach())

    for s in found:
        model.get_submodule(s.outward.module).register_forward_hook(keep(s.key))
    gradients = {s.key: [] for s in found}
    for b in batches:
        model.zero_grad()
        model(**b).loss.backward()
        for s in found:
            module = model.get_submodule(s.outward.module)
            gradients[s.key].append(module.weight.grad)
    out = {}
    for s in found:
        matrix = weight(model.get_submodule(s.outward.module)).detach()
        per_channel = np.zeros(s.units * s.width)
        masks = [b["attention_mask"].bool() for b in batches]
        tokens = torch.cat([x.flatten(0, -2)[m.flatten()] for x, m in zip(inputs[s.key], masks, strict=True)])
        for c in range(len(per_channel)):
            if strategy == "gradient":
                per_channel[c] = np.mean([float(g[:, c].norm()) ** 2 for g in gradients[s.key]])
            else:
                per_channel[c] = float((tokens[:, c] ** 2).mean()) if strategy != "weight" else 1.0
                per_channel[c] *= float(matrix[:, c].norm()) ** 2 if strategy != "activation" else 1.0
        out[s.key] = np.sqrt(per_channel.reshape(s.units, s.width).sum(1))
    return out


def padded(name, seed):
    b = batch(name, seed=seed)
    b["attention_mask"][0, 4:] = 0
    if b["labels"].ndim == 2:
        b["labels"] = b["labels"].masked_fill(b["attention_mask"] == 0, -100)
    return b


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("strategy", ["W", "A", "S", "G"])
@pytest.mark.parametrize("name", ["opt", "bert", "llama-mha"])
def test_strategies_rank_by_what_they_say(name, strategy, largest):
    batches = [padded(name, 1), padded(name, 2)]
    config = S2FTConfig(ratio=0.08, strategy=strategy, largest=largest)
    model = tiny(name)
    before = weights(model)
    if strategy != "W":
        config = calibrate(config, model, batches)
        assert same(weights(model), before)
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert not model.training
    units = get_peft_model(model, config).peft_config["default"].units
    scores = reference_scores(name, config.strategy, batches)
    for key, chosen in units.items():
        ranked = np.argsort(scores[key])[::-1] if largest else np.argsort(scores[key])
        assert chosen == list(ranked[: len(chosen)])


def test_gradients_of_rows_rank_too():
    model, b = tiny("bert"), batch("bert")
    config = calibrate(S2FTConfig(ratio=0.05, strategy="G", largest=True, targets=["up", "value"]), model, [b])
    model(**b).loss.backward()
    for s in find(model):
        role = "up" if s.kind == "feed_forward" else "value"
        norms = model.get_submodule(s.inward[role].module).weight.grad.view(s.units, -1).norm(dim=1)
        assert config.units[s.key] == norms.argsort(descending=True)[: len(config.units[s.key])].tolist()


def test_calibration_looks_at_the_fraction_it_is_given():
    batches, seen = [batch(seed=i) for i in range(50)], []
    model = tiny()
    model.register_forward_pre_hook(lambda m, a, kw: seen.append(kw["input_ids"]), with_kwargs=True)
    config = S2FTConfig(ratio=0.1, strategy="A")
    one = calibrate(config, model, batches, fraction=0.04)
    assert len(seen) == 2
    assert calibrate(config, model, batches, fraction=0.04).units == one.units
    assert config.units is None
    seen.clear()
    calibrate(config, model, batches, fraction=0.001)
    assert len(seen) == 1


def test_calibrating_with_gradients_keeps_no_gradient_and_no_state():
    """Beside the model, what is alive at any time is less than the weights that the strategy ranks."""
    model = tiny("llama-mha")
    calibrate(S2FTConfig(ratio=0.1, strategy="G"), model, [batch("llama-mha")] * 3)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("strategy", "batches", "options", "message"),
    [
        ("random", [1], {}, "looks at no data"),
        ("A", [], {}, "no batch"),
        ("A", [1], {"fraction": 0}, "above 0"),
        ("G", ["no labels"], {}, "no loss"),
        ("A", ["not finite"], {}, "not finite"),
    ],
)
def test_calibration_that_cannot_be_done_is_refused(strategy, batches, options, message):
    model = tiny("opt")
    data = []
    for b in batches:
        data.append(batch("opt"))
        if b == "no labels":
            data[-1].pop("labels")
        if b == "not finite":
            nn.init.constant_(model.get_submodule("model.decoder.layers.0.fc1").weight, float("nan"))
    with pytest.raises(ArgumentError, match=message):
        calibrate(S2FTConfig(ratio=0.1, strategy=strategy), model, data, **options)
    assert all(p.requires_grad for p in model.parameters())
