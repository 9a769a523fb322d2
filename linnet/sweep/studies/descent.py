"""Gradient descent on what a method trains, from starts of one scale, against the closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from scipy.special import roots_genlaguerre

from linnet import _linalg as la
from linnet.errors import ConvergenceError, LinnetError
from linnet.methods.lora import LoRA
from linnet.methods.s2ft import S2FT
from linnet.network import haar
from linnet.problem import LayerProblem
from linnet.sweep.parts import Network, NonNegative, Task, population
from linnet.sweep.study import MisfitError, Study, mean_and_error

NODES = 64
"""Of the Gauss-Laguerre rule for means over the size of a Gaussian start."""

Start = Literal["usual", "balanced"]
Counts = tuple[Annotated[int, Field(ge=1)], ...]


@dataclass(frozen=True)
class DescentRow:
    """Where descent ended, over the replicates of a cell, with standard errors (``_se``).

    Attributes:
        method: "S2FT", "LoRA", or "LoRA, balanced" for its balanced start.
        size: number of channels, or rank.
        seen: rank of the layer's input, of its ``d_in`` dimensions.
        reached: rank of the upper product on the channels that are trained.
        unseen: dimension of what is trained that the risk is blind to along the whole way: for S2FT the null space of
            its Hessian; for LoRA what of U and V never moves, ``size`` times the dimensions lost below and above.
        distance: root mean square distance of the layer's update from the closed form, over the closed form's norm.
        excess: risk above the closed form's, over what the closed form takes off the pre-trained network's.
        norm_excess: squared norm of what is trained (|U|^2 + |V|^2; S2FT: |V|^2), over the least one, less 1.
        drift: how far U^T U - V^T V moved from its start, in units of the least squared norm; None for S2FT.
        steps: taken until the gradient was small.
        converged: share of the replicates whose gradient became small.
        predicted_distance, predicted_norm_excess: mean over starts, by theory; None where it does not say.
        prediction: "exact" for descent; "flow": exact for gradient flow, which descent is as steps become small;
            "first": leading order as the start becomes small; None without.
    """

    method: str
    size: int
    seen: int
    reached: int
    unseen: int
    distance: float
    distance_se: float
    excess: float
    excess_se: float
    norm_excess: float
    norm_excess_se: float
    drift: float | None
    drift_se: float | None
    steps: float
    steps_se: float
    converged: float
    predicted_distance: float | None
    predicted_norm_excess: float | None
    prediction: str | None


def _usual() -> list[Start]:
    return ["usual"]


class DescentStudy(Study):
    """Gradient descent on the population risk of one layer.

    S2FT trains V of the first channels, from Gaussian entries of standard deviation ``scale / sqrt(d_in)``. LoRA trains
    U and V: from U = 0 and such a V ("usual"), or from orthonormal columns times ``scale`` on both sides ("balanced").
    Steps are the share ``step`` of 1/L. For S2FT, L is the largest eigenvalue of the Hessian; for LoRA it is

        2 |upper|^2 |gram| (|U_0|^2 + |V_0|^2 + 2 |D|) + 2 |upper| |root| |M|

    in spectral norms, D the closed form and M the whitened residual: no less than the curvature at the start, nor
    where flow from the usual start reaches D, for there |U|^2 <= |D| and |V|^2 <= |D| + |V_0|^2.

    Cells of equal ``network``, ``task`` and ``seed`` speak of the same problem; their starts differ by ``scale`` alone.

    Attributes:
        network, task: the problem, drawn once from the seed. The upper and lower products lose rank where a layer is
            narrow.
        channels: of S2FT, numbers of them.
        ranks: of LoRA.
        starts: of LoRA.
        scale: of the start.
        step: in units of 1/L.
        tolerance: size of the gradient to stop at. The unit is its size by the update at the start of training; for
            LoRA times the root of the closed form's norm.
        most: steps after which to stop in any case.
        replicates: independent starts.
    """

    Row: ClassVar[type] = DescentRow
    aside: ClassVar[tuple[str, ...]] = ("channels", "ranks", "starts")

    network: Network
    task: Task = Task()
    channels: Counts = ()
    ranks: Counts = ()
    starts: list[Start] = Field(default_factory=_usual, min_length=1)
    scale: NonNegative
    step: Annotated[float, Field(gt=0, le=1)] = 0.5
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-9
    most: Annotated[int, Field(ge=1)] = 100_000
    replicates: Annotated[int, Field(ge=2)] = 20

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.channels and not self.ranks:
            raise MisfitError(("channels",), "nothing to train; give channels of S2FT, ranks of LoRA, or both")
        d_out, d_in = self.network.d_out, self.network.d_in
        for name, what, most in (("channels", "channels", d_out), ("ranks", "rank", min(d_out, d_in))):
            for i, size in enumerate(getattr(self, name)):
                if size > most:
                    raise MisfitError((name, i), f"{what} {size} for a {d_out} x {d_in} layer; give 1 to {most}")
        if self.task.size == 0:
            raise MisfitError(("task", "size"), "nothing to learn, so that no distance has a unit; give a size above 0")
        try:
            self.task.check(self.network)
        except MisfitError as err:
            raise MisfitError(("task", *err.place), str(err)) from None
        return self

    def problem(self) -> LayerProblem:
        """Return the cell's layer, facing the population."""
        net = self.network.draw(self.stream("network", self.network))
        task = self.task.draw(net, self.network.layer, self.stream("task", self.network, self.task))
        return population(net, self.network.layer, task)

    def run(self) -> list[DescentRow]:
        """Return a row for each method, start and size.

        Raises:
            LinnetError: the method cannot move anything here.
            ConvergenceError: descent diverged.
        """
        problem = self.problem()
        rows = [self._s2ft(problem, size) for size in self.channels]
        return rows + [self._lora(problem, rank, start) for start in self.starts for rank in self.ranks]

    def _s2ft(self, problem: LayerProblem, size: int) -> DescentRow:
        chosen = np.eye(problem.d_out)[:, :size]
        above = problem.upper @ chosen
        curved, gram, pull = above.T @ above, problem.gram, above.T @ problem.cross
        best = S2FT(range(size)).solve(problem)
        least = la.mT(best.right)
        power = _positive(float(la.sq(least)), f"S2FT on {size} channels")
        drawing = self.stream("start", self.network, "S2FT", size)
        start = self.scale * drawing.normal(size=(self.replicates, size, problem.d_in)) / math.sqrt(problem.d_in)

        def gradient(v: np.ndarray) -> tuple[np.ndarray, ...]:
            return (2 * (curved @ v @ gram - pull),)

        sharp = np.full(self.replicates, 2 * _largest(curved) * _largest(gram))
        (end,), steps = descend(
            (start,), gradient, self.step / sharp, self.tolerance * 2 * float(np.linalg.norm(pull)), self.most
        )
        seen, reached = _ranks(problem, above, problem.upper_scale * la.size(chosen))
        unseen = size * problem.d_in - reached * seen
        blind = self.scale**2 * unseen / problem.d_in / power
        return self._row(
            problem,
            {"method": "S2FT", "size": size, "seen": seen, "reached": reached, "unseen": unseen},
            chosen @ end,
            best.delta,
            la.sq(end) / power - 1,
            None,
            steps,
            {"predicted_distance": math.sqrt(blind), "predicted_norm_excess": blind, "prediction": "exact"},
        )

    def _lora(self, problem: LayerProblem, rank: int, start: str) -> DescentRow:
        curved, gram = problem.upper.T @ problem.upper, problem.gram
        pull = problem.upper.T @ problem.cross
        best = LoRA(rank, ties="first").solve(problem)
        assert best.left is not None
        assert best.right is not None
        power = _positive(float(la.sq(best.left) + la.sq(best.right)), f"LoRA of rank {rank}")
        u, v = self._pair(problem, rank, start)

        def gradient(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
            slope = 2 * (curved @ u @ (la.mT(v) @ gram) - pull)
            return slope @ v, la.mT(slope) @ u

        top, residual = _largest(curved) * _largest(gram), problem.residual_svd[1][0]
        ends = _spectral(u) ** 2 + _spectral(v) ** 2 + 2 * _spectral(best.delta)
        sharp = 2 * top * ends + 2 * math.sqrt(top) * residual
        unit = 2 * float(np.linalg.norm(pull)) * math.sqrt(float(np.linalg.norm(best.delta)))
        (left, right), steps = descend((u, v), gradient, self.step / sharp, self.tolerance * unit, self.most)
        seen, reached = _ranks(problem, problem.upper, problem.upper_scale)
        lost = problem.d_in - seen + problem.d_out - reached
        about = {
            "method": "LoRA" if start == "usual" else "LoRA, balanced",
            "size": rank,
            "seen": seen,
            "reached": reached,
            "unseen": rank * lost,
        }
        conserved = la.mT(left) @ left - la.mT(right) @ right - la.mT(u) @ u + la.mT(v) @ v
        return self._row(
            problem,
            about,
            left @ la.mT(right),
            best.delta,
            (la.sq(left) + la.sq(right)) / power - 1,
            np.sqrt(la.sq(conserved)) / power,
            steps,
            predicted(np.linalg.svd(best.delta, compute_uv=False)[:rank], self.scale, problem.d_in, seen, start, lost),
        )

    def _pair(self, problem: LayerProblem, rank: int, start: str) -> tuple[np.ndarray, np.ndarray]:
        drawing = self.stream("start", self.network, start, rank)
        if start == "usual":
            v = self.scale * drawing.normal(size=(self.replicates, problem.d_in, rank)) / math.sqrt(problem.d_in)
            return np.zeros((self.replicates, problem.d_out, rank)), v
        u, v = (haar(d, drawing, (self.replicates,))[..., :rank] for d in (problem.d_out, problem.d_in))
        return self.scale * u, self.scale * v

    def _row(
        self,
        problem: LayerProblem,
        about: dict[str, Any],
        delta: np.ndarray,
        best: np.ndarray,
        norm_excess: np.ndarray,
        drift: np.ndarray | None,
        steps: np.ndarray,
        said: dict[str, Any],
    ) -> DescentRow:
        def left_over(update: np.ndarray) -> Any:
            return la.sq(problem.target - problem.upper @ update @ problem.inputs)

        floor = left_over(best)
        gain = _positive(float(la.sq(problem.target) - floor), about["method"])
        square, square_se = mean_and_error(la.sq(delta - best) / la.sq(best))
        root = math.sqrt(square)
        columns: dict[str, Any] = {"distance": root, "distance_se": square_se / (2 * root) if root > 0 else 0.0}
        values = {"excess": (left_over(delta) - floor) / gain, "norm_excess": norm_excess}
        values["steps"] = np.where(steps < 0, self.most, steps).astype(float)
        for name, value in values.items():
            columns[name], columns[f"{name}_se"] = mean_and_error(value)
        columns["drift"], columns["drift_se"] = (None, None) if drift is None else mean_and_error(drift)
        return DescentRow(**about, **columns, **said, converged=float(np.mean(steps >= 0)))


def descend(
    start: tuple[np.ndarray, ...],
    gradient: Callable[..., tuple[np.ndarray, ...]],
    step: np.ndarray,
    floor: float,
    most: int,
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Follow plain gradient descent, each element of the batch until its gradient is small.

    Args:
        start: arrays (k, ., .), a batch of points.
        gradient: of these arrays, one each.
        step: (k,).
        floor: Euclidean size of the gradient, of all arrays together, at which an element stops.
        most: steps after which all stop.

    Returns:
        The last points, and how many steps each took, (k,); -1 where the gradient is still above ``floor``.

    Raises:
        ConvergenceError: a point left what floating point holds.
    """
    end = tuple(a.copy() for a in start)
    steps = np.full(len(step), -1)
    running, now = np.arange(len(step)), start
    for taken in range(most + 1):
        slopes = gradient(*now)
        size = np.sqrt(sum(la.sq(g) for g in slopes))
        if not np.all(np.isfinite(size)):
            raise ConvergenceError(f"gradient descent diverged within {taken} steps; give a smaller step, or scale")
        still = size > floor
        if taken == most or not np.all(still):
            for last, a in zip(end, now, strict=True):
                last[running] = a
            steps[running[~still]] = taken
            running, now, slopes = running[still], *(tuple(a[still] for a in b) for b in (now, slopes))
            if taken == most or len(running) == 0:
                break
        now = tuple(a - step[running, None, None] * g for a, g in zip(now, slopes, strict=True))
    return end, steps


def predicted(s: np.ndarray, scale: float, d_in: int, seen: int, start: str, lost: int) -> dict[str, Any]:
    """Return what theory says of LoRA, as columns of ``DescentRow``.

    From U = 0 what of V_0 the inputs do not see, V_b, stays where it is, and does not touch the rest. The rest keeps
    U^T U - V^T V, and ends at the closed form. At rank 1, of singular value t, that fixes with w = |V_0|^2 less
    |V_b|^2

        |U|^2 + |V|^2 = sqrt(w^2 + 4 t^2) + |V_b|^2,   2 |U|^2 = sqrt(w^2 + 4 t^2) - w,

    and the distance is |U| |V_b|. At higher rank it leaves the angle between U^T U and V_0^T V_0 open, which does
    not matter in the limit of a small start: U^T U then has the eigenvalues s.

    Args:
        s: (r,), singular values of the closed form.
        scale: of the start.
        d_in: inputs of the layer.
        seen: rank of the layer's input.
        start: "usual" or "balanced".
        lost: dimensions lost below and above.

    Source: docs/proofs/implicit-bias.md.
    """

    def said(distance: float | None, norm_excess: float | None, kind: str | None) -> dict[str, Any]:
        return {"predicted_distance": distance, "predicted_norm_excess": norm_excess, "prediction": kind}

    if scale == 0:  # both gradients vanish: nothing moves
        return said(1.0, -1.0, "exact")
    if start == "balanced":
        return said(0.0, 0.0, "flow") if lost == 0 else said(None, None, None)
    hidden = scale**2 * (d_in - seen) / d_in  # mean of |V_b|^2 / r
    least = 2 * float(np.sum(s))
    if len(s) == 1:
        nodes, weights = roots_genlaguerre(NODES, seen / 2 - 1)
        w = scale**2 / d_in * 2 * nodes
        pair = np.sqrt(w**2 + least**2)
        norm, u = (float(weights @ f / np.sum(weights)) for f in (pair, (pair - w) / 2))
        # sqrt(w^2 + 4 t^2) - 2 t by its small side, so that the excess of a small start is no rounding error.
        more = float(weights @ (w**2 / (pair + least)) / np.sum(weights))
        assert norm > 0
        return said(math.sqrt(hidden * u) / float(s[0]), (more + hidden) / least, "flow")
    if seen == d_in:
        return said(0.0, None, "flow")
    power = float(np.sum(s**2))
    return said(math.sqrt(hidden * least / 2 / power), len(s) * hidden / least, "first")


def _ranks(problem: LayerProblem, above: np.ndarray, scale: Any) -> tuple[int, int]:
    """Return the rank of the layer's input, and that of ``above`` (q, m)."""
    below = la.decompose(problem.inputs, rtol=problem.rtol, scale=problem.reach_scale)
    return int(below.rank), int(la.decompose(above, rtol=problem.rtol, scale=scale).rank)


def _largest(a: np.ndarray) -> float:
    return float(np.linalg.eigvalsh(a)[-1])


def _spectral(a: np.ndarray) -> Any:
    return np.linalg.norm(a, 2, axis=(-2, -1))


def _positive(value: float, who: str) -> float:
    if not value > 0:
        raise LinnetError(f"{who} finds nothing to learn here; give another layer, task or size")
    return value
