"""Perturbed quadratics: the setting of the sensitivity claims."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linnet.trials.algebra import Instance, Matrix, constant, rank, scalar, sq
from linnet.trials.claim import Hypothesis
from linnet.trials.kronecker import Kronecker
from linnet.trials.settings.base import KINDS, Raw, Setting, draw_matrices


@dataclass(frozen=True)
class QuadraticShape:
    """d parameters, of which the subspace has k.

    Where ``layer`` is not empty, the quadratic is a layer problem's: (d_out, d_in, s), and ``method`` says whose
    subspace it is: S2FT's ("s2ft"), LoRA's tangents ("lora") or any s-dimensional one ("subspace").
    """

    d: int
    k: int
    layer: tuple[int, ...] = ()
    method: str = ""


METHODS = ("s2ft", "lora", "subspace")


def of_layer(d_out: int, d_in: int, s: int, method: str) -> QuadraticShape:
    """Shape of S2FT's quadratic with s channels, of LoRA's at a solution of rank s, of any s-dimensional subspace's."""
    k = {"s2ft": s * d_in, "lora": s * (d_out + d_in - s), "subspace": s}[method]
    return QuadraticShape(d_out * d_in, k, (d_out, d_in, s), method)


class QuadraticView:
    """The loss ``grad^T u + u^T H u / 2`` in an update u, its perturbation, and a subspace to update in.

    Attributes:
        H: Hessian (d, d); of a layer problem the product of its two factors, which is never formed.
        P: orthonormal basis of the subspace (d, k).
        grad: gradient at the start (d, 1).
        eps: perturbation of the gradient (d, 1).
        first, second: with the hypothesis ``two_updates``, two updates (d, 1).

    Source: liu2025, eq. (41)-(51).
    """

    def __init__(self, instance: Instance) -> None:
        self.H: Matrix = instance["H"] if "H" in instance else Kronecker(instance["upper_gram"], instance["input_gram"])
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
    """Quadratics with H = A A^T and a rational orthonormal P by Cayley's transform of a skew matrix.

    And those that layer problems make, row by row of the layer: H = upper^T upper kron root^2, kept as its two
    factors, and P the tangent
    space of S2FT (all rows of its channels), of LoRA at a solution of rank s, {X : (I - P_U) X (I - P_V) = 0}, or any.
    """

    name = "quadratic"
    kinds = KINDS

    positive_definite = Hypothesis("$H$ is positive definite", lambda v: [(rank(v.H), ">=", v.H.shape[0])])
    perturbed = Hypothesis(r"$\epsilon$ is not zero", lambda v: [(sq(v.eps), ">", 0)])
    sloped = Hypothesis("the gradient is not zero", lambda v: [(sq(v.grad), ">", 0)])
    perturbed_across = Hypothesis(r"$\epsilon_\perp$ is not zero", lambda v: [(sq(v.eps_perp), ">", 0)])
    minimiser_outside = Hypothesis(
        r"the full minimiser $H^{-1}(\nabla + \epsilon)$ does not lie in the subspace",
        lambda v: [(sq(v.full_update - v.P @ (v.P.T @ v.full_update)), ">", 0)],
    )
    at_optimum = Hypothesis(
        "the start is the optimum: the gradient is zero", lambda v: [(sq(v.grad), "==", 0)], impose="at_optimum"
    )
    two_updates = Hypothesis("two updates, first and second", impose="two_updates")  # no restriction: it adds them
    proper_subspace = Hypothesis(
        "$k < d$: the subspace is not everything",
        lambda v: [(v.P.shape[1], "<", v.P.shape[0])],
        shape=lambda s: s.k < s.d,
    )

    def random_shape(self, rng: np.random.Generator) -> QuadraticShape:
        if rng.random() < 0.4:
            d_out, d_in = (int(i) for i in rng.integers(1, 5, size=2))
            method = str(rng.choice(METHODS))
            most = d_out * d_in if method == "subspace" else min(d_out, d_in)
            return of_layer(d_out, d_in, int(rng.integers(1, most + 1)), method)
        d = int(rng.integers(1, 8))
        return QuadraticShape(d, int(rng.integers(1, d + 1)))

    def small_shapes(self) -> Iterator[QuadraticShape]:
        yield from (QuadraticShape(d, k) for d in range(1, 7) for k in range(1, d + 1))

    def size(self, shape: QuadraticShape) -> tuple[int, ...]:
        return (shape.d, shape.k)

    def parameters(self, shape: QuadraticShape) -> dict[str, tuple[int, int]]:
        if shape.layer:
            d_out, d_in, _ = shape.layer
            factors = {"upper": (d_out, d_out), "root": (d_in, d_in)}
            if shape.method == "subspace":
                factors["turn"] = (shape.d, shape.d)
            else:
                factors |= {"turn_out": (d_out, d_out), "turn_in": (d_in, d_in)}
        else:
            factors = {"factor": (shape.d, shape.d), "turn": (shape.d, shape.d)}
        d = shape.d
        column = (d, 1)
        return factors | {"grad": column, "eps": column, "first": column, "second": column}

    def draw(self, shape: QuadraticShape, kind: str, count: int, rng: np.random.Generator) -> Raw:
        return draw_matrices(self.parameters(shape), kind, count, rng)

    def compose(self, shape: QuadraticShape, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        out: Instance
        if shape.layer:
            out = {"upper_gram": raw["upper"].T @ raw["upper"], "input_gram": raw["root"] @ raw["root"].T}
        else:
            out = {"H": raw["factor"] @ raw["factor"].T}
        turned: Matrix = _turned(raw["turn"]) if "turn" in raw else _turned_sides(raw["turn_out"], raw["turn_in"])
        out |= {
            "P": turned @ _trained_columns(raw["grad"], shape),
            "grad": 0 * raw["grad"] if "at_optimum" in imposed else raw["grad"],
            "eps": raw["eps"],
        }
        return out | {k: raw[k] for k in ("first", "second") if "two_updates" in imposed}

    def view(self, instance: Instance) -> QuadraticView:
        return QuadraticView(instance)

    def defects(self, instance: Instance) -> list[str]:
        from linnet.trials.exact import ExactMatrix, compare, is_psd

        p, d = instance["P"], 1
        out = []
        for name in ("H",) if "H" in instance else ("upper_gram", "input_gram"):
            factor = instance[name]
            if not (isinstance(factor, ExactMatrix) and is_psd(factor.core)):
                out.append(f"{name} is not symmetric positive semi-definite")
            d *= factor.shape[0]
        columns = ["grad", "eps", *(name for name in ("first", "second") if name in instance)]
        if p.shape[0] != d or any(instance[name].shape != (d, 1) for name in columns):
            out.append(f"the lengths of P, {', '.join(columns)} do not fit H")
        elif compare(sq(p.T @ p - p.T.eye()), 0) != 0:
            out.append("P^T P is not the identity")
        return out


def _turned(a: Matrix) -> Matrix:
    """Cayley's transform of the skew part: orthogonal, and rational if the matrix is."""
    one, skew = a.eye(), a - a.T
    return (one - skew) @ (one + skew).inv()


def _turned_sides(out: Matrix, into: Matrix) -> Kronecker:
    """The layer's update turned from both sides."""
    return Kronecker(_turned(out), _turned(into))


def _trained_columns(like: Matrix, shape: QuadraticShape) -> Matrix:
    """Unit vectors of the trained directions, (d, k): the first k; of a layer, the entries that the method trains."""
    trained: Sequence[int] = range(shape.k)
    if shape.method in ("s2ft", "lora"):
        d_out, d_in, s = shape.layer
        inside = [(i, j) for i in range(d_out) for j in range(d_in) if i < s or (shape.method == "lora" and j < s)]
        trained = [i * d_in + j for i, j in inside]
    return constant(like, [[float(i == j) for j in trained] for i in range(shape.d)])


Quadratic = QuadraticSetting()
"""The setting of a perturbed quadratic; its attributes are hypotheses to choose from."""
