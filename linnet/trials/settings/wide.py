"""One layer of growing width, updated by gradient steps: the setting of the claims about learning rates."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linnet.trials.algebra import Instance, Matrix
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import Ladder, Raw

OPTIMISERS = ("gradient", "sign")
"""A plain gradient step; a step of the gradient's signs, which is Adam's first and stands for its size."""


@dataclass(frozen=True)
class WideShape:
    """LoRA's rank, S2FT's number of channels, and the optimiser by name."""

    rank: int
    channels: int
    optimiser: str


class WideView:
    """A layer f = (W + U V^T) x of n inputs and n outputs, and the gradient G of the loss by f.

    The entries of x and G are independent, of mean ``means`` and variance 1: of order 1 at every width.
    S2FT starts from V = 0; LoRA from U = 0 and V with entries of variance 1/n, and takes two steps on the
    same x and G: after the first alone V has not moved.

    Attributes:
        n: the width.

    Source: yang2024, Sec. 4.2.
    """

    scale = 1.0

    def __init__(self, shape: WideShape, x: np.ndarray, g: np.ndarray, v: np.ndarray) -> None:
        self.shape, self.x, self.g, self.v = shape, x, g, v
        self.n = x.shape[-1]

    def _step(self, gradient: np.ndarray) -> np.ndarray:
        return np.sign(gradient) if self.shape.optimiser == "sign" else gradient

    def s2ft(self, rate: float) -> np.ndarray:
        """Root mean square of one step's change of f, over the trained channels."""
        g = self.g[:, : self.shape.channels]
        moved = self._step(g[:, :, None] * self.x[:, None, :]) @ self.x[:, :, None]
        return rate * np.sqrt(np.mean(moved**2, axis=(1, 2)))

    @cached_property
    def _carried(self) -> np.ndarray:
        """V^T x at the start, (., r)."""
        return np.einsum("bnr,bn->br", self.v, self.x)

    def lora(self, rate_u: float, rate_v: float) -> tuple[np.ndarray, np.ndarray]:
        """Root mean squares of what the second step changes in f by U, and by V."""
        u = -rate_u * self._step(self.g[:, :, None] * self._carried[:, None, :])
        slope = np.einsum("bn,bnr->br", self.g, u)
        dv = -rate_v * self._step(self.x[:, :, None] * slope[:, None, :])
        by_u = np.einsum("bnr,br->bn", u, self._carried)  # the second step on U repeats the first
        by_v = np.einsum("bnr,br->bn", u, np.einsum("bnr,bn->br", dv, self.x))
        return np.sqrt(np.mean(by_u**2, axis=-1)), np.sqrt(np.mean(by_v**2, axis=-1))


class WideSetting(Ladder):
    """Widths over two decades."""

    name = "wide"
    kinds = ("gaussian",)
    onwards = (4.0,)

    plain = Hypothesis("plain gradient steps", shape=lambda s: s.optimiser == "gradient")
    signs = Hypothesis(
        "steps of the size that Adam takes: signs of the gradient", shape=lambda s: s.optimiser == "sign"
    )

    def random_shape(self, rng: np.random.Generator) -> WideShape:
        return WideShape(int(rng.integers(1, 5)), int(rng.integers(1, 9)), str(rng.choice(OPTIMISERS)))

    def small_shapes(self) -> Iterator[WideShape]:
        yield from (WideShape(1, 1, name) for name in OPTIMISERS)

    def size(self, shape: WideShape) -> tuple[int, ...]:
        return (shape.rank, shape.channels)

    def shape_from(self, fields: dict[str, Any]) -> WideShape:
        return WideShape(**fields)

    def parameters(self, shape: WideShape) -> dict[str, tuple[int, int]]:
        return {"means": (2, 1)}

    def draw(self, shape: WideShape, kind: str, count: int, rng: np.random.Generator) -> Raw:
        return {"means": rng.normal(size=(count, 2, 1))}

    def compose(self, shape: WideShape, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        return {"shape": shape, **raw}

    def view(self, instance: Instance) -> WideView:
        """View of no realisation: what stays the same at every width is the shape."""
        return WideView(instance["shape"], *(np.zeros((1, 0)),) * 2, np.zeros((1, 0, instance["shape"].rank)))

    def defects(self, instance: Instance) -> list[str]:
        return ["an exact instance of it does not exist: x and G are random"]

    def sizes(self, view: WideView, count: int, imposed: Collection[str]) -> np.ndarray:
        return np.unique(np.round(np.geomspace(16, 1600, count)))

    def at(
        self,
        shape: WideShape,
        raw: Raw,
        imposed: Collection[str],
        n: int,
        replicates: int,
        rng: np.random.Generator,
        known: Any = None,
    ) -> WideView:
        means = raw["means"][0, :, 0]
        x, g = (mean + rng.normal(size=(replicates, n)) for mean in means)
        return WideView(shape, x, g, rng.normal(size=(replicates, n, shape.rank)) / np.sqrt(n))


Wide = WideSetting()
"""The setting of a layer of growing width; its attributes are hypotheses to choose from."""
