"""Which methods a cell compares, and at which sizes: how a sweep names them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field

from linnet.channels import Criterion, select_channels
from linnet.finite_sample import Expectation, expectation, frozen_expectation
from linnet.methods.base import Method
from linnet.methods.frozen import FrozenFactorLoRA
from linnet.methods.full import FullFT
from linnet.methods.lora import LoRA
from linnet.methods.s2ft import S2FT
from linnet.methods.sparse import SparseFT
from linnet.problem import LayerProblem
from linnet.risk import excess_risk
from linnet.sweep.study import MisfitError, Part
from linnet.task import Shift

Sizes = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class MethodChoice(Part):
    """A method, at several sizes; a row each."""

    @abstractmethod
    def label(self) -> str:
        """Return the method's name in tables and figures."""

    @abstractmethod
    def most(self, d_out: int, d_in: int) -> tuple[str, int]:
        """Return the field of the sizes, and the largest that a layer allows."""

    @property
    def fixed(self) -> bool:
        """Whether it is the same method on every sample."""
        return True

    @abstractmethod
    def of_size(self, size: int, problem: LayerProblem, rng: np.random.Generator) -> Method:
        """Return the method at one size. What is random is drawn anew for each problem of a batch."""

    def expected(self, size: int, method: Method, truth: LayerProblem, shift: Shift, n: float) -> Expectation | None:
        """Return what theory expects of the method on samples of ``n``, if it knows."""
        if not self.fixed:
            return None
        if n == math.inf:
            tuned = truth.net.updated(method.solve(truth))
            return Expectation(excess_risk(tuned, shift.train), excess_risk(tuned, shift.test), 0.0)
        return expectation(method, truth, shift, int(n))

    def sizes(self) -> list[int]:
        """Return the sizes: ranks, channels or entries."""
        field = self.most(1, 1)[0]
        return getattr(self, field) if field else [0]

    def alone(self) -> Iterator[tuple[int, Self]]:
        """Yield each size with the choice of that size alone, whose random draws do not depend on the others."""
        field = self.most(1, 1)[0]
        for size in self.sizes():
            yield size, self.model_copy(update={field: [size]}) if field else self

    def check(self, d_out: int, d_in: int, place: tuple[str | int, ...]) -> None:
        """Refuse sizes that the layer does not have.

        Raises:
            MisfitError: names the first.
        """
        field, most = self.most(d_out, d_in)
        for i, size in enumerate(self.sizes() if field else []):
            if size > most:
                what = "rank" if field == "ranks" else field
                raise MisfitError((*place, field, i), f"{what} {size} for a {d_out} x {d_in} layer; give 1 to {most}")


class FullChoice(MethodChoice):
    """All weights of the layer."""

    method: Literal["FullFT"]

    def label(self) -> str:
        """Return the method's name."""
        return "full FT"

    def most(self, d_out: int, d_in: int) -> tuple[str, int]:
        """There is one size."""
        return "", 0

    def of_size(self, size: int, problem: LayerProblem, rng: np.random.Generator) -> Method:
        """Return the method."""
        return FullFT()


class LoRAChoice(MethodChoice):
    """LoRA of several ranks."""

    method: Literal["LoRA"]
    ranks: Sizes

    def label(self) -> str:
        """Return the method's name."""
        return "LoRA"

    def most(self, d_out: int, d_in: int) -> tuple[str, int]:
        """Ranks go to the smaller side."""
        return "ranks", min(d_out, d_in)

    def of_size(self, size: int, problem: LayerProblem, rng: np.random.Generator) -> Method:
        """Return the method; equal singular values, of a full rank say, are no reason to refuse."""
        return LoRA(size, ties="first")


class S2FTChoice(MethodChoice):
    """S2FT of several numbers of channels.

    Attributes:
        by: which channels: the "first" ones, always the same; "random" ones, anew for each sample; or those that a
            score, computed on each sample, puts first (``linnet.channel_scores``).
        largest: whether the largest scores come first.
    """

    method: Literal["S2FT"]
    channels: Sizes
    by: Criterion | Literal["first"] = "random"
    largest: bool = True
    form: Literal["rows", "columns"] = "rows"

    def label(self) -> str:
        """Return the method's name, with the form that is not the usual one, and how channels are chosen."""
        form = "" if self.form == "rows" else " columns"
        by = "" if self.by in ("first", "random") else f", {self.by}, {'largest' if self.largest else 'smallest'}"
        return f"S2FT{form}{by}"

    def most(self, d_out: int, d_in: int) -> tuple[str, int]:
        """There are as many channels as rows or columns."""
        return "channels", d_out if self.form == "rows" else d_in

    @property
    def fixed(self) -> bool:
        """Whether the channels are always the same."""
        return self.by == "first"

    def of_size(self, size: int, problem: LayerProblem, rng: np.random.Generator) -> Method:
        """Return the method, on its choice of channels."""
        if self.by == "first":
            return S2FT(range(size), self.form)
        return S2FT(
            select_channels(problem, size, by=self.by, largest=self.largest, form=self.form, rng=rng), self.form
        )


class SparseChoice(MethodChoice):
    """SpFT of several numbers of random entries."""

    method: Literal["SparseFT"]
    entries: Sizes

    def label(self) -> str:
        """Return the method's name."""
        return "SpFT"

    def most(self, d_out: int, d_in: int) -> tuple[str, int]:
        """There are as many entries as weights."""
        return "entries", d_out * d_in

    @property
    def fixed(self) -> bool:
        """It is drawn anew for each sample."""
        return False

    def of_size(self, size: int, problem: LayerProblem, rng: np.random.Generator) -> Method:
        """Return the method, on entries drawn for each problem."""
        keys = rng.random((*problem.batch_shape, problem.d_out * problem.d_in))
        chosen = np.argsort(np.argsort(keys, axis=-1), axis=-1) < size
        return SparseFT(chosen.reshape(*problem.batch_shape, problem.d_out, problem.d_in))


class FrozenChoice(MethodChoice):
    """LoRA of several ranks with one factor frozen at a Gaussian draw, anew for each sample."""

    method: Literal["FrozenFactorLoRA"]
    ranks: Sizes
    frozen: Literal["U", "V"]

    def label(self) -> str:
        """Return the method's name, and which factor is frozen."""
        return f"LoRA, {self.frozen} frozen"

    def most(self, d_out: int, d_in: int) -> tuple[str, int]:
        """Ranks go to the frozen side."""
        return "ranks", d_out if self.frozen == "U" else d_in

    @property
    def fixed(self) -> bool:
        """It is drawn anew for each sample."""
        return False

    def expected(self, size: int, method: Method, truth: LayerProblem, shift: Shift, n: float) -> Expectation | None:
        """Return what theory expects over the draws of the frozen factor too."""
        return frozen_expectation(self.frozen, size, truth, shift, n)

    def of_size(self, size: int, problem: LayerProblem, rng: np.random.Generator) -> Method:
        """Return the method with its frozen factor."""
        side = problem.d_out if self.frozen == "U" else problem.d_in
        factor = rng.normal(size=(*problem.batch_shape, side, size)) / np.sqrt(size)
        return FrozenFactorLoRA(left=factor) if self.frozen == "U" else FrozenFactorLoRA(right=factor)


Choice = Annotated[FullChoice | LoRAChoice | S2FTChoice | SparseChoice | FrozenChoice, Field(discriminator="method")]


def _distinct(choices: list[Choice]) -> list[Choice]:
    """Refuse two rows that no reader of the table could tell apart.

    Raises:
        MisfitError: names the second.
    """
    seen: set[tuple[str, str | None, int]] = set()
    for i, choice in enumerate(choices):
        field = choice.most(1, 1)[0]
        for j, size in enumerate(choice.sizes()):
            row = (choice.label(), getattr(choice, "by", None), size)
            if row in seen:
                where = (i, field, j) if field else (i,)
                what = f"{choice.label()}, {field} {size}," if field else choice.label()
                raise MisfitError(where, f"{what} is given twice; leave one of them out")
            seen.add(row)
    return choices


Choices = Annotated[list[Choice], Field(min_length=1), AfterValidator(_distinct)]
