"""S2FT in the corners of peft: states, heads of tasks, beams, biases, threads, and what must be refused."""

import copy
import threading

import pytest
import torch
import transformers as t
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora.conversion import convert_to_lora
from torch import nn
from transformers_at_hand import CONFIGS, batch, fill, layers, same, tiny, weights

import linnet.llm
from linnet.errors import AdapterError, ArgumentError, StructureError
from linnet.llm import S2FTConfig, S2FTModel, calibrate, increments

EVERY = ["query", "key", "value", "output", "up", "gate", "down"]
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def tuned(name="llama", dtype=torch.float64, **config):
    model = get_peft_model(tiny(name, dtype), S2FTConfig(**{"ratio": 0.15} | config))
    fill(model)
    model.train()(**batch(name))
    return model.eval()


def test_a_state_is_of_the_base_as_it_was_given():
    model = tuned()
    out, state = model(**batch()).logits, copy.deepcopy(model.state_dict())
    other = get_peft_model(tiny(), S2FTConfig(ratio=0.15))
    other.load_state_dict(state)
    torch.testing.assert_close(other.eval()(**batch()).logits, out, **CLOSE)
    assert same(weights(other.unload()), weights(tiny()))


def test_weights_of_other_channels_are_not_loaded_under_a_name_that_is_there(tmp_path):
    tuned(seed=5).save_pretrained(tmp_path)
    model = tuned(seed=0)
    with pytest.raises(AdapterError, match="other channels"):
        model.load_adapter(tmp_path, "default")


def test_a_model_under_s2ft_is_not_wrapped_again():
    base = tiny()
    get_peft_model(base, S2FTConfig(ratio=0.15)).train()(**batch())
    with pytest.raises(AdapterError, match="unload"):
        get_peft_model(base, S2FTConfig(ratio=0.15, seed=4))


@pytest.mark.parametrize("arranged", [False, True])
def test_peft_s_own_conversion_to_lora_is_right(arranged):
    model = tuned() if arranged else get_peft_model(tiny(), S2FTConfig(ratio=0.15)).eval()
    fill(model)
    config, state = convert_to_lora(model, rank=16)
    lora = get_peft_model(tiny(), config).eval()
    set_peft_model_state_dict(lora, state)
    torch.testing.assert_close(lora(**batch()).logits, model(**batch()).logits, rtol=1e-4, atol=1e-4)


def test_trained_biases_stay_in_place_when_an_adapter_without_them_is_added(tmp_path):
    model = tuned("bert", bias="all")
    out = model(**batch("bert")).logits
    model.add_adapter("more", S2FTConfig(ratio=0.1, seed=4))
    model.train()(**batch("bert"))
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    again = PeftModel.from_pretrained(tiny("bert"), tmp_path)
    torch.testing.assert_close(again(**batch("bert")).logits, out, rtol=1e-12, atol=1e-12)


def test_a_base_under_lora_is_refused():
    lora = get_peft_model(tiny(), LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    with pytest.raises(StructureError, match="would not be reordered"):
        S2FTModel(lora.get_base_model(), S2FTConfig(ratio=0.1))


def test_weights_that_two_modules_share_are_refused():
    base = tiny("gpt2")
    base.transformer.h[1].mlp.c_proj.weight = base.transformer.h[0].mlp.c_proj.weight
    with pytest.raises(StructureError, match="share one weight"):
        get_peft_model(base, S2FTConfig(ratio=0.1))


def test_a_part_with_other_heads_is_refused():
    sizes = CONFIGS["llama-mha"][2] | {"vocab_size": 50}

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = t.LlamaModel(t.LlamaConfig(**sizes, pad_token_id=0))
            self.b = t.LlamaModel(
                t.LlamaConfig(**(sizes | {"num_attention_heads": 2, "num_key_value_heads": 2}), pad_token_id=0)
            )
            self.config = self.a.config

    with pytest.raises(StructureError, match="heads of size 8"):
        get_peft_model(Two(), S2FTConfig(ratio=0.05, targets="output"))


@pytest.mark.parametrize("targets", [["output", "down"], EVERY], ids=["defaults", "all matrices"])
def test_weights_reordered_between_the_passes_are_noticed(targets):
    model = get_peft_model(tiny("llama-mha"), S2FTConfig(ratio=0.15, targets=targets)).eval()
    first = model(**batch("llama-mha")).loss
    second = model.train()(**batch("llama-mha", seed=2)).loss
    with pytest.raises((AdapterError, RuntimeError), match=r"reordered between|modified by an inplace"):
        (first + second).backward()


@pytest.mark.parametrize("what", ["meta", "quantised"])
def test_a_refused_reordering_leaves_every_weight_alone(what):
    base = tiny()
    before = weights(base)
    model = get_peft_model(base, S2FTConfig(ratio=0.15))
    down = base.model.layers[1].mlp.down_proj
    if what == "meta":
        down.to("meta")
    else:
        down.get_base_layer().weight = nn.Parameter(torch.zeros(16, 24, dtype=torch.int8), requires_grad=False)
    with pytest.raises(StructureError):
        model.base_model.arrange()
    for name, p in model.base_model.model.named_parameters():
        name = name.replace(".base_layer", "")
        if name in before and "layers.1.mlp.down" not in name:
            assert torch.equal(p, before[name])


def test_calibration_under_adapters_is_refused():
    model = tuned()
    with pytest.raises(ArgumentError, match="before it is under adapters"):
        calibrate(S2FTConfig(ratio=0.1, strategy="A"), model.get_base_model(), [batch()])


@pytest.mark.parametrize(
    ("task", "kind", "head"),
    [
        ("SEQ_CLS", t.BertForSequenceClassification, "classifier"),
        ("TOKEN_CLS", t.BertForTokenClassification, "classifier"),
        ("QUESTION_ANS", t.BertForQuestionAnswering, "qa_outputs"),
    ],
)
@pytest.mark.parametrize("own", [False, True], ids=["peft", "linnet"])
def test_the_head_of_a_task_is_trained_and_saved(tmp_path, task, kind, head, own):
    def fresh(seed):
        torch.manual_seed(0)
        model = kind(t.BertConfig(**CONFIGS["bert"][2])).eval()
        torch.manual_seed(seed)
        nn.init.normal_(getattr(model, head).weight)
        return model

    model = get_peft_model(fresh(1), S2FTConfig(ratio=0.1, task_type=task))
    trained = [n for n, p in model.named_parameters() if p.requires_grad and "s2ft" not in n]
    assert any(head in n for n in trained)
    data = {k: v for k, v in batch("bert").items() if k != "labels"}
    out = model.eval()(**data)[0]
    if own:
        linnet.llm.save(model, tmp_path)
        again = linnet.llm.load(fresh(2), tmp_path).eval()
    else:
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(fresh(2), tmp_path)
    torch.testing.assert_close(again(**data)[0], out)


def test_each_example_has_the_head_of_its_adapter():
    model = get_peft_model(tiny("bert"), S2FTConfig(ratio=0.1, task_type="SEQ_CLS"), adapter_name="one")
    model.add_adapter("two", S2FTConfig(ratio=0.1, task_type="SEQ_CLS", seed=3))
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "modules_to_save.two" in n:
                p.add_(1)
    data, apart = {k: v for k, v in batch("bert").items() if k != "labels"}, {}
    model.eval()
    for name in ("one", "two"):
        model.set_adapter(name)
        apart[name] = model(**data).logits
    names = ["one", "two", "one"]
    mixed = model(**data, adapter_names=names).logits
    for i, name in enumerate(names):
        torch.testing.assert_close(mixed[i], apart[name][i])


def test_opt_too_may_have_an_adapter_for_each_example():
    model = get_peft_model(tiny("opt"), S2FTConfig(ratio=0.1), adapter_name="one").eval()
    fill(model, "one")
    data = {k: v for k, v in batch("opt").items() if k != "labels"}
    one, base = model(**data).logits, tiny("opt")(**data).logits
    mixed = model(**data, adapter_names=["one", "__base__", "one"]).logits
    torch.testing.assert_close(mixed, torch.stack([one[0], base[1], one[2]]))


def test_beams_have_the_adapter_of_their_example():
    model = get_peft_model(tiny(), S2FTConfig(ratio=0.1, task_type="CAUSAL_LM"), adapter_name="one").eval()
    fill(model, "one")
    ids = batch()["input_ids"]
    settings = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    mixed = model.generate(input_ids=ids, adapter_names=["one", "__base__", "one"], **settings)
    assert torch.equal(mixed[[0, 2]], model.generate(input_ids=ids, **settings)[[0, 2]])


def test_an_adapter_named_twice_is_added_twice():
    model = tuned()
    model.add_weighted_adapter(["default", "default"], [0.5, 0.5], "fused")
    one, fused = increments(model), increments(model, "fused")
    for name in one:
        torch.testing.assert_close(fused[name].u, one[name].u)


def test_a_fused_adapter_is_as_precise_as_its_parts():
    model = tuned(dtype=torch.bfloat16)
    model.add_weighted_adapter(["default"], [1.0], "fused")
    for layer in layers(model):
        assert torch.equal(layer.s2ft_delta["fused"], layer.s2ft_delta["default"])


def test_adapters_with_biases_are_not_fused():
    model = tuned("bert", bias="all")
    with pytest.raises(AdapterError, match="biases"):
        model.add_weighted_adapter(["default"], [1.0], "fused")
    assert list(model.peft_config) == ["default"]


def test_in_bfloat16_what_is_not_trained_stays_frozen_and_own_loading_rounds_nothing(tmp_path):
    model = tuned(dtype=torch.bfloat16)
    out = model(**batch()).logits
    model.add_adapter("second", S2FTConfig(ratio=0.1, seed=3))
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.endswith("second"))
    model.save_pretrained(tmp_path)
    for load in (PeftModel.from_pretrained, linnet.llm.load):
        again = load(tiny(dtype=torch.bfloat16), tmp_path).eval()
        assert not any(p.requires_grad for p in again.parameters())
        assert torch.equal(again(**batch()).logits, out)


def test_slices_of_another_shape_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tuned().save_pretrained(tmp_path)
    rows = load_file(tmp_path / "adapter_model.safetensors")
    name = next(n for n in rows if n.endswith("down_proj.s2ft_delta"))
    rows[name] = rows[name][:, :1].contiguous()
    save_file(rows, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"has the shape \(16, 1\) of 11 channels"):
        linnet.llm.load(tiny(), tmp_path)


def test_threads_that_begin_at_once_leave_the_base_alone():
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 2}
    base = t.LlamaForCausalLM(t.LlamaConfig(**sizes, num_attention_heads=8))
    before, ids = weights(base), torch.randint(64, (1, 4))
    model = get_peft_model(base, S2FTConfig(ratio=0.2)).eval()
    for seed in range(3):
        fill(model, seed=seed)
        for layer in layers(model):
            layer.settle(())
        threads = [threading.Thread(target=torch.no_grad()(model), kwargs={"input_ids": ids}) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert same(weights(model.unload()), before)


def test_under_autocast_no_copy_of_a_weight_lives_until_the_backward_pass():
    model = get_peft_model(tiny(dtype=torch.float32), S2FTConfig(ratio=0.15)).train()
    layer = layers(model)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(2, 16, requires_grad=True))
    assert getattr(out.grad_fn, "resident", None) is None
