"""What a disturbed gradient costs a trained network, on the quadratic model of its loss.

The Hessian of a real network is indefinite, so that the quadratic model has no minimum: what is then read instead, a
damped loss or one restricted to a subspace, is asked for and stated, never assumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from linnet.errors import ArgumentError, NotPSDError
from linnet.llm.krylov import Extremes, Krylov, Operator, eigen, extremes, solve
from linnet.llm.objective import Objective
from linnet.llm.vectors import dot, finite, norm


@dataclass(frozen=True)
class Sensitivity:
    """What a disturbed gradient costs one method, on the quadratic model of the loss where its training ended.

    The model is L(u) = loss + nabla^T u + u^T A u / 2 in the trained parameters, A their Hessian and what was added to
    it; the disturbed objective is L(u) + epsilon^T u. With S = A^+, and each value less that of the same objective at
    u = 0:

    - ``extra`` = epsilon^T S epsilon / 2: reading (a), the clean loss that epsilon adds to the least;
    - ``left`` = -(nabla + epsilon)^T S (nabla + epsilon) / 2: reading (b), the least disturbed loss;
    - ``clean`` = ``extra`` + ``optimum``: for reading (c), the clean loss after adapting to the disturbed objective;
    - ``optimum`` = -nabla^T S nabla / 2: the least clean loss.

    An ``_error`` is a bound on the distance to the model's exact value, from the residual r of the linear system:
    r^T S r / 2 <= |r|^2 / (2 m), with m the smallest eigenvalue that was found less its residual. It is as good as m:
    see ``Extremes.missed``. In the restricted reading it is no bound, but the change that the last half of the
    directions brought.

    Attributes:
        reading: "plain"; "damped"; or "restricted", the model on those directions of a Krylov space of nabla and
            epsilon along which it is curved by more than ``cutoff``: another subspace for each method, so that what is
            true of the same loss in nested spaces need not be true of these.
        parameters: how many are trained.
        loss: at the end of training.
        gradient: length of nabla, in the trained parameters.
        disturbance: length of epsilon in the weights.
        extra, left, clean, optimum: see above.
        extra_error, left_error, clean_error, optimum_error: see above.
        printed: this method's side of the printed difference: (eps_par^T H_Phi^+ eps_par) / 2 + eps_perp^T nabla in the
            weights, eps_par the part of epsilon in the range of J; of full fine-tuning that is ``extra``.
        printed_error: bound on its distance to the model's exact value.
        extra_network: ``extra`` on the network itself, penalties included, at the two minimisers of the model: where it
            differs much, the model does not reach that far.
        curvature: ends of the spectrum of A, damping included.
        hessian: whose A is: "true", or "projected" without the curvature of g.
        damping: lambda, added as lambda J^T J: a penalty lambda/2 |theta - theta*|^2 on the weights, the same for all
            methods.
        ridge: added to A as a multiple of the identity.
        cutoff: of the restricted reading, None otherwise.
        kept, dropped: directions of the restricted reading.
        residual: the larger residual of the two linear systems, over the longer of their right-hand sides; None in the
            restricted reading, which solves none.
        steps: products with A.

    Source: liu2025, Theorem 4 and eq. (41)-(53); docs/proofs/quadratic.md.
    """

    reading: Literal["plain", "damped", "restricted"]
    parameters: int
    loss: float
    gradient: float
    disturbance: float
    extra: float
    left: float
    clean: float
    optimum: float
    extra_error: float
    left_error: float
    clean_error: float
    optimum_error: float
    printed: float
    printed_error: float
    extra_network: float
    curvature: Extremes
    hessian: Literal["true", "projected"]
    damping: float
    ridge: float
    cutoff: float | None
    kept: int
    dropped: int
    residual: float | None
    steps: int


@dataclass(frozen=True)
class Comparison:
    """The readings of Theorem 4, PEFT minus full fine-tuning; ``_error`` adds those of the two.

    A difference is positive if PEFT is the more sensitive, in the sense of the reading; it is told from zero where it
    exceeds its error.

    Attributes:
        extra: (a), the extra loss on clean data that epsilon causes.
        left: (b), the loss left on the disturbed objective after adapting to it, each method's own loss included.
        clean: (c), the clean loss after adapting to the disturbed objective, each method's own loss included.
        printed: the difference as liu2025 prints it.

    Source: liu2025, Theorem 4.
    """

    extra: float
    left: float
    clean: float
    printed: float
    extra_error: float
    left_error: float
    clean_error: float
    printed_error: float


def compared(peft: Sensitivity, full: Sensitivity) -> Comparison:
    """Return the readings of Theorem 4.

    Where both methods start from the same network they are those of ``linnet/sensitivity``; after training, each has
    its own optimum, Hessian and epsilon, and nothing is proved of the sign. Ridges may differ: LoRA may need one where
    full fine-tuning needs none.

    Raises:
        ArgumentError: the two were read differently.
    """
    if (peft.reading, peft.damping, peft.cutoff) != (full.reading, full.damping, full.cutoff):
        raise ArgumentError(
            f"PEFT was read {peft.reading} (damping {peft.damping}, cutoff {peft.cutoff}), full fine-tuning "
            f"{full.reading} (damping {full.damping}, cutoff {full.cutoff}); read both alike"
        )
    start = peft.loss - full.loss
    return Comparison(
        peft.extra - full.extra,
        start + peft.left - full.left,
        start + peft.clean - full.clean,
        peft.printed - full.extra,
        peft.extra_error + full.extra_error,
        peft.left_error + full.left_error,
        peft.clean_error + full.clean_error,
        peft.printed_error + full.extra_error,
    )


def sensitivity(
    objective: Objective,
    epsilon: Tensor,
    *,
    damping: float = 0.0,
    ridge: float = 0.0,
    cutoff: float | None = None,
    hessian: Literal["true", "projected"] = "true",
    steps: int = 500,
    spectrum_steps: int = 60,
    tolerance: float | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Return what a disturbed gradient costs, where the objective stands.

    Args:
        objective: at the trained point; with ``g`` that of a PEFT method.
        epsilon: in the weights and flat, at ``base + g(point)``: see :func:`disturbance`.
        damping: lambda of lambda J^T J.
        ridge: added to the Hessian in the trained parameters; LoRA's factors have directions that do not move the
            weights, which damping leaves alone.
        cutoff: asks for the restricted reading: directions of curvature above it.
        hessian: the true one, or J^T H J.
        steps: at most so many products for each linear system, or for the restricted reading's space.
        spectrum_steps: at most so many for the ends of the spectrum.
        tolerance: of the linear systems, see :func:`solve`.
        seed: of Lanczos' start.

    Raises:
        NotPSDError: A is indefinite, and the reading not the restricted one.
        ArgumentError: the loss is not repeatable, or a negative damping, ridge or cutoff.
        ShapeError: epsilon has another length than the weights.
    """
    if min(damping, ridge, cutoff or 0.0) < 0:
        raise ArgumentError(f"damping {damping}, ridge {ridge}, cutoff {cutoff}; none may be negative")
    objective.require_repeatable()
    bent = objective.hessian if hessian == "true" else objective.projected

    def operator(v: Tensor) -> Tensor:
        out = bent(v)
        if damping:
            out = out + damping * objective.pulled(objective.pushed(v))
        return out + ridge * v if ridge else out

    ends = extremes(operator, objective.like, steps=spectrum_steps, seed=seed)
    slope, pulled = objective.gradient(), objective.pulled(epsilon)
    if cutoff is None:
        _require_semidefinite(ends, damping, ridge)
        found = _solved(operator, slope, pulled, ends, tolerance, steps)
    else:
        found = _restricted(operator, slope, pulled, cutoff, steps)
    across, across_error = _across(objective, epsilon, pulled, tolerance, steps)

    def network(step: Tensor) -> float:
        penalty = ridge * dot(step, step)
        if damping:
            moved = objective.weights(objective.stepped(step))
            penalty += damping * sum(norm(a - b) ** 2 for a, b in zip(moved, objective.at_weights.point, strict=True))
        return objective.value(step) + penalty / 2

    return Sensitivity(
        reading="restricted" if cutoff is not None else "damped" if damping or ridge else "plain",
        parameters=objective.size,
        loss=objective.value(),
        gradient=norm(slope),
        disturbance=norm(epsilon),
        extra=found.halves[0],
        left=-found.halves[2],
        clean=found.halves[0] - found.halves[1],
        optimum=-found.halves[1],
        extra_error=found.errors[0],
        left_error=found.errors[2],
        clean_error=found.errors[0] + found.errors[1],
        optimum_error=found.errors[1],
        printed=found.halves[0] + across,
        printed_error=found.errors[0] + across_error,
        extra_network=network(found.disturbed) - network(found.undisturbed),
        curvature=ends,
        hessian=hessian,
        damping=damping,
        ridge=ridge,
        cutoff=cutoff,
        kept=found.kept,
        dropped=found.dropped,
        residual=found.residual,
        steps=found.steps + ends.steps,
    )


@dataclass(frozen=True, eq=False)
class _Read:
    """Half of e^T S e, nabla^T S nabla and (nabla + e)^T S (nabla + e), their errors, and both minimisers."""

    halves: tuple[float, float, float]
    errors: tuple[float, float, float]
    undisturbed: Tensor
    disturbed: Tensor
    residual: float | None
    steps: int
    kept: int = 0
    dropped: int = 0


def _solved(
    operator: Operator, slope: Tensor, pulled: Tensor, ends: Extremes, tolerance: float | None, steps: int
) -> _Read:
    by_eps = solve(operator, pulled, tolerance=tolerance, steps=steps, scale=ends.largest)
    by_slope = solve(operator, slope, tolerance=tolerance, steps=steps, scale=ends.largest)
    floor = ends.smallest - ends.smallest_residual
    if floor <= ends.zero:
        # Singular: the residuals lie in the range, and so does a Krylov space that starts there.
        inside = Krylov(operator, [pulled + slope], max(2, ends.steps))
        while inside.grow():
            pass
        values = eigen(inside)[0] if inside.steps else np.ones(1)
        positive = values[values > ends.zero]
        floor = float(positive.min()) if len(positive) else math.inf
    halves, errors = [], []
    for b, x, residual in (
        (pulled, by_eps.x, by_eps.residual),
        (slope, by_slope.x, by_slope.residual),
        (slope + pulled, by_eps.x + by_slope.x, by_eps.residual + by_slope.residual),
    ):
        # b^T x - x^T A x / 2 with A x = b - r: below the exact value by r^T S r / 2.
        halves.append((dot(b, x) + dot(residual, x)) / 2)
        errors.append(dot(residual, residual) / (2 * floor))
    return _Read(
        (halves[0], halves[1], halves[2]),
        (errors[0], errors[1], errors[2]),
        -by_slope.x,
        -by_slope.x - by_eps.x,
        max(norm(by_eps.residual), norm(by_slope.residual)) / (max(norm(pulled), norm(slope)) or 1.0),
        by_eps.steps + by_slope.steps,
    )


def _restricted(operator: Operator, slope: Tensor, pulled: Tensor, cutoff: float, steps: int) -> _Read:
    starts = [v for v in (pulled, slope) if norm(v) > 0] or [pulled]
    space = Krylov(operator, starts, steps)
    while space.grow():
        pass
    sides = np.stack([(space.basis @ v).double().cpu().numpy() for v in (pulled, slope, slope + pulled)], axis=1)

    def halves(count: int) -> tuple[np.ndarray, np.ndarray, int]:
        values, vectors = np.linalg.eigh(space.matrix[:count, :count])
        kept = values > cutoff
        along = vectors[:, kept].T @ sides[:count]
        return (
            np.sum(along**2 / values[kept, None], axis=0) / 2,
            vectors[:, kept] @ (along / values[kept, None]),
            int(kept.sum()),
        )

    finite(float(np.sum(space.matrix)), "a product with the Hessian")
    found, x, kept = halves(space.steps)
    change = abs(found - halves((space.steps + 1) // 2)[0])
    to_slope, to_both = (-(space.basis.mT @ torch.as_tensor(x[:, i]).to(slope)) for i in (1, 2))
    return _Read(
        (float(found[0]), float(found[1]), float(found[2])),
        (float(change[0]), float(change[1]), float(change[2])),
        to_slope,
        to_both,
        None,
        space.steps,
        kept,
        space.steps - kept,
    )


def _across(
    objective: Objective, epsilon: Tensor, pulled: Tensor, tolerance: float | None, steps: int
) -> tuple[float, float]:
    """Return eps_perp^T nabla in the weights and a bound on its error, eps_perp what no phi can follow."""
    if objective.g is None:
        return 0.0, 0.0
    slope = objective.at_weights.gradient()

    def gram(v: Tensor) -> Tensor:
        return objective.pulled(objective.pushed(v))

    along = solve(gram, pulled, tolerance=tolerance, steps=steps)
    across = epsilon.to(slope) - objective.pushed(along.x)
    # What is missing of eps_par is J (J^T J)^+ r; against nabla it is r^T (J^T J)^+ J^T nabla.
    step = solve(gram, objective.pulled(slope), tolerance=tolerance, steps=steps)
    return dot(across, slope), 2 * norm(along.residual) * norm(step.x)


def _require_semidefinite(ends: Extremes, damping: float, ridge: float) -> None:
    if ends.smallest < -ends.zero:  # the true end lies there, or below
        raise NotPSDError(
            f"the Hessian is indefinite: an eigenvalue lies within {ends.smallest_residual:.2g} of {ends.smallest:.4g} "
            f"(the largest found is {ends.largest:.4g}; damping {damping:g}, ridge {ridge:g}), so that the quadratic "
            f"model has no minimum; add a ridge or damping above {-ends.smallest:.2g} more, or give a cutoff for the "
            "restricted reading"
        )
