"""From examples to numbers: how a model is asked, and what its answer costs.

A loss belongs to an example alone: it does not depend on what else is in the batch, nor on padding, but for rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from linnet.errors import ArgumentError
from linnet.llm.data.base import Example, Task
from linnet.llm.models import LanguageModel
from linnet.llm.modes import evaluating

Call = Callable[..., Any]
"""A model, or what stands for one: called with the names of ``Batch.inputs``, it returns something with ``logits``."""


@dataclass(frozen=True)
class Batch:
    """Examples as tensors, n of them.

    Attributes:
        inputs: what the model is called with: ``input_ids`` and ``attention_mask`` (n, length), padded on the right,
            and what else it takes.
        targets: of a classifier (n,), the labels. Of a language model (n, k), the token that each of the last k
            positions should be followed by, -100 where it does not matter.
    """

    inputs: dict[str, Any]
    targets: Tensor


@dataclass(frozen=True)
class Outcome:
    """What a model made of a batch.

    Attributes:
        losses: (n,), in nats; differentiable where the model is.
        correct: (n,), bool.
    """

    losses: Tensor
    correct: Tensor


class Learner(ABC):
    """How a model is asked. Subclasses are frozen dataclasses with a ``tokenizer``."""

    tokenizer: Any

    @abstractmethod
    def batch(self, examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
        """Return examples as tensors.

        Raises:
            ArgumentError: no examples, or one without what this learner needs.
        """

    @abstractmethod
    def outcome(self, model: Call, batch: Batch) -> Outcome:
        """Return losses, and which answers are right."""


@dataclass(frozen=True)
class Answers(Learner):
    """A language model writes the answer after the text and the question, and then ends.

    The loss is the mean over the answer's tokens, its end among them; text and question cost nothing. An answer is
    correct if each of its tokens is the likeliest after those before it: just then, greedy decoding writes this answer
    and ends.

    Attributes:
        tokenizer: of the model, with an end-of-sequence token.
        question: what follows the text.
    """

    tokenizer: Any
    question: str

    def batch(self, examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
        answers = _tokens(self.tokenizer, [f" {example.answer}" for example in _some(examples)], special=False)
        if self.tokenizer.eos_token_id is None:
            raise ArgumentError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token")
        return self._batch(examples, [[*answer, self.tokenizer.eos_token_id] for answer in answers], device)

    def outcome(self, model: Call, batch: Batch) -> Outcome:
        logits = _last_logits(model, batch)
        counted = batch.targets != -100
        losses = cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")  # 0 where it does not matter
        correct = (logits.argmax(-1) == batch.targets) | ~counted
        return Outcome(losses.sum(1) / counted.sum(1), correct.all(1))

    def _batch(self, examples: Sequence[Example], answers: list[list[int]], device: torch.device | str) -> Batch:
        """Return texts, questions and answers in a row; the last token of an answer is only a target."""
        asked = _tokens(self.tokenizer, [example.text + self.question for example in examples], special=True)
        read = [prompt + answer[:-1] for prompt, answer in zip(asked, answers, strict=True)]
        first = min(len(prompt) for prompt in asked) - 1  # no answer is read off before this position
        if first < 0:
            raise ArgumentError("a text is empty, and so is the question; a model needs a token to begin with")
        width = max(len(tokens) for tokens in read)
        targets = torch.full((len(read), width - first), -100)
        for row, (prompt, answer) in enumerate(zip(asked, answers, strict=True)):
            start = len(prompt) - 1 - first
            targets[row, start : start + len(answer)] = torch.tensor(answer)
        inputs = _padded(read, self.tokenizer, device)
        return Batch({**inputs, "use_cache": False, "logits_to_keep": width - first}, targets.to(device))


@dataclass(frozen=True)
class LabelWords(Answers):
    """A language model classifies: of the classes' words, the likeliest after the text and the question counts.

    The loss is that of the right word among all tokens, as of an answer. A class is one token, with a space before it.

    Attributes:
        tokenizer: of the model.
        question: what follows the text.
        classes: their words, in the order of the labels.

    Raises:
        ArgumentError: fewer than two classes, one that is not one token, or two that are the same token.
    """

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        tokens = self._words()
        for word, found in zip(self.classes, tokens, strict=True):
            if len(found) != 1:
                raise ArgumentError(
                    f"the class {word!r} is {len(found)} tokens of this tokenizer; choose a word that is a single one"
                )
        if len({found[0] for found in tokens}) < max(2, len(tokens)):
            raise ArgumentError(f"classes {self.classes}: give two or more words that are different tokens")

    def batch(self, examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
        words = self._words()
        return self._batch(examples, [words[label] for label in _labels(examples, len(words))], device)

    def outcome(self, model: Call, batch: Batch) -> Outcome:
        logits = _last_logits(model, batch)
        rows, columns = torch.nonzero(batch.targets != -100, as_tuple=True)  # one a row, in the order of the rows
        at, right = logits[rows, columns], batch.targets[rows, columns]
        ids = torch.tensor([word for (word,) in self._words()], device=at.device)
        return Outcome(cross_entropy(at, right, reduction="none"), ids[at[:, ids].argmax(1)] == right)

    def _words(self) -> list[list[int]]:
        return _tokens(self.tokenizer, [f" {word}" for word in self.classes], special=False)


@dataclass(frozen=True)
class Classes(Learner):
    """A classifier on top of an encoder: the loss is the cross-entropy, the likeliest class counts.

    Attributes:
        tokenizer: of the encoder.
        n_classes: as many as the classifier has.
    """

    tokenizer: Any
    n_classes: int

    def batch(self, examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
        targets = torch.tensor(_labels(examples, self.n_classes), device=device)
        tokens = _tokens(self.tokenizer, [example.text for example in examples], special=True)
        return Batch(_padded(tokens, self.tokenizer, device), targets)

    def outcome(self, model: Call, batch: Batch) -> Outcome:
        logits = _full(model(**batch.inputs).logits)
        return Outcome(cross_entropy(logits, batch.targets, reduction="none"), logits.argmax(1) == batch.targets)


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Let a model be asked: in evaluation mode, without gradients. Afterwards it is in the mode in which it was."""
    with evaluating(model), torch.no_grad():
        yield


def learner(language: LanguageModel, task: Task) -> Learner:
    """Return how a pre-trained model is asked in a task.

    Raises:
        ArgumentError: an encoder, which writes nothing, and a task whose answers are free text.
    """
    if language.kind == "causal":
        if task.classes:
            return LabelWords(language.tokenizer, task.question, task.classes)
        return Answers(language.tokenizer, task.question)
    if not task.classes:
        raise ArgumentError(f"{language.name} is an encoder and writes no answers; {task.name} needs a causal model")
    return Classes(language.tokenizer, len(task.classes))


def _some(examples: Sequence[Example]) -> Sequence[Example]:
    if not examples:
        raise ArgumentError("no examples; give at least one")
    return examples


def _labels(examples: Sequence[Example], n_classes: int) -> list[int]:
    labels = []
    for example in _some(examples):
        if example.label is None or not 0 <= example.label < n_classes:
            raise ArgumentError(
                f"{example.text[:60]!r} has the label {example.label}; give one of 0 to {n_classes - 1}"
            )
        labels.append(example.label)
    return labels


def _tokens(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    """Return the tokens of texts, with the tokens that open and close a text if asked.

    Raises:
        ArgumentError: a text is longer than what the tokenizer's model reads.
    """
    # A tokenizer may come with an order to cut and to pad: both are overruled.
    whole = {"truncation": False, "padding": False, "verbose": False}
    found: list[list[int]] = tokenizer(texts, add_special_tokens=special, **whole)["input_ids"]
    longest = max(range(len(found)), key=lambda i: len(found[i]))
    if len(found[longest]) > tokenizer.model_max_length:
        raise ArgumentError(
            f"{texts[longest][:60]!r}... is {len(found[longest])} tokens long; the model reads "
            f"{tokenizer.model_max_length}: cut it, linnet.llm.data.reviews.cut does"
        )
    return found


def _padded(rows: list[list[int]], tokenizer: Any, device: torch.device | str) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` (n, length), padded on the right."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id or 0)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _last_logits(model: Call, batch: Batch) -> Tensor:
    """Return logits (n, k, vocabulary) of the last k positions; a model that knows no better returns them all."""
    return _full(model(**batch.inputs).logits[:, -batch.targets.shape[1] :])


def _full(logits: Tensor) -> Tensor:
    """Return logits in which a loss can be computed: those of half precision in float32."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
