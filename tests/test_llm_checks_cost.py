"""What a step and a layer cost: bytes as counted by hand, times as a clock of the test tells them."""

import dataclasses
import gc
import itertools
import json
import math

import pytest
import torch
from tiny_language import language
from torch import nn

from linnet.errors import ArgumentError
from linnet.llm import cost, layer_work
from linnet.llm.checks import CHECKS, efficiency, serving, workbench
from linnet.llm.checks.base import judge
from linnet.llm.checks.workbench import BUDGETS, Workbench
from linnet.llm.data.base import EvaluationSet, Example, Task

SMALL = dataclasses.replace(BUDGETS["quick"], steps=3, batch_size=2, train=4, evaluated=4, beyond=4)
FULL, LORA, S2FT = efficiency.FULL, efficiency.LORA, efficiency.MINE
EQUAL = {FULL: 1.0, LORA: 1.0, S2FT: 1.0}
EFFICIENCY, SERVING = CHECKS["llm/efficiency"], CHECKS["llm/serving"]


@pytest.fixture(autouse=True)
def films(monkeypatch):
    """Two films suffice for a head of two classes."""
    examples = (Example("bad", "negative", 0), Example("good", "positive", 1))
    unseen = {"imdb": EvaluationSet("in", "films", (Example("fine", "positive", 1),))}
    task = Task("reviews", examples, unseen, "?", "none", ("negative", "positive"))
    monkeypatch.setattr(workbench, "reviews", lambda *args, **options: task)


@pytest.fixture
def nothing_before():
    """Let no search for tensors go through what was there before the test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def bench(kind="causal", **sizes):
    return Workbench(language(kind, **sizes), SMALL)


# --- what is measured -------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Let time pass only where a work says so."""
    state = {"now": 100.0}
    monkeypatch.setattr(cost.time, "perf_counter", lambda: state["now"])
    return state


def test_every_work_has_a_turn_a_round_in_an_order_of_the_seed(clock):
    orders = {}
    for seed in (0, 0, 1):
        seen = []

        def work(name, takes, seen=seen):
            seen.append(name)
            clock["now"] += takes

        works = {
            name: lambda name=name, takes=takes: work(name, takes) for name, takes in zip("abc", (1, 2, 4), strict=True)
        }
        assert cost.in_turn(works, 20, "cpu", seed) == {"a": [1] * 20, "b": [2] * 20, "c": [4] * 20}
        rounds = [tuple(seen[i : i + 3]) for i in range(0, len(seen), 3)]
        assert len(rounds) == 22  # two do not count
        assert {tuple(sorted(turn)) for turn in rounds} == {("a", "b", "c")}
        assert len(set(rounds)) == 6  # all orders
        assert orders.setdefault(seed, rounds) == rounds
    assert orders[0] != orders[1]


def test_what_does_not_count_is_not_among_the_seconds(clock):
    def slower():
        clock["now"] += next(takes)

    takes = itertools.count(1)
    assert cost.in_turn({"a": slower}, 2, "cpu", 0) == {"a": [3, 4]}
    assert cost.in_turn({"a": slower}, 2, "cpu", 0, unmeasured=0) == {"a": [5, 6]}
    for works, rounds in (({}, 1), ({"a": slower}, 0)):
        with pytest.raises(ArgumentError, match="give one or more of both"):
            cost.in_turn(works, rounds, "cpu", 0)


def test_a_ratio_is_of_one_round():
    drifting = {"a": [2.0, 60.0, 0.5], "b": [1.0, 20.0, 0.2]}  # 2, 3, 2.5; the medians' own ratio is 2
    assert cost.ratio(drifting, "a", "b") == pytest.approx(2.5)


def test_the_peak_of_a_step_is_that_counted_by_hand(nothing_before):
    """Weights, two moments, their count; then the gradient, beside those that it is made of."""
    torch.manual_seed(0)
    before = cost.alive_bytes()
    x = torch.randn(7, 64)
    frozen, trained = nn.Linear(64, 32, bias=False).requires_grad_(False), nn.Linear(64, 32, bias=False)
    step = cost.Step(nn.ModuleList([frozen, trained]), lambda model: (model[0](x) + model[1](x)).sum())
    step()
    weight = 32 * 64 * 4
    alive = x.nbytes + 4 * weight + 4
    assert cost.alive_bytes() - before == alive  # two weights and two moments
    assert (
        cost.peak_bytes(step, "cpu") - before == alive + weight + 7 * 32 * 4 + 2 * 4
    )  # of the output; the loss and its own
    assert cost.alive_bytes() - before == alive
    assert frozen.weight.grad is None
    assert [p is trained.weight for p in step.parameters] == [True]


def test_a_step_is_one_of_adamw():
    torch.manual_seed(0)
    layers = [nn.Linear(5, 3) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(4, 5)
    step = cost.Step(layers[0].eval(), lambda model: model(x).square().sum())
    assert layers[0].training
    slow = torch.optim.AdamW(layers[1].parameters(), lr=1e-5)
    for _ in range(3):
        step()
        slow.zero_grad()
        layers[1](x).square().sum().backward()
        slow.step()
    torch.testing.assert_close(layers[0].weight, layers[1].weight, rtol=1e-6, atol=1e-8)
    cost.Step(nn.Linear(2, 2).requires_grad_(False), lambda model: torch.ones(1, requires_grad=True).sum())()


# --- efficiency -------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch, nothing_before):
    """Let a step take what a test says, by its method; every round ten times as long."""
    asked = []

    def method(step):
        names = [name for name, p in step.model.named_parameters() if p.requires_grad]
        return LORA if any("lora_" in n for n in names) else S2FT if any("s2ft_" in n for n in names) else FULL

    def use(takes):
        def seconds(step, device):
            asked.append(method(step))
            return takes[asked[-1]] * 10.0 ** ((len(asked) - 1) // 3)

        monkeypatch.setattr(cost, "seconds", seconds)
        return asked

    return use


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_efficiency_is_that_of_its_steps(told, kind):
    here = bench(kind)
    model = here.specimen(here.main_task)
    everything, heads = sum(p.numel() for p in model.parameters()), 0
    if kind == "encoder":
        heads = sum(p.numel() for p in model.head.parameters())
    lora, mine = (efficiency.systems(here, 0)[label].n_parameters(model) for label in (LORA, S2FT))
    assert 0.8 * lora <= mine <= lora <= 0.01 * everything
    asked = told({FULL: 1.8, LORA: 1.1, S2FT: 1.0})
    numbers = EFFICIENCY.measure(here, 0)
    assert numbers["time of full FT"] == pytest.approx(1.8 - 1.5)
    assert numbers["time of LoRA"] == pytest.approx(0.1)
    assert numbers["rounds"] == SMALL.steps == 3
    assert len(asked) == 9
    assert numbers[f"{FULL}: seconds"] == pytest.approx(18)  # of the middle round
    assert {label: numbers[f"{label}: parameters"] for label in (FULL, LORA, S2FT)} == {
        FULL: everything,
        LORA: lora + heads,
        S2FT: mine + heads,
    }
    peak = {label: numbers[f"{label}: peak bytes"] for label in (FULL, LORA, S2FT)}
    assert numbers["memory of full FT"] == pytest.approx(peak[FULL] / peak[S2FT] - 1.4)
    assert numbers["memory of LoRA"] == pytest.approx(peak[LORA] / peak[S2FT] - 1)
    assert numbers[f"{S2FT}: bytes saved for the backward pass"] < numbers[f"{LORA}: bytes saved for the backward pass"]
    effects = judge(EFFICIENCY.promises(here), [numbers, numbers])
    assert [e.verdict for e in effects if e.name.startswith("time")] == ["agrees", "agrees"]
    json.dumps(numbers, allow_nan=False)


def test_the_memory_of_a_method_is_its_own_whatever_else_is_alive(told, monkeypatch):
    told(EQUAL)
    monkeypatch.setattr(efficiency, "LENGTH", 2)
    first = EFFICIENCY.measure(bench(tie_word_embeddings=False), 0)
    held = torch.ones(10_000)
    systems = efficiency.systems
    monkeypatch.setattr(efficiency, "systems", lambda *args: dict(reversed(systems(*args).items())))
    again = EFFICIENCY.measure(bench(tie_word_embeddings=False), 0)
    assert held.nbytes
    for name, value in first.items():
        if "bytes" in name:
            assert again[name] == value, name
    # Of so short a text, the peak of full fine-tuning lies at the last gradient, the embeddings': weights, gradients,
    # two moments and a count of steps each; the frequencies that rotate positions; the loss, and the gradient of two
    # embedded tokens.
    model = bench(tie_word_embeddings=False).specimen("chain_sum")
    parameters, buffers = list(model.parameters()), list(model.buffers())
    held_by_all = 4 * sum(p.nbytes for p in parameters) + 4 * len(parameters) + sum(b.nbytes for b in buffers)
    assert first[f"{FULL}: peak bytes"] == held_by_all + 8 + 2 * 32 * 8
    del held


def test_turns_depend_on_the_seed_and_the_weights_are_left_alone(told, monkeypatch):
    asked = told(EQUAL)
    monkeypatch.setattr(efficiency, "LENGTH", 2)
    monkeypatch.setattr(efficiency, "peak_bytes", lambda step, device: 1000 + cost.alive_bytes())  # not watched
    here = bench()
    before = {name: value.clone() for name, value in here.language.model.state_dict().items()}
    orders = []
    for seed in (0, 0, 1, 2):
        asked.clear()
        EFFICIENCY.measure(here, seed)
        orders.append(tuple(asked))
    assert orders[0] == orders[1]
    assert len(set(orders)) > 1
    assert all(torch.equal(before[name], value) for name, value in here.language.model.state_dict().items())


def test_no_more_tokens_than_the_model_and_its_tokenizer_read():
    assert efficiency.length(bench()) == 512
    assert efficiency.length(bench("encoder")) == 64
    short = bench()
    short.language.tokenizer.model_max_length = 100
    assert efficiency.length(short) == 100


def test_figure_5_agrees_with_its_paper():
    numbers = {"memory of full FT": 52 / 26 - 1.4, "time of full FT": 0.3, "memory of LoRA": 0.1, "time of LoRA": 0.1}
    promises = EFFICIENCY.promises(bench())
    assert set(promises) == set(numbers)
    assert {e.verdict for e in judge(promises, [numbers] * 2)} == {"agrees"}
    assert {e.verdict for e in judge(promises, [dict.fromkeys(numbers, -0.1)] * 2)} == {"disagrees"}


# --- serving ----------------------------------------------------------------------------------------


@pytest.fixture
def layers(monkeypatch):
    """Let one layer's work take what a test says, without a layer: a function of width or adapters, by name."""
    asked = []

    def use(switch, serve):
        monkeypatch.setattr(cost, "seconds", lambda work, device: work())

        def switching(width, channels, rank, dtype, device):
            asked.append((width, channels, rank, dtype))
            return {name: lambda takes=takes: takes(width) for name, takes in switch.items()}

        def serving(width, n, length, channels, rank, dtype, device):
            asked.append((width, n, length, channels, rank, dtype))
            return {name: lambda takes=takes: takes(n) for name, takes in serve.items()}

        monkeypatch.setattr(layer_work, "switching", switching)
        monkeypatch.setattr(layer_work, "serving", serving)
        return asked

    return use


@pytest.mark.parametrize(
    ("lora", "columns", "rows", "words"),
    [
        (2.0, 0.1, 0.2, "+ ++- +++"),
        (1.4, 0.6, -0.1, "- -+- +++"),
        (2.6, 0.4, 2.7, "- ++- --+"),
        (1.6, 2.0, 1.0, "+ --- -++"),
    ],
)
def test_figure_6_is_judged_by_exponents(layers, lora, columns, rows, words):
    asked = layers(
        {
            "LoRA": lambda w: 1e-6 * w**lora,
            "S2FT, neighbouring columns": lambda w: 1e-6 * w**columns,
            "S2FT, neighbouring rows": lambda w: 1e-6 * w**rows,
            "other": lambda w: 1.0,
        },
        {"LoRA": lambda n: 1.28 if n == 64 else 0.1, "S2FT, columns": lambda n: 1.6, "S2FT, rows": lambda n: 1.0},
    )
    numbers = SERVING.measure(bench(), 0)
    assert numbers["LoRA quadratic"] == pytest.approx(lora - 2)
    for axis, power, served in (("columns", columns, -0.2), ("rows", rows, 0.28)):
        assert numbers[f"nearly constant ({axis})"] == pytest.approx(0.5 - power)
        assert numbers[f"switching ({axis})"] == pytest.approx(4096.0 ** (lora - power) - 1)
        assert numbers[f"parallel ({axis})"] == pytest.approx(served)
    assert numbers["switching, other: exponent"] == pytest.approx(0, abs=1e-12)
    assert numbers["16 adapters, LoRA: seconds"] == 0.1
    assert numbers["rounds"] == 3
    assert asked == [
        *((width, 32, 16, torch.float64) for width in (512, 1024, 2048, 4096)),
        *((4096, n, 1, 32, 16, torch.float64) for n in (4, 16, 64)),
    ]
    verdicts = {"+": "agrees", "-": "disagrees"}
    expected = [verdicts[sign] for sign in words.replace(" ", "")]
    assert [e.verdict for e in judge(SERVING.promises(bench()), [numbers] * 2)] == expected
    json.dumps(numbers, allow_nan=False)


@torch.no_grad()
def test_what_is_switched_is_what_it_is_called():
    """After two adapters, a layer holds the second alone: so many rows or columns of it are others than at first."""
    made = []

    def drawn(width, dtype, device):
        made.append(nn.Linear(width, width, bias=False, dtype=dtype).requires_grad_(False))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_work, "_drawn", drawn)
        works = layer_work.switching(64, 8, 4, torch.float64, "cpu")
    for (name, work), layer in zip(works.items(), made[1:] + made[:1], strict=True):
        before = layer.weight.clone()
        work()
        first = layer.weight != before
        work()
        second = layer.weight != before
        if name == layer_work.LORA:
            assert first.all()
            torch.testing.assert_close(layer.weight, before)  # to the other and back
            continue
        across = 0 if "columns" in name else 1
        for changed in (first, second):
            where = changed.all(across).nonzero().flatten()
            assert len(where) == 8
            assert changed.sum() == 8 * 64
            assert bool(where[-1] - where[0] == 7) is ("neighbouring" in name)
        assert not (first & second).any()


@torch.no_grad()
def test_what_is_served_is_each_examples_own():
    works = layer_work.serving(64, 3, 2, 8, 4, torch.float64, "cpu")
    base = works["base alone"]()
    assert list(works) == ["base alone", *serving.SERVED.values(), layer_work.LORA]
    for name, work in works.items():
        assert work().shape == (3, 2, 64)
        changed = (work() != base).sum(-1)
        assert (changed == {"base alone": 0, "S2FT, rows": 8}.get(name, 64)).all(), name


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_layers_are_measured_in_earnest(monkeypatch, kind):
    monkeypatch.setattr(serving, "WIDTHS", (64, 96, 128))
    monkeypatch.setattr(serving, "ADAPTERS", (1, 3))
    here = bench(kind)
    numbers = SERVING.measure(here, 0)
    promises = SERVING.promises(here)
    assert [e.name for e in judge(promises, [numbers])] == list(promises)
    assert all(value > 0 for name, value in numbers.items() if name.endswith("seconds"))
    assert sum(name.endswith("seconds") for name in numbers) == 3 * 4 + 2 * 4
    assert all(map(math.isfinite, numbers.values()))
