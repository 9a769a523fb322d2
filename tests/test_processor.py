"""The threads of BLAS and the processes of linnet do not multiply."""

import os
import platform
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from sweeps import toys
from threadpoolctl import threadpool_info, threadpool_limits

from linnet.processor import KEPT, VARIABLES, children_of_one_thread, cores, keep_memory, one_thread
from linnet.sweep import On, Processes, command, run, run_sweep
from linnet.sweep.run import Here, solve
from linnet.trials import ledger
from linnet.trials.claim import select


def blas_threads():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def asked_of_blas(*_):
    """What a cell would find, in whatever process it runs."""
    with one_thread():
        return {os.environ.get(name) for name in VARIABLES}, blas_threads()


@pytest.fixture
def eight_asked_for(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "8")


def test_blas_has_one_thread_for_a_while():
    with threadpool_limits(limits=2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS has one thread whatever is asked for")
        with one_thread():
            with one_thread():
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == {2}


def test_threads_come_back_when_the_last_has_left():
    """Of two that overlap, the first to come is the first to go."""
    first, second = one_thread(), one_thread()
    with threadpool_limits(limits=2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS has one thread whatever is asked for")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == {2}


def test_threads_come_back_after_an_error():
    before = blas_threads()
    with pytest.raises(RuntimeError), one_thread():
        raise RuntimeError
    assert blas_threads() == before


def test_children_have_one_thread_whatever_is_exported(eight_asked_for):
    with children_of_one_thread():
        said = subprocess.run(
            [sys.executable, "-c", f"import os; print([os.environ[n] for n in {VARIABLES!r}])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert said.strip() == "['1', '1', '1']"
    assert [os.environ[name] for name in VARIABLES] == ["8"] * 3


def test_what_was_not_exported_is_not_afterwards(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with children_of_one_thread():
        assert {os.environ[name] for name in VARIABLES} == {"1"}
    assert not {*VARIABLES} & {*os.environ}


def test_processes_of_trials_have_one_thread_whatever_is_exported(eight_asked_for, monkeypatch):
    seen = []

    class Watched(ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            seen.append({os.environ[name] for name in VARIABLES})
            return super().submit(*args, **kwargs)

    monkeypatch.setattr(ledger, "ProcessPoolExecutor", Watched)
    names = ["yang2024/lemma-f12", "yang2024/lemma-f14"]
    find = partial(select, names)
    found = ledger.try_claims(find, find(), "quick", 0, 2, lambda name, verdict: None)
    assert not found.failures
    assert seen == [{"1"}] * len(find())
    assert os.environ[VARIABLES[0]] == "8"


def test_processes_of_a_sweep_have_one_thread_whatever_is_exported(eight_asked_for):
    with Processes(1) as workers:
        environment, threads = workers.submit(asked_of_blas).result()
        assert (environment, threads) == ({"1"}, {1})
        assert workers.restart()
        assert workers.submit(asked_of_blas).result() == ({"1"}, {1})
    assert os.environ[VARIABLES[0]] == "8"


def test_cells_have_one_thread_on_executors_of_others(eight_asked_for):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        environment, threads = On(pool).submit(asked_of_blas).result()
        assert environment == {"8"}  # theirs, which linnet leaves as it is
        assert threads == {1}


def test_a_cell_is_computed_with_one_thread(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "study", lambda source: source)
    monkeypatch.setattr(run, "cell_of", lambda study, parameters: parameters)
    monkeypatch.setattr(run, "computed", lambda cell: seen.append(blas_threads()) or [])
    with threadpool_limits(limits=2, user_api="blas"):
        assert Here().submit(solve, "", {}).result().error is None
    assert seen == [{1}]


def test_a_sweep_has_one_thread_on_an_executor_of_threads(tmp_path, monkeypatch):
    seen, compute = [], run.computed
    monkeypatch.setattr(run, "computed", lambda cell: seen.append(blas_threads()) or compute(cell))
    with threadpool_limits(limits=2, user_api="blas"), ThreadPoolExecutor(2) as pool:
        run_sweep(toys(tmp_path, "[[grid]]\nseed.range = [0, 6]\n"), tmp_path / "out", On(pool))
    assert seen == [{1}] * 6


ONCE = 40 * 800_000 // 4096
"""Pages that ``page_faults`` writes for the first time."""


def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        arrays = [np.ones(100_000) for _ in range(40)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def in_a_new_process(begin):
    with ProcessPoolExecutor(1, get_context("spawn"), begin) as pool:
        return pool.submit(page_faults).result()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is not glibc's")
def test_memory_is_kept_for_what_follows(monkeypatch):
    for name in KEPT:
        monkeypatch.delenv(name, raising=False)
    assert in_a_new_process(None) > 10 * ONCE
    assert in_a_new_process(keep_memory) < 3 * ONCE
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert in_a_new_process(keep_memory) > 10 * ONCE, "the environment counts"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is not glibc's")
def test_sweeps_keep_memory(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(command, "keep_memory", lambda: kept.append("command"))
    toys(tmp_path, "[[grid]]\nseed.range = [0, 2]\n")
    (file,) = tmp_path.glob("*.toml")
    assert command.command(file, None, None, tmp_path / "out") == 0
    assert kept == ["command"]
    for name in KEPT:
        monkeypatch.delenv(name, raising=False)
    with Processes(1) as workers:
        assert workers.submit(page_faults).result() < 3 * ONCE


def test_cores_are_those_that_this_process_may_use():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to a core")
    code = "import os, linnet.processor as t; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(t.cores())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "1"
    assert cores() == len(os.sched_getaffinity(0))
