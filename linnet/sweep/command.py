"""``linnet sweep``: a TOML file in, a journal and a table out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from linnet.errors import DataError, LinnetError
from linnet.processor import keep_memory
from linnet.sweep.grid import Sweep
from linnet.sweep.run import Done, Failure, Here, On, Processes, Workers, run_sweep
from linnet.sweep.spec import read_sweep
from linnet.sweep.table import require_tables

SHOWN = 5
"""Failures that are shown in full; the table of the others is in the journal."""

PATIENCE = 10.0
"""Seconds that a scheduler has to answer."""


def command(file: Path, jobs: int | None, scheduler: str | None, out: Path | None) -> int:
    """Run a sweep; return 0 if every cell has its rows, 1 if some have not.

    Raises:
        LinnetError: the file or the folder cannot be used; nothing that was computed is lost.
    """
    if jobs is not None and scheduler is not None:
        raise LinnetError("--jobs and --scheduler were both given; a sweep runs here or on a cluster: leave one out")
    require_tables()
    keep_memory()
    folder = out or Path("sweeps") / file.stem
    began = time.monotonic()
    sweep = read_sweep(file)
    with _workers(jobs, scheduler) as workers, _progress(sweep) as progress:
        done = run_sweep(sweep, folder, workers, progress)
    _report(sweep, done, time.monotonic() - began)
    return 1 if done.failures else 0


@contextmanager
def _workers(jobs: int | None, scheduler: str | None) -> Iterator[Workers]:
    if scheduler is not None:
        with _dask(scheduler) as workers:
            yield workers
    elif jobs is not None and jobs > 1:
        with Processes(jobs) as processes:
            yield processes
    else:
        yield Here()


@contextmanager
def _dask(address: str) -> Iterator[Workers]:
    """Yield the workers of a dask scheduler.

    Raises:
        DataError: distributed is not installed, nobody answers, or the scheduler has no worker.
    """
    try:
        from distributed import Client
        from distributed.comm import resolve_address
    except ImportError:
        raise DataError("--scheduler needs the extra cluster: pip install 'linnet-trials[cluster]'") from None
    # Workers that come and go are logged with tracebacks; what the user needs to know of them is said by the sweep.
    for name in ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(resolve_address(address), timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as err:
        raise DataError(
            f"no dask scheduler answers at {address} ({type(err).__name__}); start one with dask scheduler, and give "
            "the address that it prints, such as tcp://192.0.2.7:8786"
        ) from None
    with client:
        threads = sum(client.nthreads().values())
        if threads == 0:
            raise DataError(f"the scheduler at {address} has no workers; start some: dask worker {address}")
        yield On(client.get_executor(pure=False), threads)


@contextmanager
def _progress(sweep: Sweep) -> Iterator[Callable[[int, int, int], object]]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    # The time left is estimated from the whole run: a cell may take minutes.
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, speed_estimate_period=math.inf
    ) as bar:
        task = bar.add_task(sweep.name, total=len(sweep), rate="", failed="")
        began, first = time.monotonic(), -1

        def tell(done: int, failed: int, total: int) -> None:
            nonlocal first
            first = done if first < 0 else first
            rate = (done - first) / max(time.monotonic() - began, 1e-9)
            said = f"{failed} failed" if failed else ""
            bar.update(task, completed=done, rate=f"{rate:.3g} cells/s" if done > first else "", failed=said)

        yield tell


def _report(sweep: Sweep, done: Done, seconds: float) -> None:
    console = Console(markup=False, highlight=False)  # titles and errors may hold brackets
    computed = done.cells - done.kept
    kept = f", {done.kept} of them from an earlier run" if done.kept else ""
    rate = f"; {computed / seconds:.3g} cells/s" if computed else ""
    console.print(f"{sweep.title}: {done.cells} cells{kept}, {seconds:.0f} s{rate}", soft_wrap=True)
    if done.failures:
        shown = done.failures[:SHOWN]
        names = _varying(sweep, shown)
        table = Table(*names, "error", title=f"cells that failed: {len(done.failures)}", title_justify="left")
        for failure in shown:
            table.add_row(*(Text(str(failure.parameters.get(n, ""))) for n in names), Text(failure.error))
        console.print(table)
        if len(done.failures) > SHOWN:
            console.print(f"and {len(done.failures) - SHOWN} more")
        console.print(done.failures[0].details.rstrip(), style="dim", soft_wrap=True)
        console.print("The other cells are in the table; the same command tries the failed ones again.")
    console.print(str(done.table), soft_wrap=True)


def _varying(sweep: Sweep, failures: Sequence[Failure]) -> list[str]:
    """Return the parameters of these cells that the axes of the sweep fill."""
    paths = {".".join(axis.path) for axes in sweep.grids for axis in axes}
    names = dict.fromkeys(name for failure in failures for name in failure.parameters)
    return [name for name in names if any(name == path or name.startswith(f"{path}.") for path in paths)]
