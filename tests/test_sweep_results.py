"""Sweeps within one process: what the journal keeps, what a run computes, what the table holds, what is said."""

import dataclasses
import json
import math
import os
import shutil
import sqlite3
import sys
import time
import tracemalloc
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sweeps
from distributed import LocalCluster
from pyarrow import parquet
from sweeps import linnet, mine, ran, toys, write

from linnet.errors import DataError, LinnetError
from linnet.sweep import On, read_table, run_sweep
from linnet.sweep import command as commands
from linnet.sweep import run as running
from linnet.sweep import table as tables
from linnet.sweep.command import command
from linnet.sweep.journal import Journal

# The journal.

SPECIAL = [0.1, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan, 1 / 3]


def test_a_journal_keeps_what_it_was_given(tmp_path):
    with Journal(tmp_path / "j", {"v": "1"}) as journal:
        assert (journal.done("a"), journal.rows("a"), journal.error("a")) == (False, [], None)
        journal.add("a", json.dumps([{"x": x} for x in SPECIAL]), None)
        journal.add("b", None, "wrong")
        journal.add("c", "[]", None)
    with Journal(tmp_path / "j", {"v": "1"}) as journal:
        found = np.array([row["x"] for row in journal.rows("a")])
        assert found.tobytes() == np.array(SPECIAL).tobytes(), "bit by bit"
        assert [journal.done(k) for k in "abc"] == [True, False, True], "no rows are rows, a failure is none"
        assert [journal.error(k) for k in "abc"] == [None, "wrong", None]
        journal.add("b", "[]", None)
        assert journal.done("b")
        assert journal.error("b") is None


def test_a_journal_has_one_holder_and_one_identity(tmp_path):
    with Journal(tmp_path / "j", {"numpy": "1", "gone": "x"}) as journal:
        journal.add("a", "[]", None)
        with pytest.raises(DataError, match="is held by another run of this sweep; wait"), Journal(tmp_path / "j", {}):
            pass
        assert journal.done("a")
    with pytest.raises(DataError) as caught, Journal(tmp_path / "j", {"numpy": "2", "new": "y"}):
        pass
    assert "gone x then, None now, new None then, y now, numpy 1 then, 2 now" in str(caught.value)
    assert "they are kept" in str(caught.value)
    with Journal(tmp_path / "j", {"gone": "x", "numpy": "1"}) as journal:
        assert journal.done("a")


def test_what_is_no_journal_is_left_alone(tmp_path):
    (tmp_path / "j").write_text("A diary, not a journal. " * 99)
    with (
        pytest.raises(DataError, match="is not a journal of linnet, or is damaged; move it away"),
        Journal(tmp_path / "j", {}),
    ):
        pass
    assert (tmp_path / "j").read_text() == "A diary, not a journal. " * 99
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="cannot be written"), Journal(tmp_path / "d", {}):
        pass


def test_a_journal_that_can_grow_no_more_keeps_what_it_has(tmp_path):
    def fill():
        with Journal(tmp_path / "j", {}) as journal:
            journal._sql("PRAGMA max_page_count = 8")
            for i in range(1000):
                journal.add(str(i), '"' + "x" * 1000 + '"', None)
                kept.append(i)

    kept = []
    with pytest.raises(DataError, match=r"written \(database or disk is full\); every finished cell is kept"):
        fill()
    assert 1 < len(kept) < 1000
    with Journal(tmp_path / "j", {}) as journal:
        assert all(journal.done(str(i)) for i in kept)
        assert not journal.done(str(len(kept)))


# The run.

TEN = "[[grid]]\nseed = {range = [0, 10]}\n"


def test_a_table_is_the_same_wherever_its_cells_were_computed(tmp_path):
    sweep = toys(tmp_path, "base.wait = 0.002\n[[grid]]\nn = [inf, 2.5]\nseed = {range = [0, 12]}\n")
    told = []
    done = run_sweep(sweep, tmp_path / "one", progress=lambda *now: told.append(now))
    assert (done.cells, done.kept, done.failures) == (24, 0, ())
    assert told == [(k, 0, 24) for k in range(25)]
    assert ran(tmp_path) == [*range(12)] * 2
    with ThreadPoolExecutor(5) as pool:
        many = run_sweep(sweep, tmp_path / "many", On(pool))
    assert many.table.read_bytes() == done.table.read_bytes()
    assert len(ran(tmp_path)) == 48
    again = run_sweep(sweep, tmp_path / "one")
    assert (again.kept, again.table.read_bytes()) == (24, many.table.read_bytes())
    assert len(ran(tmp_path)) == 48


def test_every_cell_is_kept_before_the_next_one_begins(tmp_path):
    sweep = toys(tmp_path, TEN + '[[grid]]\nseed = [10]\nfate = ["interrupt"]\n[[grid]]\nseed = {range = [11, 15]}\n')
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path / "out")
    (tmp_path / "healed").touch()
    assert run_sweep(sweep, tmp_path / "out").kept == 10
    assert ran(tmp_path) == [*range(11), *range(10, 15)]
    shutil.rmtree(tmp_path / "out")
    seen = []

    def stop(done, failed, total):
        seen.append(done)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path / "out", progress=stop)
    with sqlite3.connect(tmp_path / "out" / "journal.sqlite") as journal:
        assert journal.execute("SELECT count(*) FROM cells").fetchone() == (4,)


FATES = '[[grid]]\nseed = {range = [0, 4]}\n[[grid]]\nseed = [4, 5]\nfate = ["raise", "leave"]\n[[grid]]\nseed = [6]\n'


def test_a_cell_that_fails_is_reported_and_tried_again_alone(tmp_path):
    sweep = toys(tmp_path, FATES)
    done = run_sweep(sweep, tmp_path / "out")
    assert ran(tmp_path) == [0, 1, 2, 3, 4, 4, 5, 5, 6]
    said = {(f.parameters["seed"], f.parameters["fate"]): f.error for f in done.failures}
    wrong = {(k, "raise"): f"ValueError: [/cell {k}] is wrong" for k in (4, 5)}
    assert said == wrong | {(k, "leave"): "SystemExit: 0" for k in (4, 5)}
    assert "_meet_fate" in done.failures[0].details
    assert read_table(done.table)["seed"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 6, 6]
    again = run_sweep(sweep, tmp_path / "out")
    assert (again.kept, len(again.failures)) == (5, 4)
    assert ran(tmp_path)[9:] == [4, 4, 5, 5]
    (tmp_path / "healed").touch()
    healed = run_sweep(sweep, tmp_path / "out")
    assert (healed.kept, healed.failures) == (5, ())
    whole = run_sweep(sweep, tmp_path / "whole")
    assert healed.table.read_bytes() == whole.table.read_bytes()


def test_an_error_that_is_no_text_does_not_stop_a_sweep(tmp_path):
    done = run_sweep(mine(tmp_path, rows="exec(r'raise ValueError(chr(0xDC80))')"), tmp_path)
    assert [failure.error for failure in done.failures] == ["ValueError: \\udc80"]


def test_a_changed_file_computes_what_is_new_and_drops_what_left(tmp_path):
    run_sweep(toys(tmp_path, "[[grid]]\nseed = [0, 1, 2]\n"), tmp_path / "out")
    done = run_sweep(toys(tmp_path, "[[grid]]\nseed = [3, 2, 1]\n"), tmp_path / "out")
    assert ran(tmp_path) == [0, 1, 2, 3]
    assert (done.cells, done.kept) == (3, 2)
    table = read_table(done.table)
    assert table["seed"].tolist() == [3, 3, 2, 2, 1, 1]
    alone = read_table(run_sweep(toys(tmp_path, "[[grid]]\nseed = [2]\n"), tmp_path / "alone").table)
    assert table[table["seed"] == 2].reset_index(drop=True).equals(alone), "neighbours do not matter"


def test_other_versions_stop_a_sweep_and_change_nothing(tmp_path, monkeypatch):
    sweep = toys(tmp_path, TEN)
    before = run_sweep(sweep, tmp_path / "out").table.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(running, "versions", lambda: {"linnet": "9", "numpy": "9"})
        said = r"written by other versions \(code .* then, None now, linnet .* then, 9 now, numpy .* now"
        with pytest.raises(DataError, match=said):
            run_sweep(sweep, tmp_path / "out")
    assert run_sweep(sweep, tmp_path / "out").kept == 10
    row = dataclasses.make_dataclass("ToyRow", [("method", str), ("other", float)], frozen=True)
    with monkeypatch.context() as patch:
        patch.setattr(sweep.study, "Row", row)
        with pytest.raises(DataError, match="columns method, value, limit"):
            run_sweep(sweep, tmp_path / "out")
    assert run_sweep(sweep, tmp_path / "out").table.read_bytes() == before


class Odd:
    """Workers whose answers are all the same."""

    flight = 2

    def __init__(self, answer):
        self._answer = answer

    def submit(self, function, *arguments):
        future = Future()
        if isinstance(self._answer, Exception):
            future.set_exception(self._answer)
        elif self._answer is None:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_result(self._answer)
        return future

    def restart(self):
        return False


def test_workers_that_cannot_be_used(tmp_path):
    sweep = toys(tmp_path, TEN)
    with pytest.raises(DataError, match="a worker has other versions"):
        run_sweep(sweep, tmp_path / "out", Odd(running.Outcome("[]", None, {"numpy": "9"})))
    for gone in (None, BrokenExecutor("gone")):
        with pytest.raises(DataError, match="the workers are gone; every finished cell is kept"):
            run_sweep(sweep, tmp_path / "out", Odd(gone))
    pool = ThreadPoolExecutor(1, initializer=lambda: 1 / 0)
    with pytest.raises(DataError, match="the workers are gone"):
        run_sweep(sweep, tmp_path / "out", On(pool))
    done = run_sweep(sweep, tmp_path / "out", Odd(TypeError("a letter was lost")))
    assert (done.kept, len(done.failures)) == (0, 10), "none of the above was kept"
    assert done.failures[0].error == "TypeError: a letter was lost"


def test_a_sweep_costs_little_beside_its_cells(tmp_path, monkeypatch):
    def peak(cells, *, run):
        tracemalloc.start()
        try:
            sweep = toys(tmp_path, f"[[grid]]\nn = [1, 2]\nseed = {{range = [0, {cells // 2}]}}\n")
            if run:
                run_sweep(sweep, tmp_path / str(cells))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(tables, "ROWS", 50)
    peak(10, run=True)  # modules are loaded
    assert peak(6000, run=False) - peak(1000, run=False) < 5000 * 80, "flat but for some bytes of each key"
    few = peak(100, run=True)
    began = time.process_time()
    assert peak(500, run=True) - few < 400 * 80
    assert time.process_time() - began < 500 * 0.02, "even while memory is traced"


# The table.


def test_the_table_is_tidy(tmp_path):
    text = (
        'base.box.width = 8\n[[grid]]\nn = [1, 2.5]\nkind = [1, "none"]\nsizes = [[1, 2], [3]]\n'
        '[[grid]]\nmethods = [["c"]]\nn = [inf]\n'
    )
    path = run_sweep(toys(tmp_path, text), tmp_path / "out").table
    assert path == tmp_path / "out" / "toys.parquet"
    table = parquet.read_table(path)
    versions = ["linnet_version", "numpy_version", "scipy_version", "python_version"]
    measured = ["method", "value", "limit", "error", "count", "label"]
    parameters = ["seed", "n", "kind", "sizes", "box.width", "box.depth", "wait", "fate"]
    assert table.column_names == ["cell", *parameters, *measured, *versions]
    assert (table.schema.metadata[b"title"], table.schema.metadata[b"study"]) == (b"Toys", b"toy")
    kinds = {name: table.schema.field(name).type for name in table.column_names}
    assert [kinds[k] for k in ("seed", "n", "box.depth")] == [pa.int64(), pa.float64(), pa.int64()]
    assert [kinds[k] for k in ("kind", "sizes", "fate")] == [pa.string()] * 3
    assert [kinds[k] for k in measured] == [pa.string(), *[pa.float64()] * 3, pa.int64(), pa.string()]
    rows = table.to_pylist()
    assert len(rows) == 17
    assert [(r["n"], r["kind"], r["sizes"], r["method"]) for r in (rows[0], rows[3], rows[-1])] == [
        (1.0, "1", "[1, 2]", "a"),
        (1.0, "1", "[3]", "b"),
        (math.inf, None, None, "c"),
    ]
    assert rows[-1]["limit"] == math.inf
    assert {r["error"] for r in rows} == {r["count"] for r in rows} == {None}
    assert rows[0]["numpy_version"] == np.__version__
    assert len({r["cell"] for r in rows}) == 9


def test_numbers_arrive_bit_by_bit(tmp_path):
    rows = f"[Row(float.fromhex(x)) for x in {[x.hex() for x in SPECIAL]}]"
    done = run_sweep(mine(tmp_path, rows=rows), tmp_path)
    assert parquet.read_table(done.table)["value"].to_numpy().tobytes() == np.array(SPECIAL).tobytes()


def test_a_table_longer_than_what_is_held_in_memory(tmp_path, monkeypatch):
    sweep = toys(tmp_path, TEN)
    whole = parquet.read_table(run_sweep(sweep, tmp_path / "out").table)
    for rows in (1, 6, 20):
        monkeypatch.setattr(tables, "ROWS", rows)
        run_sweep(sweep, tmp_path / "out")
        assert parquet.read_table(tmp_path / "out" / "toys.parquet").equals(whole)


def test_a_table_of_nothing_still_has_its_columns(tmp_path):
    done = run_sweep(toys(tmp_path, 'base.fate = "raise"\n'), tmp_path / "out")
    table = parquet.read_table(done.table)
    assert (table.num_rows, table.schema.field("value").type) == (0, pa.float64())


def test_an_older_table_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    sweep, out = toys(tmp_path, TEN), tmp_path / "out"
    before = run_sweep(sweep, out).table.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            parquet.ParquetWriter, "write_table", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        with pytest.raises(
            DataError, match=r"toys\.parquet cannot be written .*No space left.*every finished cell is kept"
        ):
            run_sweep(toys(tmp_path, "[[grid]]\nseed = [3]\n"), out)
    assert (out / "toys.parquet").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["journal.sqlite", "toys.parquet"]
    (out / f".toys.parquet.{os.getpid()}.part").write_text("of a run that was killed here, under the same number")
    run_sweep(sweep, out)
    assert sorted(p.name for p in out.iterdir()) == ["journal.sqlite", "toys.parquet"]


def test_reading_a_table_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="does not exist; run linnet sweep first"):
        read_table(tmp_path / "none.parquet")


# The command.


def test_what_the_command_says(tmp_path, capsys):
    file = write(tmp_path, '[[grid]]\nseed = {range = [0, 8]}\nfate = ["", "raise"]\nbox.width = [3]\n')
    file.write_text(file.read_text().replace('"Toys"', '"Toys [/of] [bold]mine"'))
    assert command(file, None, None, tmp_path / "o[/x]") == 1
    out, err = capsys.readouterr()
    assert out.startswith("Toys [/of] [bold]mine: 16 cells, ")
    assert err == "", "no progress where there is no terminal"
    assert "cells that failed: 8" in out
    assert "│ 0    │ 3         │ raise │ ValueError: [/cell 0] is wrong │" in out
    assert out.count("is wrong │") == 5
    assert "and 3 more" in out
    assert "_meet_fate" in out
    assert out.rstrip().endswith("o[/x]/toys.parquet")
    (tmp_path / "healed").touch()
    assert command(file, 1, None, tmp_path / "o[/x]") == 0
    assert ": 16 cells, 8 of them from an earlier run, " in capsys.readouterr().out
    assert command(file, None, None, tmp_path / "o[/x]") == 0
    assert "cells/s" not in capsys.readouterr().out
    (tmp_path / "healed").unlink()
    command(write(tmp_path, 'base.fate = "raise"\n[[grid]]\nmethods = [["c", "d"]]\n'), None, None, tmp_path / "out")
    assert '│ ["c", "d"] │ ValueError' in capsys.readouterr().out, "although it has no column in the table"


def test_what_the_command_refuses(tmp_path, monkeypatch):
    file = write(tmp_path, TEN)
    with pytest.raises(LinnetError, match="--jobs and --scheduler were both given"):
        command(file, 2, "tcp://localhost:1", None)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be made \(File exists\); give --out a folder"):
        command(file, None, None, tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot be made \(Not a directory\)"):
        command(file, None, None, tmp_path / "file" / "below")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        with pytest.raises(DataError, match=r"needs the extra cluster: pip install 'linnet-trials\[cluster\]'"):
            command(file, None, "tcp://localhost:1", tmp_path / "out")
    monkeypatch.setattr(commands, "PATIENCE", 0.2)
    for address, why in [("tcp://127.0.0.1:1", "OSError"), ("here", "ValueError")]:
        with pytest.raises(DataError, match=rf"no dask scheduler answers at {address} \({why}\); start one with"):
            command(file, None, address, tmp_path / "out")
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as idle,
        pytest.raises(DataError, match="has no workers; start some: dask worker"),
    ):
        command(file, None, idle.scheduler_address, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(DataError, match=r"tables need the extra figures: pip install 'linnet-trials\[figures\]'"):
            command(file, None, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if os.path.isdir("/proc/self"):  # a folder that exists, and that nobody may write to
        with pytest.raises(DataError, match=r"journal\.sqlite cannot be written \(unable to open database file\)"):
            command(file, None, None, Path("/proc/self"))
    assert ran(tmp_path) == []


def test_a_refused_sweep_writes_nothing(tmp_path):
    file = write(tmp_path, TEN + "box.wdth = [1]\n")
    before = sorted(tmp_path.rglob("*"))
    line = sweeps.refused(sweeps.linnet(file.name, cwd=tmp_path))
    assert line == "linnet: toys.toml: grid.box.wdth: unknown key; did you mean width?"
    assert sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts) == before


def test_what_was_computed_by_other_code_is_told_apart(tmp_path):
    for name in ("methods/lora.py", "trials/trial.py", "cli.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    code = running.code_of.__wrapped__  # it is asked once a process
    before = code(tmp_path)
    for name in ("trials/trial.py", "cli.py"):
        (tmp_path / name).write_text("after")
    assert code(tmp_path) == before, "no cell enters these"
    (tmp_path / "methods/lora.py").write_text("after")
    assert code(tmp_path) != before


def test_a_study_that_was_edited_is_computed_again(tmp_path):
    file, out = write(tmp_path, TEN), tmp_path / "out"
    for edited, times in (("", 10), ("", 10), ("\n# another thought\n", 20)):
        with (tmp_path / "toy.py").open("a") as study:
            study.write(edited)
        done = linnet(file, "--out", out)
        assert done.returncode == 0, done.stderr
        assert len(ran(tmp_path)) == times
