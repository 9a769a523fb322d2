"""Least squares on a few samples of a finite law: the setting of claims about expectations, summed exactly."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from math import factorial, prod
from typing import Any

import numpy as np

from linnet.trials.algebra import Instance, Matrix, constant, sq
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import KINDS, Raw, Setting, draw_matrices


@dataclass(frozen=True)
class EstimatorShape:
    """d parameters, of which PEFT trains k; the law has ``atoms`` equally likely points; N samples are drawn."""

    d: int
    k: int
    atoms: int
    N: int


class EstimatorView:
    """Linear regression of one target by theta in R^d, or by the subspace of its first k coordinates.

    The pre-trained theta_0 is 0 and the subspace is one of coordinates: x and y take up any other choice.
    (x, y) is one of finitely many points, all equally likely; estimates are the least-norm minimisers of the
    squared error on N independent samples; expectations run over all of these samples.

    Attributes:
        x: points of the law, (d, atoms). y: their targets, (1, atoms).
        d, k, N: numbers of parameters, and of samples, as numbers of the arithmetic.

    Source: liu2025, eq. (10)-(19).
    """

    def __init__(self, instance: Instance) -> None:
        self.x: Matrix = instance["x"]
        self.y: Matrix = instance["y"]
        self.size: int = instance["N"]
        self.trained: int = instance["k"]
        d = self.x.shape[0]
        self.d, self.k, self.N = (self.number(i) for i in (d, self.trained, self.size))

    def number(self, value: int) -> Any:
        """A whole number in the arithmetic of the instance, whose roots and quotients are then exact too."""
        return constant(self.x, [[float(value)]]).trace()

    @cached_property
    def _first(self) -> Matrix:
        """[e_1 ... e_k]^T, (k, d)."""
        d = self.x.shape[0]
        return constant(self.x, [[float(i == j) for j in range(d)] for i in range(self.trained)])

    def inputs(self, peft: bool) -> Matrix:
        """What the trained parameters multiply: x, or its first k coordinates."""
        return self._first @ self.x if peft else self.x

    def least_loss(self, peft: bool = False) -> Any:
        """L*_H, the least expected squared error of the class."""
        x = self.inputs(peft)
        return self.loss(self.y @ x.pinv(), peft)

    def loss(self, theta: Matrix, peft: bool) -> Any:
        """Expected squared error of theta, (1, d) or (1, k)."""
        return sq(self.y - theta @ self.inputs(peft)) / self.x.shape[1]

    def _expected(self, n: int, value: Callable[[Matrix], Any]) -> Any:
        """Mean of ``value(picks)`` over all samples of size n; picks (atoms, n) selects its points."""
        atoms = self.x.shape[1]
        total: Any = 0
        for drawn in combinations_with_replacement(range(atoms), n):
            ways = factorial(n) // prod(factorial(drawn.count(a)) for a in range(atoms))
            picks = constant(self.x, [[float(a == b) for b in drawn] for a in range(atoms)])
            total = total + value(picks) * ways
        return total / atoms**n

    def expected_loss(self, more: int = 0, peft: bool = False) -> Any:
        """R(N + more), the expected error of the estimate, noise included."""
        x = self.inputs(peft)
        return self._expected(self.size + more, lambda pick: self.loss((self.y @ pick) @ (x @ pick).pinv(), peft))

    def expected_training_loss(self, peft: bool = False) -> Any:
        """E[L_N(theta_N)]."""
        x = self.inputs(peft)

        def left(pick: Matrix) -> Any:
            seen, target = x @ pick, self.y @ pick
            return sq(target - target @ seen.pinv() @ seen) / self.size

        return self._expected(self.size, left)

    def benefit(self, peft: bool = False) -> Any:
        """Delta R(N) = R(N) - R(N + 1), what one more sample brings."""
        return self.expected_loss(0, peft) - self.expected_loss(1, peft)

    @property
    def scale(self) -> Any:
        """Size of the losses, the unit of margins."""
        return sq(self.y)


class EstimatorSetting(Setting):
    """Up to three points in up to three dimensions, at most four samples: everything can be summed."""

    name = "estimator"
    kinds = KINDS

    fewer = Hypothesis("$k < d$", lambda v: [(v.k, "<", v.d)], shape=lambda s: s.k < s.d)
    both_gain = Hypothesis(
        "one more sample helps both", lambda v: [(v.benefit(False), ">", 0), (v.benefit(True), ">", 0)]
    )
    noiseless = Hypothesis(
        "$L^*_H = 0$: the class fits every point, without noise",
        lambda v: [(v.least_loss(), "==", 0)],
        impose="noiseless",
    )

    def random_shape(self, rng: np.random.Generator) -> EstimatorShape:
        d = int(rng.integers(1, 4))
        return EstimatorShape(d, int(rng.integers(1, d + 1)), int(rng.integers(1, 4)), int(rng.integers(1, 4)))

    def small_shapes(self) -> Iterator[EstimatorShape]:
        shapes = [
            EstimatorShape(d, k, a, n)
            for d in (1, 2, 3)
            for k in range(1, d + 1)
            for a in (1, 2, 3)
            for n in (1, 2, 3, 4)
        ]
        yield from sorted(shapes, key=self.size)

    def size(self, shape: EstimatorShape) -> tuple[int, ...]:
        return (shape.d + shape.atoms, shape.N, shape.d, shape.k)

    def parameters(self, shape: EstimatorShape) -> dict[str, tuple[int, int]]:
        return {"x": (shape.d, shape.atoms), "y": (1, shape.atoms), "theta": (1, shape.d)}

    def draw(self, shape: EstimatorShape, kind: str, count: int, rng: np.random.Generator) -> Raw:
        return draw_matrices(self.parameters(shape), kind, count, rng)

    def compose(self, shape: EstimatorShape, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        y = raw["theta"] @ raw["x"] if "noiseless" in imposed else raw["y"]
        return {"x": raw["x"], "y": y, "k": shape.k, "N": shape.N}

    def view(self, instance: Instance) -> EstimatorView:
        return EstimatorView(instance)

    def defects(self, instance: Instance) -> list[str]:
        x, y, k, n = (instance[name] for name in ("x", "y", "k", "N"))
        if not all(type(whole) is int for whole in (k, n)):
            return ["k and N are not whole numbers"]
        out = []
        if y.shape != (1, x.shape[1]):
            out.append("the targets do not fit the points")
        if not 1 <= k <= x.shape[0]:
            out.append(f"k = {k} is outside 1 to {x.shape[0]}")
        if not 1 <= n <= 8:
            out.append(f"N = {n} is outside 1 to 8")
        return out


Estimator = EstimatorSetting()
"""The setting of least squares on few samples; its attributes are hypotheses to choose from."""
