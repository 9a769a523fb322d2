"""S2FT in peft, in the corners: adapters among adapters, precisions, optimizers, generation, other layouts."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model, inject_adapter_in_model
from test_llm_structure import PHI, PHI3, phi
from transformers_at_hand import batch, same, tiny, weights

import linnet.llm
from linnet.errors import AdapterError, BudgetError, StructureError
from linnet.llm import S2FTConfig, calibrate, find, increments
from linnet.llm.layer import S2FTLayer
from linnet.llm.linear import ROWS, PartialLinear, Resident
from linnet.llm.selection import calibrated_scores, shares, weight_scores
from linnet.llm.structure import weight

EVERY = ["query", "key", "value", "output", "up", "gate", "down"]
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
"""For families that take norms in float32."""


def layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, S2FTLayer)}


def fill(model, adapter="default", seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers(model).values():
            if adapter in layer.s2ft_delta:
                p = layer.s2ft_delta[adapter]
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def pair(name="llama", dtype=torch.float64, forms=("permuted", "permuted"), first=None, second=None):
    """Return a model under two adapters, ``one`` and ``two``, of random increments; ``one`` is active."""
    common = {"ratio": 0.12, "seed": 1}
    model = get_peft_model(tiny(name, dtype), S2FTConfig(**(first or common), form=forms[0]), adapter_name="one")
    model.add_adapter("two", S2FTConfig(**(second or common | {"seed": 2}), form=forms[1]))
    fill(model, "one", 5)
    fill(model, "two", 6)
    return model.eval()


def with_increments(base, *parts):
    """Return a base model with increments added to its weights: what any model under adapters must compute."""
    with torch.no_grad():
        for part in parts:
            for name, increment in part.items():
                weight(base.get_submodule(name)).add_(increment.u @ increment.v.T)
    return base.eval()


# --- one application of the linear map ------------------------------------------------------------


def test_of_rows_that_are_not_trained_no_input_is_kept():
    layer_weight, saved = torch.randn(4, 64), []
    resident = Resident(layer_weight, ROWS, (slice(0, 1),), lambda: pytest.fail("not needed"))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        PartialLinear.apply(torch.randn(7, 64, requires_grad=True), None, resident, torch.zeros(1, 64))
    assert max(x.untyped_storage().nbytes() for x in saved) <= 64 * 4


def test_the_weight_is_not_asked_for_where_the_input_needs_no_gradient():
    resident = Resident(torch.randn(4, 6), ROWS, (slice(0, 1),), lambda: pytest.fail("not needed"))
    delta = torch.zeros(1, 6, requires_grad=True)
    PartialLinear.apply(torch.randn(3, 6), None, resident, delta).sum().backward()
    assert delta.grad.abs().max() > 0


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(0, 6), (2, 6), (2, 0, 6), (2, 3, 4, 6)])
def test_inputs_may_have_any_shape(shape, axis):
    layer = S2FTLayer(torch.nn.Linear(6, 5).double().requires_grad_(False), axis)
    layer.update_layer("a", [1, 3], "permuted", trained=True)
    layer.set_adapter(["a"])
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    assert out.shape == (*shape[:-1], 5)
    out.sum().backward()
    assert layer.s2ft_delta["a"].grad.shape == ((5, 2) if axis else (2, 6))


# --- several adapters -----------------------------------------------------------------------------


def test_opposite_increments_cancel_in_bfloat16():
    """Each alone would round the weight under it to multiples of 1/64."""
    model, base = pair(dtype=torch.bfloat16, second={"ratio": 0.12, "seed": 1}), tiny(dtype=torch.bfloat16)
    with torch.no_grad():
        for layer in layers(model).values():
            layer.s2ft_delta["one"].fill_(2.0)
            layer.s2ft_delta["two"].fill_(-2.0)
    model.base_model.set_adapter(["one", "two"])
    model(**batch())
    for name, layer in layers(model.base_model.model).items():
        assert layer._resident == ("one", "two")
        assert (weight(layer) - weight(base.get_submodule(name))).abs().max() < 1e-5


def test_what_cancels_when_fused_is_added_up_in_float32():
    model = pair(dtype=torch.bfloat16, second={"ratio": 0.12, "seed": 1})
    model.add_adapter("three", S2FTConfig(ratio=0.12, seed=1))
    for name, value in (("one", 256.0), ("two", 1.0), ("three", -256.0)):
        for layer in layers(model).values():
            delta = layer.s2ft_delta[name]
            delta.data = torch.full_like(delta, value, dtype=torch.bfloat16)
    model.add_weighted_adapter(["one", "two", "three"], [1.0, 1.0, 1.0], "fused")
    for layer in layers(model).values():
        assert (layer.s2ft_delta["fused"] == 1).all()


def test_channels_of_two_adapters_are_added_at_their_places_whatever_their_numbers():
    """8 comes before 1 in a set of Python's."""
    key = "model.layers.0/feed_forward"
    model = pair(first={"units": {key: [8, 3]}}, second={"units": {key: [1, 3]}})
    model.base_model.set_adapter(["one", "two"])
    expected = with_increments(tiny(), increments(model, "one"), increments(model, "two"))
    torch.testing.assert_close(model(**batch()).logits, expected(**batch()).logits, **CLOSE)
    model.train()(**batch())
    torch.testing.assert_close(model(**batch()).logits, expected(**batch()).logits, **CLOSE)


def test_an_adapter_merged_after_another_joins_it():
    model = pair(second={"ratio": 0.12, "seed": 2, "targets": EVERY})
    expected = with_increments(tiny(), increments(model, "one"), increments(model, "two"))
    model.train()(**batch())
    model.eval().merge_adapter(["one"])
    model.merge_adapter(["two"])
    torch.testing.assert_close(model(**batch()).logits, expected(**batch()).logits, **CLOSE)
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter(["one"])
    torch.testing.assert_close(model(**batch()).logits, expected(**batch()).logits, **CLOSE)
    model.unmerge_adapter()
    assert same(weights(model.unload()), weights(tiny()))


def test_adapters_merged_for_good_one_over_the_other():
    model = pair(second={"ratio": 0.12, "seed": 2, "targets": EVERY})
    parts = [increments(model, name) for name in ("one", "two")]
    model.train()(**batch())
    merged, expected = model.merge_and_unload(adapter_names=["one", "two"]), with_increments(tiny(), *parts)
    for name, p in expected.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), p, rtol=1e-14, atol=1e-15)


def test_disabled_adapters_are_out_even_if_they_were_merged():
    model, out = pair(), tiny()(**batch()).logits
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(**batch()).logits, out)
    assert not torch.equal(model(**batch()).logits, out)


@pytest.mark.parametrize("how", ["disabled", "deleted", "unmerged"])
def test_what_is_taken_out_stands_in_no_weight(how):
    model, base = pair(), tiny()
    model(**batch())
    names = list(layers(model.base_model.model))
    assert not all(
        torch.equal(weight(model.get_submodule(f"base_model.model.{n}")), weight(base.get_submodule(n))) for n in names
    )
    if how == "deleted":
        model.delete_adapter("one")
    elif how == "unmerged":
        model.merge_adapter()
        model.unmerge_adapter()
    else:
        model.base_model.disable_adapter_layers()
    for n in names:
        assert torch.equal(weight(model.get_submodule(f"base_model.model.{n}")), weight(base.get_submodule(n)))


def test_a_backward_pass_leaves_the_weights_of_the_last_forward_pass():
    model = pair("gpt2").train()
    model(**batch("gpt2"))
    loss = model(**batch("gpt2")).loss
    model.set_adapter("two")
    model(**batch("gpt2"))
    before = {n: weight(layer).clone() for n, layer in layers(model).items()}
    loss.backward()
    for n, layer in layers(model).items():
        assert torch.equal(weight(layer), before[n])


@pytest.mark.parametrize("forms", [("gather", "gather"), ("permuted", "gather")], ids="+".join)
@pytest.mark.parametrize("targets", [["output", "down"], EVERY], ids=["defaults", "all matrices"])
def test_two_adapters_trained_together_get_the_gradients_of_either_form(targets, forms):
    grads = []
    for both in (("permuted", "permuted"), forms):
        settings = {"ratio": 0.15, "targets": targets}
        model = pair(forms=both, first=settings | {"seed": 1}, second=settings | {"seed": 2})
        model.base_model.set_adapter(["one", "two"])
        model.train()(**batch()).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for layer in layers(model).values():  # nothing is written to a weight that a gather form must leave alone
        assert not layer._resident or "gather" not in layer.form.values()
    assert grads[0].keys() == grads[1].keys()
    for name, g in grads[0].items():
        torch.testing.assert_close(grads[1][name], g, rtol=1e-4, atol=1e-6)


def test_adapters_in_use_are_taken_out_before_each_example_gets_its_own():
    model = pair()
    data = {k: v for k, v in batch().items() if k != "labels"}
    with torch.no_grad():
        one = model(**data).logits
        mixed = model(**data, adapter_names=["__base__", "one", "__base__"]).logits
    base = tiny()(**data).logits
    torch.testing.assert_close(mixed, torch.stack([base[0], one[1], base[2]]), **CLOSE)


def test_only_channels_of_adapters_that_reorder_come_first():
    model = pair(forms=("gather", "permuted"))
    model.train()(**batch())
    for layer in layers(model).values():
        assert layer.where("two").start == 0
    model.add_adapter("three", S2FTConfig(ratio=0.1, seed=3, form="gather"))
    assert not model.base_model._orders  # what is selected is selected in the base as it was given
    model(**batch())
    for layer in layers(model).values():
        assert layer.where("two").start == 0


@pytest.mark.parametrize("merged", [False, True])
def test_a_base_that_is_unloaded_is_as_it_was_and_stays_so(merged):
    model = pair()
    if merged:
        model.merge_adapter()
    base = model.unload()
    assert same(weights(base), weights(tiny()))
    base.train()(**batch())
    assert same(weights(base), weights(tiny()))


def test_a_merged_base_is_reordered_no_more():
    model = pair()
    base = model.merge_and_unload()
    before = weights(base)
    base.train()(**batch())
    assert same(weights(base), before)
    assert not same(before, weights(tiny()))


def test_an_adapter_loaded_for_inference_reorders_nothing(tmp_path):
    pair().save_pretrained(tmp_path)
    for trainable in (False, True):
        model = PeftModel.from_pretrained(tiny(), tmp_path / "one", is_trainable=trainable)
        model.train()(**batch())
        assert bool(model.base_model._orders) == trainable


def test_a_refused_adapter_leaves_no_name_behind(tmp_path):
    pair().save_pretrained(tmp_path)
    other = tiny()
    other.model.layers[0].mlp.down_proj.weight.data.mul_(1.5)
    model = linnet.llm.S2FTModel(other, S2FTConfig(ratio=0.1, seed=5))
    with pytest.raises(AdapterError, match="another base model"):
        linnet.llm.load(model, tmp_path / "one", "more")
    assert list(model.peft_config) == ["default"]
    with pytest.raises(AdapterError, match="already"):
        linnet.llm.load(model, tmp_path / "one", "default")


def test_the_last_adapter_may_be_deleted():
    model = pair()
    model.train()(**batch())
    model.delete_adapter("one")
    expected = with_increments(tiny(), increments(model, "two"))
    torch.testing.assert_close(model.eval()(**batch()).logits, expected(**batch()).logits, **CLOSE)
    model.base_model.delete_adapter("two")
    assert torch.equal(model.base_model.model(**batch()).logits.argmax(-1), tiny()(**batch()).logits.argmax(-1))
    assert same(weights(model.base_model.unload()), weights(tiny()))


def test_a_second_adapter_is_ranked_by_weights_as_they_were_given():
    fresh = get_peft_model(tiny(), S2FTConfig(ratio=0.1, strategy="W")).peft_config["default"].units
    model = pair()
    for layer in layers(model).values():
        layer.s2ft_delta["one"].data.mul_(20)
    model.train()(**batch())
    model.add_adapter("third", S2FTConfig(ratio=0.1, strategy="W"))
    assert model.peft_config["third"].units == fresh


def test_one_configuration_serves_several_models():
    config = S2FTConfig(ratio=0.15)
    first, other = get_peft_model(tiny(), config), get_peft_model(tiny("gpt2"), config)
    assert config.units is None
    assert config.base is None
    assert first.peft_config["default"].units.keys() != other.peft_config["default"].units.keys()
    assert get_peft_model(tiny(), config).peft_config["default"].units == first.peft_config["default"].units


# --- states, copies, precisions -------------------------------------------------------------------


def test_a_state_with_another_base_is_that_base():
    """Loaded while increments stand in the weights: the values that they cover are the new ones."""
    other = tiny()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    out, expected = other(**batch()).logits, weights(other)
    state = get_peft_model(other, S2FTConfig(ratio=0.15)).state_dict()
    model = get_peft_model(tiny(), S2FTConfig(ratio=0.15)).eval()
    model(**batch())
    model.load_state_dict(state)
    assert torch.equal(model(**batch()).logits, out)
    assert same(weights(model.unload()), expected)


@pytest.mark.parametrize("merged", [False, True])
def test_a_base_in_another_precision_is_what_it_would_be_without_adapters(merged):
    model = get_peft_model(tiny(dtype=torch.float32), S2FTConfig(ratio=0.15, targets=EVERY))
    fill(model)
    model.train()(**batch())
    if merged:
        model.merge_adapter()
    model.to(torch.bfloat16).to(torch.float32)
    if merged:
        model.unmerge_adapter()
    assert same(weights(model.unload()), weights(tiny(dtype=torch.float32).to(torch.bfloat16).to(torch.float32)))


def test_a_copy_made_before_training_trains_on_its_own():
    model = get_peft_model(tiny(), S2FTConfig(ratio=0.15))
    twin = copy.deepcopy(model)
    fill(twin)
    twin.train()(**batch())
    assert twin.base_model._orders
    assert not model.base_model._orders
    expected = with_increments(tiny(), increments(twin))
    torch.testing.assert_close(twin.eval()(**batch()).logits, expected(**batch()).logits, **CLOSE)
    for one in (model, twin):
        assert same(weights(one.unload()), weights(tiny()))


def test_what_ran_without_gradients_may_be_trained_afterwards():
    model = get_peft_model(tiny(), S2FTConfig(ratio=0.15, targets=EVERY))
    with torch.inference_mode():
        model.train()(**batch())
    model(**batch()).loss.backward()
    fill(model)
    expected = with_increments(tiny(), increments(model))
    torch.testing.assert_close(model.eval()(**batch()).logits, expected(**batch()).logits, **CLOSE)
    model.half().double()
    base = model.unload()
    assert same(weights(base), weights(tiny().half().double()))
    assert not any(p.is_inference() for p in base.parameters())


def test_the_gather_form_writes_to_no_weight(tmp_path):
    base = tiny()
    versions = {n: p._version for n, p in base.named_parameters()}
    model = get_peft_model(base, S2FTConfig(ratio=0.15, form="gather", targets=EVERY)).train()
    model(**batch()).loss.backward()
    model.save_pretrained(tmp_path)
    model.eval()(**batch())
    assert {n: p._version for n, p in model.unload().named_parameters()} == versions


# --- training -------------------------------------------------------------------------------------


def plain_step(parameters):
    def step():
        for p in parameters:
            p.data -= 0.1 * p.grad

    return step


OPTIMIZERS = {
    "fused": lambda ps: torch.optim.AdamW(ps, 1e-2, fused=True).step,
    "foreach": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, foreach=True).step,
    "data": plain_step,
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers_may_write_as_they_like(kind):
    results = []
    for form in ("permuted", "gather"):
        model = get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.15, form=form)).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        step = OPTIMIZERS[kind](parameters)
        for _ in range(3):
            model(**batch("gpt2")).loss.backward()
            step()
            model.zero_grad()
        results.append(model.eval()(**batch("gpt2")).logits)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_trained_biases_are_cast_too_under_autocast():
    model = get_peft_model(tiny("bert", torch.float32), S2FTConfig(ratio=0.15, bias="s2ft_only")).train()
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch("bert")).loss.backward()
    for layer in layers(model).values():
        assert layer.bias.grad.dtype == torch.float32
        assert layer.bias.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["llama", "llama-mqa", "gpt2"])
@pytest.mark.parametrize("which", ["everything", "a shared key", "all heads backwards", "rows and columns"])
def test_any_selection_has_the_gradient_of_its_slices(name, which):
    attention, feed_forward = (s.key for s in find(tiny(name))[:2])
    every = [r for r in EVERY if r != "gate" or name != "gpt2"]
    settings = {
        "everything": {"units": {s.key: list(range(s.units)) for s in find(tiny(name))}, "targets": every},
        "a shared key": {"units": {attention: [3]}, "targets": ["key", "value"]},
        "all heads backwards": {"units": {attention: [3, 2, 1, 0]}, "targets": ["output"]},
        "rows and columns": {"units": {feed_forward: [23, 0]}, "targets": ["up", "down"]},
    }[which]
    full = tiny(name).train()
    full(**batch(name)).loss.backward()
    model = get_peft_model(tiny(name), S2FTConfig(**settings)).train()
    model(**batch(name)).loss.backward()
    for module, layer in layers(model.base_model.model).items():
        gradient = full.get_submodule(module).weight.grad
        gradient = gradient.T if name == "gpt2" else gradient
        expected = gradient.index_select(layer.axis, torch.tensor(layer.channels["default"]))
        torch.testing.assert_close(layer.s2ft_delta["default"].grad, expected, rtol=1e-4, atol=1e-8)
    assert same(weights(model.unload()), weights(tiny(name)))


@pytest.mark.parametrize(
    ("targets", "ratio"),
    [(["output", "down"], 0.12), (["query", "key", "value", "gate", "up"], 0.12), (["value"], 0.05)],
)
@pytest.mark.parametrize("fused", [False, True])
def test_a_described_model_is_trained_saved_and_given_back(tmp_path, targets, ratio, fused):
    """Phi-3 keeps query, key and value, and gate and up, in one matrix each."""
    sizes, layout = ({"num_key_value_heads": 2}, PHI3) if fused else ({}, PHI)
    targets = [t for t in targets if t != "gate" or fused]

    def still():
        model = phi(**sizes)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model

    ids = torch.arange(1, 8)[None]
    full = still().train()
    full(ids, labels=ids).loss.backward()
    model = get_peft_model(still(), S2FTConfig(ratio=ratio, layout=layout, targets=targets)).train()
    model(ids, labels=ids).loss.backward()
    for module, layer in layers(model.base_model.model).items():
        expected = full.get_submodule(module).weight.grad.index_select(
            layer.axis, torch.tensor(layer.channels["default"])
        )
        torch.testing.assert_close(layer.s2ft_delta["default"].grad, expected, rtol=1e-4, atol=1e-8)
    fill(model)
    out = model.eval()(ids).logits
    torch.testing.assert_close(with_increments(still(), increments(model))(ids).logits, out, **CLOSE)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(PeftModel.from_pretrained(still(), tmp_path)(ids).logits, out, **CLOSE)
    assert same(weights(model.unload()), weights(still()))


# --- generation, files, refusals ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_generated_is_what_the_merged_model_generates(name):
    common = {"ratio": 0.15, "task_type": "CAUSAL_LM"}
    model = pair(name, first=common, second=common | {"seed": 2, "targets": ["output", "down", "value"]})
    ids = batch(name)["input_ids"]
    settings = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    expected = {
        adapter: with_increments(tiny(name), increments(model, adapter)).generate(ids, **settings)
        for adapter in ("one", "two")
    }
    assert not torch.equal(expected["one"], expected["two"])
    for training in (False, True, False):
        model.train(training)
        for adapter, out in expected.items():
            model.set_adapter(adapter)
            assert torch.equal(model.generate(input_ids=ids, **settings), out)
    out = model.generate(input_ids=ids, adapter_names=["two", "one", "two"], **settings)
    for i, adapter in enumerate(("two", "one", "two")):
        assert torch.equal(out[i], expected[adapter][i])


def test_one_of_several_adapters_is_saved_and_found_by_its_name(tmp_path):
    model = pair()
    model.set_adapter("two")
    out = model(**batch()).logits
    model.save_pretrained(tmp_path, selected_adapters=["two"])
    assert not (tmp_path / "one").exists()
    for again in (
        PeftModel.from_pretrained(tiny(), tmp_path / "two"),
        PeftModel.from_pretrained(tiny(), tmp_path, subfolder="two"),
    ):
        torch.testing.assert_close(again(**batch()).logits, out, **CLOSE)
    onward = pair()
    onward.load_adapter(tmp_path / "two", "more", is_trainable=True)
    onward.set_adapter("more")
    loss = onward.train()(**batch()).loss
    loss.backward()
    trained = {n for n, p in onward.named_parameters() if p.grad is not None}
    assert trained
    assert all(n.endswith("s2ft_delta.more") for n in trained)


def test_base_and_adapter_are_found_from_the_adapter_s_folder(tmp_path):
    tiny().save_pretrained(tmp_path / "base")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float64)
    model = get_peft_model(base, S2FTConfig(ratio=0.15, task_type="CAUSAL_LM")).eval()
    fill(model)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float64)
    torch.testing.assert_close(again(**batch()).logits, model(**batch()).logits, **CLOSE)


def test_a_configuration_is_the_same_after_a_file_and_a_pickle(tmp_path):
    config = S2FTConfig(
        ratio=0.1, targets=("down", "output"), excluded={"model.layers.0/feed_forward": [1]}, blocks=[1]
    )
    assert pickle.loads(pickle.dumps(config)) == config
    model = get_peft_model(tiny(), config)
    model.save_pretrained(tmp_path)
    mine, written = model.peft_config["default"].to_dict(), S2FTConfig.from_pretrained(str(tmp_path)).to_dict()
    passing = ("inference_mode", "auto_mapping")  # what peft changes on its way to the file
    assert {k: v for k, v in mine.items() if k not in passing} == {k: v for k, v in written.items() if k not in passing}


def test_ways_that_cannot_know_the_order_of_the_units_are_refused():
    for way in (
        lambda: inject_adapter_in_model(S2FTConfig(ratio=0.1), tiny()),
        lambda: get_peft_model(tiny(), S2FTConfig(ratio=0.1), mixed=True),
    ):
        with pytest.raises(ValueError, match=r"shared state|not compatible"):
            way()


def test_encoders_with_decoders_are_refused():
    sizes = {"vocab_size": 31, "d_model": 16}
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**sizes, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    )
    with pytest.raises(StructureError, match="'t5'"):
        get_peft_model(t5, S2FTConfig(ratio=0.1))


# --- budgets and scores ---------------------------------------------------------------------------


def parts_of(model, targets, budget):
    given = shares(model, find(model), targets, budget)
    return [(s.structure.kind, s.units) for s in given if s.structure.block.endswith("0")]


def test_a_shared_value_costs_its_own_rows_and_not_those_of_the_queries():
    assert parts_of(tiny(), ["value"], 2 * 4 * 16) == [("attention", 2)]
    assert parts_of(tiny(), ["query", "value"], 2 * (8 + 4) * 16) == [("attention", 2)]


def test_a_head_is_taken_if_more_than_half_of_one_is_due():
    assert parts_of(tiny("llama-mha"), ["output", "down"], 2 * 100) == [("attention", 1), ("feed_forward", 2)]
    assert parts_of(tiny("llama-mha"), ["output", "down"], 2 * 65) == [("attention", 1)]
    assert parts_of(tiny("llama-mha"), ["output", "down"], 2 * 63) == [("feed_forward", 3)]


def test_heads_take_what_channels_that_have_run_out_leave():
    narrow = transformers.LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0
    )
    model = transformers.LlamaForCausalLM(narrow)
    # Two of the four heads are due, of 64 each; the eight channels have 16 each, and 69 are left.
    assert parts_of(model, ["output", "down"], 8 * 16 + 3 * 64 + 5) == [("attention", 3), ("feed_forward", 8)]
    assert parts_of(model, ["output", "down"], 8 * 16 + 2 * 64 + 5) == [("attention", 2), ("feed_forward", 8)]
    with pytest.raises(BudgetError, match="more than output, down"):
        shares(model, find(model), ["output", "down"], 8 * 16 + 4 * 64 + 16)


def test_a_budget_may_be_all_there_is():
    everything = 2 * (16 * 16 + 24 * 16)
    assert parts_of(tiny("llama-mha"), ["output", "down"], everything) == [("attention", 4), ("feed_forward", 24)]
    assert parts_of(tiny("llama-mha"), ["output", "down"], everything + 31) == [("attention", 4), ("feed_forward", 24)]
    with pytest.raises(BudgetError, match="more than output, down"):
        parts_of(tiny("llama-mha"), ["output", "down"], everything + 32)


@pytest.mark.parametrize("strategy", ["weight", "gradient"])
@pytest.mark.parametrize(("name", "roles"), [("llama", ["query", "value"]), ("gpt2", ["value"]), ("gpt2", ["key"])])
def test_rows_that_lie_within_a_matrix_or_are_shared_are_scored_where_they_lie(name, roles, strategy):
    """A key or value counts once for all the heads that share it."""
    model = tiny(name)
    heads = find(model)[0]
    model(**batch(name)).loss.backward()
    expected = np.zeros(heads.units)
    for role in roles:
        linear = model.get_submodule(heads.inward[role].module)
        matrix = linear.weight if strategy == "weight" else linear.weight.grad
        matrix = matrix.T if name == "gpt2" else matrix
        for unit in range(heads.units):
            times = heads.shared if role in ("key", "value") else 1
            expected[unit] += float(matrix[heads.channels(role, [unit])].square().sum()) / times
    if strategy == "weight":
        scores = weight_scores(model, heads, roles)
    else:
        scores = calibrated_scores(tiny(name), [(heads, roles)], [batch(name)], strategy)[heads.key]
    np.testing.assert_allclose(scores, np.sqrt(expected), rtol=1e-4)


def test_batches_to_calibrate_on_are_drawn_by_the_seed():
    batches, seen = [batch("gpt2", n=1, seed=i) for i in range(40)], []
    for seed in (0, 1):
        model = tiny("gpt2")
        model.register_forward_pre_hook(lambda m, a, kw: seen.append(kw["input_ids"]), with_kwargs=True)
        calibrate(S2FTConfig(ratio=0.1, strategy="A", seed=seed), model, batches, fraction=0.05)
    ids = [next(i for i, b in enumerate(batches) if b["input_ids"] is s) for s in seen]
    assert len(ids) == 4
    assert ids[:2] != ids[2:]
    assert sorted(ids[:2]) == ids[:2] != [0, 1]


@pytest.mark.parametrize("training", [False, True])
def test_calibration_gives_the_mode_back(training):
    model = tiny("gpt2").train(training)
    calibrate(S2FTConfig(ratio=0.1, strategy="A"), model, [batch("gpt2")])
    assert all(module.training == training for module in model.modules())


# --- adapters on their own ------------------------------------------------------------------------


def test_factors_are_copies():
    model = pair()
    before = {n: layer.s2ft_delta["one"].clone() for n, layer in layers(model).items() if "one" in layer.s2ft_delta}
    for part in increments(model, "one").values():
        part.u.zero_()
        part.v.zero_()
    for n, layer in layers(model).items():
        if n in before:
            assert torch.equal(layer.s2ft_delta["one"], before[n])


@pytest.mark.parametrize("trainable", [False, True])
def test_what_linnet_loads_is_trained_if_it_is_meant_to_be(tmp_path, trainable):
    model = pair()
    linnet.llm.save(model, tmp_path, "one")
    assert not model.peft_config["one"].inference_mode
    again = linnet.llm.load(tiny(), tmp_path, trainable=trainable)
    assert again.peft_config["default"].inference_mode != trainable
    assert any(p.requires_grad for p in again.parameters()) == trainable
    torch.testing.assert_close(again.eval()(**batch()).logits, model(**batch()).logits, **CLOSE)


def test_a_lora_of_it_names_its_base(tmp_path):
    tiny().save_pretrained(tmp_path / "base")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float64)
    model = get_peft_model(base, S2FTConfig(ratio=0.15, task_type="CAUSAL_LM")).eval()
    fill(model)
    linnet.llm.save_as_lora(model, tmp_path / "lora")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora", dtype=torch.float64)
    torch.testing.assert_close(again(**batch()).logits, model(**batch()).logits, **CLOSE)


def test_a_base_that_has_no_fingerprint_is_taken_on_trust(tmp_path):
    """Quantised weights, or such as are not in memory, cannot be compared."""
    model = pair(forms=("gather", "gather"))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny().to("meta"), tmp_path / "one")
    assert again.peft_config["default"].base == model.peft_config["one"].base


def test_settings_of_a_later_version_are_refused(tmp_path):
    pair().save_pretrained(tmp_path)
    path = tmp_path / "one" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"levels": 3}))
    with pytest.raises(AdapterError, match="does not know: levels"):
        PeftModel.from_pretrained(tiny(), tmp_path / "one")
