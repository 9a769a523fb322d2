"""Promises are judged as stated, equal trainings are done once, and every check measures what it promises."""

import contextlib
import copy
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_language import language

from linnet.errors import ArgumentError, LinnetError, NonFiniteError
from linnet.llm import models, structure
from linnet.llm.checks import (
    CHECKS,
    Promise,
    components,
    fusion,
    increments,
    matched,
    memorisation,
    rank,
    robustness,
    selection,
    workbench,
)
from linnet.llm.checks.base import judge, together
from linnet.llm.checks.deltas import deltas, put
from linnet.llm.checks.workbench import BUDGETS, TUNING_SEED, Run, Workbench, by_distance
from linnet.llm.data.attack import Attacked
from linnet.llm.systems import S2FT, AdaLoRA, BitFit, FullFT, LoRA, PrefixTuning, System, TopLayers
from linnet.llm.training import Score
from linnet.sweep.journal import Journal

QUICK = BUDGETS["quick"]
SMALL = dataclasses.replace(QUICK, steps=2, batch_size=2, train=4, evaluated=4, beyond=4)


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """Let texts be cut once a module: they depend on the seed and the tokenizer alone, and take most of the time."""
    reviews, kept = workbench.reviews, {}

    def drawn(seed, tokenizer, **options):
        key = seed, len(tokenizer), *options.items()
        if key not in kept:
            kept[key] = reviews(seed, tokenizer, **options)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench, "reviews", drawn)
        yield


@pytest.fixture(scope="module")
def benches():
    return {kind: Workbench(language(kind), QUICK) for kind in ("causal", "encoder")}


@pytest.fixture
def bench():
    return Workbench(language("causal"), SMALL)


# --- what becomes of a promise ----------------------------------------------------------------------


def judged(values, *, sense="above", margin=0.0, others=0):
    promises = {str(i): Promise("", "", sense, margin) for i in range(1 + others)}
    return judge(promises, [dict.fromkeys(promises, value) for value in values])[0]


def test_the_interval_of_a_mean_is_students():
    effect = judged([1.0, 2.0, 3.0])
    half = 4.302652730 / math.sqrt(3)  # Student's 97.5 % point of 2 degrees of freedom; the deviation is 1
    assert effect.mean == 2.0
    assert (effect.low, effect.high) == pytest.approx((2 - half, 2 + half), rel=1e-9)
    assert effect.verdict == "undecided"


def test_intervals_are_right_together():
    half = 6.205346817 / math.sqrt(3)  # the 98.75 % point: two promises
    assert judged([1.0, 2.0, 3.0], others=1).low == pytest.approx(2 - half, rel=1e-9)


@pytest.mark.parametrize(
    ("values", "sense", "margin", "word"),
    [
        ([1.0, 1.1, 0.9], "above", 0.0, "agrees"),
        ([-1.0, -1.1, -0.9], "above", 0.0, "disagrees"),
        ([1.0, -1.1, 0.9], "above", 0.0, "undecided"),
        ([1.0, 1.0, 1.0], "above", 0.0, "agrees"),
        ([0.0, 0.0, 0.0], "above", 0.0, "undecided"),
        ([5.0], "above", 0.0, "undecided"),
        ([0.01, -0.01, 0.0], "within", 0.1, "agrees"),
        ([0.0, 0.0], "within", 0.1, "agrees"),
        ([0.11, 0.09, 0.1], "within", 0.1, "undecided"),
        ([0.5, 0.51, 0.49], "within", 0.1, "disagrees"),
        ([-0.5, -0.51, -0.49], "within", 0.1, "disagrees"),
        ([0.0], "within", 0.1, "undecided"),
        ([0.1, 0.0, -7.0], "at_most", 0.1, "agrees"),
        ([0.1, 0.0, 0.11], "at_most", 0.1, "disagrees"),
        ([0.0], "at_most", 0.0, "agrees"),
    ],
)
def test_the_word_for_a_promise(values, sense, margin, word):
    assert judged(values, sense=sense, margin=margin).verdict == word


def test_one_seed_has_no_interval():
    effect = judged([5.0])
    assert (effect.low, effect.high) == (-math.inf, math.inf)


def test_what_takes_no_statistics_costs_none():
    promises = {"a": Promise("", ""), "b": Promise("", "", "at_most", 1.0)}
    measured = [{"a": a, "b": 0.5} for a in (1.0, 2.0, 3.0)]
    assert judge(promises, measured)[0].low == pytest.approx(judged([1.0, 2.0, 3.0]).low)


def test_95_of_100_findings_have_all_their_intervals_right():
    # Six independent effects of mean zero, five seeds: 1 - (1 - 0.05 / 6)^6 = 4.9 % are wrong somewhere.
    promises = {str(i): Promise("", "") for i in range(6)}
    drawn = np.random.default_rng(3).standard_normal((1500, 5, 6))
    wrong = sum(
        any(e.verdict != "undecided" for e in judge(promises, [dict(zip(promises, row, strict=True)) for row in rows]))
        for rows in drawn.tolist()
    )
    assert wrong / len(drawn) == pytest.approx(0.049, abs=4 * math.sqrt(0.049 * 0.951 / len(drawn)))


@pytest.mark.parametrize("name", ["promised", "beside"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_refused(name, value):
    with pytest.raises(NonFiniteError, match=f"{name} is {value}"):
        judge({"promised": Promise("", "")}, [{"promised": 1.0, "beside": 1.0} | {name: value}])


def test_what_was_not_measured_is_no_finding():
    with pytest.raises(ArgumentError, match="a was promised and not measured"):
        judge({"a": Promise("", "")}, [{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(ArgumentError, match="c was measured for one seed and not for another"):
        judge({"a": Promise("", "")}, [{"a": 1.0, "c": 1.0}, {"a": 1.0}])
    for promises, measured in (({}, [{"a": 1.0}]), ({"a": Promise("", "")}, [])):
        with pytest.raises(ArgumentError, match="a promise and a seed at least"):
            judge(promises, measured)


@pytest.mark.parametrize(
    ("sense", "margin"),
    [("above", 0.1), ("within", 0.0), ("within", math.inf), ("at_most", math.nan), ("below", 0.0)],
)
def test_a_promise_says_what_it_can(sense, margin):
    with pytest.raises(ArgumentError):
        Promise("it is so", "nats", sense, margin)


def test_a_finding_is_all_of_its_effects():
    agrees, disagrees, undecided = (judged(values) for values in ([1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]))
    assert together([agrees, agrees]) == "agrees"
    assert together([agrees, undecided]) == "undecided"
    assert together([agrees, disagrees, undecided]) == "disagrees"


def test_what_stands_beside_makes_no_interval_wider():
    rows = [{"0": a, "1": a, "beside": a} for a in (1.0, 2.0, 3.0)]
    promises = {"0": Promise("", ""), "1": Promise("", ""), "beside": Promise("", "", counts=False)}
    found = judge(promises, rows)
    assert [e.low for e in found[:2]] == pytest.approx([judged([1.0, 2.0, 3.0], others=1).low] * 2)
    assert found[2].low == pytest.approx(judged([1.0, 2.0, 3.0]).low)


def test_a_promise_beside_does_not_decide():
    rows = [{"counts": 1.0, "beside": -1.0}, {"counts": 1.1, "beside": -1.1}, {"counts": 0.9, "beside": -0.9}]
    effects = judge({"counts": Promise("", ""), "beside": Promise("", "", counts=False)}, rows)
    assert [e.verdict for e in effects] == ["agrees", "disagrees"]
    assert together(effects) == "agrees"


# --- the bench --------------------------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch):
    """Return a list of the learning rates of all trainings."""
    seen = []

    def watched(*args, lr, **kwargs):
        seen.append(lr)
        return train(*args, lr=lr, **kwargs)

    train = workbench.train
    monkeypatch.setattr(workbench, "train", watched)
    return seen


def test_the_same_training_is_done_once(bench, trainings):
    first = bench.run(LoRA(rank=2), "chain_sum", 0)
    assert bench.run(LoRA(rank=2), "chain_sum", 0, train=SMALL.train) is first
    assert len(trainings) == 1
    for system, task, seed, count in (
        (LoRA(rank=3), "chain_sum", 0, None),
        (LoRA(rank=2), "leg_counting", 0, None),
        (LoRA(rank=2), "chain_sum", 1, None),
        (LoRA(rank=2), "chain_sum", 0, 3),
    ):
        assert bench.run(system, task, seed, train=count) is not first
    assert len(trainings) == 5


def test_a_training_depends_on_its_seed_alone(bench):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = bench.run(LoRA(rank=2), "chain_sum", 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    other = Workbench(bench.language, SMALL)
    other.run(FullFT(), "chain_sum", 1)
    again = other.run(LoRA(rank=2), "chain_sum", 0)
    for name, score in first.scores.items():
        assert np.array_equal(score.losses, again.scores[name].losses)


def test_the_model_is_left_as_it_came(bench):
    before = copy.deepcopy(bench.language.model.state_dict())
    untrained = bench.untrained("chain_sum", 0)
    bench.run(FullFT(), "chain_sum", 0)
    bench.run(S2FT(most=600), "chain_sum", 0)
    CHECKS["llm/fusion"].measure(bench, 0)
    assert all(torch.equal(before[name], value) for name, value in bench.language.model.state_dict().items())
    again = Workbench(bench.language, SMALL).untrained("chain_sum", 0)
    assert all(np.array_equal(score.losses, again[name].losses) for name, score in untrained.items())


def test_rates_are_those_of_the_tuning_seed(trainings):
    budget = dataclasses.replace(SMALL, rates=(1 / 3, 1.0))
    rates = {}
    for first in (0, 42):  # whichever seed asks first
        bench = Workbench(language("causal"), budget)
        for seed in (first, 42 - first):
            rates[first, seed] = bench.run(lambda seed: S2FT(most=600, seed=seed), "chain_sum", seed).rate
        assert len(trainings) == 4  # two to choose by, one for each seed
        trainings.clear()
        bench.run(S2FT(most=600, seed=3), "chain_sum", 5)  # another draw, the same system
        assert len(trainings) == 1
        trainings.clear()
        bench.run(S2FT(most=600, targets=("query",)), "chain_sum", 5)
        assert len(trainings) == 3
        trainings.clear()
    assert len(set(rates.values())) == 1


def test_what_a_seed_decides_is_decided_anew_for_the_tuning_seed():
    asked = []

    def recipe(seed):
        asked.append(seed)
        return S2FT(most=600, units={"model.layers.0/feed_forward": [seed]})

    tuned = Workbench(language("causal"), dataclasses.replace(SMALL, rates=(1.0, 2.0)))
    tuned.run(recipe, "chain_sum", 3)
    assert set(asked) == {3, TUNING_SEED}


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ({0.1: (1, 0.5), 1.0: (2, 0.9), 10.0: (1, 0.4)}, 1.0),  # the most accurate, whatever its loss
        ({0.1: (1, 0.5), 1.0: (1, 0.3), 10.0: (1, 0.4)}, 1.0),  # of equally accurate ones that of the least loss
        ({0.1: (0, 0.5), 1.0: (1, 0.3), 10.0: (2, 4.0)}, 10.0),
    ],
)
def test_the_best_rate_is_chosen(monkeypatch, found, best):
    bench = Workbench(language("causal"), dataclasses.replace(SMALL, rates=tuple(found)))
    first, asked, inside = workbench.RATES["LoRA"], [], bench.task("chain_sum", TUNING_SEED).evaluation

    def trained(self, system, task, seed, rate):
        assert seed == TUNING_SEED
        asked.append(rate)
        return contextlib.nullcontext((SimpleNamespace(model=None), None))

    def scored(model, ask, examples):
        assert examples == inside["chain_sum short"].examples
        correct, loss = found[round(asked[-1] / first, 6)]
        return Score(np.full(2, loss), np.arange(2) < correct)

    monkeypatch.setattr(Workbench, "_trained", trained)
    monkeypatch.setattr(workbench, "evaluate", scored)
    assert bench.rate(LoRA(rank=2), "chain_sum") == pytest.approx(best * first)
    assert len(asked) == 3


def test_all_ways_of_selection_are_trained_at_the_rate_of_the_random_one(trainings):
    bench = Workbench(language("causal"), dataclasses.replace(SMALL, rates=(0.5, 1.0)))
    numbers = CHECKS["llm/selection"].measure(bench, 0)
    assert len(trainings) == 2 + 9
    assert set(trainings[2:]) == {bench.rate(matched.s2ft(bench, "chain_sum"), "chain_sum")}
    assert {v for k, v in numbers.items() if k.endswith("learning rate")} == set(trainings[2:])


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_as_many_examples_are_asked_as_the_budget_has(kind):
    bench = Workbench(language(kind), dataclasses.replace(SMALL, evaluated=7, beyond=5))
    task = bench.task(bench.main_task, 0)
    sizes = {"in": [7], "near": [5], "far": [2, 2, 2] if kind == "causal" else []}  # far ones are shared by three sets
    for distance, expected in sizes.items():
        found = [s.examples for s in task.evaluation.values() if s.distance == distance]
        assert [len(examples) for examples in found] == expected
        if kind == "encoder":
            for examples in found:
                positive = sum(e.label for e in examples)
                assert positive - (len(examples) - positive) in (0, 1)
    run = bench.run(LoRA(rank=1), bench.main_task, 0)
    assert (run.train.n, {n: s.n for n, s in run.scores.items()}) == (
        4,
        {n: len(s.examples) for n, s in task.evaluation.items()},
    )
    few = bench.run(LoRA(rank=1), bench.main_task, 0, distances=("in",))
    assert [task.evaluation[n].distance for n in few.scores] == ["in"]
    assert few.row()["scores"].items() <= run.row()["scores"].items()
    with pytest.raises(ArgumentError, match="no scores near"):
        by_distance(few.scores, task, "near")
    assert "a: loss near" not in workbench.beside({"a": few}, task)


def test_a_rate_that_diverges_is_not_chosen():
    budget = dataclasses.replace(SMALL, rates=(1e200, 1.0))
    assert Workbench(language("causal"), budget).rate(FullFT(), "chain_sum") == workbench.RATES["FullFT"]
    budget = dataclasses.replace(SMALL, rates=(1e200, 1e210))
    with pytest.raises(NonFiniteError, match="Full FT diverges on chain_sum at every learning rate"):
        Workbench(language("causal"), budget).rate(FullFT(), "chain_sum")


def test_a_task_that_is_not_there(benches):
    with pytest.raises(ArgumentError, match="no task 'chain_sum' for tiny; give one of reviews"):
        benches["encoder"].task("chain_sum", 0)
    task = benches["causal"].task("chain_sum", 0)
    with pytest.raises(ArgumentError, match="no scores nowhere"):
        by_distance({}, task, "nowhere")


def test_the_head_has_one_rate_under_every_system(monkeypatch):
    """An encoder's head moves alike where the rest of the model hardly does, whatever the system's own rate is."""
    bench = Workbench(language("encoder"), SMALL)
    task, moved = bench.task("reviews", 0), []
    start = bench.fresh(task, 0).head.weight.detach().clone()
    for name in ("FullFT", "LoRA"):
        monkeypatch.setitem(workbench.RATES, name, 1e-12)
    for system in (FullFT(), LoRA(rank=1)):
        with bench.trained(system, "reviews", 0) as (prepared, _):
            moved.append(prepared.model.head.weight.detach() - start)
    assert float(moved[0].abs().max()) > workbench.HEAD_RATE / 10
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-9)


def test_adapters_of_two_tasks_share_no_random_factor(bench):
    factors = []
    for name in bench.tasks[:2]:
        with bench.prepared(LoRA(rank=1), bench.task(name, 0), 0) as prepared:
            factors.append([p.detach().clone() for n, p in prepared.model.named_parameters() if "lora_A" in n])
    assert factors[0]
    assert all(not torch.allclose(a, b) for a, b in zip(*factors, strict=True))


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_matched_systems_differ_by_less_than_a_channel(benches, kind):
    bench = benches[kind]
    name = bench.main_task
    model = bench.specimen(name)
    low_rank, sparse = matched.lora(bench, name).n_parameters(model), matched.s2ft(bench, name)(0).n_parameters(model)
    assert 0.75 * low_rank < sparse <= low_rank <= matched.budget(bench, name)


def test_a_training_outlives_the_process(tmp_path, monkeypatch):
    budget = dataclasses.replace(SMALL, rates=(0.5, 1.0))

    def asked(journal, **changes):
        bench = Workbench(language("causal"), dataclasses.replace(budget, **changes), archive=journal)
        return bench.run(LoRA(rank=1), "chain_sum", 0), bench.run(S2FT(most=400, seed=1), "chain_sum", 0)

    with Journal(tmp_path / "journal.sqlite", {}) as journal:
        first = asked(journal)
        with monkeypatch.context() as patch:
            patch.setattr(workbench, "train", lambda *_, **__: pytest.fail("trained again"))
            again = asked(journal)
        other = asked(journal, steps=3)
    for a, b, c in zip(first, again, other, strict=True):
        assert a.row() == b.row()
        assert c.train.losses.tolist() != a.train.losses.tolist()
        assert b.train.correct.dtype == bool


# --- every check measures what it promises ----------------------------------------------------------

CASES = [
    (name, kind)
    for name, check in CHECKS.items()
    for kind in check.kinds
    # The tiny tokenizer has no token for a class; and rank 1 is more than 0.1 % of a tiny model.
    if not (kind == "causal" and name in ("llm/data", "llm/rank", "llm/robustness")) and name != "llm/memorisation"
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_check_keeps_its_promises(benches, name, kind):
    check, bench = CHECKS[name], benches[kind]
    promises = check.promises(bench)
    numbers = check.measure(bench, 0)
    assert all(isinstance(float(value), float) for value in numbers.values())
    effects = judge(promises, [numbers])
    assert [e.name for e in effects] == list(promises)
    assert all(e.verdict == "undecided" for e in effects if e.promise.sense != "at_most")  # of one seed
    assert check.promises(bench) == promises
    json.dumps({k: float(v) for k, v in numbers.items()}, allow_nan=False)


def test_memorisation_is_measured_on_a_real_model():
    tiniest = dataclasses.replace(SMALL, steps=1, evaluated=2, beyond=2, train=2, tokens=8)
    check, bench = CHECKS["llm/memorisation"], Workbench(models.load("minilm"), tiniest)
    assert len(judge(check.promises(bench), [check.measure(bench, 0)])) == 15


def test_every_check_says_where_it_is_from():
    for name, check in CHECKS.items():
        assert name == check.id
        assert name.startswith("llm/")
        assert check.finding.endswith(".")
        assert check.source.startswith(("yang2024", "liu2025"))
        assert set(check.kinds) <= {"causal", "encoder"}
    files = {path.stem for path in (Path(workbench.__file__).parent).glob("*.py")}
    assert files - {"__init__", "base", "workbench", "matched", "deltas", "scores"} == {
        name.removeprefix("llm/").replace("-", "_") for name in CHECKS
    }


# --- signs: what a paper found, told to its check, agrees with it -----------------------------------


class Told(Workbench):
    """A bench whose trainings end as a test says: ``told`` maps system, distance and examples to how good they are.

    What is trained on is the distance "train".
    """

    def run(self, recipe, name, seed, *, train=None, tuned=None, distances=("in", "near", "far")):
        system = recipe if isinstance(recipe, System) else recipe(seed)
        task = self.task(name, seed, train=train)
        asked = {n: s for n, s in task.evaluation.items() if s.distance in distances}
        scores = {n: score(self.told(system, s.distance, len(task.train))) for n, s in asked.items()}
        learned = score(self.told(system, "train", len(task.train)))
        return Run(system.n_parameters(self.specimen(name)), 0.1, learned, scores)


class Scored(Score):
    """A score whose accuracy is another number than its loss turned round, so that they cannot be mistaken."""

    @property
    def accuracy(self):
        return 10 - self.loss / 3


def score(good):
    """Return a score of three times this below a loss of zero, and of an accuracy that is ten more."""
    return Scored(np.array([-3 * good]), np.array([True]))


def told(kind, goods, budget=SMALL, **sizes):
    out = Told(language(kind, **sizes), budget)
    out.told = goods
    return out


def measured(name, bench):
    """Return what decides, by promise; where losses stand beside, they say the same, three times over."""
    numbers, promises = CHECKS[name].measure(bench, 0), CHECKS[name].promises(bench)
    for key in promises:
        if key.endswith(", loss"):
            assert numbers[key] == pytest.approx(3 * numbers[key.removesuffix(", loss")])
            assert promises[key].says.startswith("loss: ")
            assert not promises[key].counts
    return {key: numbers[key] for key, promise in promises.items() if promise.counts}


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_table_4_agrees_with_its_paper(kind):
    columns = [
        ("random", False),
        *((w, big) for w in ("weight", "activation", "product", "gradient") for big in (1, 0)),
    ]
    rows = {
        "in": dict(zip(columns, (86.6, 85.9, 85.3, 84.7, 87.3, 85.1, 87.2, 85.4, 86.2), strict=True)),
        "away": dict(zip(columns, (79.6, 78.4, 78.4, 77.1, 80.0, 76.8, 79.8, 77.8, 79.5), strict=True)),
    }

    def good(system, distance, n):
        row = rows["in" if distance == "in" else "away"]
        return row[system.strategy, system.largest]

    found = measured("llm/selection", told(kind, good))
    away = {"causal": "far", "encoder": "near"}[kind]
    assert all(value > 0 for value in found.values())
    assert found["A smallest (in)"] == pytest.approx(87.3 - 86.6)
    assert found["S smallest (in)"] == pytest.approx(87.2 - 86.6)
    assert found["W largest (in)"] == pytest.approx(86.6 - 85.9)
    assert found[f"G largest ({away})"] == pytest.approx(79.6 - 77.8)
    assert found[f"R ({away})"] == pytest.approx(79.6 - (78.4 + 78.4 + 77.1 + 80.0 + 76.8 + 79.8 + 77.8 + 79.5) / 8)


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_figure_2_of_yang2024_agrees_with_its_paper(kind, monkeypatch):
    away = {"causal": "far", "encoder": "near"}[kind]
    goods = {
        ("SpFT", "train"): 0.9,
        ("LoRA", "train"): 0.7,
        ("SpFT", away): 0.6,
        ("FullFT", away): 0.5,
        ("LoRA", away): 0.2,
    }
    monkeypatch.setattr(memorisation, "RATIOS", (0.5, 0.4))  # rank 1 is more than 10 % of a tiny model
    bench = told(kind, lambda system, distance, n: goods.get((type(system).__name__, distance), 7.0))
    found = measured("llm/memorisation", bench)
    expected = {"training at {}": 3 * 0.2, "SpFT over full FT at {}": 0.1, "full FT over LoRA at {}": 0.3}
    assert found == pytest.approx({k.format(at): v for k, v in expected.items() for at in ("50 %", "40 %")})


@pytest.mark.parametrize("kind", ["causal", "encoder"])  # the encoder has no gate
def test_figure_4_is_read_by_groups(kind):
    losses = {"query": 5.0, "key": 7.0, "value": 3.0, "up": 4.0, "gate": 2.0, "output": 1.0, "down": 2.0}
    found = measured("llm/components", told(kind, lambda system, *_: -losses[system.targets[0]]))
    middle = 3.0 if kind == "causal" else 3.5
    assert list(found.values()) == pytest.approx([6.0 - middle, middle - 1.5])


def test_table_5_agrees_with_its_paper(bench, monkeypatch):
    alone = {"LoRA": (83.1, 77.2), "S2FT": (86.6, 79.6), "S2FT on others": (86.6, 79.6)}
    fused = {"LoRA": (79.8, 71.6), "S2FT": (82.0, 72.2), "S2FT on others": (84.0, 75.3)}

    def adapter(bench, recipe, name, seed):
        made = recipe if isinstance(recipe, LoRA) else recipe(seed)
        label = "LoRA" if recipe is made else "S2FT" if made.excluded is None else "S2FT on others"
        return fusion._Adapter({"label": label}, score(alone[label][names.index(name)]))

    def mark(model, increments, weight):
        model.label = increments["label"]  # the second one says which pair it is

    names = list(bench.tasks[:2])
    monkeypatch.setattr(fusion, "_adapter", adapter)
    monkeypatch.setattr(fusion, "put", mark)
    monkeypatch.setattr(
        fusion, "_inside", lambda bench, model, name, seed: score(fused[model.label][names.index(name)])
    )
    found = measured("llm/fusion", bench)
    for at in fusion.WEIGHTS:
        assert found[f"LoRA ({at})"] == pytest.approx((3.3 + 5.6) / 2 - (2.6 + 4.3) / 2)
        assert found[f"overlapping ({at})"] == pytest.approx((4.6 + 7.4) / 2 - (2.6 + 4.3) / 2)


def test_figure_2_agrees_with_its_paper():
    full = {5: 0.7, 10: 0.8, 20: 0.9, 50: 1.1, 100: 1.2, 200: 1.3}

    def good(system, distance, n):
        return full[n // 2] if isinstance(system, FullFT) else 1.0

    found = measured("llm/data", told("encoder", good, dataclasses.replace(SMALL, steps=200)))
    assert found == pytest.approx(
        {"5 a class": 0.3, "10 a class": 0.2, "50 a class": 0.1, "100 a class": 0.2, "200 a class": 0.3, "gain": 0.6}
    )


@pytest.mark.parametrize(("steps", "most"), [(1, 10), (50, 50), (99, 50), (100, 100), (200, 200)])
def test_sizes_that_a_training_cannot_see_are_left_out(steps, most):
    bench = told("encoder", lambda *_: 1.0, dataclasses.replace(SMALL, steps=steps, batch_size=2))
    names = set(measured("llm/data", bench))
    assert names == {"gain", *(f"{size} a class" for size in (5, 10, 50, 100, 200) if size <= most)}
    assert f"from 5 to {most} examples a class" in CHECKS["llm/data"].promises(bench)["gain"].says


def test_figure_3_agrees_with_its_paper():
    good = {LoRA(rank=8): 0.5, LoRA(rank=16): 0.51, LoRA(rank=32): 0.52, TopLayers(): 0.4, TopLayers(layers=2): 0.6}
    found = measured("llm/rank", told("encoder", lambda system, *_: good[system]))
    assert found == pytest.approx({"rank 16": 0.01, "rank 32": 0.02, "layers": 0.2 - 0.02})


def test_theorem_4_2_is_read_as_losses():
    far = {"FullFT": 2.0, "LoRA": 3.0, "S2FT": 1.0}
    bench = told("causal", lambda system, distance, n: -(far[type(system).__name__] if distance == "far" else 0.5))
    bench.untrained = lambda name, seed: {
        n: score(-{"in": 4.0, "near": 9.0, "far": 1.5}[s.distance])
        for n, s in bench.task(name, seed).evaluation.items()
    }
    assert measured("llm/forgetting", bench) == pytest.approx(
        {"S2FT bounded": 3 * (1.5 + 3 * 2.0 - 1.0), "LoRA at least the shift": 3.0, "S2FT over LoRA": 6.0}
    )
    numbers = CHECKS["llm/forgetting"].measure(bench, 0)
    assert (numbers["S2FT: gained"], numbers["S2FT: forgotten"]) == (10.5, -1.5)


def test_tables_3_to_5_agree_with_their_paper(benches, monkeypatch):
    clean = {FullFT: 0.90, LoRA: 0.91, AdaLoRA: 0.89, PrefixTuning: 0.90, BitFit: 0.88}
    under = {FullFT: 0.50, LoRA: 0.40, AdaLoRA: 0.45, PrefixTuning: 0.30, BitFit: 0.20}

    def accuracies(bench, system, seed):
        return clean.get(type(system), 0.90), {"word": under.get(type(system), 0.44) - 0.1, "character": 0.6}

    monkeypatch.setattr(robustness, "_accuracies", accuracies)
    found = measured("llm/robustness", benches["encoder"])
    assert found["LoRA: clean"] == pytest.approx(-0.01)
    assert found["LoRA: attacked"] == pytest.approx(0.05)
    assert found["BitFit: attacked"] == pytest.approx(0.15)
    assert found["IA3: attacked"] == pytest.approx(0.03)
    assert len(found) == 10


class Moved(Workbench):
    """A bench on which training moves every parameter by as much as the class says, and LoRA's factors to 0.02."""

    @contextlib.contextmanager
    def trained(self, recipe, name, seed, *, train=None):
        amount = {"FullFT": 0.1, "BitFit": 0.05, "PrefixTuning": 0.001}.get(type(recipe).__name__)
        with self.prepared(recipe, self.task(name, seed), seed) as prepared, torch.no_grad():
            for p in prepared.parameters:
                p.fill_(0.02) if amount is None else p.add_(amount)
            yield prepared, None


def test_figure_1_agrees_with_its_paper():
    numbers = CHECKS["llm/increments"].measure(Moved(language("encoder"), SMALL), 0)
    assert numbers["full FT: root mean square"] == pytest.approx(0.1)
    assert numbers["LoRA: root mean square"] == pytest.approx(2 * 8 * 0.02**2)  # scale, rank, factors
    for label, size, near in (("LoRA", 0.0064, 1.0), ("BitFit", 0.05, 0.0), ("Prefix", 0.001, 1.0)):
        assert numbers[f"{label} narrower"] == pytest.approx(math.log(0.1 / size))
        assert numbers[f"{label} more peaked"] == near
    assert numbers["LoRA narrower, all blocks"] == pytest.approx(math.log(0.1 / 0.0064))
    assert numbers["Prefix: root mean square of keys and values"] == pytest.approx(1, abs=0.1)


# --- what the checks compare ------------------------------------------------------------------------


def test_the_smallest_activations_are_chosen():
    budget = dataclasses.replace(SMALL, batch_size=4)  # one batch holds all that is calibrated on
    bench = Workbench(language("causal"), budget)
    task = bench.task("chain_sum", 0)
    inputs = bench.learner(task).batch(task.train).inputs
    down = bench.language.model.model.layers[1].mlp.down_proj
    seen = []
    handle = down.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    bench.language.model(**inputs)
    handle.remove()
    sizes = seen[0][inputs["attention_mask"].bool()].square().mean(0)
    order = torch.argsort(sizes).tolist()
    units = {
        largest: selection.recipe(bench, "chain_sum", "activation", largest)(0).units["model.layers.1/feed_forward"]
        for largest in (False, True)
    }
    n = len(units[False])
    assert n > 1
    assert set(units[False]) == set(order[:n])
    assert set(units[True]) == set(order[-n:])


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_every_way_trains_as_much_and_other_units(benches, kind):
    bench = benches[kind]
    name = bench.main_task
    made = [selection.recipe(bench, name, *way)(0) for way in selection.WAYS.values()]
    assert len({system.n_parameters(bench.specimen(name)) for system in made}) == 1
    assert len({json.dumps(fusion._units(bench, system)) for system in made}) == len(made) == 9


def test_one_hundredth_of_the_data_is_looked_at(bench, monkeypatch):
    seen = []
    calibrate = selection.calibrate

    def watched(config, model, batches, **options):
        seen.append((len(batches), options["fraction"]))
        return calibrate(config, model, batches, **options)

    monkeypatch.setattr(selection, "calibrate", watched)
    for strategy in ("activation", "gradient"):
        selection.recipe(bench, "chain_sum", strategy, False)(0)
    assert seen == [(2, 0.01), (2, 0.01)]  # batches of two, of four examples


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_every_component_has_the_same_budget(heads):
    bench = Workbench(language("causal", num_attention_heads=heads[0], num_key_value_heads=heads[1]), SMALL)
    most = components.budget(bench, "chain_sum")
    assert components.roles(bench, "chain_sum") == list(structure.ROLES)
    for role in structure.ROLES:
        assert S2FT(most=most, targets=(role,)).n_parameters(bench.specimen("chain_sum")) == most


@pytest.mark.parametrize(
    "system",
    [
        LoRA(rank=3),
        AdaLoRA(rank=2, steps=4),
        S2FT(most=700),
        S2FT(most=2000, targets=("query", "key", "down")),
        S2FT(most=700, form="gather"),
    ],
)
def test_increments_make_of_the_base_what_training_made(system):
    bench = Workbench(language("causal"), dataclasses.replace(SMALL, steps=4))
    task = bench.task("chain_sum", 0)
    with bench.trained(system, "chain_sum", 0) as (prepared, ask):
        batch = ask.batch(task.train)
        expected = ask.outcome(prepared.model, batch).losses.detach()
        found = deltas(prepared.model)
    model = bench.fresh(task, 0)
    before = ask.outcome(model, batch).losses.detach()
    put(model, found)
    assert torch.allclose(ask.outcome(model, batch).losses, expected, rtol=1e-10, atol=0)
    assert not torch.allclose(before, expected, rtol=1e-5, atol=0)
    put(model, found, -1.0)
    assert torch.allclose(ask.outcome(model, batch).losses, before, rtol=1e-10, atol=0)


def test_a_model_without_adapters_has_no_increments(bench):
    with pytest.raises(LinnetError, match="no adapters beside its maps"):
        deltas(bench.language.model)


def test_fused_adapters_are_apart_where_they_should_be(bench, monkeypatch):
    seen = []
    adapter = fusion._adapter

    def watched(bench, recipe, name, seed):
        if not isinstance(recipe, LoRA):
            seen.append((name, fusion._units(bench, recipe(seed))))
        return adapter(bench, recipe, name, seed)

    monkeypatch.setattr(fusion, "_adapter", watched)
    numbers = CHECKS["llm/fusion"].measure(bench, 0)
    (first, own), (second, same), (third, others) = seen
    assert (first, second, third) == ("chain_sum", "spell_backward", "spell_backward")
    assert same == own
    assert own.keys() == others.keys()
    assert not any(set(own[key]) & set(others[key]) for key in own)
    assert all(len(own[key]) == len(others[key]) for key in own)
    assert (
        numbers["disjoint: fused (1 each), chain_sum: loss"] != numbers["overlapping: fused (1 each), chain_sum: loss"]
    )


def test_the_increments_of_full_fine_tuning_are_what_it_added():
    bench = Workbench(language("causal"), SMALL)
    task = bench.task("chain_sum", 0)
    with bench.trained(FullFT(), "chain_sum", 0) as (prepared, _):
        after = prepared.model.model.layers[-1].self_attn.q_proj.weight.detach().clone()
    delta = after - bench.fresh(task, 0).model.layers[-1].self_attn.q_proj.weight.detach()
    numbers = CHECKS["llm/increments"].measure(bench, 0)
    assert numbers["full FT: root mean square"] == pytest.approx(float(delta.square().mean().sqrt()), rel=1e-12)


@pytest.mark.parametrize(
    ("biases", "compared"), [({}, False), ({"mlp_bias": True}, False), ({"attention_bias": True}, True)]
)
def test_bitfit_is_compared_where_the_query_has_a_bias(biases, compared):
    assert ("BitFit" in increments.methods(Workbench(language("causal", **biases), SMALL))) is compared


def test_examples_are_counted_by_class(trainings):
    bench = Workbench(language("encoder"), SMALL)
    for size in (5, 20):
        task = bench.task("reviews", 0, train=2 * size)
        assert [sum(e.label == label for e in task.train) for label in (0, 1)] == [size, size]
    bench.run(BitFit(), "reviews", 0, train=10)
    assert len(trainings) == 1


@pytest.mark.parametrize(("blocks", "expected"), [(2, (1, 2)), (3, (1, 3)), (7, (1, 3, 6)), (12, (1, 3, 6, 12))])
def test_as_many_layers_as_there_are(blocks, expected):
    bench = Workbench(language("causal", num_hidden_layers=blocks), SMALL)
    assert rank.layers(bench) == expected


def test_a_model_of_one_block_has_no_numbers_of_layers():
    with pytest.raises(LinnetError, match="takes two"):
        rank.layers(Workbench(language("causal", num_hidden_layers=1), SMALL))


def test_accuracy_under_attack_is_what_is_left_of_the_attacked(benches, monkeypatch):
    bench, seen = benches["encoder"], {}
    inside = bench.task("reviews", 0).evaluation["imdb"].examples

    def attacked(model, ask, examples, level, *, queries, seed, speaker):
        assert speaker is bench.specimen("reviews")
        seen[level] = examples, queries, seed
        hit = [level == "character", False]  # what is still right: one of two, or none
        return [Attacked(e, e, 1, queries, (0.0, 1.0), (True, right)) for e, right in zip(examples, hit, strict=True)]

    monkeypatch.setattr(robustness, "attack", attacked)
    clean, under = robustness._accuracies(bench, BitFit(), 0)
    assert under == {"character": 0.5, "word": 0.0}
    assert seen == dict.fromkeys(("character", "word"), (inside[: QUICK.attacked], QUICK.queries, 0))
    assert clean == bench.run(BitFit(), "reviews", 0).scores["imdb"].accuracy
    assert "BitFit" not in robustness.methods(benches["causal"])
