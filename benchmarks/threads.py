"""Do the threads of BLAS and the processes of linnet multiply? Who computes, and what becomes of a run on busy cores.

Runs with two processes, in an environment that says nothing of BLAS's threads, and in one that asks for eight. While
one runs alone, all threads of its process and of those below it are watched, in /proc: which of them take CPU time,
and how many run or wait for a core. Then runs take turns, alone and while two processes elsewhere keep both cores busy:
by a fair share of the cores they become twice as slow. Matrices are so large that OpenBLAS shares them out, if it may.
Linux, two cores and nothing else that runs; some minutes:

    python benchmarks/threads.py
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from measuring import Target, here, in_turn, keep, ratio, shown
from start import LINNET

DEFAULT, ASKED = "nothing said", "8 asked for"
SETTINGS: dict[str, dict[str, str]] = {DEFAULT: {}, ASKED: {"OPENBLAS_NUM_THREADS": "8"}}
NAMES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
JOBS = 2
SWEPT, VERIFIED = "linnet sweep --jobs 2", "linnet verify --jobs 2"
THEIRS = "the user's"
CLAIMS = ("yang2024/lemma-f12", "yang2024/lemma-f14")
COMPUTING = 0.2
"""A thread that takes this share of a run's time computes; others wait, and hand things on."""

SWEEP = """
title = "Threads"
study = "layer"
[base]
replicates = {replicates}
network = {{ widths = [{width}, {width}, {width}, {width}], layer = 1 }}
n = {n}
methods = [{{ method = "FullFT" }}, {{ method = "LoRA", ranks = [8] }}]
[[grid]]
seed.range = [0, {cells}]
"""
PYTHON = """
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from linnet.sweep import On, Processes, read_sweep, run_sweep
made = {
    "Processes": lambda: Processes(2),
    "ProcessPoolExecutor": lambda: ProcessPoolExecutor(2, get_context("spawn")),
    "ThreadPoolExecutor": lambda: ThreadPoolExecutor(2),
}
with made[sys.argv[1]]() as pool:
    run_sweep(read_sweep(Path(sys.argv[2])), Path(sys.argv[3]), pool if isinstance(pool, Processes) else On(pool))
"""
DASK = """
import subprocess, sys
from distributed import LocalCluster
with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=60) as cluster:
    subprocess.run([*sys.argv[1:], "--scheduler", cluster.scheduler_address], check=True)
"""


def commands(folder: Path, cells: int, width: int, budget: str) -> dict[str, Callable[[], list[str]]]:
    """Return what is run, by name: functions, since every run of a sweep has a folder of its own."""
    file = folder / f"threads-{cells}.toml"
    file.write_text(SWEEP.format(cells=cells, width=width, n=2 * width, replicates=8), encoding="utf-8")

    def out() -> str:
        return tempfile.mkdtemp(dir=folder)

    def sweep() -> list[str]:
        return [LINNET, "sweep", str(file), "--out", out()]

    def python(workers: str) -> list[str]:
        return [sys.executable, "-c", PYTHON, workers, str(file), out()]

    jobs = ["--jobs", str(JOBS)]
    return {
        SWEPT: lambda: [*sweep(), *jobs],
        "run_sweep, Processes(2)": lambda: python("Processes"),
        "linnet sweep --scheduler": lambda: [sys.executable, "-c", DASK, *sweep()],
        VERIFIED: lambda: [LINNET, "verify", *CLAIMS, "--budget", budget, *jobs],
        f"{THEIRS} ProcessPoolExecutor(2)": lambda: python("ProcessPoolExecutor"),
        f"{THEIRS} ThreadPoolExecutor(2)": lambda: python("ThreadPoolExecutor"),
    }


def environment(setting: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NAMES} | dict(setting)


def begun(command: Sequence[str], setting: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment(setting), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(made: Callable[[], list[str]], setting: Mapping[str, str]) -> None:
    process = begun(command := made(), setting)
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, command)


# --- watching -------------------------------------------------------------------------------------


def watched(command: Sequence[str], setting: Mapping[str, str], limit: float, every: float = 0.05) -> dict[str, Any]:
    """Run a command to its end, or for ``limit`` seconds; return what its process and those below it did.

    Keys:
        seconds, cpu: from start to end, and of the CPU.
        threads: of the process that has the most.
        computing, in_all: threads that compute, in the process that has the most of them, and in all.
        ready: mean number of threads that run or wait for a core.
    """
    taken: dict[tuple[int, int], float] = {}
    threads: dict[int, int] = {}
    ready = []
    start = time.perf_counter()
    process = begun(command, setting)
    while process.poll() is None and time.perf_counter() < start + limit:
        states = []
        for pid in _tree(process.pid):
            found = list(_threads(pid))
            threads[pid] = max(threads.get(pid, 0), len(found))
            states += [state for _, state, _ in found]
            taken |= {(pid, thread): seconds for thread, _, seconds in found}
        ready.append(states.count("R"))
        time.sleep(every)
    seconds, code = time.perf_counter() - start, process.poll()
    if code:
        raise subprocess.CalledProcessError(code, command)
    for pid in list(_tree(process.pid)) if code is None else ():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    computing = [pid for (pid, _), used in taken.items() if used >= COMPUTING * seconds]
    return {
        "seconds": seconds,
        "ended": code == 0,
        "cpu": sum(taken.values()),
        "processes": len(threads),
        "threads": max(threads.values()),
        "computing": max(map(computing.count, computing), default=0),
        "in_all": len(computing),
        "ready": statistics.mean(ready),
    }


def _tree(root: int) -> Iterator[int]:
    """Yield a process and those below it."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            below.setdefault(int(_fields(stat)[1]), []).append(int(stat.parent.name))
    waiting = [root]
    while waiting:
        yield (pid := waiting.pop())
        waiting += below.get(pid, [])


def _threads(pid: int) -> Iterator[tuple[int, str, float]]:
    """Yield the threads of a process: number, state, seconds of CPU so far."""
    for stat in Path(f"/proc/{pid}/task").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = _fields(stat)
            yield int(stat.parent.name), fields[0], sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _fields(stat: Path) -> list[str]:
    """Return what stands after the name of the program, which may hold anything."""
    return stat.read_text().rpartition(")")[2].split()


# --- busy cores -----------------------------------------------------------------------------------


@contextmanager
def busy(cores: int = 2) -> Iterator[None]:
    """Keep cores busy with processes that compute for nobody."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def slowed(made: Callable[[], list[str]], settings: Sequence[str], rounds: int) -> dict[str, Any]:
    """Return how much slower a command is on busy cores, setting by setting, and against the first of these."""

    def beside(setting: Mapping[str, str]) -> None:
        with busy():
            run(made, setting)

    works: dict[str, Callable[[], object]] = {}
    for name in settings:
        works[f"{name}, alone"] = partial(run, made, SETTINGS[name])
        works[f"{name}, busy"] = partial(beside, SETTINGS[name])
    taken = in_turn(works, rounds, unmeasured=0)
    return {
        "seconds": {name: statistics.median(values) for name, values in taken.items()},
        "busy_over_alone": {name: ratio(taken, f"{name}, busy", to=f"{name}, alone") for name in settings},
        "over_first": {
            f"{name}, {where}": ratio(taken, f"{name}, {where}", to=f"{settings[0]}, {where}")
            for name in settings[1:]
            for where in ("alone", "busy")
        },
    }


# --- all of it ------------------------------------------------------------------------------------


def guarded() -> dict[str, float]:
    """Return ratios that a change for the worse would raise: what linnet does unasked, over one thread asked for."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        made = commands(Path(name), 6, 96, "quick")
        for which in (SWEPT, VERIFIED):
            unasked, asked = (watched(made[which](), setting, 30) for setting in ({}, {"OPENBLAS_NUM_THREADS": "1"}))
            for key in ("cpu", "ready"):
                found[f"{key} of {which}, unasked over one thread asked for"] = unasked[key] / asked[key]
    return found


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    print("                                                most threads      threads computing    ready")
    print("run                               BLAS threads  of a process  of a process   in all   to run   CPU s / s")
    for row in rows:
        print(
            f"{row['run']:33} {row['setting']:13} {row['threads']:12d} {row['computing']:13d} {row['in_all']:8d} "
            f"{row['ready']:8.2f} {row['cpu'] / row['seconds']:11.2f}"
        )


def report_slowed(name: str, found: Mapping[str, Any]) -> None:
    print(f"\n{name}")
    for setting, times in found["busy_over_alone"].items():
        alone, both = (found["seconds"][f"{setting}, {where}"] for where in ("alone", "busy"))
        print(f"{setting:>16}: {alone:6.2f} s alone, {both:6.2f} s on busy cores, {shown(times)} times as long")
    for setting, times in found["over_first"].items():
        print(f"{setting:>16}: {shown(times)} times as long as with nothing said")


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Return what no run may exceed: of linnet's own processes whatever is said, of the user's where nothing is."""
    found = []
    for whose, theirs, setting in (
        ("linnet's processes", False, DEFAULT),
        ("linnet's processes", False, ASKED),
        (f"{THEIRS} executors", True, DEFAULT),
    ):
        these = [row for row in rows if row["run"].startswith(THEIRS) == theirs and row["setting"] == setting]
        where = f"{whose}, {setting}"
        found += [
            Target(f"threads that compute, {where}", max(row["in_all"] for row in these), JOBS),
            Target(f"threads that run or wait for a core, {where}", max(row["ready"] for row in these), JOBS + 0.1),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose numbers say nothing; nothing is stored")
    parser.add_argument("--out", type=Path, help="where to store; benchmarks/results/threads.json")
    parser.add_argument("--cells", type=int, default=200, help="of the sweep that is watched: its start does not count")
    parser.add_argument("--some", type=int, default=60, help="cells of the one that runs beside others, to its end")
    parser.add_argument("--few", type=int, default=8, help="cells of the one that runs with eight threads, to its end")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--budget", default="full", help="of the claims")
    parser.add_argument("--limit", type=float, default=8.0, help="seconds for which a run is watched")
    parser.add_argument("--rounds", type=int, default=6)
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(cells=4, some=3, few=2, width=16, budget="quick", limit=1.5, rounds=1)
    options = parser.parse_args()
    on = here("distributed")
    with tempfile.TemporaryDirectory() as folder:
        many, some, few = (
            commands(Path(folder), cells, options.width, options.budget)
            for cells in (options.cells, options.some, options.few)
        )
        rows = [
            {"run": name, "setting": setting} | watched(made(), SETTINGS[setting], options.limit)
            for name, made in many.items()
            for setting in SETTINGS
        ]
        report(rows)
        half = max(1, options.rounds // 2)
        runs = [
            (f"{SWEPT}, {options.few} cells", few[SWEPT], list(SETTINGS), half),
            (f"{SWEPT}, {options.some} cells", some[SWEPT], [DEFAULT], options.rounds),
            (VERIFIED, many[VERIFIED], list(SETTINGS), half),
        ]
        slow = {}
        for name, made, settings, rounds in runs[:1] if options.quick else runs:
            slow[name] = slowed(made, settings, rounds)
            report_slowed(name, slow[name])
    keep("threads", options, on, goals(rows), {"rows": rows, "slowed": slow})


if __name__ == "__main__":
    main()
