"""Attention and feed-forward blocks of a transformer: the setting of the coupled structures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from linnet.trials.algebra import Instance, Matrix, constant, rank
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import KINDS, Raw, Setting, draw_matrices
from linnet.trials.views.block import AttentionView, FeedForwardView, group

ACTIVATIONS = ("silu", "gelu", "relu")
"""Of a feed-forward block; gated by silu it is SwiGLU."""


HEADS = ((1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 1), (4, 4), *[(4, 2)] * 7)
"""Numbers of query and of key-value heads; the last, grouped-query attention, has most to say and is drawn most."""


ROTARY: tuple[tuple[int, tuple[int, ...]], ...] = ((2, (1,)), (4, (1, 100)), (4, (1, 2)), (4, (1, 1)))
"""Widths of a head and periods of its planes: as in practice, nearer together, and equal."""


Order = tuple[int, ...]
"""A permutation: the place i is taken by what stood at order[i]."""


@dataclass(frozen=True)
class AttentionShape:
    """Everything about an attention block that is not a matrix entry.

    ``kv_heads`` divides ``heads``: as many is multi-head, fewer grouped-query, one multi-query attention.
    ``periods`` has a whole number for each plane of a head, empty without rotary embedding; ``maps`` says whether the
    instance brings linear maps of its own.
    """

    heads: int
    kv_heads: int
    width: int
    model: int
    tokens: int
    periods: tuple[int, ...]
    causal: bool
    order: Order
    channel_order: Order
    maps: bool = False
    kind: str = "attention"


@dataclass(frozen=True)
class FeedForwardShape:
    """Everything about a feed-forward block that is not a matrix entry."""

    hidden: int
    model: int
    tokens: int
    gated: bool
    activation: str
    order: Order
    maps: bool = False
    kind: str = "feed-forward"


def _whole(v: Any) -> bool:
    if v.kind != "attention":
        return True
    size = v.heads // v.kv_heads
    visited = [group(v, h) for h in v.order]
    return all(len(set(visited[i : i + size])) == 1 for i in range(0, v.heads, size))


def _within(v: Any) -> bool:
    return v.kind != "attention" or all(group(v, h) == group(v, i) for i, h in enumerate(v.order))


def _multi_head(v: Any) -> bool:
    return v.kind != "attention" or v.heads == v.kv_heads


def _of_kind(text: str, says: Callable[[Any], bool]) -> Hypothesis:
    """A hypothesis on the kind of block, of which shapes and views know alike."""
    return Hypothesis(text, lambda v: [(int(says(v)), "==", 1)], shape=says)


def _invertible(v: AttentionView | FeedForwardView) -> list[tuple[Any, Any, Any]]:
    maps = [*v.value_maps, *v.score_maps] if isinstance(v, AttentionView) else [v.gains]
    return [(rank(m), ">=", m.shape[0]) for m in maps]


class BlockSetting(Setting):
    """Attention with at most 4 heads and feed-forward with at most 4 hidden channels, on at most 3 tokens."""

    name = "block"
    kinds = KINDS

    attention = _of_kind("an attention block", lambda s: s.kind == "attention")
    feed_forward = _of_kind("a feed-forward block", lambda s: s.kind == "feed-forward")
    gated = _of_kind("a gated feed-forward block", lambda s: s.kind == "feed-forward" and s.gated)
    multi_head = _of_kind("of attention, every query head has keys and values of its own", _multi_head)
    no_rotary = _of_kind("no rotary embedding", lambda s: s.kind != "attention" or not s.periods)
    rotary = _of_kind("attention with rotary embedding", lambda s: s.kind == "attention" and len(s.periods) > 0)
    within_groups = _of_kind("query heads stay in their group", _within)
    whole_groups = _of_kind("groups of query heads move as wholes", _whole)
    own_keys = _of_kind(
        "every query head has keys and values of its own, or stays in its group",
        lambda s: _multi_head(s) or _within(s),
    )
    not_causal = _of_kind("attention to all tokens", lambda s: s.kind == "attention" and not s.causal)
    one_token = _of_kind("one token", lambda s: s.tokens == 1)
    invertible_maps = Hypothesis("the linear maps are invertible", _invertible)

    def random_shape(self, rng: np.random.Generator) -> AttentionShape | FeedForwardShape:
        model, tokens, maps = int(rng.integers(1, 5)), int(rng.integers(1, 4)), bool(rng.random() < 0.5)
        if rng.random() < 0.35:
            hidden = int(rng.integers(1, 5))
            gated, activation = bool(rng.random() < 0.7), str(rng.choice(ACTIVATIONS))
            return FeedForwardShape(hidden, model, tokens, gated, activation, _permutation(hidden, rng), maps)
        heads, kv_heads = HEADS[rng.integers(len(HEADS))]
        width, periods = int(rng.integers(1, 5)), Order()
        if rng.random() < 0.5:
            width, periods = ROTARY[rng.integers(len(ROTARY))]
        return AttentionShape(
            heads=heads,
            kv_heads=kv_heads,
            width=width,
            model=model,
            tokens=tokens,
            periods=periods,
            causal=bool(rng.random() < 0.5),
            order=_head_order(heads, kv_heads, rng),
            channel_order=_permutation(width, rng),
            maps=maps,
        )

    def small_shapes(self) -> Iterator[AttentionShape | FeedForwardShape]:
        shapes: list[AttentionShape | FeedForwardShape] = [*_small_attention(), *_small_feed_forward()]
        yield from sorted(shapes, key=self.size)

    def size(self, shape: AttentionShape | FeedForwardShape) -> tuple[int, ...]:
        moved = sum(i != j for i, j in enumerate(shape.order))
        rest = (shape.maps, moved)
        if isinstance(shape, FeedForwardShape):
            dims = shape.hidden + shape.model + shape.tokens
            return (dims, shape.tokens, shape.hidden, 0, shape.gated, ACTIVATIONS.index(shape.activation), *rest, 0)
        dims = (shape.heads + shape.kv_heads) * shape.width + shape.model + shape.tokens
        turned = sum(i != j for i, j in enumerate(shape.channel_order))
        return (dims, shape.tokens, shape.heads, shape.kv_heads, len(shape.periods), shape.causal, *rest, turned)

    def parameters(self, shape: AttentionShape | FeedForwardShape) -> dict[str, tuple[int, int]]:
        m, n = shape.model, shape.tokens
        if isinstance(shape, FeedForwardShape):
            hidden = shape.hidden
            sizes = {"up": (hidden, m), "down": (m, hidden), "x": (m, n)}
            sizes |= {"gate": (hidden, m)} if shape.gated else {}
            return sizes | ({"gains": (hidden, 1)} if shape.maps else {})
        w, kv = shape.width, shape.kv_heads * shape.width
        sizes = {"Q": (shape.heads * w, m), "K": (kv, m), "V": (kv, m), "O": (m, shape.heads * w), "x": (m, n)}
        return sizes | ({"value_maps": (kv, w), "score_maps": (kv, w)} if shape.maps else {})

    def draw(self, shape: AttentionShape | FeedForwardShape, kind: str, count: int, rng: np.random.Generator) -> Raw:
        return draw_matrices(self.parameters(shape), kind, count, rng)

    def compose(
        self, shape: AttentionShape | FeedForwardShape, raw: dict[str, Matrix], imposed: Collection[str]
    ) -> Instance:
        # Maps are drawn as what they differ from the identity by: at zero, and mostly, they are invertible.
        if isinstance(shape, FeedForwardShape):
            gains = {"gains": raw["gains"] + constant(raw["gains"], [[1]] * shape.hidden)} if shape.maps else {}
            terms: Instance = {"activation": shape.activation, "order": list(shape.order)}
            return {"kind": shape.kind} | terms | raw | gains
        maps = {}
        if shape.maps:
            w = shape.width
            ones = constant(
                raw["Q"], [[int(i == j) for j in range(w)] for _ in range(shape.kv_heads) for i in range(w)]
            )
            maps = {k: raw[k] + ones for k in ("value_maps", "score_maps")}
        terms = {
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "order": list(shape.order),
            "channel_order": list(shape.channel_order),
            "periods": list(shape.periods),
            "causal": shape.causal,
        }
        return {"kind": shape.kind} | terms | raw | maps

    def view(self, instance: Instance) -> AttentionView | FeedForwardView:
        return AttentionView(instance) if instance["kind"] == "attention" else FeedForwardView(instance)

    def defects(self, instance: Instance) -> list[str]:
        if instance["kind"] not in ("attention", "feed-forward"):
            return [f"kind {instance['kind']!r} is neither attention nor feed-forward"]
        checked = _attention_defects if instance["kind"] == "attention" else _feed_forward_defects
        return checked(instance)


def _attention_defects(instance: Instance) -> list[str]:
    heads, kv_heads, periods = instance["heads"], instance["kv_heads"], instance["periods"]
    if not (_is_count(heads) and _is_count(kv_heads) and heads % kv_heads == 0):
        return ["the number of key-value heads does not divide the number of query heads"]
    (rows, m), (_, n) = instance["Q"].shape, instance["x"].shape
    if rows % heads:
        return ["the rows of Q do not make whole heads"]
    w = rows // heads
    kv = kv_heads * w
    out = []
    shapes = {"K": (kv, m), "V": (kv, m), "O": (m, rows), "x": (m, n), "value_maps": (kv, w), "score_maps": (kv, w)}
    if any(instance[k].shape != mn for k, mn in shapes.items() if k in instance or "maps" not in k):
        out.append("the weights and inputs do not fit each other")
    if not isinstance(instance["causal"], bool):
        out.append("causal is neither true nor false")
    if not isinstance(periods, list) or not all(map(_is_count, periods)) or len(periods) not in (0, w / 2):
        out.append("periods are not whole numbers, one for two channels of a head")
    if not (_is_order(instance["order"], heads) and _is_order(instance["channel_order"], w)):
        out.append("an order is no permutation of heads or channels")
    return out


def _feed_forward_defects(instance: Instance) -> list[str]:
    (hidden, m), (_, n) = instance["up"].shape, instance["x"].shape
    out = []
    shapes = {"down": (m, hidden), "x": (m, n), "gate": (hidden, m), "gains": (hidden, 1)}
    if any(instance[k].shape != mn for k, mn in shapes.items() if k in instance or k in ("down", "x")):
        out.append("the weights and inputs do not fit each other")
    if instance["activation"] not in ACTIVATIONS:
        out.append(f"activation {instance['activation']!r} is none of {', '.join(ACTIVATIONS)}")
    if not _is_order(instance["order"], hidden):
        out.append("the order is no permutation of the hidden channels")
    return out


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 1


def _is_order(x: Any, n: int) -> bool:
    return isinstance(x, list) and all(type(i) is int for i in x) and sorted(x) == list(range(n))


def _permutation(n: int, rng: np.random.Generator) -> Order:
    return tuple(int(i) for i in rng.permutation(n))


def _head_order(heads: int, kv_heads: int, rng: np.random.Generator) -> Order:
    """Any order, one that moves groups as wholes, or one within groups; the same where there are no groups."""
    size, how = heads // kv_heads, rng.random()
    if how < 1 / 2:
        return _permutation(heads, rng)
    groups = _permutation(kv_heads, rng) if how < 3 / 4 or size == 1 else range(kv_heads)
    return tuple(g * size + i for g in groups for i in _permutation(size, rng))


def _orders(n: int) -> list[Order]:
    """As they are, two neighbours swapped, two far ones, all moved on by one, reversed; without repetition."""
    places = list(range(n))
    found = [places, [1, 0, *places[2:]], [*places[:-2], n - 1, n - 2], [2, 1, 0, *places[3:]]]
    found += [[*places[1:], 0], places[::-1], [*places[n // 2 :], *places[: n // 2]]]
    return [p for p in dict.fromkeys(tuple(f) for f in found) if sorted(p) == places]


def _small_attention() -> Iterator[AttentionShape]:
    for heads, kv in ((1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 2), (4, 1), (4, 4)):
        for width, periods in ((1, ()), (2, ()), (2, (1,)), (4, (1, 100))):
            if heads * width > 4:
                continue
            for order, turn, n, m in product(_orders(heads), _orders(width), (1, 2), (1, 2)):
                if (n == 1 and periods) or (width == 4 and m == 2):
                    continue
                for causal, maps in product((False, True) if n > 1 else (False,), (False, True)):
                    yield AttentionShape(heads, kv, width, m, n, periods, causal, order, turn, maps)


def _small_feed_forward() -> Iterator[FeedForwardShape]:
    for hidden, m, n in product((1, 2, 3), (1, 2), (1, 2)):
        for order, gated, activation, maps in product(_orders(hidden), (True, False), ACTIVATIONS, (False, True)):
            yield FeedForwardShape(hidden, m, n, gated, activation, order, maps)


Block = BlockSetting()
"""The setting of a transformer's blocks; its attributes are hypotheses to choose from."""
