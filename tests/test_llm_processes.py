"""Findings measured by several processes are those that one measures; nothing is made twice at a time."""

import json
import multiprocessing
import os
import signal

import pytest
import torch
from tiny_language import folder, reader

from linnet.errors import DataError
from linnet.llm import processes, verify
from linnet.llm.checks import CHECKS, checks_in_file
from linnet.sweep.journal import Journal

NAMES = ["llm/increments", "llm/memorisation", "llm/permutation"]
"""The second fails on so small a model."""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("models") / "small", reader(dtype=torch.float32))


def test_what_measures_time_is_measured_alone(small, tmp_path, monkeypatch):
    seen = []

    def told(whose):
        def measure(*arguments):
            checks = next(a for a in arguments if isinstance(a, list))
            seen.append((whose, [check.id for check in checks]))
            return iter(())

        return measure

    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(verify, "findings_by", told("several"))
    monkeypatch.setattr(verify, "findings", told("one"))
    asked = ["llm/efficiency", "llm/permutation", "llm/rank", "llm/serving"]
    verify.command(asked, str(small), "cpu", "quick", [0], 1, tmp_path / "out", None, 2)
    assert seen == [("several", ["llm/permutation", "llm/rank"]), ("one", ["llm/efficiency", "llm/serving"])]


def rows(path):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "measured")}
        for row in json.loads(path.read_text(encoding="utf-8"))["claims"]
    ]


def test_several_processes_find_what_one_finds(small, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    for jobs in (1, 2):
        to = tmp_path / f"{jobs}.json"
        assert verify.command(NAMES, str(small), "cpu", "quick", [0, 42], 1, tmp_path / str(jobs), to, jobs) == 1
    one, two = rows(tmp_path / "1.json"), rows(tmp_path / "2.json")
    assert one == two
    assert [row["verdict"] == "failed" for row in one] == [name == "llm/memorisation" for name in NAMES]
    # What two processes kept, one goes on from.
    kind = type(CHECKS["llm/increments"])
    monkeypatch.setattr(kind, "measure", lambda *_: pytest.fail("measured again"))
    again = tmp_path / "again.json"
    verify.command(["llm/increments"], str(small), "cpu", "quick", [0, 42], 1, tmp_path / "2", again)
    assert rows(again) == [row for row in two if row["id"] == "llm/increments"]


def test_a_process_that_dies_is_told_of(small, tmp_path):
    order = processes.Order(str(small), "cpu", "quick", (0, 42, 421), 1, ("llm/permutation",))
    started = []

    def kill(doing):
        started.append(doing)
        if len(started) == 2:  # the first seed is kept
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    with Journal(tmp_path / "journal.sqlite", {}) as journal:
        found = processes.findings_by(2, [CHECKS["llm/permutation"]], order, journal, kill)
        with pytest.raises(DataError, match=r"that measured llm/permutation died; .* run the same command again"):
            list(found)
        (finding,) = processes.findings_by(2, [CHECKS["llm/permutation"]], order, journal, started.append)
    assert finding.verdict == "agrees"
    seeds = [line.rpartition(" ")[2] for line in started]
    assert seeds[:2] == ["0", "42"]
    assert seeds[2:] in (["42", "421"], ["421"])  # the second seed may have been kept before the process died
    assert not multiprocessing.active_children()


def test_a_check_that_breaks_is_shown_as_it_breaks(small, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    order = processes.Order(str(small), "cpu", "quick", (0,), 1, (str(file),))
    checks = list(checks_in_file(file).values())
    said = pytest.raises(RuntimeError, match=r"(?s)mine/broken is broken:.*ZeroDivisionError")
    with Journal(tmp_path / "journal.sqlite", {}) as journal, said:
        list(processes.findings_by(1, checks, order, journal))
    assert not multiprocessing.active_children()


BROKEN = """
from linnet.llm.checks import Check, Promise

class Broken(Check):
    id = "mine/broken"
    source = finding = "."

    def promises(self, bench):
        return {"number": Promise("a number", "")}

    def measure(self, bench, seed):
        return {"number": 1 / 0}
"""


class Kept(dict):
    """A journal in memory."""

    def done(self, key):
        return key in self

    def rows(self, key):
        return self.get(key, [])

    def add(self, key, rows, error):
        if rows is not None:
            self[key] = [rows]


class Pipe(list):
    """What was sent, in order."""

    send = list.append
    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


def test_who_asks_for_what_is_being_made_waits_for_it():
    desk, first, second, third = processes._Desk(Kept()), Pipe(), Pipe(), Pipe()
    desk.answer(first, "rows", "a")
    assert list(first) == [[]]  # to make it
    desk.answer(second, "rows", "a")
    desk.answer(third, "rows", "b")
    assert (list(second), list(third)) == ([], [[]])
    desk.answer(first, "add", "a", 1, None)
    assert (list(first), list(second)) == ([[], None], [[1]])
    desk.answer(third, "rows", "a")
    desk.answer(third, "done", "a")
    assert list(third) == [[], [1], True]


def test_what_was_not_made_after_all_is_made_by_who_waits():
    desk, first, second, third = processes._Desk(Kept()), Pipe(), Pipe(), Pipe()
    for pipe in (first, second, third):
        desk.answer(pipe, "rows", "a")
    desk.left(first)  # its check failed
    assert (list(second), list(third)) == ([[]], [])
    desk.answer(second, "rows", "a")  # who makes it may ask again
    assert list(second) == [[], []]
    desk.answer(second, "add", "a", None, "diverged")
    assert list(third) == [[]]
    desk.answer(third, "add", "a", 2, None)
    desk.answer(first, "rows", "a")
    assert list(first) == [[], [2]]
