"""What models are taught and asked: examples, sets of them, and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from linnet.errors import DataError

Distance = Literal["in", "near", "far"]


@dataclass(frozen=True)
class Example:
    """A text and what is to be said about it.

    Attributes:
        text: what a model reads.
        answer: what is right to say, without white space around it.
        label: of a classification, the place of ``answer`` among the classes; None where the answer is free text.
    """

    text: str
    answer: str
    label: int | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """Examples that nothing is trained on.

    Attributes:
        distance: "in" the distribution of the training examples; "near" it, the same question about other texts; "far"
            from it, another question.
        title: what the examples are, in a line.
        examples: at least one.
    """

    distance: Distance
    title: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Task:
    """Examples to train on, and named sets to evaluate on.

    Attributes:
        name: by which it is drawn.
        train: examples to train on.
        evaluation: sets by name; no text of theirs is trained on.
        question: what follows a text when a model answers in words.
        reference: where the texts come from, and under which licence.
        classes: the answers of a classification, in the order of the labels; empty where answers are free text.

    Raises:
        DataError: an empty set, a text that is both trained and evaluated on, or a label that is not its class.
    """

    name: str
    train: tuple[Example, ...]
    evaluation: Mapping[str, EvaluationSet]
    question: str
    reference: str
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen = {example.text for example in self.train}
        sets = {"train": self.train, **{name: chosen.examples for name, chosen in self.evaluation.items()}}
        for name, examples in sets.items():
            if not examples:
                raise DataError(f"{self.name}: {name} is empty; give at least one example")
            for example in examples:
                self._require_class(example)
                if name != "train" and example.text in seen:
                    raise DataError(
                        f"{self.name}: {name} holds {example.text[:60]!r}, which is trained on; leave it out"
                    )
        for name, chosen in self.evaluation.items():
            if chosen.distance not in get_args(Distance):
                raise DataError(
                    f"{self.name}: {name} is {chosen.distance!r}; give one of {', '.join(get_args(Distance))}"
                )

    def _require_class(self, example: Example) -> None:
        if not self.classes and example.label is None:
            return
        if example.answer not in self.classes or self.classes.index(example.answer) != example.label:
            raise DataError(
                f"{self.name}: {example.text[:60]!r} has the answer {example.answer!r} and the label {example.label}; "
                f"its classes are {', '.join(self.classes) or 'none, so that no label is needed'}"
            )
