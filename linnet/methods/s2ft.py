"""S2FT: a few channels of the layer are trained, the rest is frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from linnet._linalg import Array
from linnet.channels import as_selection, check_form, select_channels
from linnet.methods.base import LinearMethod
from linnet.methods.frozen import FrozenFactorLoRA
from linnet.problem import LayerProblem, Update


@dataclass(frozen=True, eq=False)
class S2FT(LinearMethod):
    """Structured sparse fine-tuning: LoRA with one factor frozen to a selection of channels.

    Attributes:
        channels: indices of the trained channels, (s,) or one set a problem (..., s).
        form: "rows" trains the chosen rows of the layer (U = U_C fixed, V trained: query, key, value,
            up and gate projections); "columns" trains the chosen columns (V fixed, U trained: output
            and down projections).

    Raises:
        ChannelError: no channel, one named twice, or (at ``solve``) one that the layer lacks.

    Source: yang2024, Sec. 3.2 and Lemma F.12.
    """

    channels: Sequence[int] | Array
    form: Literal["rows", "columns"] = "rows"

    def __post_init__(self) -> None:
        check_form(self.form)

    def _selected(self, problem: LayerProblem) -> FrozenFactorLoRA:
        size = problem.d_out if self.form == "rows" else problem.d_in
        e = as_selection(self.channels, size, problem.gram)
        return FrozenFactorLoRA(left=e) if self.form == "rows" else FrozenFactorLoRA(right=e)

    def solve(self, problem: LayerProblem) -> Update:
        """Return the update whose trained rows or columns are the least-norm minimiser.

        Rows: ``U_C (upper U_C)^+ cross gram^+``; columns: ``upper^+ cross V_C (V_C^T gram V_C)^+ V_C^T``.

        Raises:
            ChannelError: the channels do not fit the layer.

        Source: yang2024, Lemma F.12; Sec. 4.1 for the columns.
        """
        return self._selected(problem).solve(problem)

    def n_parameters(self, problem: LayerProblem) -> int:
        return self._selected(problem).n_parameters(problem)

    def ends(self, problem: LayerProblem) -> tuple[Array, Array]:
        return self._selected(problem).ends(problem)

    def directions(self, problem: LayerProblem) -> Array:
        return self._selected(problem).directions(problem)

    @classmethod
    def at_budget(cls, problem: LayerProblem, budget: int, rng: np.random.Generator) -> Iterator[tuple[str, Self]]:
        rows = int(np.clip(budget // problem.d_in, 1, problem.d_out))
        columns = int(np.clip(budget // problem.d_out, 1, problem.d_in))
        yield "S2FT rows, random", cls(select_channels(problem, rows, by="random", rng=rng))
        yield "S2FT rows, gradient", cls(select_channels(problem, rows, by="gradient"))
        yield (
            "S2FT columns, random",
            cls(select_channels(problem, columns, by="random", form="columns", rng=rng), form="columns"),
        )
