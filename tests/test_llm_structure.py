"""Coupled structures: found, described, reordered, and refused."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers_at_hand import NAMES, batch, same, tiny, weights

from linnet.errors import StructureError
from linnet.llm import Layout, find
from linnet.llm.permutation import check_order, inverse, order_with, permute
from linnet.llm.structure import blocks, weight

# Some families compute their norms in float32 even where weights are float64.
CLOSE = {
    name: 1e-12 if name in ("gpt2", "opt", "bert", "roberta", "xlm-roberta", "electra") else 2e-5 for name in NAMES
}
PHI = {
    "block": "layers.*",
    "attention": {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.dense",
    },
    "feed_forward": {"up": "mlp.fc1", "down": "mlp.fc2"},
}
PHI3 = {
    "block": "layers.*",
    "attention": {
        "query": "self_attn.qkv_proj[0:16]",
        "key": "self_attn.qkv_proj[16:24]",
        "value": "self_attn.qkv_proj[24:32]",
        "output": "self_attn.o_proj",
    },
    "feed_forward": {"gate": "mlp.gate_up_proj[0/2]", "up": "mlp.gate_up_proj[1/2]", "down": "mlp.down_proj"},
}


def phi(**sizes):
    torch.manual_seed(3)
    common = {
        "vocab_size": 31,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "pad_token_id": 0,
    }
    kind, config = transformers.PhiForCausalLM, transformers.PhiConfig
    if "num_key_value_heads" in sizes:
        kind, config = transformers.Phi3ForCausalLM, transformers.Phi3Config
    model = kind(config(**common, **sizes)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_every_block_has_heads_and_channels(name):
    model = tiny(name)
    found = find(model)
    assert [s.kind for s in found] == ["attention", "feed_forward"] * 2
    assert [n for n, _ in blocks(model)] == list(dict.fromkeys(s.block for s in found))
    heads, channels = found[:2]
    shared = {"llama-mha": 1, "llama-mqa": 4}.get(name, 2 if "num_key_value_heads" in model.config.to_dict() else 1)
    assert (heads.units, heads.shared, channels.units, channels.width) == (4, shared, 24, 1)
    for s in found:
        for role, projection in s.projections.items():
            matrix = weight(model.get_submodule(projection.module))
            size = projection.stop - projection.start if role in s.inward else matrix.shape[1]
            assert size == s.units * s.width // (s.shared if role in ("key", "value") else 1)


def some_order(structure, draw):
    """Return an allowed order: groups in any order, heads in any order within."""
    size = structure.shared
    groups = draw(st.permutations(range(structure.units // size)))
    return [g * size + i for g in groups for i in draw(st.permutations(range(size)))]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4)
@given(data=st.data())
def test_reordered_units_leave_the_function_alone_and_go_back_exactly(name, data):
    model, given_batch = tiny(name), batch(name)
    before, out = weights(model), model(**given_batch).logits
    orders = [(s, some_order(s, data.draw)) for s in find(model)]
    for s, order in orders:
        permute(model, s, order)
    torch.testing.assert_close(model(**given_batch).logits, out, rtol=CLOSE[name], atol=CLOSE[name])
    for s, order in orders:
        permute(model, s, inverse(order))
    assert same(weights(model), before)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_matrix_left_behind_changes_the_function(name):
    model, given_batch = tiny(name), batch(name)
    out = model(**given_batch).logits
    for s in find(model):
        with torch.no_grad():
            for projection in s.inward.values():  # without the other side
                rows = slice(projection.start, projection.stop)
                matrix = weight(model.get_submodule(projection.module))
                matrix[rows] = matrix[rows].flip(0)
    assert (model(**given_batch).logits - out).abs().max() > 1e-2


def test_heads_that_share_a_key_stay_together():
    heads = find(tiny("llama"))[0]
    assert order_with(heads, [3, 0]) == [3, 2, 0, 1]
    assert order_with(heads, [2, 1, 3]) == [2, 3, 1, 0]
    check_order(heads, [1, 0, 3, 2])
    with pytest.raises(StructureError, match="must stay together"):
        check_order(heads, [0, 2, 1, 3])
    with pytest.raises(StructureError, match="each once"):
        check_order(heads, [0, 0, 1, 2])


def test_a_key_head_is_listed_where_its_first_query_head_is():
    heads = find(tiny("llama"))[0]
    assert heads.channels("query", [3, 0]) == [12, 13, 14, 15, 0, 1, 2, 3]
    assert heads.channels("key", [3, 2, 0]) == [4, 5, 6, 7, 0, 1, 2, 3]
    fused = find(tiny("gpt2"))[0]
    assert fused.channels("value", [1]) == [36, 37, 38, 39]


@pytest.mark.parametrize(("sizes", "layout"), [({}, PHI), ({"num_key_value_heads": 2}, PHI3)], ids=["phi", "phi3"])
def test_a_type_that_nobody_described_is_refused_and_can_be_described(sizes, layout):
    model = phi(**sizes)
    with pytest.raises(StructureError, match=r'known are .*llama.*Describe it: layout={"block"'):
        find(model)
    ids = torch.arange(1, 8)[None]
    out = model(ids).logits
    found = find(model, Layout.given(layout))
    assert len(found) == 4
    for s in found:
        permute(model, s, order_with(s, [s.units - 1, 0]))
    torch.testing.assert_close(model(ids).logits, out, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": 1}, "no layout"),
        ({"block": ""}, "where the blocks are"),
        ({"attention": {"query": "q"}}, "lacks key, output, value"),
        ({"feed_forward": {"up": "a", "down": "b", "side": "c"}}, "no role side"),
    ],
)
def test_a_layout_that_says_too_little_or_too_much_is_refused(change, message):
    with pytest.raises(StructureError, match=message):
        Layout.given({**PHI, **change})


def edited(where, at):
    return Layout.given({**PHI, where: {**PHI[where], **at}})


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (edited("attention", {"query": "self_attn.q"}), "has no self_attn.q,"),
        (edited("attention", {"query": "self_attn"}), "no linear map"),
        (edited("attention", {"query": "self_attn.q_proj[0/3]"}), "16 rows have no such part"),
        (edited("attention", {"query": "self_attn.q_proj[0:20]"}), "16 rows have no such part"),
        (edited("attention", {"query": "self_attn.q_proj[0:8]"}), "do not fit: {'query': 8}"),
        (edited("attention", {"query": "self_attn.q_proj[a]"}), "names no matrix"),
        (edited("feed_forward", {"up": "mlp.fc2"}), "do not fit: {'up': 16}"),
        (Layout.given({**PHI, "heads": 5}), "16 inputs: no multiple of 5 heads"),
        (Layout.given({**PHI, "heads": 4, "key_value_heads": 3}), "4 query heads cannot share 3"),
        (Layout.given({**PHI, "block": "nowhere.*"}), "no transformer blocks"),
    ],
)
def test_what_does_not_fit_the_model_is_said(layout, message):
    with pytest.raises(StructureError, match=message):
        find(phi(), layout)


def test_a_model_that_is_no_transformer_is_refused():
    with pytest.raises(StructureError, match="a Linear"):
        find(nn.Linear(3, 3))
    with pytest.raises(StructureError, match="no transformer blocks"):
        blocks(nn.Linear(3, 3))
    assert [n for n, _ in blocks(nn.Sequential(nn.ModuleList([nn.ReLU(), nn.ReLU()])))] == ["0.0", "0.1"]
