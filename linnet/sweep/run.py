"""Running the cells of a sweep: in this process, on any executor, and again where an earlier run stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import scipy

import linnet
from linnet.errors import DataError
from linnet.processor import children_of_one_thread, cores, keep_memory, one_thread
from linnet.sweep.grid import Sweep
from linnet.sweep.journal import Journal
from linnet.sweep.study import Study, cell_of, computed, flat, study
from linnet.sweep.table import write_table

AHEAD = 3
"""Cells that are handed out for each worker of several: enough to keep it busy, few enough that memory stays flat."""


ELSEWHERE = ("trials", "report", "compare", "reference", "llm", "cli.py", "plots.py")
"""Rooms of linnet that no cell enters."""


def versions() -> dict[str, str]:
    """Return what results depend on beside the parameters; ``code`` is a digest of linnet's own files."""
    return {
        "linnet": linnet.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "code": code_of(Path(linnet.__file__).parent),
    }


@cache
def code_of(home: Path) -> str:
    """Return a digest of what is computed with, among the files of linnet in ``home``."""
    files = sorted(path.relative_to(home) for path in home.rglob("*.py"))
    found = hashlib.blake2b(digest_size=8)
    for path in files:
        if path.parts[0] not in ELSEWHERE:
            found.update(path.as_posix().encode() + b"\0" + (home / path).read_bytes() + b"\0")
    return found.hexdigest()


@dataclass(frozen=True)
class Failure:
    """A cell that could not be computed.

    Attributes:
        parameters: of the cell, all of them; nested names joined by dots.
        error: the last line of what went wrong.
        details: all of it.
    """

    parameters: dict[str, Any]
    error: str
    details: str


@dataclass(frozen=True)
class Done:
    """What a run of a sweep did.

    Attributes:
        table: the Parquet file, of all cells that did not fail.
        cells: how many the sweep has.
        kept: how many an earlier run had finished.
        failures: cells without rows.
    """

    table: Path
    cells: int
    kept: int
    failures: tuple[Failure, ...]


class Workers(Protocol):
    """Where cells are computed."""

    @property
    def flight(self) -> int:
        """How many cells to hand out at once."""

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Start a call."""

    def restart(self) -> bool:
        """Start anew after a worker has died; return whether that was possible."""


class Here:
    """This process, one cell after the other."""

    flight = 1  # a cell is done when it is handed out: the next one waits until this one is kept

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run a call to its end."""
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future

    def restart(self) -> bool:
        """There is nothing to restart."""
        return False


class On:
    """Any ``concurrent.futures.Executor``, which stays its owner's."""

    def __init__(self, executor: Executor, size: int | None = None) -> None:
        self._executor = executor
        self.flight = AHEAD * (size or getattr(executor, "_max_workers", None) or cores())

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Start a call."""
        return self._executor.submit(function, *args)

    def restart(self) -> bool:
        """Somebody else's executor is not restarted."""
        return False


class Processes:
    """Processes on this machine, spawned (JAX and fork deadlock), each with one thread for BLAS."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.flight = AHEAD * size
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(self._size, mp_context=get_context("spawn"), initializer=_begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(now=kind is not None)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Start a call."""
        assert self._pool is not None
        with deaf(), children_of_one_thread():  # a process that this starts takes a while to reach follow_parent
            return self._pool.submit(function, *args)

    def restart(self) -> bool:
        """Replace all processes; return whether the new ones live."""
        self._stop(now=True)
        self.__enter__()
        return self.submit(os.getpid).exception() is None

    def _stop(self, now: bool) -> None:
        if self._pool is None:
            return
        running = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=not now, cancel_futures=True)
        for process in running if now else ():
            process.kill()


@contextmanager
def deaf() -> Iterator[None]:
    """Hold Ctrl-C back until the end, and for ever from the processes that are started meanwhile."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    held: list[int] = []
    # The mask is for the children, which inherit it; this process has other threads that take signals.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if held:
            signal.raise_signal(signal.SIGINT)


def _begin() -> None:
    follow_parent()
    keep_memory()


def follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it does, killed or not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back: rows, as JSON, or why there are none; and its versions."""

    rows: str | None
    error: str | None
    versions: dict[str, str]


def solve(source: str, parameters: dict[str, Any]) -> Outcome:
    """Compute one cell, in whatever process this runs, with one thread for BLAS.

    Cells are many: threads would multiply the workers, and a sum may depend on how many share it.
    """
    try:
        cell = cell_of(study(source), parameters)  # loads what the study needs
        with one_thread():
            rows = json.dumps(computed(cell))
    except (Exception, SystemExit) as err:
        return _failed(err)
    return Outcome(rows, None, versions())


def _failed(err: BaseException) -> Outcome:
    text = "".join(traceback.format_exception(err))
    return Outcome(None, text.encode(errors="backslashreplace").decode(), versions())


def run_sweep(
    sweep: Sweep,
    out: Path,
    workers: Workers | None = None,
    progress: Callable[[int, int, int], object] = lambda done, failed, total: None,
) -> Done:
    """Compute the cells that ``out`` does not hold yet, and write the table of all.

    Rows, their order and the bytes of the table do not depend on the workers, nor on how often a run was stopped.

    Args:
        sweep: what to compute.
        out: folder of the journal and the table; made if it does not exist.
        workers: where to compute; this process by default.
        progress: told after every cell how many are done, how many of these failed, and how many there are.

    Raises:
        DataError: the folder is held by another run, holds results of other versions, or cannot be written; a worker
            has other versions; the workers are gone. Every finished cell is kept.
    """
    workers = Here() if workers is None else workers
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"{out} cannot be made ({err.strerror}); give --out a folder that you may write to") from None
    own = versions()
    identity = {
        **own,
        "study": sweep.study.name(),
        "columns": ", ".join(f.name for f in dataclasses.fields(sweep.study.Row)),
    }
    # Held here too: of an executor of threads, those who compute come and go.
    with Journal(out / "journal.sqlite", identity) as journal, one_thread():
        # Twice through the cells rather than once through a list of them: a sweep may have millions.
        kept, total, failed = sum(journal.done(cell.key()) for cell in sweep.cells()), len(sweep), 0
        left = (cell for cell in sweep.cells() if not journal.done(cell.key()))
        done = kept
        progress(done, failed, total)
        for cell, outcome in _outcomes(sweep, left, workers):
            if outcome.versions != own:
                raise DataError(
                    f"a worker has other versions ({outcome.versions}) than this process ({own}); install the same "
                    "on both; every finished cell is kept"
                )
            journal.add(cell.key(), outcome.rows, outcome.error)
            done, failed = done + 1, failed + (outcome.rows is None)
            progress(done, failed, total)
        failures = tuple(
            Failure(flat(cell.model_dump(mode="json")), _last_line(error), error)
            for cell in (sweep.cells() if failed else ())
            if (error := journal.error(cell.key())) is not None
        )
        stamps = {name: version for name, version in own.items() if name != "code"}
        table = write_table(sweep, journal, out / f"{sweep.name}.parquet", stamps)
    return Done(table, total, kept, failures)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].removeprefix("linnet.errors.")


def _outcomes(sweep: Sweep, waiting: Iterator[Study], workers: Workers) -> Iterator[tuple[Study, Outcome]]:
    """Yield cells as they finish.

    Raises:
        DataError: a worker died and cannot be replaced.
    """
    running: dict[Future[Any], Study] = {}
    suspects: list[Study] = []
    while True:
        # After a worker has died nobody knows on which cell: those in flight go one at a time.
        room = (1 if suspects else workers.flight) - len(running)
        for cell in [suspects.pop()] if suspects and room > 0 else islice(waiting, max(room, 0)):
            running[_handed_out(cell, sweep, workers)] = cell
        if not running:
            return
        ready, _ = wait(running, return_when=FIRST_COMPLETED)
        broken = [future for future in ready if _is_lost(future)]
        if not broken:
            for future in ready:
                yield running.pop(future), _outcome(future)
            continue
        alone = len(running) == 1
        for future in [f for f in ready if f not in broken]:
            yield running.pop(future), _outcome(future)
        lost = list(running.values())
        running.clear()
        if not workers.restart():
            raise DataError("the workers are gone; every finished cell is kept: run the same command again") from None
        if alone:
            yield lost[0], Outcome(None, "its process died; is there memory enough for this cell?", versions())
        else:
            suspects += lost


def _handed_out(cell: Study, sweep: Sweep, workers: Workers) -> Future[Any]:
    try:
        return workers.submit(solve, sweep.source, cell.model_dump(mode="json"))
    except BrokenExecutor as err:  # a worker has died since the last call
        future: Future[Any] = Future()
        future.set_exception(err)
        return future


def _is_lost(future: Future[Any]) -> bool:
    """Whether the workers are gone, rather than the cell wrong; a scheduler that goes cancels what it had."""
    return future.cancelled() or isinstance(future.exception(), BrokenExecutor)


def _outcome(future: Future[Any]) -> Outcome:
    """Return what a call gave; what went wrong outside the cell itself (a killed worker, say) counts as its failure."""
    err = future.exception()
    return future.result() if err is None else _failed(err)
