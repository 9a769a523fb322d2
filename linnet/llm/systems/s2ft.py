"""S2FT: a few heads and channels of every block."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import nn

from linnet.llm.config import S2FTConfig
from linnet.llm.linear import COLUMNS
from linnet.llm.model import S2FTModel, resolve, trained_channels
from linnet.llm.selection import cost, granule
from linnet.llm.structure import find, shape
from linnet.llm.systems.base import Attached, System, whole
from linnet.llm.systems.injected import added, inject


@dataclass(frozen=True)
class S2FT(System):
    """Train columns of output and down (or rows of the other matrices) that belong to selected heads and channels.

    Attributes:
        most: how many parameters it may train.
        targets: matrices to train a part of.
        strategy: how heads and channels are selected; those that look at data need ``units``, from
            :func:`linnet.llm.calibrate`.
        largest: the largest scores instead of the smallest.
        seed: of the random selection.
        units: what is trained, by structure; selected if None.
        excluded: what must not be selected, in the same form.
        form: permuted or gather; see :class:`linnet.llm.S2FTConfig`.

    Source: yang2024, Section 3.
    """

    name = "S2FT"
    source = "yang2024"
    merges = True
    batches = True
    size = "most"

    most: int = 1_000_000
    targets: tuple[str, ...] = ("output", "down")
    strategy: str = "random"
    largest: bool = False
    seed: int = 0
    units: dict[str, list[int]] | None = None
    excluded: dict[str, list[int]] | None = None
    form: str = "permuted"

    def __post_init__(self) -> None:
        whole(self.most, "most")
        whole(self.seed, "seed", least=0)
        self.config()

    def config(self) -> S2FTConfig:
        """Return what peft would be given.

        Raises:
            ArgumentError: as for :class:`linnet.llm.S2FTConfig`.
        """
        return S2FTConfig(
            targets=list(self.targets),
            n_parameters=self.most,
            strategy=self.strategy,
            largest=self.largest,
            seed=self.seed,
            units=copy.deepcopy(self.units),
            excluded=copy.deepcopy(self.excluded),
            form=self.form,
            layout=None if self.layout is None else {k: v for k, v in vars(self.layout).items() if v is not None},
        )

    def _count(self, model: nn.Module) -> int:
        config = self.config()
        found = {s.key: s for s in resolve(model, config)}
        total = 0
        for name, (axis, channels) in trained_channels(config, found).items():
            rows, columns = shape(model.get_submodule(name))
            total += len(channels) * (rows if axis == COLUMNS else columns)
        return total

    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        inject(S2FTModel, self.config(), model, undo)
        return Attached([{"params": added(model)}])

    @classmethod
    def at_budget(cls, model: nn.Module, n_parameters: int, **fields: Any) -> Self:
        """Return the instance of a budget, at most all of the matrices; see :meth:`System.at_budget`."""
        whole(n_parameters, "n_parameters")
        asked = cls(**{**fields, "most": n_parameters})
        if asked.units is None:
            found = find(model, asked.layout)
            roles = {s.key: [role for role in s.projections if role in asked.targets] for s in found}
            whole_of = [cost(model, s, roles[s.key]) * s.units // granule(s, roles[s.key]) for s in found]
            asked = replace(asked, most=min(n_parameters, max(sum(whole_of), 1)))
        asked.n_moments(model)
        return asked
