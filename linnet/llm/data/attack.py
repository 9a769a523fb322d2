"""A black-box attack on a classifier: the few edits of a text that mislead it most, found by asking it.

An attack on characters makes spelling mistakes. One on words drops them, swaps them, or puts others in their place that
lie next to them among a model's embeddings. These can mean the opposite, so that some of the texts it finds would
be labelled otherwise by a reader: it puts models under the same disturbance, and does not measure how often they err.

Words are tried in the order of what the loss gains when they are left out, and of each the worst edit is kept, as in
TextFooler (D. Jin et al., Is BERT really robust?, AAAI 2020) and TextBugger (J. Li et al., NDSS 2019).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from linnet.errors import ArgumentError
from linnet.llm.data.base import Example
from linnet.llm.data.learner import Learner, at_rest

Level = Literal["character", "word"]

NEIGHBOURS = 8
"""Words that are tried in the place of one."""

_WORD = re.compile(r"[^\W\d_]{2,}")
_KEYS = {
    key: (row, column + shift)
    for row, (keys, shift) in enumerate((("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75)))
    for column, key in enumerate(keys)
}
_NEXT_KEYS = {a: [b for b in _KEYS if 0 < math.dist(_KEYS[a], _KEYS[b]) < 1.3] for a in _KEYS}


@dataclass(frozen=True)
class Attacked:
    """What an attack found for one example.

    Attributes:
        original: the example.
        example: the same with the worst text that was found, the original's if none was worse.
        edits: by which the text differs.
        queries: texts that the model was asked.
        losses: of the original and of the worst text.
        correct: whether the original was answered right, and whether the worst text is.
    """

    original: Example
    example: Example
    edits: int
    queries: int
    losses: tuple[float, float]
    correct: tuple[bool, bool]


def attack(
    model: nn.Module,
    learner: Learner,
    examples: Sequence[Example],
    level: Level,
    *,
    edits: int = 3,
    queries: int = 100,
    seed: int = 0,
    until_wrong: bool = True,
    batch_size: int = 32,
    speaker: nn.Module | None = None,
) -> tuple[Attacked, ...]:
    """Return what is found for each example; of an example alone, whatever the others are.

    Args:
        model: asked in evaluation mode; it stays as it is.
        learner: how the model is asked.
        examples: of a classification. Digits are never touched.
        level: "character" or "word".
        edits: at most so many, each of another word; a swap moves two.
        queries: at most so many texts for an example; half of them may be spent on finding the words that matter.
        seed: of the letters and places that are tried.
        until_wrong: whether to stop as soon as an answer is wrong, be it at once; otherwise the loss is raised as
            far as the edits allow.
        batch_size: texts that are asked at a time.
        speaker: a model of the same tokenizer, among whose embeddings words have their neighbours; ``model`` if None.
            Models that are compared are attacked alike if it is the same for all.

    Raises:
        ArgumentError: an unknown level, a number out of its range, or an example without a label.
    """
    if level not in get_args(Level):
        raise ArgumentError(f"level {level!r}; give {' or '.join(get_args(Level))}")
    for name, number, least in (("edits", edits, 0), ("queries", queries, 1), ("batch_size", batch_size, 1)):
        if number < least:
            raise ArgumentError(f"{name}={number}; give {least} or more")
    for example in examples:
        if example.label is None:
            raise ArgumentError(
                f"{example.text[:60]!r} has no label; only a classification keeps its answer when its text is edited"
            )
    near = _Neighbours(model if speaker is None else speaker, learner.tokenizer).near if level == "word" else None
    found = []
    with at_rest(model):
        for example in examples:
            search = _Search(_asking(model, learner, example, batch_size), example, queries, until_wrong)
            search.run(np.random.default_rng([seed, zlib.crc32(example.text.encode())]), edits, near)
            found.append(search.found())
    return tuple(found)


Ask = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]
"""From texts to losses (n,) and whether they are answered right (n,)."""


class _Search:
    """A greedy search for the worst text of one example."""

    def __init__(self, ask: Ask, example: Example, queries: int, until_wrong: bool) -> None:
        self._ask, self._example, self._left, self._until_wrong = ask, example, queries, until_wrong
        self._queries, self._edits = queries, 0
        self._pieces = _pieces(example.text)
        losses, correct = self._asked([example.text])
        self._first = self._now = (float(losses[0]), bool(correct[0]))

    def run(self, rng: np.random.Generator, edits: int, near: Callable[[str], list[str]] | None) -> None:
        """Edit word after word, as long as edits and queries last."""
        touched: set[int] = set()
        for place in self._ranked(rng) if edits and not self._done() else []:
            if place in touched:
                continue
            word = self._pieces[place]
            if near is None:
                tried = [({place}, _with(self._pieces, place, other)) for other in _misspelt(word, rng)]
            else:
                tried = [({place}, _with(self._pieces, place, _like(other, word))) for other in near(word.lower())]
                tried.append(({place}, _without(self._pieces, place)))
                if place + 2 < len(self._pieces) and place + 2 not in touched:
                    tried.append(({place, place + 2}, _swapped(self._pieces, place)))
            tried = tried[: self._left]
            if not tried:
                continue
            losses, correct = self._asked(["".join(pieces) for _, pieces in tried])
            worst = max(range(len(tried)), key=lambda i: (not correct[i], losses[i]))
            if (not correct[worst], losses[worst]) > (not self._now[1], self._now[0]):
                self._now = float(losses[worst]), bool(correct[worst])
                touched |= tried[worst][0]
                self._pieces, self._edits = tried[worst][1], self._edits + 1
            if self._edits == edits or self._done():
                return

    def found(self) -> Attacked:
        """Return where the search stands."""
        return Attacked(
            original=self._example,
            example=replace(self._example, text="".join(self._pieces)) if self._edits else self._example,
            edits=self._edits,
            queries=self._queries - self._left,
            losses=(self._first[0], self._now[0]),
            correct=(self._first[1], self._now[1]),
        )

    def _done(self) -> bool:
        return self._left == 0 or (self._until_wrong and not self._now[1])

    def _asked(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        self._left -= len(texts)
        return self._ask(texts)

    def _ranked(self, rng: np.random.Generator) -> list[int]:
        """Return places of words, those first without which the loss is largest; a few of many, by chance."""
        places = list(range(1, len(self._pieces), 2))
        room = self._left // 2
        if len(places) > room:
            places = sorted(rng.choice(places, room, replace=False).tolist())
        if len(places) < 2:
            return places
        losses, _ = self._asked(["".join(_without(self._pieces, place)) for place in places])
        return [places[i] for i in np.argsort(-losses, kind="stable")]


class _Neighbours:
    """The whole words of a vocabulary, and which of them lie next to a word among a model's embeddings."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._embeddings = _embeddings(model, len(tokenizer))
        self._words, ids = _whole_words(tokenizer)
        vectors = self._embeddings[list(ids)]
        self._vectors = nn.functional.normalize(vectors, dim=1)
        self._known: dict[str, list[str]] = {}

    def near(self, word: str) -> list[str]:
        """Return the nearest other words by the angle between embeddings, the nearest first."""
        if word not in self._known:
            own = self._embeddings[_ids(self._tokenizer, [word])[0]].mean(0)
            # Ties in the order of the alphabet.
            order = torch.argsort(self._vectors @ own, descending=True, stable=True)[: NEIGHBOURS + 1].tolist()
            self._known[word] = [self._words[i] for i in order if self._words[i] != word][:NEIGHBOURS]
        return self._known[word]


@lru_cache(maxsize=2)
def _whole_words(tokenizer: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the words in small letters that are a single token, in the order of the alphabet, and these tokens."""
    known = {tokenizer.convert_tokens_to_string([token]).strip() for token in tokenizer.get_vocab()}
    words = sorted(word for word in known if word.isalpha() and word.islower() and len(word) > 1)
    single = [(word, ids[0]) for word, ids in zip(words, _ids(tokenizer, words), strict=True) if len(ids) == 1]
    return tuple(word for word, _ in single), tuple(token for _, token in single)


def _ids(tokenizer: Any, words: list[str]) -> list[list[int]]:
    """Return the tokens of words as they stand in a text, behind a space."""
    texts = [f" {word}" for word in words]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    return ids


def _embeddings(model: nn.Module, at_least: int) -> torch.Tensor:
    """Return the embeddings (tokens, width) of a model's vocabulary.

    Raises:
        ArgumentError: it has none.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings >= at_least:
            return module.weight.detach()
    raise ArgumentError(
        f"a {type(model).__name__} has no embeddings of the tokenizer's {at_least} tokens, among which words have "
        'neighbours; attack it by level="character"'
    )


def _asking(model: nn.Module, learner: Learner, example: Example, batch_size: int) -> Ask:
    device = next(model.parameters()).device

    def ask(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        losses, correct = [], []
        for start in range(0, len(texts), batch_size):
            asked = [replace(example, text=text) for text in texts[start : start + batch_size]]
            outcome = learner.outcome(model, learner.batch(asked, device))
            losses.append(outcome.losses.double().cpu().numpy())
            correct.append(outcome.correct.cpu().numpy())
        return np.concatenate(losses), np.concatenate(correct)

    return ask


# --- texts as pieces: what is between words at even places, words at odd ones ---------------------


def _pieces(text: str) -> list[str]:
    pieces, end = [], 0
    for found in _WORD.finditer(text):
        pieces += [text[end : found.start()], found.group()]
        end = found.end()
    return [*pieces, text[end:]]


def _with(pieces: list[str], place: int, word: str) -> list[str]:
    return [*pieces[:place], word, *pieces[place + 1 :]]


def _without(pieces: list[str], place: int) -> list[str]:
    """Leave a word out, and a space beside it."""
    before, after = pieces[place - 1], pieces[place + 1]
    if before.endswith(" "):
        before = before[:-1]
    elif not before and after.startswith(" "):
        after = after[1:]
    return [*pieces[: place - 1], before, "", after, *pieces[place + 2 :]]


def _swapped(pieces: list[str], place: int) -> list[str]:
    first, between, second = pieces[place : place + 3]
    return [*pieces[:place], second, between, first, *pieces[place + 3 :]]


def _like(word: str, original: str) -> str:
    """Return a word with a capital letter if the original has one."""
    return word.capitalize() if original[0].isupper() else word


def _misspelt(word: str, rng: np.random.Generator) -> list[str]:
    """Return a word with two letters swapped, without a letter, with one more, and with one of a key next to it.

    The first letter stays; a word of two letters loses and swaps none.
    """
    at = int(rng.integers(1, max(2, len(word) - 1)))
    out = [word[:at] + word[at + 1] + word[at] + word[at + 2 :]] if len(word) > 2 else []
    at = int(rng.integers(1, len(word)))
    out += [word[:at] + word[at + 1 :]] if len(word) > 2 else []
    at = int(rng.integers(1, len(word) + 1))
    out.append(word[:at] + "abcdefghijklmnopqrstuvwxyz"[rng.integers(26)] + word[at:])
    at = int(rng.integers(1, len(word)))
    keys = _NEXT_KEYS.get(word[at].lower(), [])
    if keys:
        key = keys[rng.integers(len(keys))]
        out.append(word[:at] + (key.upper() if word[at].isupper() else key) + word[at + 1 :])
    return [other for other in dict.fromkeys(out) if other != word]
