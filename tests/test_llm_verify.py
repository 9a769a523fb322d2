"""``linnet llm verify``: what it writes, what it refuses, and that a stopped run goes on."""

import json
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_language import folder, language, reader

import linnet
from linnet.cli import main
from linnet.errors import BudgetError, DataError
from linnet.llm import models, verify
from linnet.llm.checks import CHECKS
from linnet.llm.checks.workbench import BUDGETS, TUNING_SEED, Workbench
from linnet.sweep.journal import Journal
from linnet.trials import ledger as ledgers


@pytest.fixture
def one_thread(monkeypatch):
    """Let no command take more threads than a test may; return the numbers that were asked for."""
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    return asked


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("models") / "small", reader(dtype=torch.float32))


@pytest.fixture
def run(monkeypatch, capsys, one_thread):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["linnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        return exit.value.code, *capsys.readouterr()

    return call


def refused(result):
    """One line on standard error, no traceback; return it."""
    code, _, err = result
    lines = err.strip().splitlines()
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("linnet: ")
    return lines[0]


def test_wrong_input_is_one_line(run, small, tmp_path):
    at = ("--model", small, "--budget", "quick", "--out", tmp_path / "out")
    assert "no check llm/nothing; there are llm/bridge" in refused(run("llm", "verify", "llm/nothing", *at))
    assert "llm/fusion is for causal models; small is none" in refused(run("llm", "verify", "llm/fusion", *at))
    assert "no model 'nowhere'" in refused(run("llm", "verify", "llm/rank", "--model", "nowhere"))
    once = refused(run("llm", "verify", "llm/rank", *at, "--seed", 1, "--seed", 1))
    assert "each once; given: [1, 1]" in once
    assert "from 0" in refused(run("llm", "verify", "llm/rank", *at, "--seed", -1))
    assert "chosen on the seed 7" in refused(run("llm", "verify", "llm/rank", *at, "--seed", TUNING_SEED))
    assert "'huge'" in refused(run("llm", "verify", "llm/rank", "--model", small, "--budget", "huge"))
    assert "device 'toaster'" in refused(run("llm", "verify", "llm/rank", *at, "--device", "toaster"))
    to = tmp_path / "no" / "ledger.json"
    assert "cannot be written" in refused(run("llm", "verify", "llm/rank", *at, "--json", to))


def test_the_command_writes_a_ledger(run, small, tmp_path):
    to = tmp_path / "ledger.json"
    asked = ("llm", "verify", "llm/increments", "llm/rank", "llm/memorisation", "--model", small, "--budget", "quick")
    asked = (*asked, "--seed", 0, "--seed", 42, "--out", tmp_path / "out", "--json", to)
    code, out, _ = run(*asked)
    assert code == 1  # one could not be measured
    assert "llm/increments" in out
    ledger = ledgers.read(to)
    assert (ledger["budget"], ledger["seed"], ledger["seeds"]) == ("quick", 0, [0, 42])
    assert (ledger["model"]["name"], ledger["model"]["kind"]) == ("small", "encoder")
    rows = {row["id"]: row for row in ledger["claims"]}
    assert list(rows) == ["llm/increments", "llm/memorisation", "llm/rank"]
    for row in rows.values():
        assert row.keys() >= set(ledgers.KEYS)
    failed = rows["llm/memorisation"]
    assert failed["verdict"] == "failed"
    assert "the budget is" in failed["reason"]
    row = rows["llm/increments"]
    assert row["verdict"] in ("agrees", "disagrees", "undecided")
    assert row["source"] == "liu2025, Figure 1"
    for effect in row["effects"]:
        low, high = effect["interval"]
        assert low <= effect["mean"] <= high
        assert effect["mean"] == pytest.approx(np.mean(effect["values"]))
        assert len(effect["values"]) == 2
    assert all(len(values) == 2 for values in row["beside"].values())
    assert not set(row["beside"]) & {effect["name"] for effect in row["effects"]}
    again = run(*asked)
    assert again[0] == 1
    assert ledgers.read(to) == ledger  # to the second: nothing was measured again


def test_the_command_takes_the_threads_that_it_is_given(small, tmp_path, one_thread):
    for threads in (1, None):
        verify.command(["llm/permutation"], str(small), "cpu", "quick", [0], threads, tmp_path / str(threads), None)
    assert one_thread == [1, os.cpu_count()]


def test_what_does_not_count_is_written_so(small, tmp_path, one_thread, capsys):
    to = tmp_path / "ledger.json"
    verify.command(["llm/capacity"], str(small), "cpu", "quick", [0], 1, tmp_path / "out", to)
    (row,) = json.loads(to.read_text())["claims"]
    counts = {effect["name"]: effect["counts"] for effect in row["effects"]}
    assert counts == {"layers": True, "product": True, "printed": True, "linnet's own": False, "depth": True}
    assert "(agrees)" in capsys.readouterr().out  # a theorem of linnet's own


def test_the_ledger_says_what_it_was_measured_with(small, tmp_path, one_thread):
    to = tmp_path / "ledger.json"
    verify.command(["llm/permutation"], str(small), "cpu", "quick", [0], 1, tmp_path / "out", to)
    (row,) = json.loads(to.read_text())["claims"]
    with_what = row["measured"]
    assert with_what["versions"]["linnet"] == linnet.__version__
    for name in ("torch", "transformers", "peft", "numpy", "scipy"):
        assert with_what["versions"][name] == version(name)
    assert re.search(rf", {torch.get_num_threads()} threads?$", with_what["device"])
    assert with_what["code"] == verify._code()


def test_a_ledger_grows_by_what_is_measured_of_the_same(small, tmp_path, one_thread):
    to, rest = tmp_path / "ledger.json", (1, tmp_path / "out", tmp_path / "ledger.json")

    def rows():
        return {row["id"]: row for row in ledgers.read(to)["claims"]}

    verify.command(["llm/permutation"], str(small), "cpu", "quick", [0, 42], *rest)
    (first,) = rows().values()
    verify.command(["llm/increments"], str(small), "cpu", "quick", [0, 42], *rest)
    assert list(rows()) == ["llm/increments", "llm/permutation"]
    assert rows()["llm/permutation"] == first
    to.write_text(to.read_text().replace('"agrees"', '"undecided"'))
    verify.command(["llm/permutation"], str(small), "cpu", "quick", [0, 42], *rest)
    assert rows()["llm/permutation"] == first  # the new row in place of the old one
    before = to.read_bytes()
    for budget, seeds, said in (
        ("small", [0, 42], "budget quick there, small now"),
        ("quick", [0], "seeds 0 42 there"),
    ):
        with pytest.raises(DataError, match=f"measured otherwise .*{said}.*give another file"):
            verify.command(["llm/permutation"], str(small), "cpu", budget, seeds, *rest)
    other = tmp_path / "other" / "small"
    other.mkdir(parents=True)
    folder(other, reader(seed=1))
    with pytest.raises(DataError, match=r"model's weights \w+ there, \w+ now"):
        verify.command(["llm/permutation"], str(other), "cpu", "quick", [0, 42], 1, tmp_path / "elsewhere", to)
    assert to.read_bytes() == before
    to.write_text("{}")
    with pytest.raises(DataError, match="is no ledger"):
        verify.command(["llm/permutation"], str(small), "cpu", "quick", [0, 42], *rest)
    assert to.read_text() == "{}"


def test_what_is_measured_is_written_before_the_rest_is(small, tmp_path, one_thread, monkeypatch):
    def stopped(self, bench, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(CHECKS["llm/permutation"]), "measure", stopped)
    to = tmp_path / "ledger.json"
    with pytest.raises(KeyboardInterrupt):
        verify.command(["llm/increments", "llm/permutation"], str(small), "cpu", "quick", [0], 1, tmp_path / "out", to)
    assert [row["id"] for row in ledgers.read(to)["claims"]] == ["llm/increments"]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_one_seed_is_written_without_an_interval(small, tmp_path, one_thread):
    to = tmp_path / "ledger.json"
    verify.command(["llm/increments"], str(small), "cpu", "quick", [8], 1, tmp_path / "out", to)
    (row,) = json.loads(to.read_text())["claims"]
    assert row["verdict"] == "undecided"
    assert {effect["interval"] for effect in row["effects"]} == {None}


def test_a_stopped_run_goes_on(small, tmp_path, one_thread, monkeypatch):
    kind = type(CHECKS["llm/increments"])
    measure, seen = kind.measure, []

    def watched(self, bench, seed):
        seen.append(seed)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure(self, bench, seed)

    monkeypatch.setattr(kind, "measure", watched)
    asked = (["llm/increments"], str(small), "cpu", "quick", [0, 42, 421], 1, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        verify.command(*asked, tmp_path / "first.json")
    assert not (tmp_path / "first.json").exists()
    verify.command(*asked, tmp_path / "second.json")
    assert seen == [0, 42, 42, 421]
    verify.command(*asked, tmp_path / "third.json")
    assert seen == [0, 42, 42, 421]
    verify.command(*asked[:6], tmp_path / "straight", tmp_path / "fourth.json")

    def effects(name):
        (row,) = json.loads((tmp_path / f"{name}.json").read_text())["claims"]
        return row["effects"], row["beside"]

    assert effects("second") == effects("third") == effects("fourth")


MINE = """
from linnet.llm.checks import Check, Promise


class Mine(Check):
    id = "mine/number"
    source = "our notes"
    finding = "It is {number}."

    def promises(self, bench):
        return {{"number": Promise("the number", "", "at_most", 2.0)}}

    def measure(self, bench, seed):
        return {{"number": {number}}}
"""


def test_a_finding_of_ones_own_is_measured_from_its_file(run, small, tmp_path):
    file, to = tmp_path / "mine.py", tmp_path / "ledger.json"
    at = ("--model", small, "--budget", "quick", "--seed", 0, "--out", tmp_path / "out")
    for number, word in (("1.0", "agrees"), ("3.0", "disagrees")):  # the second file is not mistaken for the first
        file.write_text(MINE.format(number=number))
        assert run("llm", "verify", file, "llm/permutation", *at, "--json", to)[0] == 0
        verdicts = {row["id"]: row["verdict"] for row in ledgers.read(to)["claims"]}
        assert verdicts == {"llm/permutation": "agrees", "mine/number": word}
    for text, said in (
        ("1 / 0", "does not run: ZeroDivisionError"),
        ("from linnet.llm.checks.rank import Rank", "defines no finding"),
        (MINE.format(number=1).replace("mine/number", "llm/rank"), "llm/rank is a finding of linnet's"),
    ):
        file.write_text(text)
        assert said in refused(run("llm", "verify", file, *at))
    assert "no file" in refused(run("llm", "verify", tmp_path / "none.py", *at))


def test_results_of_other_code_are_not_mixed(small, tmp_path, one_thread, monkeypatch):
    asked = (["llm/permutation"], str(small), "cpu", "quick", [0], 1, tmp_path / "out", None)
    verify.command(*asked)
    monkeypatch.setattr(verify, "_code", lambda: "other")
    with pytest.raises(DataError, match="written by other versions"):
        verify.command(*asked)


def test_the_code_is_all_of_the_module_and_the_core():
    from linnet.sweep.run import code_of

    home = Path(models.__file__).parent
    assert verify._code() == code_of(home) + code_of(home.parent)


def test_another_model_in_a_folder_of_the_same_name_is_another(tmp_path, one_thread):
    asked = ["llm/permutation"]
    for i, seed in enumerate((0, 1)):
        where = tmp_path / str(i) / "model"
        where.mkdir(parents=True)
        folder(where, reader(seed=seed))
    rest = ("cpu", "quick", [0], 1, tmp_path / "out", None)
    assert verify.command(asked, str(tmp_path / "0" / "model"), *rest) == 0
    with pytest.raises(DataError, match=r"weights \w+ then, \w+ now"):
        verify.command(asked, str(tmp_path / "1" / "model"), *rest)


def test_what_cannot_be_measured_leaves_the_others(tmp_path, monkeypatch):
    def broken(self, bench, seed):
        raise BudgetError("nothing fits")

    checks = [CHECKS[name] for name in ("llm/increments", "llm/permutation")]
    monkeypatch.setattr(type(checks[0]), "measure", broken)
    with Journal(tmp_path / "journal.sqlite", {}) as journal:
        first, second = verify.findings(Workbench(language("encoder"), BUDGETS["quick"]), checks, [0], journal, "quick")
    assert (first.verdict, first.reason) == ("failed", "nothing fits")
    assert second.verdict == "agrees"


def test_the_page_of_a_ledger_of_findings(run, small, tmp_path):
    to, html = tmp_path / "ledger.json", tmp_path / "page.html"
    asked = ("llm", "verify", "llm/permutation", "--model", small, "--budget", "quick", "--seed", 0)
    assert run(*asked, "--out", tmp_path / "out", "--json", to)[0] == 0
    result = run("page", to, "--html", html)
    if result[0] == 0:
        drawn = html.read_text(encoding="utf-8")
        assert "llm/permutation" in drawn
        assert "agrees" in drawn
    else:
        assert str(to) in refused(result)
        assert not html.exists()
