"""GaLore: AdamW whose moments live in the top singular directions of the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from linnet.errors import ArgumentError
from linnet.llm.structure import ROLES, shape, weight
from linnet.llm.systems import places
from linnet.llm.systems.base import Attached, System, among_roles, elements, positive, release, whole


@dataclass(frozen=True)
class GaLore(System):
    """Train every weight of the maps, each step of a matrix being of rank ``rank``.

    A budget counts the moments, ``rank`` times the longer side of every matrix; yang2024 calls them projected
    trainable parameters. The projections themselves, ``rank`` times the shorter side, do not count, as they do not
    there. Norms, biases and embeddings stay frozen.

    Attributes:
        rank: of the projection.
        gap: steps from one projection to the next.
        scale: factor of the step.
        roles: which maps of a block.

    Source: Zhao et al. 2024; in yang2024's comparison.
    """

    name = "GaLore"
    source = "Zhao et al. 2024"
    merges = True
    batches = False
    dense = True
    size = "rank"

    rank: int = 8
    gap: int = 200
    scale: float = 0.25
    roles: tuple[str, ...] = ROLES

    def __post_init__(self) -> None:
        whole(self.rank, "rank")
        whole(self.gap, "gap")
        positive(self.scale, "scale")
        among_roles(self.roles)

    def _count(self, model: nn.Module) -> int:
        return elements(self._weights(model))

    def _count_moments(self, model: nn.Module) -> int:
        shapes = [shape(module) for module in places.maps(model, self.roles, self.layout).values()]
        return sum(min(self.rank, *sides) * max(sides) for sides in shapes)

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        group = {"params": release(self._weights(model), undo), "rank": self.rank}
        return Attached([group], optimizer=functools.partial(ProjectedAdamW, gap=self.gap, scale=self.scale))

    def _weights(self, model: nn.Module) -> list[nn.Parameter]:
        maps = places.maps(model, self.roles, self.layout).values()
        for module in maps:
            weight(module)  # refuses what is quantised
        return [module.get_parameter("weight") for module in maps]

    def _most(self, model: nn.Module) -> int:
        return max(min(shape(module)) for module in places.maps(model, self.roles, self.layout).values())


class ProjectedAdamW(torch.optim.Optimizer):
    """AdamW for matrices, in the space that their gradient's top singular vectors span; plain AdamW for the rest.

    Of a gradient G (m, n) with m <= n, the moments are those of P^T G, with P (m, rank) the top left singular vectors
    of the gradient at every ``gap``-th step, and the step is ``scale P N``, N being AdamW's of P^T G. With m > n, P
    holds right singular vectors and stands on the other side. Moments outlive a change of P.

    At full rank, too, the step is another than AdamW's, which does not turn with the gradient: only where ``eps``
    outweighs the second moment they agree, at scale 1.

    Args:
        params: groups of parameters; of a group with a ``rank`` above 0 all are matrices, and are projected.
        lr: learning rate.
        weight_decay: decoupled.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment.
        gap: steps from one projection to the next.
        scale: factor of the projected step.

    Source: Zhao et al. 2024.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        gap: int = 200,
        scale: float = 0.25,
    ) -> None:
        whole(gap, "gap")
        positive(scale, "scale")
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "rank": 0}
        super().__init__(params, defaults | {"gap": gap, "scale": scale})
        for group in self.param_groups:
            whole(group["rank"], "rank", least=0)
            if group["rank"] and (odd := next((p.ndim for p in group["params"] if p.ndim != 2), None)) is not None:
                raise ArgumentError(f"a parameter of {odd} axes in a group of rank {group['rank']}; give matrices")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step, and return the closure's loss if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        taken = state.get("step", 0)
        gradient = p.grad
        assert gradient is not None
        if group["rank"] and taken % group["gap"] == 0:
            state["projection"] = _top(gradient, group["rank"])
        projection = state.get("projection")
        wide = p.ndim == 2 and p.shape[0] <= p.shape[1]
        if projection is not None:
            gradient = projection.T @ gradient if wide else gradient @ projection
        if not taken:
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] = taken = taken + 1
        (b1, b2), mean, square = group["betas"], state["mean"], state["square"]
        mean.lerp_(gradient, 1 - b1)
        square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        root = (square / (1 - b2**taken)).sqrt_().add_(group["eps"])
        step = (mean / (1 - b1**taken)).div_(root)
        if projection is not None:
            step = group["scale"] * (projection @ step if wide else step @ projection.T)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(step, alpha=-group["lr"])


def _top(gradient: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the top singular vectors (short side, rank) of a matrix, on the side that is no longer than the other."""
    exact = gradient if gradient.dtype.itemsize >= 4 else gradient.float()
    u, _, vt = torch.linalg.svd(exact, full_matrices=False)
    return (u[:, :rank] if gradient.shape[0] <= gradient.shape[1] else vt[:rank].T).to(gradient.dtype)
