"""How much one update moves a layer's output as the layer grows wide, by method and optimiser.

A layer f = (W + U V^T) x with n inputs and n outputs; the entries of x and of G = d loss / d f are independent and
standard normal, and both are the same in both steps. The changes of f, per entry i, with the power of n that they
grow with at learning rates that do not depend on n. Plain gradient steps:

- full FT, and S2FT on the channels that it trains: eta G_i |x|^2, power 1;
- LoRA from U = 0, step 1, by U: eta_U G_i |a|^2, power 0;
- LoRA from U = 0, step 2, by V: eta_U^2 eta_V G_i |a|^2 |G|^2 |x|^2, power 2;
- LoRA from V = 0, step 1, by V: eta_V |x|^2 (U b)_i, power 3/2;
- LoRA from V = 0, step 2, by U: eta_U eta_V^2 G_i |b|^2 |x|^4, power 3;

with a = V_0^T x of order 1, since V_0 has entries of variance 1/n, and b = U_0^T G of order n^(1/2), since U_0 has
entries of variance 1/r. Steps by the signs of the gradient (Adam's first step):

- full FT, and S2FT on the channels that it trains: eta |x|_1, power 1;
- LoRA from U = 0, step 1, by U: eta_U |a|_1, power 0;
- LoRA from U = 0, step 2, by V: eta_U eta_V r |x|_1, power 1;
- LoRA from V = 0, step 1, by V: eta_V |x|_1 (U sign b)_i, power 1;
- LoRA from V = 0, step 2, by U: eta_U eta_V r |x|_1, power 1.

In step 1 the other factor stands still: its gradient is zero. In step 2 what moved in step 1 moves by as much again,
and the product of the two moves is as large as the part of the other factor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from linnet.sweep.study import MisfitError, Study, mean_and_error

Optimiser = Literal["gradient", "sign"]
Rates = Literal["one", "yang2024", "linnet"]

BLOCK = 2_000_000
"""Floating-point numbers of the largest array that a block of replicates needs: some 16 MB."""

FULL, S2FT, SHARE, FROM_U, FROM_V = "full FT", "S2FT", "S2FT, a share", "LoRA from U = 0", "LoRA from V = 0"


@dataclass(frozen=True)
class SizeRow:
    """How far one part of one step moves the layer's output, over the replicates of a cell.

    Attributes:
        method: name of the method.
        step: 1 or 2.
        part: what moves: the "layer", the factor "U" or the factor "V".
        trained: outputs that the method can move.
        parameters: how many are trained.
        rate, rate_other: learning rate of what moves, and of LoRA's other factor (None without).
        square: mean square change of f per output that the method can move, over these and the replicates.
        size: its root.
        overall: root mean square change of f over all n outputs.
        predicted_square, predicted_size: the exact expectation of ``square``, and its root.
        predicted_exponent: of n in ``size``, as n grows.
    """

    method: str
    step: int
    part: str
    trained: int
    parameters: int
    rate: float
    rate_other: float | None
    square: float
    square_se: float
    size: float
    size_se: float
    overall: float
    overall_se: float
    predicted_square: float
    predicted_size: float
    predicted_exponent: float


@dataclass(frozen=True)
class Move:
    """A part of a step of a method: what moves, and the powers that its learning rates have in its size."""

    method: str
    step: int
    moves: Literal["layer", "U", "V"]
    powers: tuple[int, int]
    """Of the rate of U (of the layer) and of the rate of V, for the plain gradient; with signs, at most 1 each."""


PARTS = (
    Move(FULL, 1, "layer", (1, 0)),
    Move(S2FT, 1, "layer", (1, 0)),
    Move(SHARE, 1, "layer", (1, 0)),
    Move(FROM_U, 1, "U", (1, 0)),
    Move(FROM_U, 2, "V", (2, 1)),
    Move(FROM_V, 1, "V", (0, 1)),
    Move(FROM_V, 2, "U", (1, 2)),
)

GROWTH = {
    "gradient": {(FROM_U, 1): 0.0, (FROM_U, 2): 2.0, (FROM_V, 1): 1.5, (FROM_V, 2): 3.0},
    "sign": {(FROM_U, 1): 0.0, (FROM_U, 2): 1.0, (FROM_V, 1): 1.0, (FROM_V, 2): 1.0},
}
"""Powers of n at rates that do not depend on n, by method and step; full fine-tuning and S2FT have 1."""


class WidthStudy(Study):
    """Sizes of the first two updates of a layer of one width.

    Cells of equal ``n``, ``rank``, ``replicates`` and ``seed`` have the same x, G and factors, whatever the optimiser
    and the rates.

    Attributes:
        n: inputs and outputs of the layer.
        rank: of LoRA.
        channels: that S2FT trains.
        share: of the channels that S2FT trains where their number grows with the layer.
        optimiser: "gradient", plain steps; or "sign", the signs of the gradient, Adam's first step.
        rates: "one", all learning rates 1; "yang2024", as Sec. 4.2 has them: 1/n for S2FT (and full fine-tuning),
            1 for U and 1/n for V; or "linnet", those that keep every part of order 1: 1/n; 1 for U; and for V
            1/n with signs, for plain steps n^-2 from U = 0 and n^(-3/2) from V = 0.
        replicates: independent draws.

    Source: yang2024, Sec. 4.2; docs/proofs/learning-rates.md.
    """

    Row: ClassVar[type] = SizeRow

    n: Annotated[int, Field(ge=1, le=1 << 20)]
    rank: Annotated[int, Field(ge=1)] = 4
    channels: Annotated[int, Field(ge=1)] = 4
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    optimiser: Optimiser = "gradient"
    rates: Rates = "one"
    replicates: Annotated[int, Field(ge=2)] = 400

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("rank", "channels"):
            if getattr(self, name) > self.n:
                raise MisfitError((name,), f"{name} {getattr(self, name)} in a layer of width {self.n}; give 1 to n")
        return self

    def trained(self, method: str) -> int:
        """Return how many outputs a method can move."""
        return {S2FT: self.channels, SHARE: max(1, round(self.share * self.n))}.get(method, self.n)

    def rate_powers(self, method: str) -> tuple[float, float]:
        """Return the powers of n that the rates of U (of the layer) and of V are."""
        if self.rates == "one":
            return 0.0, 0.0
        if method not in (FROM_U, FROM_V):
            return -1.0, 0.0
        if self.rates == "yang2024" or self.optimiser == "sign":
            return 0.0, -1.0
        return 0.0, -2.0 if method == FROM_U else -1.5

    def run(self) -> list[SizeRow]:
        """Return a row for each part of each method."""
        squares: dict[Move, list[np.ndarray]] = {part: [] for part in PARTS}
        drawing = self.stream("draws", self.n, self.rank, self.replicates)
        for x, g, factor in self._draws(drawing):
            for part in PARTS:
                squares[part].append(np.mean(self._moved(part, x, g, factor) ** 2, axis=-1))
        return [self._row(part, np.concatenate(found)) for part, found in squares.items()]

    def _draws(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield x and G (., n) and a factor of standard normal entries (., n, r), block by block."""
        block = max(1, BLOCK // (self.n * self.rank))
        for start in range(0, self.replicates, block):
            count = min(block, self.replicates - start)
            x, g = rng.normal(size=(2, count, self.n))
            yield x, g, rng.normal(size=(count, self.n, self.rank))

    def _moved(self, part: Move, x: np.ndarray, g: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Return what a part of a step changes of the outputs that the method can move, (., trained)."""
        of_u, of_v = (self.n**power for power in self.rate_powers(part.method))
        if part.method in (FROM_U, FROM_V):
            u, v = lora_start(part.method, factor)
            return lora_step(part, x, g, u, v, of_u, of_v, self.optimiser)
        # Trained channels are the first: all are alike. The step is an outer product; so are its signs.
        left, right = (step(a, self.optimiser) for a in (g[:, : self.trained(part.method)], x))
        return -of_u * left * np.sum(right * x, axis=-1, keepdims=True)

    def _row(self, part: Move, squares: np.ndarray) -> SizeRow:
        mean, error = mean_and_error(squares)
        size, stated = math.sqrt(mean), self.expected_square(part)
        trained = self.trained(part.method)
        lora = part.moves != "layer"
        powers = self.rate_powers(part.method)
        rates = [self.n**power for power in (powers if part.moves != "V" else powers[::-1])]
        kept = math.sqrt(trained / self.n)
        growth = GROWTH[self.optimiser].get((part.method, part.step), 1.0)
        return SizeRow(
            method=part.method,
            step=part.step,
            part=part.moves,
            trained=trained,
            parameters=2 * self.n * self.rank if lora else trained * self.n,
            rate=rates[0],
            rate_other=rates[1] if lora else None,
            square=mean,
            square_se=error,
            size=size,
            size_se=error / (2 * size),
            overall=kept * size,
            overall_se=kept * error / (2 * size),
            predicted_square=stated,
            predicted_size=math.sqrt(stated),
            predicted_exponent=growth + sum(p * k for p, k in zip(powers, self._powers(part), strict=True)),
        )

    def _powers(self, part: Move) -> tuple[int, ...]:
        """Return the powers of the two rates in the size of a part."""
        return part.powers if self.optimiser == "gradient" else tuple(min(1, k) for k in part.powers)

    def expected_square(self, part: Move) -> float:
        """Return the exact expectation of the mean square change of f by a part of a step.

        By the moments of a chi-squared: E |x|^2, |x|^4, |x|^8 are n, n (n + 2), n (n + 2) (n + 4) (n + 6); given x,
        |a|^2 is |x|^2 / n times a chi-squared of r degrees, and given G, |b|^2 is |G|^2 / r times one;
        E |x|_1^2 = n + n (n - 1) 2 / pi; and E (U U^T)^2 = (n + r + 1) / r times the identity.
        """
        n, r = float(self.n), float(self.rank)
        rates = math.prod(
            n ** (2 * power * k) for power, k in zip(self.rate_powers(part.method), self._powers(part), strict=True)
        )
        second, fourth, eighth = n, n * (n + 2), n * (n + 2) * (n + 4) * (n + 6)
        per_output = (n + 2) * (n + 4)  # E |G|^6 / n, that is E |G|^4 G_i^2
        absolute = n + n * (n - 1) * 2 / math.pi
        of_rank = r + r * (r - 1) * 2 / math.pi  # E |a|_1^2
        where = (part.method, part.step)
        if self.optimiser == "gradient":
            plain = {
                (FROM_U, 1): fourth / n**2 * r * (r + 2),
                (FROM_U, 2): eighth / n**2 * r * (r + 2) * per_output,
                (FROM_V, 1): fourth * (second / n) * (n + r + 1) / r,
                (FROM_V, 2): eighth * (1 + 2 / r) * per_output,
            }
            return rates * plain.get(where, fourth)
        signs = {
            (FROM_U, 1): of_rank,
            (FROM_U, 2): r**2 * absolute,
            (FROM_V, 1): absolute * (1 + (r - 1) * 2 / (math.pi * n)),
            (FROM_V, 2): r**2 * absolute,
        }
        return rates * signs.get(where, absolute)


def step(gradient: np.ndarray, optimiser: Optimiser) -> np.ndarray:
    """Return the direction of a step, to be subtracted; of an outer product it is the outer product of the two."""
    return np.sign(gradient) if optimiser == "sign" else gradient


def lora_start(method: str, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return U and V at the start, (., n, r): one is zero, the other random.

    Args:
        method: which one is zero.
        factor: standard normal entries, (., n, r).
    """
    n, r = factor.shape[-2:]
    zero = np.zeros_like(factor)
    return (zero, factor / math.sqrt(n)) if method == FROM_U else (factor / math.sqrt(r), zero)


def lora_step(
    part: Move,
    x: np.ndarray,
    g: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    rate_u: float,
    rate_v: float,
    optimiser: Optimiser,
) -> np.ndarray:
    """Return what one factor's part of a step of LoRA changes of f, (., n), the other factor standing still.

    Args:
        part: which factor, in which step.
        x: input, (., n), the same in both steps.
        g: gradient of the loss by f, (., n), the same in both steps.
        u: U at the start, (., n, r).
        v: V at the start, (., n, r).
        rate_u: learning rate of U.
        rate_v: learning rate of V.
        optimiser: "gradient" or "sign".
    """
    for _ in range(part.step - 1):
        u, v = (
            u - rate_u * step(g, optimiser)[..., None] * step(_carried(v, x), optimiser)[..., None, :],
            v - rate_v * step(x, optimiser)[..., None] * step(_carried(u, g), optimiser)[..., None, :],
        )
    if part.moves == "U":
        # d loss / d U = G (V^T x)^T, an outer product: its effect on f needs no matrix.
        inside = _carried(v, x)
        return -rate_u * step(g, optimiser) * np.sum(step(inside, optimiser) * inside, axis=-1, keepdims=True)
    inside = step(_carried(u, g), optimiser) * np.sum(step(x, optimiser) * x, axis=-1, keepdims=True)
    return -rate_v * np.einsum("...nr,...r->...n", u, inside)


def _carried(factor: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return factor^T vector, (., r)."""
    return np.asarray(np.einsum("...nr,...n->...r", factor, vector))
