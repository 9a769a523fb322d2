"""``linnet sweep`` in processes of its own: killed, interrupted, out of disk, on several processes, on dask."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from distributed import LocalCluster
from sweeps import linnet, processes, ran, refused, started, toys, write

from linnet.sweep import On, Processes, read_sweep, read_table, run_sweep
from linnet.sweep import run as running
from linnet.sweep.journal import Journal

CELLS = "[[grid]]\nn = [inf, 2]\nseed = {range = [0, 12]}\n"
SLOW = "base.wait = 0.04\n" + CELLS
IN_FLIGHT = {1: 1, 2: 6}
"""Cells that may have to be computed again, by number of processes."""


@pytest.fixture
def whole(tmp_path):
    """The table of SLOW from a run in one go, in this process."""
    (tmp_path / "whole").mkdir()
    return run_sweep(toys(tmp_path / "whole", SLOW), tmp_path / "whole" / "out").table.read_bytes()


def wait_for(condition, seconds=60):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.002)


def alive(numbers):
    """Return the processes of these numbers that still run."""
    found = set()
    for number in numbers:
        with contextlib.suppress(OSError):
            os.kill(number, 0)
            with open(f"/proc/{number}/stat") as stat:  # ended, but nobody has asked yet
                if stat.read().rpartition(")")[2].split()[0] != "Z":
                    found.add(number)
    return found


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path, whole, jobs):
    file, out = write(tmp_path, SLOW), tmp_path / "out"
    arguments = (file, "--out", out, "--jobs", jobs)
    for more in (0, 8, 1):  # at the first moment, before any cell; in the middle; right after the start
        process = started(*arguments)
        want = len(ran(tmp_path)) + more
        wait_for(lambda want=want: (out / "journal.sqlite").exists() and len(ran(tmp_path)) >= want)
        process.kill()
        process.communicate(timeout=20)
        wait_for(lambda: not alive(processes(tmp_path)), 10)
    done = run_sweep(read_sweep(file), out)
    assert 0 < done.kept < 24
    assert done.table.read_bytes() == whole
    assert len(ran(tmp_path)) <= 24 + 2 * IN_FLIGHT[jobs]


@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_it_says_how_to_go_on(tmp_path, whole, jobs):
    file, out = write(tmp_path, SLOW), tmp_path / "out"
    arguments = (file.name, "--out", "out", "--jobs", jobs)
    for begun in (0, 8):
        process = started(*arguments, start_new_session=True, cwd=tmp_path)
        wait_for(lambda begun=begun: (out / "journal.sqlite").exists() and len(ran(tmp_path)) >= begun)
        os.killpg(process.pid, signal.SIGINT)
        out_text, err = process.communicate(timeout=20)
        done = subprocess.CompletedProcess("", process.returncode, out_text, err)
        line = refused(done, 130)
        assert line.startswith("linnet: interrupted; every finished cell is kept: to go on, linnet sweep toys.toml")
        assert not (out / "toys.parquet").exists()
    wait_for(lambda: not alive(processes(tmp_path)), 10)
    done = run_sweep(read_sweep(file), out)
    assert 0 < done.kept < 24
    assert done.table.read_bytes() == whole
    assert len(ran(tmp_path)) <= 24 + 2 * IN_FLIGHT[jobs]


def test_an_interrupt_does_not_wait_for_the_cells(tmp_path):
    file = write(tmp_path, "base.wait = 600\n[[grid]]\nseed = [0, 1, 2]\n")
    process = started(file, "--out", tmp_path / "out", "--jobs", 2, start_new_session=True)
    wait_for(lambda: len(ran(tmp_path)) == 2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    wait_for(lambda: not alive(processes(tmp_path)), 10)


def test_an_interrupt_waits_while_a_process_is_started():
    say = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    heard = []

    def start():
        with running.deaf():
            os.kill(os.getpid(), signal.SIGINT)
            heard.append(subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True).stdout)

    with pytest.raises(KeyboardInterrupt):
        start()
    assert heard == ["True\n"], "the process was started, and does not hear it"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


FATAL = SLOW + '[[grid]]\nseed = [20]\nfate = ["exit"]\n[[grid]]\nseed = [21, 22]\nfate = ["kill", "raise"]\n'


def test_a_cell_whose_process_dies_does_not_stop_the_others(tmp_path, whole):
    file, out = write(tmp_path, FATAL), tmp_path / "out"
    done = linnet(file, "--out", out, "--jobs", 2)
    assert (done.returncode, done.stderr) == (1, "")
    assert "cells that failed: 5" in done.stdout
    table = read_table(out / "toys.parquet")
    assert sorted(set(table["seed"])) == list(range(12))
    assert len(table) == 48
    said = [re.split(" *│ *", line)[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    died = "its process died; is there memory enough for this cell?"
    assert [(row[-2], row[-1]) for row in said if row[-2]] == [
        ("exit", died),
        ("kill", died),
        ("raise", "ValueError: [/cell 21] is wrong"),
        ("kill", died),
        ("raise", "ValueError: [/cell 22] is wrong"),
    ]
    (tmp_path / "healed").touch()
    before = len(ran(tmp_path))
    assert not run_sweep(read_sweep(file), out).failures
    assert sorted(ran(tmp_path)[before:]) == [20, 21, 21, 22, 22]
    run_sweep(toys(tmp_path, SLOW), out)
    assert (out / "toys.parquet").read_bytes() == whole


def test_workers_that_die_between_two_cells_are_replaced(tmp_path, whole):
    with Processes(2) as workers:
        assert signal.SIGINT in workers.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result(), "deaf from birth"
        assert workers.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN

        def kill(done, failed, total):
            if done in (0, 9):
                pool = workers._pool
                assert pool._mp_context.get_start_method() == "spawn", "JAX does not survive a fork"
                pool.submit(os.getpid).result()
                for process in list(pool._processes.values()):
                    process.kill()
                wait_for(lambda: pool._broken)

        done = run_sweep(toys(tmp_path, SLOW), tmp_path / "out", workers, kill)
    assert not done.failures
    assert done.table.read_bytes() == whole


def test_any_executor_will_do(tmp_path, whole):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = run_sweep(toys(tmp_path, SLOW), tmp_path / "out", On(pool))
    assert done.table.read_bytes() == whole
    assert len(ran(tmp_path)) == 24


GONE = "the workers are gone; every finished cell is kept: run the same command again"
UNGUARDED = """from pathlib import Path
from linnet.sweep import Processes, read_sweep, run_sweep
with Processes(2) as workers:
    run_sweep(read_sweep(Path("toys.toml")), Path("out"), workers)
"""


def test_processes_that_cannot_start_are_not_tried_for_ever(tmp_path):
    write(tmp_path, CELLS)
    (tmp_path / "unguarded.py").write_text(UNGUARDED)  # without if __name__ == "__main__", spawned processes fail
    done = subprocess.run(
        [sys.executable, "unguarded.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    said = "DataError: the workers are gone; every finished cell is kept: run the same command again"
    assert done.stderr.count(said) == 1  # warnings of the processes that failed may come after it
    assert ran(tmp_path) == []


def test_a_full_disk_stops_it_and_loses_nothing(tmp_path, whole):
    file, out = write(tmp_path, SLOW), tmp_path / "out"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
    line = refused(linnet(file, "--out", out, before=limit.format(60_000)))
    assert re.search(r"journal\.sqlite cannot be written \(.*\); every finished cell is kept: mend that", line)
    first = len(ran(tmp_path))
    assert 4 < first < 24
    refused(linnet(file, "--out", out, "--jobs", 2, before=limit.format(20_000)))
    assert run_sweep(read_sweep(file), out).table.read_bytes() == whole
    assert len(ran(tmp_path)) <= 24 + 1 + IN_FLIGHT[2]
    (out / "toys.parquet").unlink()
    line = refused(linnet(file, "--out", out, before=limit.format(1000)))
    assert re.search(r"toys\.parquet cannot be written \(.*\); every finished cell is kept in .*journal\.sqlite", line)
    assert [path.name for path in out.iterdir()] == ["journal.sqlite"]
    assert run_sweep(read_sweep(file), out).table.read_bytes() == whole


def test_one_run_at_a_time(tmp_path):
    file, out = write(tmp_path, CELLS), tmp_path / "out"
    out.mkdir()
    with Journal(out / "journal.sqlite", {}):
        assert "is held by another run of this sweep; wait for it" in refused(linnet(file, "--out", out))
    assert ran(tmp_path) == []


def test_a_terminal_sees_how_far_it_is(tmp_path):
    write(tmp_path, 'base.wait = 0.02\n[[grid]]\nseed = {range = [0, 30]}\nfate = ["", "raise"]\n', "a{b}[c]")
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = started("a{b}[c].toml", "--out", "out", stdout=subprocess.PIPE, stderr=inside, cwd=tmp_path)
    os.close(inside)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal closes when the process ends
        while piece := os.read(terminal, 4096):
            shown += piece
    out, _ = process.communicate()
    os.close(terminal)
    assert process.returncode == 1
    assert "cells that failed: 30" in out
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).split("\r")
    found = [
        re.fullmatch(r"a{b}\[c\] \S+ +(\d+)/60 ([\d.]+) cells/s (\d:\d\d:\d\d) (\d+) failed *\n?", f) for f in frames
    ]
    seen = [(int(m[1]), float(m[2]), m[3], int(m[4])) for m in found if m]
    assert len(seen) > 3
    assert seen == sorted(seen, key=lambda frame: frame[0])
    assert all(1 < rate < 60 for _, rate, _, _ in seen)
    assert seen[-1][0] > 50
    assert {"0:00:00", "0:00:01"} <= {left for _, _, left, _ in seen}
    assert all(abs(failed - done / 2) <= 1 for done, _, _, failed in seen)


@pytest.fixture
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=60
    ) as dask:
        yield dask


def test_on_dask_a_worker_may_die_and_a_scheduler_may_go(tmp_path, whole, cluster):
    file, address = write(tmp_path, SLOW), cluster.scheduler_address
    process = started(file, "--out", tmp_path / "out", "--scheduler", address)
    wait_for(lambda: len(ran(tmp_path)) >= 6)
    os.kill(int((tmp_path / "log").read_text().split()[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert (tmp_path / "out" / "toys.parquet").read_bytes() == whole
    assert len(processes(tmp_path)) >= 2
    assert os.getpid() not in processes(tmp_path)

    begun = len(ran(tmp_path))
    assert begun <= 24 + 6
    process = started(file, "--out", tmp_path / "again", "--scheduler", address)
    wait_for(lambda: len(ran(tmp_path)) >= begun + 8)
    cluster.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.splitlines() == [f"linnet: {GONE}"]
    assert run_sweep(read_sweep(file), tmp_path / "again").kept > 0
    assert (tmp_path / "again" / "toys.parquet").read_bytes() == whole
