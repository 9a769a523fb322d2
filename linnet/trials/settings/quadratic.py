"""Perturbed quadratics: the setting of the sensitivity claims."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linnet.trials.algebra import Matrix, rank, scalar, sq
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import KINDS, Instance, Raw, Setting, constant, draw_matrices


@dataclass(frozen=True)
class QuadraticShape:
    """d parameters, of which the subspace has k."""

    d: int
    k: int


class QuadraticView:
    """The loss ``grad^T u + u^T H u / 2`` in an update u, its perturbation, and a subspace to update in.

    Attributes:
        H: Hessian (d, d), positive definite.
        P: orthonormal basis of the subspace (d, k).
        grad: gradient at the start (d, 1).
        eps: perturbation of the gradient (d, 1).
        first, second: with the hypothesis ``two_updates``, two updates (d, 1).

    Source: liu2025, eq. (41)-(51).
    """

    def __init__(self, instance: Instance) -> None:
        self.H: Matrix = instance["H"]
        self.P: Matrix = instance["P"]
        self.grad: Matrix = instance["grad"]
        self.eps: Matrix = instance["eps"]
        if "first" in instance:
            self.first: Matrix = instance["first"]
            self.second: Matrix = instance["second"]

    @cached_property
    def H_inv(self) -> Matrix:
        """H^-1."""
        return self.H.inv()

    @cached_property
    def H_sub_inv(self) -> Matrix:
        """H_Phi^+ = (P^T H P)^+ lifted to R^d by P."""
        return self.P @ (self.P.T @ self.H @ self.P).inv() @ self.P.T

    @cached_property
    def eps_par(self) -> Matrix:
        """Component of the perturbation in the subspace, P P^T eps."""
        return self.P @ (self.P.T @ self.eps)

    @cached_property
    def eps_perp(self) -> Matrix:
        """Component of the perturbation orthogonal to the subspace."""
        return self.eps - self.eps_par

    @cached_property
    def full_update(self) -> Matrix:
        """Minimiser of the perturbed loss over R^d: -H^-1 (grad + eps)."""
        return -(self.H_inv @ (self.grad + self.eps))

    @cached_property
    def peft_update(self) -> Matrix:
        """Minimiser of the perturbed loss over the subspace."""
        return -(self.H_sub_inv @ (self.grad + self.eps))

    def loss(self, update: Matrix, eps: Matrix | None = None) -> Any:
        """Loss after an update, relative to the start; perturbed if ``eps`` is given."""
        slope = self.grad if eps is None else self.grad + eps
        return scalar(slope.T @ update) + scalar(update.T @ self.H @ update) / 2

    @cached_property
    def scale(self) -> Any:
        """Size of the losses at hand, the unit of margins."""
        return scalar(self.grad.T @ self.H_inv @ self.grad) + scalar(self.eps.T @ self.H_inv @ self.eps)


class QuadraticSetting(Setting):
    """Quadratics with H = A A^T and a rational orthonormal P by Cayley's transform of a skew matrix."""

    name = "quadratic"
    kinds = KINDS

    positive_definite = Hypothesis("H is positive definite", lambda v: [(rank(v.H), ">=", v.H.shape[0])])
    perturbed = Hypothesis("eps is not zero", lambda v: [(sq(v.eps), ">", 0)])
    sloped = Hypothesis("the gradient is not zero", lambda v: [(sq(v.grad), ">", 0)])
    perturbed_across = Hypothesis("eps_perp is not zero", lambda v: [(sq(v.eps_perp), ">", 0)])
    minimiser_outside = Hypothesis(
        "the full minimiser H^-1 (grad + eps) does not lie in the subspace",
        lambda v: [(sq(v.full_update - v.P @ (v.P.T @ v.full_update)), ">", 0)],
    )
    at_optimum = Hypothesis(
        "the start is the optimum: the gradient is zero", lambda v: [(sq(v.grad), "==", 0)], impose="at_optimum"
    )
    two_updates = Hypothesis("two updates, first and second", impose="two_updates")  # no restriction: it adds them
    proper_subspace = Hypothesis(
        "k < d: the subspace is not everything",
        lambda v: [(v.P.shape[1], "<", v.P.shape[0])],
        shape=lambda s: s.k < s.d,
    )

    def random_shape(self, rng: np.random.Generator) -> QuadraticShape:
        d = int(rng.integers(1, 8))
        return QuadraticShape(d, int(rng.integers(1, d + 1)))

    def small_shapes(self) -> Iterator[QuadraticShape]:
        yield from (QuadraticShape(d, k) for d in range(1, 7) for k in range(1, d + 1))

    def size(self, shape: QuadraticShape) -> tuple[int, ...]:
        return (shape.d, shape.k)

    def parameters(self, shape: QuadraticShape) -> dict[str, tuple[int, int]]:
        d = shape.d
        column = (d, 1)
        return {"factor": (d, d), "turn": (d, d), "grad": column, "eps": column, "first": column, "second": column}

    def draw(self, shape: QuadraticShape, kind: str, count: int, rng: np.random.Generator) -> Raw:
        return draw_matrices(self.parameters(shape), kind, count, rng)

    def compose(self, shape: QuadraticShape, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        one = raw["factor"].eye()
        skew = raw["turn"] - raw["turn"].T
        turned = (one - skew) @ (one + skew).inv()
        pick = _first_columns(raw["grad"], shape)
        out: Instance = {
            "H": raw["factor"] @ raw["factor"].T,
            "P": turned @ pick,
            "grad": 0 * raw["grad"] if "at_optimum" in imposed else raw["grad"],
            "eps": raw["eps"],
        }
        return out | {k: raw[k] for k in ("first", "second") if "two_updates" in imposed}

    def view(self, instance: Instance) -> QuadraticView:
        return QuadraticView(instance)

    def defects(self, instance: Instance) -> list[str]:
        from linnet.trials.exact import ExactMatrix, compare, is_psd

        h, p = instance["H"], instance["P"]
        d = h.shape[0]
        out = []
        if not (isinstance(h, ExactMatrix) and is_psd(h.core)):
            out.append("H is not symmetric positive semi-definite")
        columns = ["grad", "eps", *(name for name in ("first", "second") if name in instance)]
        if p.shape[0] != d or any(instance[name].shape != (d, 1) for name in columns):
            out.append(f"the lengths of P, {', '.join(columns)} do not fit H")
        elif compare(sq(p.T @ p - p.T.eye()), 0) != 0:
            out.append("P^T P is not the identity")
        return out


def _first_columns(like: Matrix, shape: QuadraticShape) -> Matrix:
    rows = [[float(i == j) for j in range(shape.k)] for i in range(shape.d)]
    return constant(like, rows)


Quadratic = QuadraticSetting()
"""The setting of a perturbed quadratic; its attributes are hypotheses to choose from."""
