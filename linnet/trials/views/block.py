"""Attention and feed-forward blocks of a transformer, and what may be done to them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

from linnet.trials.algebra import Instance, Matrix, activate, constant, hadamard, softmax, sq, sqrt


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
