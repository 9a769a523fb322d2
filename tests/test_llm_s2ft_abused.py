"""S2FT interrupted, asked for parts, merged and switched at the wrong moment: exact all the same, or refused."""

import copy
import json

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers_at_hand import batch, fill, layers, same, tiny, weights

import linnet.llm
from linnet.errors import AdapterError, ArgumentError
from linnet.llm import S2FTConfig, calibrate, permutation, save_as_lora
from linnet.llm.layer import S2FTLayer
from linnet.llm.serving import Server

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def wrapped(name="llama", dtype=torch.float64, **config):
    """Return a model with random increments that has not been trained yet, in evaluation mode."""
    return fill(get_peft_model(tiny(name, dtype), S2FTConfig(**{"ratio": 0.15} | config))).eval()


def logits(model, name="llama", **more):
    return model(**{k: v for k, v in batch(name).items() if k != "labels"}, **more).logits


# --- interruptions --------------------------------------------------------------------------------


class Interrupting:
    """Lets the n-th writing to a weight fail, as Ctrl-C or want of memory would."""

    def __init__(self, monkeypatch, n):
        self.left, parts = n, permutation._parts

        def counted(*arguments):
            for part in parts(*arguments):
                self.left -= 1
                if not self.left:
                    raise KeyboardInterrupt
                yield part

        monkeypatch.setattr(permutation, "_parts", counted)


@pytest.mark.parametrize("name", ["llama-mha", "gpt2"])
@pytest.mark.parametrize("n", range(1, 13))
def test_an_interrupted_reordering_leaves_the_function_and_goes_on(name, n, monkeypatch):
    model = wrapped(name)
    before = logits(model, name)
    with monkeypatch.context() as patch:
        Interrupting(patch, n)
        with pytest.raises(KeyboardInterrupt):
            model.train()(**batch(name))
    torch.testing.assert_close(logits(model.eval(), name), before, **CLOSE)
    model.train()(**batch(name))  # begins again where it was
    assert all(isinstance(layer.where("default"), slice) for layer in layers(model))
    torch.testing.assert_close(logits(model.eval(), name), before, **CLOSE)
    assert same(weights(model.unload()), weights(tiny(name)))


def test_an_interruption_between_weights_and_note_undoes_both(monkeypatch):
    model = wrapped()
    before, rearranged, calls = logits(model), S2FTLayer.rearranged, []

    def stopped(self, order):
        calls.append(order)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rearranged(self, order)

    with monkeypatch.context() as patch:
        patch.setattr(S2FTLayer, "rearranged", stopped)
        with pytest.raises(KeyboardInterrupt):
            model.train()(**batch())
    torch.testing.assert_close(logits(model.eval()), before, **CLOSE)
    assert same(weights(model.unload()), weights(tiny()))


def test_what_is_merged_stays_merged_when_reordering_is_refused():
    model = wrapped()
    model.merge_adapter()
    model.base_model.model.model.layers[1].mlp.up_proj.to("meta")
    with pytest.raises(Exception, match="not in memory"):
        model.base_model.arrange()
    assert all(layer.merged for layer in layers(model))


def test_after_a_refused_adapter_training_goes_on_in_place():
    model = wrapped().train()
    model(**batch())
    with pytest.raises(linnet.errors.StructureError):
        model.add_adapter("bad", S2FTConfig(units={"model.layers.9/attention": [0]}))
    model(**batch())
    assert all(isinstance(layer.where("default"), slice) for layer in layers(model))


# --- states of parts ------------------------------------------------------------------------------


def test_the_state_of_the_base_alone_is_as_it_was_given():
    model = wrapped()
    inner = model.get_base_model()
    first, out = copy.deepcopy(inner.state_dict()), logits(model)
    model.train()(**batch())
    again = copy.deepcopy(inner.state_dict())
    assert same(first, again)
    model.train()(**batch())
    inner.load_state_dict(first)
    torch.testing.assert_close(logits(model.eval()), out, **CLOSE)
    assert same(weights(model.unload()), weights(tiny()))


@pytest.mark.parametrize("part", ["model.layers.1", "model.layers.1.mlp.up_proj", "model.layers.0.self_attn"])
def test_the_state_of_a_block_is_as_it_was_given(part):
    model = wrapped()
    before = copy.deepcopy(model.get_base_model().get_submodule(part).state_dict())
    model.train()(**batch())
    assert same(before, model.get_base_model().get_submodule(part).state_dict())


def test_a_base_that_is_unloaded_is_watched_no_more():
    model = wrapped()
    model.train()(**batch())
    base = model.unload()
    hooks = [m._state_dict_pre_hooks or m._load_state_dict_pre_hooks for m in base.modules()]
    assert not any(hooks)


# --- whole modules --------------------------------------------------------------------------------


def with_head(name="bert", seed=7):
    model = wrapped(name, task_type="SEQ_CLS") if name == "bert" else wrapped(name, modules_to_save=["lm_head"])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "modules_to_save" in key:
                p.copy_(torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_export_as_lora_has_the_whole_modules(name, tmp_path):
    model = with_head(name)
    save_as_lora(model, tmp_path)
    other = PeftModel.from_pretrained(tiny(name), tmp_path).eval()
    torch.testing.assert_close(logits(other, name), logits(model, name), **CLOSE)


def test_whole_modules_are_not_fused():
    model = with_head()
    with pytest.raises(AdapterError, match=r"trained modules whole \(classifier"):
        model.add_weighted_adapter(["default"], [1.0], "fused")
    assert list(model.peft_config) == ["default"]


# --- adapters side by side ------------------------------------------------------------------------


def two(**more):
    model = wrapped(**more)
    model.add_adapter("other", S2FTConfig(ratio=0.15, seed=1))
    return fill(model, "other", 5).eval()


def test_examples_have_no_adapters_of_their_own_while_one_is_merged():
    model = two()
    n = len(batch()["input_ids"])
    wanted = logits(model, adapter_names=["other"] * n)
    model.merge_adapter(["default"])
    with pytest.raises(AdapterError, match="default is merged"):
        logits(model, adapter_names=["other"] * n)
    model.unmerge_adapter()
    assert torch.equal(logits(model, adapter_names=["other"] * n), wanted)


def test_an_adapter_can_go_while_another_is_merged():
    model = two()
    model.merge_adapter(["default"])
    merged = logits(model)
    model.delete_adapter("other")
    assert torch.equal(logits(model), merged)
    assert not any("other" in layer.s2ft_delta for layer in layers(model))
    assert same(weights(model.unload()), weights(tiny()))


@pytest.mark.parametrize("disabled", [False, True])
def test_two_losses_of_adapters_in_different_layers(disabled):
    """Where an adapter touches nothing, autograd must not hold the weight that the next pass writes to."""

    def made(form):
        model = get_peft_model(tiny(), S2FTConfig(ratio=0.05, blocks=[1], form=form))
        model.add_adapter("other", S2FTConfig(ratio=0.05, blocks=[0], form=form))
        fill(fill(model), "other", 5).train()
        model.enable_input_require_grads()
        model(**batch())
        model.set_adapter("other")
        first = model(**batch()).loss
        model.set_adapter("default")
        if disabled:
            with model.disable_adapter():
                first = first + model(**batch()).loss
        second = model(**batch()).loss
        first.backward()
        second.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, ours = made("gather"), made("permuted")
    assert plain.keys() == ours.keys() != set()
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, **CLOSE)


def test_a_base_weight_that_is_trained_too_is_refused():
    model = wrapped().train()
    model.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight.requires_grad_(True)
    with pytest.raises(AdapterError, match="to be trained too"):
        model(**batch())


@pytest.mark.parametrize("name", ["llama", "opt"])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_names_are_as_many_as_examples(name, count):
    """OPT's feed-forward layers see examples and tokens in one axis."""
    model = wrapped(name, targets="down")
    if count == len(batch(name)["input_ids"]):
        count += 1
    with pytest.raises(ArgumentError, match="adapter names for"):
        logits(model, name, adapter_names=["default"] * count)
    server = Server(model)
    with pytest.raises(ArgumentError, match="adapter names for"), server.each(["default"] * count) as base:
        logits(base, name)


def test_gather_is_trained_after_a_pass_in_inference_mode():
    model = wrapped(form="gather")
    with torch.inference_mode():
        logits(model)
    model.train()(**batch()).loss.backward()
    assert all(layer.s2ft_delta["default"].grad is not None for layer in layers(model))


def test_a_safe_merge_looks_before_it_writes():
    model = wrapped()
    before = logits(model)
    last = layers(model)[-1].s2ft_delta["default"]
    kept = last.detach().clone()
    with torch.no_grad():
        last[0, 0] = torch.nan
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(AdapterError, match="not finite"):
            merge(safe_merge=True)
        assert not any(layer.merged for layer in layers(model))
    with torch.no_grad():
        last.copy_(kept)
    torch.testing.assert_close(logits(model), before, **CLOSE)
    assert same(weights(model.unload()), weights(tiny()))


# --- files ----------------------------------------------------------------------------------------


def test_both_ways_of_saving_write_the_same(tmp_path):
    model = with_head()
    model.save_pretrained(tmp_path / "peft")
    linnet.llm.save(model, tmp_path / "ours")
    written = [load_file(tmp_path / way / "adapter_model.safetensors") for way in ("peft", "ours")]
    assert same(*written)


def spoiled(tmp_path, change):
    wrapped().save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    rows = load_file(file)
    change(rows)
    save_file(rows, file)
    return tmp_path


def first_of(rows, ending):
    return next(n for n in sorted(rows) if n.endswith(ending))


CHANGES = {
    "a stranger": (lambda rows: rows.update({"base_model.model.foo.weight": torch.ones(2)}), "does not train"),
    "a norm": (lambda rows: rows.update({"base_model.model.model.norm.weight": torch.ones(16)}), "does not train"),
    "a bias": (lambda rows: rows.update({"base_model.model.lm_head.bias": torch.ones(31)}), "does not train"),
    "nan": (lambda rows: rows[first_of(rows, "s2ft_delta")].fill_(torch.nan), "not finite"),
    "a shape": (lambda rows: rows.update({n: rows[n][:, :1].clone() for n in [first_of(rows, "s2ft_delta")]}), "shape"),
    "channels": (
        lambda rows: rows.update({n: rows[n].flip(0).clone() for n in [first_of(rows, "mlp.down_proj.s2ft_channels")]}),
        "other channels",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_was_changed_is_refused(what, tmp_path):
    change, message = CHANGES[what]
    folder, base = spoiled(tmp_path, change), tiny()
    with pytest.raises(AdapterError, match=message):
        linnet.llm.load(base, folder)
    assert same(weights(base), weights(tiny()))
    assert not layers(base)
    with pytest.raises(AdapterError, match=message):
        PeftModel.from_pretrained(tiny(), folder)


def test_a_second_adapter_that_is_refused_leaves_the_first(tmp_path):
    folder = spoiled(tmp_path, CHANGES["channels"][0])
    model = fill(linnet.llm.S2FTModel(tiny(), S2FTConfig(ratio=0.15, seed=4))).eval()
    before = logits(model)
    with pytest.raises(AdapterError):
        linnet.llm.load(model, folder, "second")
    assert list(model.configs) == ["default"]
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("first", "second"),
    [(torch.float32, torch.float16), (torch.float16, torch.float32), (torch.float32, torch.bfloat16)],
)
def test_the_same_base_in_another_precision_is_the_same(first, second, tmp_path):
    source = tiny(dtype=torch.float32)
    fill(get_peft_model(copy.deepcopy(source).to(first), S2FTConfig(ratio=0.15))).save_pretrained(tmp_path)
    PeftModel.from_pretrained(copy.deepcopy(source).to(second), tmp_path)
    with torch.no_grad():
        for p in source.parameters():
            p.mul_(1.02)
    with pytest.raises(AdapterError, match="another base model"):
        PeftModel.from_pretrained(source.to(second), tmp_path)


def test_numbers_of_any_library_are_written(tmp_path):
    units = {"model.layers.0/attention": np.array([2]), "model.layers.1/feed_forward": range(3, 5)}
    wrapped(units=units, blocks=np.array([0, 1])).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["units"] == {"model.layers.0/attention": [2], "model.layers.1/feed_forward": [3, 4]}
    assert S2FTConfig.from_pretrained(str(tmp_path), base=None, inference_mode=False).base is None


def test_calibration_leaves_every_module_in_its_mode():
    base = tiny().train()
    base.model.layers[0].eval()
    modes = [m.training for m in base.modules()]
    calibrate(S2FTConfig(ratio=0.15, strategy="A"), base, iter([batch()]))
    assert [m.training for m in base.modules()] == modes
