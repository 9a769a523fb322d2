"""Attention and feed-forward blocks of a transformer: the setting of the coupled structures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from linnet.trials.algebra import Matrix, activate, hadamard, rank, softmax, sq, sqrt
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import KINDS, Instance, Raw, Setting, constant, draw_matrices

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


class AttentionView:
    """sum_h O_h V_g x A_h^T, A_h = softmax((R Q_h x)^T (R K_g x) / width^(1/2)), g the group of query head h.

    Heads lie row under row in Q, K and V, side by side in O. The rotary embedding R turns the rows 2j and 2j + 1 of a
    head by the angle t / periods[j] at token t = 0, 1, ...; 1 and 100 are those of width 4 in practice.

    Attributes:
        Q: (heads * width, model).
        K: (kv_heads * width, model), as V.
        O: (model, heads * width).
        x: inputs as columns, (model, tokens).
        order: a permutation of the query heads. channel_order: of the channels of a head.

    Source: yang2024, Sec. 3.1; Su et al., RoFormer, 2021; Ainslie et al., GQA, 2023.
    """

    kind = "attention"

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.Q: Matrix = instance["Q"]
        self.K: Matrix = instance["K"]
        self.V: Matrix = instance["V"]
        self.O: Matrix = instance["O"]
        self.x: Matrix = instance["x"]
        self.heads: int = instance["heads"]
        self.kv_heads: int = instance["kv_heads"]
        self.periods: list[int] = instance["periods"]
        self.causal: bool = instance["causal"]
        self.order: list[int] = instance["order"]
        self.channel_order: list[int] = instance["channel_order"]

    @property
    def width(self) -> int:
        """Channels of a head."""
        return self.Q.shape[0] // self.heads

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.x.shape[1]

    @property
    def rotary(self) -> bool:
        """Whether queries and keys are turned by position."""
        return bool(self.periods)

    def group(self, head: int) -> int:
        """Key-value head of a query head."""
        return group(self, head)

    def replaced(self, **weights: Matrix) -> AttentionView:
        """Return the block with other weights."""
        return AttentionView(self._instance | weights)

    # --- output ----------------------------------------------------------------------------------

    def head(self, weight: Matrix, head: int) -> Matrix:
        """Rows of one head, (width, ...)."""
        return _rows(weight, range(head * self.width, (head + 1) * self.width)) @ weight

    def attention(self, head: int) -> Matrix:
        """What each token (row) draws from each token (column), (tokens, tokens)."""
        q = self.rotated(self.head(self.Q, head) @ self.x)
        width = constant(self.Q, [[self.width]]).trace()
        return softmax(q.T @ self.keys[self.group(head)] * (1 / sqrt(width)), self.causal)

    @cached_property
    def keys(self) -> list[Matrix]:
        """Keys of each key-value head, with their rotary embedding, (width, tokens)."""
        return [self.rotated(self.head(self.K, g) @ self.x) for g in range(self.kv_heads)]

    @cached_property
    def values(self) -> list[Matrix]:
        """Values of each key-value head, (width, tokens)."""
        return [self.head(self.V, g) @ self.x for g in range(self.kv_heads)]

    def rotated(self, a: Matrix) -> Matrix:
        """Rotary embedding of queries or keys, (width, tokens)."""
        if not self.periods:
            return a
        cos, sin = self._turns
        return hadamard(cos, a) + hadamard(sin, self.quarter_turn @ a)

    @cached_property
    def _turns(self) -> tuple[Matrix, Matrix]:
        """Cosines and sines of every channel (row) at every token, (width, tokens) each."""
        angles = [[Fraction(t, p) for t in range(self.tokens)] for p in self.periods for _ in range(2)]
        turns = constant(self.x, angles)
        return activate(turns, "cos"), activate(turns, "sin")

    @cached_property
    def quarter_turn(self) -> Matrix:
        """J: turns every plane of a head by a right angle, (width, width)."""
        w = self.width
        return constant(
            self.Q, [[(j == i - 1) * (i % 2) - (j == i + 1) * (1 - i % 2) for j in range(w)] for i in range(w)]
        )

    @cached_property
    def output(self) -> Matrix:
        """Output of the block, (model, tokens)."""
        total: Any = None
        for h in range(self.heads):
            part = self.head(self.O.T, h).T @ (self.values[self.group(h)] @ self.attention(h).T)
            total = part if total is None else total + part
        return total

    @cached_property
    def scale(self) -> Any:
        """How far rounding of the weights could move the output: the unit of margins."""
        scores = sqrt(sq(self.Q) * sq(self.K)) * sq(self.x)
        return sqrt(sq(self.O) * sq(self.V) * sq(self.x)) * (1 + scores)

    # --- permuted --------------------------------------------------------------------------------

    @property
    def kv_order(self) -> list[int]:
        """Key-value heads in the order in which ``order`` first asks for them."""
        return list(dict.fromkeys(self.group(h) for h in self.order))

    def permuted(self, order: Sequence[int], kv_order: Sequence[int] | None = None) -> AttentionView:
        """Return the block with its heads in another order: rows of Q, K and V, columns of O.

        Without ``kv_order`` keys and values take the same order if they have as many heads, and else keep theirs.
        """
        if kv_order is None:
            kv_order = order if self.kv_heads == self.heads else range(self.kv_heads)
        P, P_kv = self.head_permutation(order), self.head_permutation(kv_order)
        return self.replaced(Q=P @ self.Q, K=P_kv @ self.K, V=P_kv @ self.V, O=self.O @ P.T)

    def head_permutation(self, order: Sequence[int]) -> Matrix:
        """The permutation matrix that puts the rows of whole heads in order."""
        return _rows(self.Q, [h * self.width + i for h in order for i in range(self.width)], len(order) * self.width)

    def channel_permutation(self, heads: int) -> Matrix:
        """The permutation matrix that puts the rows within each of ``heads`` heads into ``channel_order``."""
        w = self.width
        return _rows(self.Q, [h * w + i for h in range(heads) for i in self.channel_order], heads * w)

    def channels_permuted(self, where: str = "QKVO") -> AttentionView:
        """Return the block with ``channel_order`` within each head, in Q, K, V and O or in those named."""
        P, P_kv = self.channel_permutation(self.heads), self.channel_permutation(self.kv_heads)
        moved = {"Q": P @ self.Q, "K": P_kv @ self.K, "V": P_kv @ self.V, "O": self.O @ P.T}
        return self.replaced(**{k: moved[k] for k in where})

    # --- mapped ----------------------------------------------------------------------------------

    @cached_property
    def value_maps(self) -> list[Matrix]:
        """A matrix for the values of each key-value head, (width, width); identities where the instance has none."""
        return self.given_maps("value_maps")

    @cached_property
    def score_maps(self) -> list[Matrix]:
        """The same for the queries of a group; with rotary embedding what of it commutes with all rotations."""
        return [self._commuting(a) if self.periods else a for a in self.given_maps("score_maps")]

    def given_maps(self, name: str) -> list[Matrix]:
        """The instance's matrices of this name, one for each key-value head; identities where it has none."""
        if name not in self._instance:
            return [
                constant(self.Q, [[int(i == j) for j in range(self.width)] for i in range(self.width)])
            ] * self.kv_heads
        return [self.head(self._instance[name], g) for g in range(self.kv_heads)]

    def _commuting(self, a: Matrix) -> Matrix:
        J = self.quarter_turn
        turned = (a - J @ a @ J) * Fraction(1, 2)
        channels = [p for p in self.periods for _ in range(2)]
        same = [[int(p == q) for q in channels] for p in channels]
        return hadamard(turned, constant(a, same))

    def mapped(self) -> AttentionView:
        """Return the block with V_g -> S_g V_g, O_h -> O_h S_g^-1, Q_h -> A_g Q_h, K_g -> A_g^-T K_g."""
        groups = [self.group(h) for h in range(self.heads)]
        S, A = self.value_maps, self.score_maps
        S_inv, A_inv = [s.inv() for s in S], [a.inv() for a in A]
        return self.replaced(
            Q=self.by_heads([A[g] for g in groups]) @ self.Q,
            K=self.by_heads([a.T for a in A_inv]) @ self.K,
            V=self.by_heads(S) @ self.V,
            O=self.O @ self.by_heads([S_inv[g] for g in groups]),
        )

    def by_heads(self, blocks: Sequence[Matrix]) -> Matrix:
        """The matrix that acts on each head by its own (width, width) block."""
        w, n = self.width, len(blocks)
        total: Any = None
        for h, block in enumerate(blocks):
            pick = _rows(self.Q, range(h * w, (h + 1) * w), n * w)
            total = pick.T @ block @ pick if total is None else total + pick.T @ block @ pick
        return total


class FeedForwardView:
    """down (s(gate x) * up x), or down s(up x) where nothing is gated; * is entrywise.

    Attributes:
        up: (hidden, model), as ``gate``, which is None where nothing is gated.
        down: (model, hidden).
        x: inputs as columns, (model, tokens).
        activation: the name of s. order: a permutation of the hidden channels.

    Source: yang2024, Sec. 3.1; Shazeer, GLU Variants Improve Transformer, 2020.
    """

    kind = "feed-forward"

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.up: Matrix = instance["up"]
        self.gate: Matrix | None = instance.get("gate")
        self.down: Matrix = instance["down"]
        self.x: Matrix = instance["x"]
        self.activation: str = instance["activation"]
        self.order: list[int] = instance["order"]
        self.kv_order: list[int] = []
        self.rotary = False

    @property
    def gated(self) -> bool:
        """Whether the block has a gate."""
        return self.gate is not None

    @property
    def hidden(self) -> int:
        """Number of hidden channels."""
        return self.up.shape[0]

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.x.shape[1]

    def replaced(self, **weights: Matrix) -> FeedForwardView:
        """Return the block with other weights."""
        return FeedForwardView(self._instance | weights)

    @cached_property
    def output(self) -> Matrix:
        """Output of the block, (model, tokens)."""
        if self.gate is None:
            return self.down @ activate(self.up @ self.x, self.activation)
        return self.down @ hadamard(activate(self.gate @ self.x, self.activation), self.up @ self.x)

    @cached_property
    def scale(self) -> Any:
        """How far rounding of the weights could move the output: the unit of margins."""
        straight = sqrt(sq(self.down) * sq(self.up) * sq(self.x))
        return straight if self.gate is None else straight * sqrt(sq(self.gate) * sq(self.x))

    def permuted(self, order: Sequence[int], kv_order: Sequence[int] | None = None) -> FeedForwardView:
        """Return the block with its channels in another order: rows of up and gate, columns of down."""
        P = _rows(self.up, order)
        gate = {} if self.gate is None else {"gate": P @ self.gate}
        return self.replaced(up=P @ self.up, down=self.down @ P.T, **gate)

    def channels_permuted(self, where: str = "QKVO") -> FeedForwardView:
        """Return the block with its channels in ``order``: they have no finer ones."""
        return self.permuted(self.order)

    @cached_property
    def gains(self) -> Matrix:
        """A number for each channel, as a diagonal matrix; the identity where the instance has none."""
        if "gains" not in self._instance:
            return self.up.eye()
        ones = constant(self.up, [[1] * self.hidden])
        return hadamard(self.up.eye(), self._instance["gains"] @ ones)

    def mapped(self) -> FeedForwardView:
        """Return the block with channel c of what the activation does not see times its gain, down divided by it.

        That is up of a gated block. ReLU lets positive gains through, here squares: of up, or of both up and gate.
        """
        C, squares = self.gains, self.gains @ self.gains
        homogeneous = self.activation == "relu"
        if self.gate is None:
            return self.replaced(up=squares @ self.up, down=self.down @ squares.inv()) if homogeneous else self
        gate, down = self.gate, self.down @ C.inv()
        if homogeneous:
            gate, down = squares @ gate, down @ squares.inv()
        return self.replaced(up=C @ self.up, gate=gate, down=down)


def group(v: Any, head: int) -> int:
    """Key-value head of a query head, of a view or a shape: neighbours share one."""
    return head // (v.heads // v.kv_heads)


def _rows(like: Matrix, rows: Sequence[int], total: int | None = None) -> Matrix:
    """The 0/1 matrix that picks rows of a matrix with ``total`` rows (as many as ``like``), in this order."""
    n = like.shape[0] if total is None else total
    return constant(like, [[int(i == j) for j in range(n)] for i in rows])


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
