"""Networks with activations, and increments of their layers: the setting of the capacity claims."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from linnet.trials.algebra import Instance, Matrix, activate, op_norm_sq, sq, sqrt, where_positive
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import KINDS, Raw, Setting, draw_matrices

LIPSCHITZ: dict[str, Any] = {"identity": 1, "relu": 1, "leaky": 1, "tanh": 1, "gelu": Fraction(112890415, 10**8)}
"""The activations, with Lipschitz constants; GELU's is Phi(2^(1/2)) + 2^(1/2) phi(2^(1/2)), rounded up."""

NORMS: dict[str, Callable[[Matrix], Any]] = {
    "spectral": lambda a: sqrt(op_norm_sq(a)),
    "frobenius": lambda a: sqrt(sq(a)),
}


@dataclass(frozen=True)
class ActivatedShape:
    """``n`` inputs; ``activation`` and ``norm`` by name."""

    widths: tuple[int, ...]
    n: int
    activation: str
    norm: str


class ActivatedView:
    """f_0(x) = s(W_N ... s(W_1 x)) and f(x) = s((W_N + Phi_N) ... s((W_1 + Phi_1) x)), s(0) = 0.

    Attributes:
        W: weights, from the first layer; W[k] (d_{k+1}, d_k).
        Phi: increments, of the same shapes.
        x: inputs as columns, (d_0, n).
        L: a Lipschitz constant of the activation.

    Source: liu2025, Theorem 2 and its proof.
    """

    def __init__(self, instance: Instance) -> None:
        self.W: list[Matrix] = instance["weights"]
        self.Phi: list[Matrix] = instance["increments"]
        self.x: Matrix = instance["x"]
        self.activation: str = instance["activation"]
        self.norm_name: str = instance["norm"]
        self.L = LIPSCHITZ[self.activation]

    @property
    def depth(self) -> int:
        """Number of layers N."""
        return len(self.W)

    def norm(self, a: Matrix) -> Any:
        """Norm of a matrix: spectral or Frobenius, as the instance has it."""
        return NORMS[self.norm_name](a)

    def length(self, a: Matrix) -> Any:
        """Euclidean norm of a column (of several: Frobenius norm)."""
        return sqrt(sq(a))

    def run(self, weights: list[Matrix]) -> list[Matrix]:
        """Return x and what each layer of ``weights`` emits."""
        states = [self.x]
        for w in weights:
            states.append(activate(w @ states[-1], self.activation))
        return states

    @cached_property
    def tuned(self) -> list[Matrix]:
        """W_k + Phi_k."""
        return [w + d for w, d in zip(self.W, self.Phi, strict=True)]

    @cached_property
    def frozen_states(self) -> list[Matrix]:
        """X and what each frozen layer emits."""
        return self.run(self.W)

    @cached_property
    def tuned_states(self) -> list[Matrix]:
        """X and what each tuned layer emits."""
        return self.run(self.tuned)

    @property
    def f_0(self) -> Matrix:
        """Output of the frozen network, (d_N, n)."""
        return self.frozen_states[-1]

    @property
    def f(self) -> Matrix:
        """Output of the tuned network, (d_N, n)."""
        return self.tuned_states[-1]

    @cached_property
    def M(self) -> Any:
        """The least M with |W_k| <= M for all k."""
        most = self.norm(self.W[0])
        for w in self.W[1:]:
            other = self.norm(w)
            most = where_positive(other - most, other, most)
        return most

    @cached_property
    def scale(self) -> Any:
        """Size of the outputs that the norms allow, the unit of margins."""
        size = self.length(self.x)
        for w, d in zip(self.W, self.Phi, strict=True):
            size = size * float(self.L) * (sqrt(sq(w)) + sqrt(sq(d)))
        return size


class ActivatedSetting(Setting):
    """Networks of depth 1 to 4 with one activation, increments of every layer, and n inputs."""

    name = "activated"
    kinds = KINDS

    one_input = Hypothesis("one input", lambda v: [(v.x.shape[1], "==", 1)], shape=lambda s: s.n == 1)
    one_output = Hypothesis("one output", lambda v: [(v.W[-1].shape[0], "==", 1)], shape=lambda s: s.widths[-1] == 1)

    def random_shape(self, rng: np.random.Generator) -> ActivatedShape:
        depth = int(rng.integers(1, 5))
        widths = tuple(int(d) for d in rng.integers(1, 5, size=depth + 1))
        widths = (*widths[:-1], 1) if rng.random() < 0.3 else widths
        n = 1 if rng.random() < 0.6 else int(rng.integers(1, 5))
        return ActivatedShape(widths, n, str(rng.choice(list(LIPSCHITZ))), str(rng.choice(list(NORMS))))

    def small_shapes(self) -> Iterator[ActivatedShape]:
        shapes = [
            ActivatedShape(widths, n, activation, "spectral")
            for depth in (1, 2, 3)
            for widths in product((1, 2), repeat=depth + 1)
            for n in (1, 2)
            for activation in ("identity", "relu", "leaky")
        ]
        yield from sorted(shapes, key=self.size)

    def size(self, shape: ActivatedShape) -> tuple[int, ...]:
        return (sum(shape.widths), len(shape.widths), shape.n, list(LIPSCHITZ).index(shape.activation))

    def parameters(self, shape: ActivatedShape) -> dict[str, tuple[int, int]]:
        w = shape.widths
        sizes = {f"{kind}_{i}": (w[i + 1], w[i]) for kind in ("weight", "increment") for i in range(len(w) - 1)}
        return sizes | {"x": (w[0], shape.n)}

    def draw(self, shape: ActivatedShape, kind: str, count: int, rng: np.random.Generator) -> Raw:
        raw = draw_matrices(self.parameters(shape), kind, count, rng)
        if rng.random() < 0.2:  # one layer is tuned
            kept = int(rng.integers(len(shape.widths) - 1))
            for i in range(len(shape.widths) - 1):
                raw[f"increment_{i}"] = raw[f"increment_{i}"] * float(i == kept)
        return raw

    def compose(self, shape: ActivatedShape, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        layers = range(len(shape.widths) - 1)
        return {
            "weights": [raw[f"weight_{i}"] for i in layers],
            "increments": [raw[f"increment_{i}"] for i in layers],
            "x": raw["x"],
            "activation": shape.activation,
            "norm": shape.norm,
        }

    def view(self, instance: Instance) -> ActivatedView:
        return ActivatedView(instance)

    def defects(self, instance: Instance) -> list[str]:
        weights, increments, x = instance["weights"], instance["increments"], instance["x"]
        out = []
        if instance["activation"] not in LIPSCHITZ:
            out.append(f"activation {instance['activation']!r} is none of {', '.join(LIPSCHITZ)}")
        if instance["norm"] not in NORMS:
            out.append(f"norm {instance['norm']!r} is none of {', '.join(NORMS)}")
        if not weights or [w.shape for w in weights] != [d.shape for d in increments]:
            out.append("the increments do not fit the weights")
        rows = x.shape[0]
        for w in weights:
            if w.shape[1] != rows:
                out.append("neighbouring widths do not fit")
                break
            rows = w.shape[0]
        return out


Activated = ActivatedSetting()
"""The setting of a network with activations; its attributes are hypotheses to choose from."""
