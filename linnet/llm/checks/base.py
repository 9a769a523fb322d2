"""What a check on a real model is, and how its verdict is reached."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from scipy import stats

from linnet.errors import ArgumentError, NonFiniteError
from linnet.llm.checks.workbench import Workbench

Word = Literal["agrees", "disagrees", "undecided"]
Sense = Literal["above", "within", "at_most"]
LEVEL = 0.95
"""Of all intervals of one check that decide, together; and of all that stand beside."""


@dataclass(frozen=True)
class Promise:
    """One thing that a finding says, as a number that is measured for every seed.

    Attributes:
        says: the statement, in words.
        unit: of the number.
        sense: ``above``, the mean is above 0; ``within``, its size is below ``margin``, an equivalence; ``at_most``,
            every single number is at most ``margin``, which takes no statistics.
        margin: see ``sense``; above 0 for ``within``, and 0 for ``above``.
        counts: whether the verdict of the finding hangs on it; a reading or a bound of linnet's own is judged beside.

    Raises:
        ArgumentError: an unknown sense, or a margin that it does not take.
    """

    says: str
    unit: str
    sense: Sense = "above"
    margin: float = 0.0
    counts: bool = True

    def __post_init__(self) -> None:
        if self.sense not in get_args(Sense):
            raise ArgumentError(f"a promise of sense {self.sense!r}; give {', '.join(get_args(Sense))}")
        takes = {"above": self.margin == 0, "within": 0 < self.margin < math.inf, "at_most": math.isfinite(self.margin)}
        if not takes[self.sense]:
            raise ArgumentError(
                f"{self.says!r} is promised {self.sense} with a margin of {self.margin}; within takes one above 0, "
                "at_most a finite one, above none: subtract it from the number"
            )


@dataclass(frozen=True)
class Effect:
    """What became of a promise.

    Attributes:
        name: of the promise.
        promise: the promise.
        values: the numbers, one a seed.
        mean: of the numbers; of ``at_most``, the largest.
        low: end of the interval of the mean, at the level that keeps all intervals right together, those that decide
            or those beside; minus infinity if there is but one seed.
        high: its other end.
        verdict: agrees, disagrees or undecided.
    """

    name: str
    promise: Promise
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    verdict: Word


class Check(ABC):
    """One finding, measured on a model. Subclasses are one a file, found by being there."""

    id: ClassVar[str]
    source: ClassVar[str]
    finding: ClassVar[str]
    """What the source says, in words."""
    kinds: ClassVar[tuple[str, ...]] = ("causal", "encoder")
    """Kinds of models that it can be measured on."""
    alone: ClassVar[bool] = False
    """Whether it measures time, so that nothing else may be measured beside it."""

    @abstractmethod
    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return what the finding says, by name, for the model at hand; before anything is measured."""

    @abstractmethod
    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the number of every promise, for one seed.

        Further numbers under names that are no promise's are kept beside them, and judged by nobody.
        """


def judge(promises: Mapping[str, Promise], measured: Sequence[Mapping[str, float]]) -> list[Effect]:
    """Return the effects of a check from its numbers, one mapping a seed.

    The intervals are Student's, at a level of 95 % for all effects together that decide, and for all together that
    stand beside (Bonferroni): what is looked at besides makes a verdict no harder to reach.

    Raises:
        NonFiniteError: a number is NaN or infinite, be it one that nothing was promised of.
        ArgumentError: nothing was measured, a promise was not, or something was for a part of the seeds.
    """
    if not promises or not measured:
        raise ArgumentError("a check needs a promise and a seed at least")
    for name in sorted(set(promises).union(*measured)):
        if any(name not in row for row in measured):
            what = "promised and not measured" if name in promises else "measured for one seed and not for another"
            raise ArgumentError(f"{name} was {what}")
    for row in measured:
        if broken := [f"{name} is {value}" for name, value in row.items() if not math.isfinite(value)]:
            raise NonFiniteError(f"{'; '.join(broken)}: a number that is not finite proves nothing")
    tested = Counter(promise.counts for promise in promises.values() if promise.sense != "at_most")
    seeds = len(measured)
    # Halves of the intervals' lengths, in standard deviations of the numbers.
    halves = {
        counts: float(stats.t.isf((1 - LEVEL) / (2 * n), seeds - 1)) / math.sqrt(seeds) if seeds > 1 else math.inf
        for counts, n in tested.items()
    }
    out = []
    for name, promise in promises.items():
        values = np.array([row[name] for row in measured], dtype=float)
        if promise.sense == "at_most":
            largest = float(values.max())
            word: Word = "agrees" if largest <= promise.margin else "disagrees"
            out.append(Effect(name, promise, tuple(values.tolist()), largest, largest, largest, word))
            continue
        mean = float(values.mean())
        spread = halves[promise.counts] * float(values.std(ddof=1)) if seeds > 1 else math.inf
        low, high = mean - spread, mean + spread
        out.append(Effect(name, promise, tuple(values.tolist()), mean, low, high, _word(promise, low, high)))
    return out


def _word(promise: Promise, low: float, high: float) -> Word:
    if promise.sense == "above":
        return "agrees" if low > 0 else "disagrees" if high < 0 else "undecided"
    if -promise.margin < low and high < promise.margin:
        return "agrees"
    return "disagrees" if low > promise.margin or high < -promise.margin else "undecided"


def together(effects: Sequence[Effect]) -> Word:
    """Return the word for a finding: it agrees if all of it does that counts, and disagrees if any of that does."""
    words = {effect.verdict for effect in effects if effect.promise.counts}
    if "disagrees" in words:
        return "disagrees"
    return "agrees" if words == {"agrees"} else "undecided"
