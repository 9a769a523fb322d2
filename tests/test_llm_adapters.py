"""Adapters apart from their base: factors, LoRA, fusion."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers_at_hand import NAMES, batch, same, tiny, weights

import linnet.llm
from linnet.errors import AdapterError, ArgumentError
from linnet.llm import S2FTConfig, as_lora, increments, save_as_lora
from linnet.llm.structure import weight

EVERY = ["query", "key", "value", "output", "up", "down"]


def tuned(name="llama", dtype=torch.float64, **config):
    """Return a model under an adapter of large random increments, having been in training."""
    model = get_peft_model(tiny(name, dtype), S2FTConfig(**{"ratio": 0.15} | config))
    fill(model, "default", 3)
    model.train()(**batch(name))
    return model.eval()


def fill(model, adapter, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n.endswith(f"s2ft_delta.{adapter}"):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("targets", [["output", "down"], EVERY], ids=["defaults", "all matrices"])
@pytest.mark.parametrize("name", NAMES)
def test_u_v_is_the_difference_to_the_base(name, targets):
    model = tuned(name, targets=targets)
    parts = increments(model)
    merged = copy.deepcopy(model).merge_and_unload()
    base = tiny(name)
    touched = set()
    for module, part in parts.items():
        rank = part.u.shape[1]
        assert part.v.shape[1] == rank
        ones = part.v if set(part.v.unique().tolist()) <= {0.0, 1.0} else part.u
        assert torch.equal(ones.T @ ones, torch.eye(rank, dtype=ones.dtype))
        mine = weight(base.get_submodule(module)) + part.u @ part.v.T
        assert torch.equal(mine, weight(merged.get_submodule(module)))
        touched.add(f"{module}.weight")
    for n, p in base.named_parameters():
        assert torch.equal(p, merged.get_parameter(n)) == (n not in touched)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("targets", [["output", "down"], EVERY], ids=["defaults", "all matrices"])
@pytest.mark.parametrize("name", NAMES)
def test_as_lora_it_is_loaded_by_peft_without_loss(tmp_path, name, targets, dtype):
    model = tuned(name, dtype, targets=targets)
    save_as_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(tiny(name, dtype), tmp_path)
    assert isinstance(lora.peft_config["default"], LoraConfig)
    if dtype is torch.float64:
        torch.testing.assert_close(lora.eval()(**batch(name)).logits, model(**batch(name)).logits, rtol=2e-5, atol=2e-5)
    mine, theirs = model.merge_and_unload(), lora.merge_and_unload()
    assert same(weights(mine), weights(theirs))
    assert not same(weights(mine), weights(tiny(name, dtype)))


def test_the_rank_of_the_export_is_the_number_of_channels():
    config, tensors = as_lora(tuned(units={"model.layers.0/attention": [1], "model.layers.1/feed_forward": [3, 5, 7]}))
    assert config.rank_pattern == {"model.layers.0.self_attn.o_proj": 4, "model.layers.1.mlp.down_proj": 3}
    assert config.alpha_pattern == config.rank_pattern
    shapes = {tuple(t.shape) for n, t in tensors.items() if "down" in n}
    assert shapes == {(3, 24), (16, 3)}


def test_biases_have_no_place_in_lora():
    with pytest.raises(AdapterError, match="trains biases"):
        as_lora(tuned("bert", bias="all"))


@pytest.mark.parametrize("form", ["permuted", "gather"])
@pytest.mark.parametrize("overlap", [False, True], ids=["disjoint", "overlapping"])
def test_fused_adapters_are_the_weighted_sum(overlap, form):
    model = tuned("llama-mha", ratio=0.06, form=form)
    units = model.peft_config["default"].units
    second = S2FTConfig(
        ratio=0.06, form=form, targets=["output", "down", "value"], seed=5, excluded=None if overlap else units
    )
    model.add_adapter("second", second)
    fill(model, "second", 9)
    model.add_weighted_adapter(["default", "second"], [0.25, -2.0], "fused")
    assert model.active_adapters == ["default"]
    one, two, fused = (increments(model, n) for n in ("default", "second", "fused"))
    assert fused.keys() == one.keys() | two.keys()
    for module, part in fused.items():
        expected = sum(factor * p[module].u @ p[module].v.T for factor, p in ((0.25, one), (-2.0, two)) if module in p)
        torch.testing.assert_close(part.u @ part.v.T, expected, rtol=1e-14, atol=1e-15)
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.endswith("fused"))
    model.set_adapter("fused")
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(merged(**batch()).logits, model(**batch()).logits, rtol=2e-5, atol=2e-5)


def test_a_fused_adapter_is_saved_and_loaded_like_any_other(tmp_path):
    model = tuned()
    model.add_adapter("second", S2FTConfig(ratio=0.1, seed=5))
    fill(model, "second", 9)
    model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "fused")
    model.set_adapter("fused")
    out = model(**batch()).logits
    linnet.llm.save(model, tmp_path, "fused")
    again = PeftModel.from_pretrained(tiny(), tmp_path)
    torch.testing.assert_close(again(**batch()).logits, out, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("names", "factors", "new", "kind", "message"),
    [
        (["other"], [1.0], "fused", AdapterError, "no adapter is called other"),
        (["default"], [1.0], "default", AdapterError, "already"),
        (["default"], [1.0, 2.0], "fused", ArgumentError, "as many"),
        (["default"], [float("nan")], "fused", ArgumentError, "finite"),
        ([], [], "fused", ArgumentError, "as many"),
    ],
)
def test_what_cannot_be_fused_is_refused(names, factors, new, kind, message):
    model = tuned()
    with pytest.raises(kind, match=message):
        model.add_weighted_adapter(names, factors, new)
    assert list(model.peft_config) == ["default"]


def test_a_model_without_adapters_is_refused(tmp_path):
    for ask in (increments, as_lora):
        with pytest.raises(AdapterError, match="no S2FT adapters"):
            ask(tiny())
    with pytest.raises(AdapterError, match="no adapter is called other; there are default"):
        linnet.llm.save(tuned(), tmp_path, "other")
