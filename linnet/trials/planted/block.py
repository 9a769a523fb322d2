"""Attention and feed-forward blocks, planted."""

from linnet.trials.algebra import activate, constant, hadamard, softmax, sq
from linnet.trials.claim import Comparison
from linnet.trials.planted.base import false, true
from linnet.trials.settings.block import Block

ATTENTION, MULTI_HEAD = Block.attention, (Block.attention, Block.multi_head)
GROUPS = (Block.attention, Block.whole_groups)

# --- Block: heads ----------------------------------------------------------------------------------


def _heads(v, where="QKVO", kv_order=None, order=None):
    """Output with the heads of the projections in ``where`` in order, the others as they are."""
    moved = v.permuted(v.order if order is None else order, v.kv_order if kv_order is None else kv_order)
    return v.replaced(**{k: getattr(moved, k) for k in where}).output, v.output


def _shifted(order):
    return [*order[1:], *order[:1]]


true("heads", Block, "==", lambda v: _heads(v), *MULTI_HEAD)
true("heads-backwards", Block, "==", lambda v: (v.output, v.permuted(v.order[::-1]).output), *MULTI_HEAD)
true("groups", Block, "==", lambda v: _heads(v), *GROUPS)
true("heads-within-groups", Block, "==", lambda v: _heads(v, "QO"), ATTENTION, Block.within_groups)
true("heads-there-and-back", Block, "==", lambda v: (v.permuted(v.order).permuted(_inverse(v.order)).output, v.output))
false("heads-forgotten-in-the-output", Block, "==", lambda v: _heads(v, "QKV"), *MULTI_HEAD)
false("heads-forgotten-in-the-values", Block, "==", lambda v: _heads(v, "QKO"), *MULTI_HEAD)
false("heads-forgotten-in-the-queries", Block, "==", lambda v: _heads(v, "KVO"), *MULTI_HEAD)
false("heads-one-too-far-in-the-values", Block, "==", lambda v: _heads(v, kv_order=_shifted(v.order)), *MULTI_HEAD)
false("heads-across-groups", Block, "==", lambda v: _heads(v), ATTENTION)
false("heads-across-groups-with-their-keys-kept", Block, "==", lambda v: _heads(v, "QO"), *GROUPS)
false("groups-with-values-left-behind", Block, "==", lambda v: _heads(v, "QKO"), *GROUPS)
false("heads-off-by-1e-6", Block, "==", lambda v: ((1 + 1e-6) * v.permuted(v.order).output, v.output), *MULTI_HEAD)


def _inverse(order):
    return [order.index(i) for i in range(len(order))]


# --- Block: channels and maps within a head --------------------------------------------------------


def _channels(v, where):
    return v.channels_permuted(where).output, v.output


def _maps(v, where="QKVO"):
    moved = v.mapped()
    moved = v.replaced(**{k: getattr(moved, k) for k in where})
    return Comparison(moved.output, "==", v.output, scale=moved.scale + v.scale)  # of maps that are hard to invert


def _transpose_dropped(v):
    inverse = [a.inv() for a in v.score_maps]
    queries = v.by_heads([v.score_maps[v.group(h)] for h in range(v.heads)])
    return v.replaced(Q=queries @ v.Q, K=v.by_heads(inverse) @ v.K).output, v.output


def _ignoring_the_rotation(v):
    a = v.given_maps("score_maps")
    queries = v.by_heads([a[v.group(h)] for h in range(v.heads)])
    return v.replaced(Q=queries @ v.Q, K=v.by_heads([m.inv().T for m in a]) @ v.K).output, v.output


true("value-channels", Block, "==", lambda v: _channels(v, "VO"), ATTENTION)
true("query-channels-without-rotary", Block, "==", lambda v: _channels(v, "QK"), ATTENTION, Block.no_rotary)
true("maps", Block, "==", lambda v: _maps(v), ATTENTION, Block.invertible_maps)
true("score-maps-with-rotary", Block, "==", lambda v: _maps(v, "QK"), Block.rotary, Block.invertible_maps)
false("query-channels-with-rotary", Block, "==", lambda v: _channels(v, "QK"), Block.rotary)
false("value-channels-forgotten-in-the-output", Block, "==", lambda v: _channels(v, "V"), ATTENTION)
false("value-maps-forgotten-in-the-output", Block, "==", lambda v: _maps(v, "QKV"), ATTENTION, Block.invertible_maps)
false("score-maps-without-transpose", Block, "==", _transpose_dropped, ATTENTION, Block.invertible_maps)
false("score-maps-ignoring-the-rotation", Block, "==", _ignoring_the_rotation, Block.rotary, Block.invertible_maps)

# --- Block: feed-forward ---------------------------------------------------------------------------


def _ffn(v, where):
    moved = v.permuted(v.order)
    return v.replaced(**{k: getattr(moved, k) for k in where}).output, v.output


def _gain(v, *where):
    C = v.gains
    return v.replaced(**{k: C @ getattr(v, k) for k in where}, down=v.down @ C.inv()).output, v.output


true("ffn", Block, "==", lambda v: _ffn(v, ("up", "gate", "down")), Block.gated)
true("ffn-gains", Block, "==", lambda v: (v.mapped().output, v.output), Block.feed_forward, Block.invertible_maps)
true("ffn-up-scaled", Block, "==", lambda v: _gain(v, "up"), Block.gated, Block.invertible_maps)
false("ffn-gate-forgotten", Block, "==", lambda v: _ffn(v, ("up", "down")), Block.gated)
false("ffn-down-forgotten", Block, "==", lambda v: _ffn(v, ("up",)), Block.feed_forward)
false("ffn-gate-scaled", Block, "==", lambda v: _gain(v, "gate"), Block.gated, Block.invertible_maps)
false(
    "ffn-gate-and-up-exchanged", Block, "==", lambda v: (v.replaced(up=v.gate, gate=v.up).output, v.output), Block.gated
)

# --- Block: what attention is ----------------------------------------------------------------------


def _of_one_token(v):
    """One token draws from itself alone: O V x, with a copy of the values for each query head."""
    w = v.width
    rows = [v.group(h) * w + i for h in range(v.heads) for i in range(w)]
    copies = constant(v.V, [[int(i == j) for j in range(v.kv_heads * w)] for i in rows])
    return v.output, v.O @ (copies @ (v.V @ v.x))


def _tokens_backwards(v):
    """The output with the tokens in reverse, against the reversed output."""
    n = v.tokens
    R = constant(v.x, [[int(i + j == n - 1) for j in range(n)] for i in range(n)])
    return v.replaced(x=v.x @ R).output, v.output @ R


def _shares(v):
    ones = constant(v.x, [[1]] * v.tokens)
    return [(v.attention(h) @ ones, ones) for h in range(v.heads)]


true("one-token-is-linear", Block, "==", _of_one_token, ATTENTION, Block.one_token)
false("attention-is-linear", Block, "==", _of_one_token, ATTENTION)
true("shares-sum-to-one", Block, "==", _shares, ATTENTION)
true("tokens-backwards", Block, "==", _tokens_backwards, Block.not_causal, Block.no_rotary)
false("tokens-backwards-with-rotary", Block, "==", _tokens_backwards, Block.not_causal)
false("tokens-backwards-causal", Block, "==", _tokens_backwards, ATTENTION, Block.no_rotary)
true(
    "softmax-of-what-is-shifted",
    Block,
    "==",
    lambda v: (softmax(v.x), softmax(v.x + constant(v.x, [[3] * v.tokens] * v.x.shape[0]))),
)
false("softmax-of-what-is-doubled", Block, "==", lambda v: (softmax(v.x), softmax(2 * v.x)))
true(
    "silu-odd-part",
    Block,
    "==",
    lambda v: (activate(v.x, "silu") - activate(-v.x, "silu"), v.x),
)
false("silu-odd", Block, "==", lambda v: (activate(v.x, "silu"), -activate(-v.x, "silu")))
true("entrywise-square", Block, "==", lambda v: (sq(hadamard(v.x, v.x)), sq(hadamard(-v.x, v.x))))
