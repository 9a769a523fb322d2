"""How good a trained model is: as the papers state it, and as few examples show it more finely.

The papers compare accuracies, and so these decide. Losses stand beside: judged alike, they decide nothing. Of either,
what is compared is how good it is, so that more is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from linnet.llm.checks.base import Promise, Sense
from linnet.llm.checks.workbench import by_distance
from linnet.llm.data.base import Task
from linnet.llm.training import Score


@dataclass(frozen=True)
class Measure:
    """A way of saying how good a score is.

    Attributes:
        name: of the score's attribute.
        unit: of it.
        better: 1 if more is better, -1 if less is.
        little: a change below it is called little.
        decides: whether verdicts hang on it.
    """

    name: str
    unit: str
    better: int
    little: float
    decides: bool

    def promise(self, says: str, *, little: bool = False) -> Promise:
        """Return the promise that a difference of this measure is above 0, or is little."""
        sense: Sense = "within" if little else "above"
        return Promise(f"{self.name}: {says}", self.unit, sense, self.little if little else 0.0, counts=self.decides)

    def key(self, name: str) -> str:
        """Return the name of a promise, as one of this measure."""
        return name if self.decides else f"{name}, {self.name}"

    def keyed(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Return numbers by the names of this measure's promises."""
        return {self.key(name): value for name, value in numbers.items()}

    def of(self, score: Score) -> float:
        """Return how good a score is."""
        value: float = getattr(score, self.name)
        return self.better * value

    def at(self, scores: Mapping[str, Score], task: Task, distance: str) -> float:
        """Return how good the scores on a task are at a distance; see ``by_distance``."""
        return self.better * by_distance(scores, task, distance, self.name)


ACCURACY = Measure("accuracy", "share of the examples", 1, 0.05, decides=True)
LOSS = Measure("loss", "nats an example", -1, 0.05, decides=False)
"""Its change of 0.05 is a factor of 1.05 in the odds of what is right."""
MEASURES = (ACCURACY, LOSS)
