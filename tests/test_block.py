"""Blocks of a transformer: against PyTorch, against complex numbers, and in both arithmetics alike."""

import copy
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from linnet.errors import ClaimError
from linnet.trials import Block
from linnet.trials.algebra import FloatMatrix
from linnet.trials.certificate import check
from linnet.trials.claim import installed_claims
from linnet.trials.exact import Exact, compare
from linnet.trials.settings.block import ACTIVATIONS, AttentionShape, FeedForwardShape
from linnet.trials.trial import BUDGETS, run

INSTALLED = installed_claims()
LIGHT = replace(BUDGETS["quick"], groups=24, count=32, climbs=3, steps=15, exact=24)
HEADS = [(1, 1), (2, 2), (2, 1), (4, 1), (4, 2), (4, 4), (3, 3)]


def attention(heads, kv_heads, width=2, model=3, tokens=3, periods=(), causal=False, **more):
    order, channels = tuple(range(heads)), tuple(range(width))
    shape = AttentionShape(heads, kv_heads, width, model, tokens, periods, causal, order, channels)
    return replace(shape, **more)


def views(shape, rng, count=3):
    """A batch in float64, and each of its elements exactly."""
    raw = Block.draw(shape, "gaussian", count, rng)
    return Block.float_view(shape, raw, ()), [Block.view(Block.exact_instance(shape, raw, i, ())) for i in range(count)]


def dense(x):
    core = x._dense
    return np.array([[float(Exact(core[i, j])) for j in range(core.ncols())] for i in range(core.nrows())])


def moved(a, b):
    return np.abs(a.output.values - b.output.values).max()


# --- what the blocks compute -----------------------------------------------------------------------


def by_torch(v, q, k):
    """Attention by PyTorch, of queries and keys (batch, heads, tokens, width)."""
    values = torch.tensor((v.V.values @ v.x.values).reshape(len(q), v.kv_heads, v.width, v.tokens).swapaxes(-1, -2))
    out = functional.scaled_dot_product_attention(
        torch.tensor(q), torch.tensor(k), values, is_causal=v.causal, enable_gqa=True
    )
    return v.O.values @ out.numpy().swapaxes(-1, -2).reshape(len(q), v.heads * v.width, v.tokens)


def projected(v, weight, heads):
    return (weight.values @ v.x.values).reshape(-1, heads, v.width, v.tokens).swapaxes(-1, -2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_attention_is_what_torch_computes(heads, kv_heads, causal, rng):
    v, exact = views(attention(heads, kv_heads, causal=causal), rng)
    truth = by_torch(v, projected(v, v.Q, heads), projected(v, v.K, kv_heads))
    np.testing.assert_allclose(v.output.values, truth, atol=1e-12)
    for i, one in enumerate(exact):
        np.testing.assert_allclose(dense(one.output), truth[i], atol=1e-12)


def turned(a, periods):
    """Planes as complex numbers times e^(i t / period); a (..., tokens, width)."""
    z = (a[..., 0::2] + 1j * a[..., 1::2]) * np.exp(1j * np.arange(a.shape[-2])[:, None] / np.array(periods))
    return np.stack([z.real, z.imag], axis=-1).reshape(a.shape)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize(("width", "periods"), [(2, (1,)), (4, (1, 100)), (4, (3, 2))])
def test_the_rotary_embedding_multiplies_by_complex_numbers(heads, kv_heads, width, periods, causal, rng):
    v, exact = views(attention(heads, kv_heads, width, periods=periods, causal=causal), rng)
    q, k = turned(projected(v, v.Q, heads), periods), turned(projected(v, v.K, kv_heads), periods)
    truth = by_torch(v, q, k)
    np.testing.assert_allclose(v.output.values, truth, atol=1e-12)
    for i, one in enumerate(exact):
        np.testing.assert_allclose(dense(one.output), truth[i], atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
def test_a_feed_forward_block_is_what_torch_computes(activation, gated, rng):
    v, exact = views(FeedForwardShape(4, 3, 2, gated, activation, (0, 1, 2, 3)), rng)
    act, x = getattr(functional, activation), torch.tensor(v.x.values)
    up, down = torch.tensor(v.up.values) @ x, torch.tensor(v.down.values)
    hidden = act(torch.tensor(v.gate.values) @ x) * up if gated else act(up)
    np.testing.assert_allclose(v.output.values, (down @ hidden).numpy(), atol=1e-12)
    for i, one in enumerate(exact):
        np.testing.assert_allclose(dense(one.output), (down @ hidden).numpy()[i], atol=1e-12)


def test_both_arithmetics_agree_on_all_that_a_claim_can_ask_for(rng):
    for _ in range(60):
        v, (one,) = views(Block.random_shape(rng), rng, 1)
        for ask in (
            lambda b: b, lambda b: b.permuted(b.order), lambda b: b.permuted(b.order, b.kv_order),
            lambda b: b.channels_permuted(), lambda b: b.mapped(),
        ):  # fmt: skip
            blocks = ask(v), ask(one)
            room = 1e-11 * float(blocks[0].scale[0])
            np.testing.assert_allclose(dense(blocks[1].output), blocks[0].output.values[0], atol=room)
            assert float(blocks[1].scale) == pytest.approx(float(blocks[0].scale[0]))


# --- what leaves them as they are -------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (4, 1), (3, 3), (4, 4)])
def test_orders_of_heads_that_change_nothing_are_those_that_respect_the_groups(heads, kv_heads, tokens, rng):
    shape = attention(heads, kv_heads, tokens=tokens)
    for order in itertools.permutations(range(heads)):
        v, _ = views(replace(shape, order=order), rng)
        followed = any(moved(v.permuted(order, kv), v) < 1e-9 for kv in itertools.permutations(range(kv_heads)))
        assert followed == Block.whole_groups.shape(replace(shape, order=order))
        kept = moved(v.permuted(order, range(kv_heads)), v) < 1e-9
        assert kept == Block.within_groups.shape(replace(shape, order=order))
        assert (moved(v.permuted(order), v) < 1e-9) == Block.own_keys.shape(replace(shape, order=order))


@pytest.mark.parametrize(
    ("periods", "fine"),
    [
        ((), list(itertools.permutations(range(4)))),
        ((1, 100), [(0, 1, 2, 3)]),
        ((1, 1), [(0, 1, 2, 3), (2, 3, 0, 1)]),
    ],
)
def test_with_rotary_embedding_channels_move_by_planes_of_equal_frequency(periods, fine, rng):
    for order in itertools.permutations(range(4)):
        v, _ = views(attention(2, 1, 4, tokens=2, periods=periods, channel_order=order), rng)
        assert moved(v.channels_permuted("VO"), v) < 1e-9
        assert (moved(v.channels_permuted("QK"), v) < 1e-9) == (order in fine), order
        assert (moved(v.channels_permuted(), v) < 1e-9) == (order in fine), order


@pytest.mark.parametrize("periods", [(), (1, 100), (2, 2)])
def test_the_maps_are_as_free_as_they_may_be(periods, rng):
    """Numbers of a score map: 16 without rotary, 2 a plane with it, 8 where two planes turn alike."""
    v, _ = views(attention(2, 2, 4, periods=periods, maps=True), rng, 40)
    flat = v.score_maps[0].values.reshape(40, 16)
    assert np.linalg.matrix_rank(flat) == {(): 16, (1, 100): 4, (2, 2): 8}[periods]
    assert np.linalg.matrix_rank(v.value_maps[0].values.reshape(40, 16)) == 16
    assert moved(v.mapped(), v) < 1e-6
    assert np.abs(v.mapped().Q.values - v.Q.values).max() > 0.1
    one = np.eye(4)[None] + 0 * v.score_maps[0].values
    for a in v.score_maps:  # what commutes with the rotations, turned by complex numbers
        if periods:
            images = [turned((a.values @ one)[:, :, [j] * 3].swapaxes(-1, -2), periods) for j in range(4)]
            first = [turned(one[:, :, [j] * 3].swapaxes(-1, -2), periods) @ a.values.swapaxes(-1, -2) for j in range(4)]
            np.testing.assert_allclose(images, first, atol=1e-12)


def test_channels_of_a_feed_forward_block_move_and_scale(rng):
    for gated, activation in itertools.product((False, True), ACTIVATIONS):
        v, _ = views(FeedForwardShape(3, 2, 2, gated, activation, (2, 0, 1), maps=True), rng)
        assert moved(v.permuted(v.order), v) < 1e-12
        assert np.abs(v.permuted(v.order).up.values - v.up.values).max() > 0.1
        scaled = v.mapped()
        assert moved(scaled, v) < 1e-9
        assert (np.abs(scaled.up.values - v.up.values).max() > 0.1) == (gated or activation == "relu")
        if gated:
            assert (np.abs(scaled.gate.values - v.gate.values).max() > 0.1) == (activation == "relu")


# --- on trial ---------------------------------------------------------------------------------------

VERDICTS = {
    "yang2024/coupled-permutation": "holds-if",
    "yang2024/coupled-permutation-channels": "holds-if",
    "yang2024/coupled-permutation-multi-head": "holds",
    "yang2024/coupled-permutation-with-keys": "holds-if",
    "linnet/coupled-permutation": "holds",
}


@pytest.fixture(scope="module")
def trials():
    return {id: run(INSTALLED[id], LIGHT, 0) for id in VERDICTS}


@pytest.mark.parametrize("id", VERDICTS)
def test_verdicts(trials, id):
    assert trials[id].verdict == VERDICTS[id]
    if VERDICTS[id] == "holds":
        return
    record = json.loads(json.dumps(trials[id].certificate))
    assert id in check(record, INSTALLED)


@pytest.mark.parametrize("id", ["yang2024/coupled-permutation", "yang2024/coupled-permutation-with-keys"])
def test_the_smallest_counterexample_has_four_heads_of_one_channel_in_two_groups(trials, id):
    instance = trials[id].certificate["instance"]
    assert (instance["heads"], instance["kv_heads"], instance["periods"]) == (4, 2, [])
    assert [np.shape(instance[k]) for k in "QKVOx"] == [(4, 1), (2, 1), (2, 1), (1, 4), (1, 1)]
    assert trials[id].certificate["observed"] == "matrices at squared distance 1"


def test_the_smallest_counterexample_by_channels_is_one_plane_on_two_tokens(trials):
    instance = trials["yang2024/coupled-permutation-channels"].certificate["instance"]
    assert (instance["heads"], instance["periods"], instance["channel_order"]) == (1, [1], [1, 0])
    assert np.shape(instance["x"]) == (1, 2)


# --- instances that come from a file ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("kind", lambda k: "convolution", "neither"),
        ("heads", lambda h: 3, "divide"),
        ("kv_heads", lambda h: 0, "divide"),
        ("kv_heads", lambda h: True, "divide"),
        ("kv_heads", lambda h: 4, "fit"),
        ("Q", lambda q: q[1:], "whole heads"),
        ("Q", lambda q: q + q, "fit"),
        ("K", lambda k: k + k, "fit"),
        ("V", lambda k: k[1:], "fit"),
        ("O", lambda o: [row[1:] for row in o], "fit"),
        ("x", lambda x: x + x, "fit"),
        ("order", lambda o: [0, 0, 1, 2], "permutation"),
        ("order", lambda o: [3, 2, 1], "permutation"),
        ("channel_order", lambda o: [1], "permutation"),
        ("channel_order", lambda o: [False], "permutation"),
        ("periods", lambda p: [1], "periods"),
        ("causal", lambda c: 1, "causal"),
        ("order", lambda o: [0, 1, 2, 3], "violate"),
    ],
)
def test_a_forged_block_is_rejected(trials, key, change, said):
    forged = copy.deepcopy(trials["yang2024/coupled-permutation"].certificate)
    forged["instance"][key] = change(forged["instance"][key])
    with pytest.raises(ClaimError, match=said):
        check(forged, INSTALLED)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("down", lambda d: d.T, "fit"),
        ("gate", lambda g: g.T, "fit"),
        ("gains", lambda g: g.T, "fit"),
        ("x", lambda x: x.T, "fit"),
        ("activation", lambda a: "cos", "activation"),
        ("order", lambda o: [0, 1], "permutation"),
        ("order", lambda o: ["0", "1", "2"], "permutation"),
    ],
)
def test_a_forged_feed_forward_block_is_found_out(key, change, said, rng):
    shape = FeedForwardShape(3, 1, 2, True, "silu", (2, 1, 0), maps=True)
    instance = Block.exact_instance(shape, Block.draw(shape, "integer", 1, rng), 0, ())
    assert Block.defects(instance) == []
    (flaw,) = Block.defects(instance | {key: change(instance[key])})
    assert said in flaw


# --- shapes -----------------------------------------------------------------------------------------


def test_small_shapes_come_in_order_and_are_instances(rng):
    shapes = list(Block.small_shapes())
    assert len(set(shapes)) == len(shapes)
    assert [Block.size(s) for s in shapes] == sorted(Block.size(s) for s in shapes)
    for shape in shapes[::23]:
        instance = Block.exact_instance(shape, Block.draw(shape, "integer", 1, rng), 0, ())
        assert Block.defects(instance) == []
        assert compare(Block.view(instance).output.sq(), -1) == 1


def test_every_kind_of_block_is_drawn(rng):
    shapes = [Block.random_shape(rng) for _ in range(400)]
    attention_ = [s for s in shapes if s.kind == "attention"]
    assert {(s.heads, s.kv_heads) for s in attention_} >= set(HEADS)
    assert {(bool(s.periods), s.causal, s.maps) for s in attention_} == set(itertools.product((False, True), repeat=3))
    assert {len(set(s.periods)) for s in attention_} == {0, 1, 2}
    grouped = [s for s in attention_ if 1 < s.kv_heads < s.heads]
    for h in (Block.whole_groups, Block.within_groups):
        assert {h.shape(s) for s in grouped} == {False, True}
    others = [s for s in shapes if s.kind == "feed-forward"]
    assert {(s.gated, s.activation) for s in others} == set(itertools.product((False, True), ACTIVATIONS))


def test_hypotheses_say_the_same_of_shapes_and_of_instances(rng):
    names = ["attention", "feed_forward", "gated", "multi_head", "no_rotary", "rotary", "within_groups", "whole_groups"]
    for _ in range(100):
        shape = Block.random_shape(rng)
        v, (one,) = views(shape, rng, 1)
        for name in [*names, "own_keys", "not_causal", "one_token"]:
            h = getattr(Block, name)
            for view in (v, one):
                assert all((a == b) == h.shape(shape) for a, _, b in h.holds(view)), name


def test_what_has_no_value_has_no_output(rng):
    shape = attention(2, 1)
    raw = Block.draw(shape, "gaussian", 2, rng)
    raw["K"][0, 0, 0] = np.nan
    out = Block.float_view(shape, raw, ()).output
    assert isinstance(out, FloatMatrix)
    assert np.isnan(out.values[0]).any()
    assert np.isfinite(out.values[1]).all()
