"""What the benchmarks share, their guard, and the tables that are made from what they find."""

import importlib
import importlib.util
import json
import math
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def measuring():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("measuring")
    sys.path.remove(str(FOLDER))


@pytest.fixture
def guard(measuring, monkeypatch):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return importlib.import_module("guard")


@pytest.fixture
def tables():
    spec = importlib.util.spec_from_file_location("docs_benchmarks", ROOT / "docs" / "benchmarks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- what they share ------------------------------------------------------------------------------


def test_works_take_turns_and_are_given_what_was_made_for_them(measuring):
    made, seen, clock = [], [], iter(range(1000))

    def before():
        made.append(len(made))
        return (made[-1],)

    works = {name: lambda given, name=name: seen.append((name, given)) for name in "abc"}
    taken = measuring.in_turn(works, 4, before=before, unmeasured=2, clock=lambda: next(clock))
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(seconds == [1] * 4 for seconds in taken.values()), "the clock stands still while inputs are made"
    assert [given for _, given in seen] == made == list(range(18))
    rounds = ["".join(name for name, _ in seen[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(order) == list("abc") for order in rounds)
    assert len(set(rounds)) > 1


def test_ratios_are_those_of_one_round(measuring):
    found = measuring.ratio({"a": [2.0, 20.0, 200.0], "b": [1.0, 10.0, 100.0]}, "a", "b")
    assert found == {"median": 2.0, "low": None, "high": None, "rounds": 3}


def test_the_interval_of_a_ratio_covers_the_median(measuring):
    rng = np.random.default_rng(0)
    rounds, inside = 20, 0
    for values in rng.lognormal(size=(2000, rounds)):  # of median 1
        found = measuring.ratio({"a": values, "b": np.ones(rounds)}, "a", "b")
        inside += found["low"] <= 1.0 <= found["high"]
    assert 0.95 - 0.02 <= inside / 2000 <= 0.985  # the next narrower pair of order statistics covers less than 95 %


def test_exponents_are_slopes(measuring):
    widths = [64, 128, 256, 512]
    found = measuring.exponent(widths, [w**2.5 for w in widths])
    assert found["slope"] == pytest.approx(2.5)
    assert found["low"] == pytest.approx(found["high"])
    assert measuring.exponent([1, 2], [1, 2]) is None


@pytest.mark.parametrize(
    ("measured", "sense", "bounded", "reached"),
    [
        (1.0, "at most", False, True),
        (1.1, "at most", False, False),
        (1.0, "at least", False, True),
        (0.9, "at least", False, False),
        (0.9, "at least", True, None),
        (1.1, "at least", True, True),
        (None, "at most", False, None),
        (math.nan, "at most", False, False),
    ],
)
def test_what_was_to_be_reached(measuring, measured, sense, bounded, reached):
    assert measuring.Target("it", measured, 1.0, sense, bounded=bounded).reached is reached


def test_memory_is_what_the_work_adds_at_most(measuring):
    size = 64 << 20

    def work():
        held = np.ones(size // 8)
        more = held + 1
        del more
        return held[:1]

    found = measuring.peak_memory(work)
    if found is None:
        pytest.skip("this system does not count it")
    assert 1.9 * size <= found <= 2.5 * size


def test_results_are_kept_whole(measuring, tmp_path):
    target = measuring.Target("it", 2.0, 1.0)
    path = measuring.store("x", {"device": "d"}, [target], tmp_path / "x.json", rows=[1])
    kept = json.loads(path.read_text())
    assert kept["targets"] == [
        {"what": "it", "measured": 2.0, "goal": 1.0, "sense": "at most", "unit": "", "bounded": False, "reached": False}
    ]
    assert (kept["on"], kept["rows"]) == ({"device": "d"}, [1])
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


# --- the guard ------------------------------------------------------------------------------------


def guarding(monkeypatch, *found):
    """A benchmark whose ratios are, call by call, those found."""
    calls = iter(found)
    monkeypatch.setitem(sys.modules, "made_up", types.SimpleNamespace(guarded=lambda: next(calls)))


@pytest.mark.parametrize(
    ("found", "failed"),
    [
        ([{"a": 1.49}], []),
        ([{"a": 1.6}, {"a": 1.2}], []),  # a hiccup
        ([{"a": 1.6}, {"a": 1.5}], ["a"]),
        ([{"a": math.nan}, {"a": math.nan}], ["a"]),
        ([{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}], ["b"]),  # none was recorded
        ([{}], ["a"]),  # nothing is measured any more
    ],
)
def test_the_guard_sees_what_has_grown(guard, monkeypatch, capsys, found, failed):
    guarding(monkeypatch, *found)
    assert guard.compared("made_up", {"a": 1.0}) == failed
    assert capsys.readouterr().out.count("WORSE") == len(failed)


def test_the_guard_fails_by_its_exit_code(guard, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(guard, "GUARDED", ("made_up",))
    file = tmp_path / "guard.json"
    guarding(monkeypatch, {"a": 1.0}, {"a": 1.4}, {"a": 2.0}, {"a": 2.0})
    assert guard.main(["--record", "--file", str(file)]) == 0
    assert json.loads(file.read_text())["ratios"] == {"made_up": {"a": 1.0}}
    assert guard.main(["--file", str(file)]) == 0
    assert guard.main(["--file", str(file)]) == 1
    assert "1 ratios are 1.5 times the recorded ones" in capsys.readouterr().out


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_and_many", "large_and_few", "start"])
def test_quick_runs_make_tables(name, tables, tmp_path, monkeypatch):
    out = tmp_path / f"{name}.json"
    quick = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", "--out", str(out)]
    subprocess.run(quick, check=True, capture_output=True, timeout=240)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    made = tables.TABLES[name.replace("_", " ")]("")
    assert made.count("\n| ") >= 3
    assert f"Again by `python benchmarks/{name}.py`." in made
    assert "nan" not in made
    assert tables.targets("").count("\n") >= 2


def test_what_is_not_measured_is_said_so(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.targets("") == "Nothing has been measured yet."
    for name, build in tables.TABLES.items():
        if name != "targets":
            assert build("") == f"Not measured yet: `python benchmarks/{name.replace(' ', '_')}.py`."


@pytest.mark.parametrize(("reached", "said"), [(0.0, True), (0.5, True), (1.0, False), (None, False)])
def test_what_not_all_have_reached_is_a_lower_bound(tables, monkeypatch, reached, said):
    times = {"median": 2.0, "low": None, "high": None}
    row = {"against": "descent", "method": "LoRA", "network": "random", "width": 8, "batch": 3, "ratio": times}
    on = {"device": "", "cores": 2, "blas_threads": 1, "versions": {}}
    monkeypatch.setattr(tables, "stored", lambda name: {"on": on, "rows": [row | {"reached": reached}], "targets": []})
    assert ("more than 2.00" in tables.alternatives("")) is said


def test_tables_of_what_is_stored(tables):
    for name, build in tables.TABLES.items():
        made = build("")
        assert "nan" not in made, name
        assert "None" not in made, name


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (1.23456, "1.23"),
        (99.96, "100"),
        (12345.6, "12,346"),
        (123456.0, "1.2·10<sup>5</sup>"),
        (1.5e-9, "1.5·10<sup>-9</sup>"),
    ],
)
def test_numbers_have_three_digits(tables, value, said):
    assert tables.number(value) == said
