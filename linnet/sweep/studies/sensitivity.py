"""What a perturbed gradient costs PEFT and full fine-tuning on the quadratic of a layer: Theorem 4 in its readings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from linnet.methods.base import LinearMethod
from linnet.methods.lora import LoRA
from linnet.methods.subspace import Subspace
from linnet.problem import LayerProblem
from linnet.sweep.choices import FrozenChoice, MethodChoice, S2FTChoice, Sizes, SparseChoice
from linnet.sweep.parts import Network, NonNegative, Task, population
from linnet.sweep.study import MisfitError, Study, mean_and_error

MOST = 1024
"""Weights of a layer whose Hessian is formed."""

BLOCK = 2_000_000
"""Floating-point numbers of the largest array that a block of replicates needs: some 16 MB."""

READINGS = ("extra", "left", "clean", "printed")


@dataclass(frozen=True)
class SensitivityRow:
    """Means over the perturbations of a cell, with standard errors (``_se``).

    Losses are mean squared errors, in squared units of y. ``share_*`` is the share of the perturbations for which a
    difference, PEFT minus full fine-tuning, is positive: PEFT is the more sensitive.

    Attributes:
        method: name of the method.
        selection: how channels or entries are chosen; None where there is nothing to choose.
        size: rank, number of channels, of entries or of dimensions.
        parameters: dimension k of the subspace.
        share: k / d.
        gradient: root mean square entry of the gradient at the start: what the strength is to be compared with.
        extra: reading (a), the extra clean loss that the perturbation causes, PEFT minus full fine-tuning.
        left: reading (b), the loss left on the perturbed objective, PEFT minus full fine-tuning.
        clean: reading (c), the clean loss after adapting to the perturbed objective, PEFT minus full fine-tuning.
        printed: the difference as liu2025 prints it, by eq. (47) and (53).
        extra_peft, extra_full: what ``extra`` is the difference of.
        share_extra, share_left, share_clean, share_printed: of perturbations for which it is positive.
        predicted_extra, predicted_left, predicted_clean, predicted_printed: their exact expectations.
        predicted_extra_peft, predicted_extra_full: the same of these.
    """

    method: str
    selection: str | None
    size: int
    parameters: int
    share: float
    gradient: float
    extra: float
    extra_se: float
    left: float
    left_se: float
    clean: float
    clean_se: float
    printed: float
    printed_se: float
    extra_peft: float
    extra_peft_se: float
    extra_full: float
    extra_full_se: float
    share_extra: float
    share_left: float
    share_clean: float
    share_printed: float
    predicted_extra: float
    predicted_left: float
    predicted_clean: float
    predicted_printed: float
    predicted_extra_peft: float
    predicted_extra_full: float


class SubspaceChoice(MethodChoice):
    """Random subspaces of several dimensions, the smaller ones within the larger ones."""

    method: Literal["Subspace"]
    dimensions: Sizes

    def label(self) -> str:
        """Return the method's name."""
        return "random subspace"

    def most(self, d_out: int, d_in: int) -> tuple[str, int]:
        """There are as many dimensions as weights."""
        return "dimensions", d_out * d_in

    @property
    def fixed(self) -> bool:
        """It is drawn."""
        return False

    def of_size(self, size: int, problem: LayerProblem, rng: np.random.Generator) -> LinearMethod:
        """Return the method, in a subspace that is drawn evenly: direction by direction, so that smaller ones are
        within larger ones of the same stream.
        """
        return Subspace(rng.normal(size=(size, problem.d_out * problem.d_in)).T)


class TangentChoice(MethodChoice):
    """LoRA of several ranks, linearised at its solution."""

    method: Literal["LoRATangents"]
    ranks: Sizes

    def label(self) -> str:
        """Return the method's name."""
        return "LoRA, tangents"

    def most(self, d_out: int, d_in: int) -> tuple[str, int]:
        """Ranks go to the smaller side."""
        return "ranks", min(d_out, d_in)

    def of_size(self, size: int, problem: LayerProblem, rng: np.random.Generator) -> LinearMethod:
        """Return the tangent space {X : (I - P_U) X (I - P_V) = 0}, of dimension r (d_out + d_in - r)."""
        delta = LoRA(size, ties="first").solve(problem).delta
        u, _, vt = np.linalg.svd(delta)
        columns = np.kron(np.eye(problem.d_out), vt[:size].T)
        rows = np.kron(u[:, :size], vt[size:].T)
        return Subspace(np.concatenate([columns, rows], axis=1))


Space = Annotated[
    S2FTChoice | SparseChoice | FrozenChoice | SubspaceChoice | TangentChoice, Field(discriminator="method")
]


class SensitivityStudy(Study):
    """Three readings of "PEFT is more sensitive to perturbation", on the quadratic of one layer.

    The loss of an update u, row by row of the layer, is L(u) = nabla^T u + u^T H u / 2, less its value at 0, with
    H = 2 (upper^T upper) kron gram and nabla the gradient at the pre-trained layer, on the population. The perturbed
    objective is L(u) + eps^T u, eps ~ N(0, strength^2 I). Full fine-tuning minimises it over all u, PEFT over the
    span of what it trains. With K = H^-1 - P (P^T H P)^-1 P^T the exact expectations are, PEFT minus full:

    - (a) ``extra``: -strength^2 / 2 tr K;
    - (b) ``left``: nabla^T K nabla / 2 + strength^2 / 2 tr K;
    - (c) ``clean``: nabla^T K nabla / 2 - strength^2 / 2 tr K;
    - as printed: that of (a), since eps_perp^T nabla has mean zero.

    Cells of equal ``network``, ``task`` and ``seed`` speak of the same problem and of the same subspaces.

    Attributes:
        network, task: the problem; the layer must see all of its inputs and reach all of its outputs.
        methods: what is compared with full fine-tuning.
        strength: standard deviation of each entry of eps, in the units of the gradient.
        replicates: perturbations.

    Source: liu2025, Theorem 4, eq. (41)-(66); docs/proofs/quadratic.md.
    """

    Row: ClassVar[type] = SensitivityRow
    aside: ClassVar[tuple[str, ...]] = ("methods",)

    network: Network
    task: Task = Task()
    methods: Annotated[list[Space], Field(min_length=1)]
    strength: NonNegative = 1.0
    replicates: Annotated[int, Field(ge=2)] = 400

    @model_validator(mode="after")
    def _fits(self) -> Self:
        net = self.network
        below, above = net.widths[: net.layer + 1], net.widths[net.layer + 1 :]
        if min(below) < net.d_in or min(above) < net.d_out:
            raise MisfitError(
                ("network", "widths"),
                f"the Hessian of layer {net.layer} is singular; it has {net.d_in} inputs and {net.d_out} outputs: give "
                f"no width below it less than {net.d_in}, and none above it less than {net.d_out}",
            )
        if net.d_out * net.d_in > MOST:
            raise MisfitError(
                ("network", "widths"),
                f"a layer of {net.d_out} x {net.d_in} weights, whose Hessian is formed; keep it to {MOST} weights",
            )
        try:
            self.task.check(net)
        except MisfitError as err:
            raise MisfitError(("task", *err.place), str(err)) from None
        for i, choice in enumerate(self.methods):
            choice.check(net.d_out, net.d_in, ("methods", i))
        return self

    def problem(self) -> LayerProblem:
        """Return the layer, facing the population."""
        net = self.network.draw(self.stream("network", self.network))
        task = self.task.draw(net, self.network.layer, self.stream("task", self.network, self.task))
        return population(net, self.network.layer, task)

    def run(self) -> list[SensitivityRow]:
        """Return a row for each method and size."""
        problem = self.problem()
        hessian, gradient = quadratic(problem)
        spaces = list(self._spaces(problem))
        found: list[list[dict[str, np.ndarray]]] = [[] for _ in spaces]
        drawing = self.stream("perturbation", self.network, self.task, self.strength)
        block = max(1, BLOCK // len(gradient))
        for start in range(0, self.replicates, block):
            count = min(block, self.replicates - start)
            eps = self.strength * drawing.normal(size=(count, len(gradient))).T
            for seen, (_, basis) in zip(found, spaces, strict=True):
                seen.append(readings(hessian, gradient, basis, eps))
        rows = []
        for seen, (about, basis) in zip(found, spaces, strict=True):
            columns = about | expected(hessian, gradient, basis, self.strength)
            columns["share"] = basis.shape[1] / len(gradient)
            columns["gradient"] = float(np.sqrt(np.mean(gradient**2)))
            for name in seen[0]:
                values = np.concatenate([part[name] for part in seen])
                columns[name], columns[f"{name}_se"] = mean_and_error(values)
                if name in READINGS:
                    columns[f"share_{name}"] = float(np.mean(values > 0))
            assert set(columns) == {f.name for f in fields(SensitivityRow)}
            rows.append(SensitivityRow(**columns))
        return rows

    def _spaces(self, problem: LayerProblem) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Yield what is said of each method, and an orthonormal basis of its subspace (d, k)."""
        for choice in self.methods:
            for size in choice.sizes():
                method = choice.of_size(size, problem, self.stream("choice", self.network, self.task, choice))
                assert isinstance(method, LinearMethod)
                basis = np.linalg.qr(np.asarray(method.directions(problem)))[0]
                yield (
                    {
                        "method": choice.label(),
                        "selection": getattr(choice, "by", None),
                        "size": size,
                        "parameters": basis.shape[1],
                    },
                    basis,
                )


def quadratic(problem: LayerProblem) -> tuple[np.ndarray, np.ndarray]:
    """Return Hessian (d, d) and gradient (d,) of the risk in the layer's update, row by row, at the start."""
    upper, cross = np.asarray(problem.upper), np.asarray(problem.cross)
    return 2 * np.kron(upper.T @ upper, np.asarray(problem.gram)), -2 * (upper.T @ cross).reshape(-1)


def readings(hessian: np.ndarray, gradient: np.ndarray, basis: np.ndarray, eps: np.ndarray) -> dict[str, np.ndarray]:
    """Return what perturbations (d, replicates) cause, each (replicates,): both problems are solved for each of them.

    Args:
        hessian: (d, d).
        gradient: (d,).
        basis: orthonormal, (d, k).
        eps: perturbations of the gradient as columns.

    Source: liu2025, eq. (41)-(53).
    """
    grad = gradient[:, None]
    compressed = basis.T @ hessian @ basis

    def full(slope: np.ndarray) -> np.ndarray:
        return -np.asarray(np.linalg.solve(hessian, slope))

    def peft(slope: np.ndarray) -> np.ndarray:
        return -basis @ np.linalg.solve(compressed, basis.T @ slope)

    def loss(update: np.ndarray, slope: np.ndarray) -> np.ndarray:
        return np.asarray(np.sum((slope + hessian @ update / 2) * update, axis=0))

    clean = {way: way(grad) for way in (full, peft)}
    moved = {way: way(grad + eps) for way in (full, peft)}
    extra = {way: loss(moved[way], grad) - loss(clean[way], grad) for way in (full, peft)}
    inside = basis @ (basis.T @ eps)
    stated_peft = -np.sum(inside * peft(inside), axis=0) / 2 + (eps - inside).T @ gradient
    stated_full = -np.sum(eps * full(eps), axis=0) / 2
    return {
        "extra": extra[peft] - extra[full],
        "left": loss(moved[peft], grad + eps) - loss(moved[full], grad + eps),
        "clean": loss(moved[peft], grad) - loss(moved[full], grad),
        "printed": stated_peft - stated_full,
        "extra_peft": extra[peft],
        "extra_full": extra[full],
    }


def expected(hessian: np.ndarray, gradient: np.ndarray, basis: np.ndarray, strength: float) -> dict[str, float]:
    """Return the expectations over eps ~ N(0, strength^2 I), as columns of ``SensitivityRow``.

    Source: docs/proofs/quadratic.md, ``linnet/sensitivity`` and ``linnet/loss-change``.
    """
    within = np.linalg.inv(basis.T @ hessian @ basis)
    across = np.linalg.inv(hessian)
    seen = basis.T @ gradient
    half = strength**2 / 2
    peft, full = half * float(np.trace(within)), half * float(np.trace(across))
    start = float(gradient @ across @ gradient - seen @ within @ seen) / 2
    return {
        "predicted_extra": peft - full,
        "predicted_left": start + full - peft,
        "predicted_clean": start - (full - peft),
        "predicted_printed": peft - full,
        "predicted_extra_peft": peft,
        "predicted_extra_full": full,
    }
