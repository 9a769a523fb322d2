"""How sweeps scale: to two cores, to a dask cluster, by the cell, in memory; and what 10^9 instances would take.

An instance is one problem, to which three methods are fitted and judged: of the study ``layer`` one sample of a cell's
problem, with all that the study measures; of ``problems``, the study that ``docs/scaling.md`` shows, a network and a
task of its own, with the risks. What is measured:

- whole runs of ``linnet sweep``, from the start of its process to its end, of the same cells by one process, by two,
  and by two workers of a dask cluster that is there already. A cell takes about 0.1 s, for which the number of its
  replicates is chosen first. Beside it, what the machine allows: two processes that solve cells at once, no sweep;
- a run in this process against its cells, on the clock within it;
- what the process that hands out cells and writes, which is one whatever the number of workers, uses: its peak memory,
  its time a cell, bytes of journal and table. Cells take no time then and have rows of the usual size;
- instances a second on one core, and a worker's memory by instances a cell.

What a sweep of 10^9 instances takes is calculated from these. A few minutes of two cores:

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/scale.py
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from measuring import Target, apart, here, in_turn, keep, peak_memory, ratio, shown

from linnet.processor import keep_memory
from linnet.sweep import Processes, Study, read_sweep, read_table, run_sweep
from linnet.sweep.journal import Journal
from linnet.sweep.spec import CELLS

ALL = 10**9
"""Instances of the sweep that is calculated."""
WIDTHS = (4, 8, 16, 32)
PLANNED = 8
"""Width of its networks."""
PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"


# --- sweeps ---------------------------------------------------------------------------------------

SWEEP = """
title = "Scale"
study = '{study}'
[[grid]]
seed.range = [0, {cells}]
[base]
"""
LAYER = """
replicates = {instances}
network = {{ widths = [{width}, {width}, {width}, {width}], layer = 1 }}
task = {{ noise = 0.3 }}
shift = {{ kind = "old" }}
n = {n}
methods = [
  {{ method = "FullFT" }},
  {{ method = "LoRA", ranks = [{rank}] }},
  {{ method = "S2FT", channels = [{rank}], by = "first" }},
]
"""
EMPTY = '''
"""Cells that take no time, or only wait, and have three rows of the usual size."""
import time
from linnet.sweep import Study
from linnet.sweep.studies.layer import RiskRow

TEXTS = {"selection": "first", "size": 4, "parameters": 64, "prediction": "exact", "solved": 100}
NUMBERS = [name for name in RiskRow.__dataclass_fields__ if name not in {"method", *TEXTS}]

class EmptyStudy(Study):
    Row = RiskRow
    wait: float = 0.0

    def run(self):
        time.sleep(self.wait)
        drawn = self.stream("rows").random((3, len(NUMBERS))).tolist()
        names = "full FT", "LoRA", "S2FT"
        return [RiskRow(name, **TEXTS, **dict(zip(NUMBERS, row))) for name, row in zip(names, drawn)]
'''


def layer(folder: Path, cells: int, instances: int, width: int) -> Path:
    """Return the file of a sweep of the study ``layer``: three methods on samples of ``4 width``."""
    base = LAYER.format(instances=instances, width=width, n=4 * width, rank=max(1, width // 4))
    return _written(folder, "layer", cells, base)


def problems(folder: Path, cells: int, instances: int, width: int) -> Path:
    """Return the file of a sweep of the study that the page shows."""
    code = re.search(r'^```python title="problems\.py"\n(.*?)^```', PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert code is not None, f"{PAGE} shows no problems.py"
    return _written(folder, _study(folder, "problems.py", code[1]), cells, f"batch = {instances}\nwidth = {width}\n")


def empty(folder: Path, cells: int, wait: float = 0.0) -> Path:
    """Return the file of a sweep whose cells take no time, or wait so many seconds."""
    return _written(folder, _study(folder, "empty.py", EMPTY), cells, f"wait = {wait}\n")


STUDIES = {"layer": layer, "problems": problems}


def _study(folder: Path, name: str, code: str) -> str:
    path = folder / name
    if not path.exists():
        path.write_text(code, encoding="utf-8")
    return str(path.resolve())


def _written(folder: Path, study: str, cells: int, base: str) -> Path:
    path = Path(tempfile.mkdtemp(dir=folder)) / "scale.toml"
    path.write_text(SWEEP.format(study=study, cells=cells) + base, encoding="utf-8")
    return path


def fresh(file: Path) -> Path:
    """Return a folder in which no sweep has been run."""
    return Path(tempfile.mkdtemp(dir=file.parent))


def by_command(file: Path, *options: str) -> None:
    """Run ``linnet sweep``, from the start of its process to its end."""
    command = [sys.executable, "-m", "linnet.cli", "sweep", str(file), "--out", str(fresh(file)), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def bare(file: Path) -> None:
    """Solve all cells of a sweep, without the sweep."""
    for cell in read_sweep(file).cells():
        cell.run()


@contextmanager
def local_cluster() -> Iterator[str]:
    """Yield the address of a dask cluster: two workers, processes of one thread each; its scheduler is in this one."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=60) as cluster:
        yield cluster.scheduler_address


# --- two cores ------------------------------------------------------------------------------------


def calibrated(folder: Path, width: int, seconds: float) -> int:
    """Return the replicates with which a cell takes about so many seconds."""
    replicates = 50
    while (took := cpu(_cell(layer, folder, replicates, width).run)) < seconds / 2:
        replicates *= 2
    return int(float(f"{replicates * seconds / took:.2g}"))


def _cell(made: Callable[[Path, int, int, int], Path], folder: Path, instances: int, width: int) -> Any:
    (cell,) = read_sweep(made(folder, 1, instances, width)).cells()
    return cell


def cpu(work: Callable[[], object]) -> float:
    """Return the least seconds of CPU of three times."""
    return min(in_turn({"": work}, 3, clock=time.process_time)[""])


def ways(file: Path, address: str) -> dict[str, Callable[[], object]]:
    return {
        "1 process": lambda: by_command(file),
        "2 processes": lambda: by_command(file, "--jobs", "2"),
        "dask, 2 workers": lambda: by_command(file, "--scheduler", address),
    }


def speed(folder: Path, cells: int, replicates: int, width: int, rounds: int, address: str) -> dict[str, Any]:
    """Return how much faster two cores are than one; what a run takes beside its cells; and what the machine allows."""
    start = in_turn(ways(empty(folder, 2), address), min(rounds, 5), unmeasured=min(rounds - 1, 1))
    taken = in_turn(ways(layer(folder, cells, replicates, width), address), rounds, unmeasured=0)
    few = layer(folder, max(2, cells // 15), replicates, width)
    with ProcessPoolExecutor(2, get_context("spawn"), keep_memory) as pool:
        works = {"one": lambda: pool.submit(bare, few).result(), "two": lambda: list(pool.map(bare, [few, few]))}
        machine = in_turn(works, rounds, unmeasured=2)  # by then both processes have started
    return {
        "cells": cells,
        "seconds": {name: statistics.median(values) for name, values in taken.items()},
        "of_two_empty_cells": {name: statistics.median(values) for name, values in start.items()},
        "speed_up": {name: ratio(taken, "1 process", to=name) for name in taken if name != "1 process"},
        "machine": _each(ratio(machine, "one", to="two"), lambda x: 2 * x),
    }


def kept(file: Path, rounds: int) -> dict[str, Any]:
    """Return the time of cells in a process that keeps its memory, as workers do, over that in one that does not."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, keep_memory) as ours, ProcessPoolExecutor(1, context) as plain:
        works = {name: lambda pool=pool: pool.submit(bare, file).result() for name, pool in (("k", ours), ("p", plain))}
        return ratio(in_turn(works, rounds), "k", to="p")


def overhead(file: Path, rounds: int) -> dict[str, Any]:
    """Return what a run in this process takes beyond its cells, in per cent of what they take in the same run."""
    sweep = read_sweep(file)
    taken: dict[str, list[float]] = {"run": [], "bare": []}
    for _ in range(rounds):
        with clocked(sweep.study) as cells:
            start = time.perf_counter()
            run_sweep(sweep, fresh(file))
            taken["run"].append(time.perf_counter() - start)
        taken["bare"].append(sum(cells))
    percent = _each(ratio(taken, "run", to="bare"), lambda x: 100 * (x - 1))
    return {"cells": len(cells), "cell_seconds": statistics.median(taken["bare"]) / len(cells), "percent": percent}


@contextmanager
def clocked(study: type[Study]) -> Iterator[list[float]]:
    """Yield the seconds of the cells that are solved meanwhile in this process, as they come."""
    seconds: list[float] = []
    run = study.run

    def timed(cell: Study) -> Any:
        start = time.perf_counter()
        rows = run(cell)
        seconds.append(time.perf_counter() - start)
        return rows

    study.run = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        study.run = run  # type: ignore[method-assign]


def _each(found: Mapping[str, Any], change: Callable[[float], float]) -> dict[str, Any]:
    return {key: value if key == "rounds" or value is None else change(value) for key, value in found.items()}


# --- the process that hands out and writes --------------------------------------------------------

TELLING = """
import atexit, json, resource
from pathlib import Path

def tell():
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "peak": peak}))

atexit.register(tell)
from linnet.cli import main
main()
"""
"""The command line, which says at its end what its own process has used, without its workers."""


def told(file: Path, out: Path, *options: str) -> dict[str, Any]:
    """Run ``linnet sweep``; return its process's seconds of CPU and its peak memory in bytes."""
    command = [sys.executable, "-c", TELLING, "sweep", str(file), "--out", str(out), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def parent(folder: Path, cells: int) -> dict[str, Any]:
    """Return what the process with two workers uses for cells that take no time.

    ``again``: its seconds of CPU in a second run, which finds all cells done. It reads the sweep, looks every cell up
    and writes the table, as a first run does too, while no worker has anything to do.
    """
    file = empty(folder, cells)
    out = fresh(file)
    first, second = told(file, out, "--jobs", "2"), told(file, out)
    journal, table = out / "journal.sqlite", out / "scale.parquet"
    sizes = {"journal": journal.stat().st_size, "table": table.stat().st_size, "read": apart(_read, table)}
    return {"cells": cells, **first, "again": second["cpu"], **sizes}


def _read(table: Path) -> int | None:
    """Return the bytes of a table in memory."""
    read_table(table)  # what is imported on first use
    return peak_memory(lambda: read_table(table))


def on_dask(folder: Path, cells: int, address: str) -> dict[str, float]:
    """Return seconds of CPU a cell, of the process that hands out and of dask's scheduler, which lives in this one."""
    found = []
    for count in (max(1, cells // 10), cells):
        file, start = empty(folder, count), time.process_time()
        used = told(file, fresh(file), "--scheduler", address)["cpu"]
        found.append({"cells": count, "cpu": used, "scheduler": time.process_time() - start})
    return {name: slope(found, name) for name in ("cpu", "scheduler")}


def journal_rate(folder: Path, cells: int) -> dict[str, float]:
    """Return cells that a journal takes in a second: its first tenth, and its last."""
    (cell,) = read_sweep(empty(folder, 1)).cells()
    rows = json.dumps([vars(row) for row in cell.run()])
    rates = []
    with Journal(folder / "journal.sqlite", {}) as journal:
        for _ in range(10):
            keys = [os.urandom(16).hex() for _ in range(cells // 10)]
            start = time.perf_counter()
            for key in keys:
                journal.add(key, rows, None)
            rates.append(len(keys) / (time.perf_counter() - start))
    return {"cells": cells, "first": rates[0], "last": rates[-1]}


def slope(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return how much more of something a further cell takes, between the last two numbers of cells."""
    few, many = rows[-2:]
    return float((many[name] - few[name]) / (many["cells"] - few["cells"]))


# --- cells ----------------------------------------------------------------------------------------


def rate(folder: Path, study: str, width: int, seconds: float) -> dict[str, Any]:
    """Return the instances a second of one core, and the seconds of a cell of one instance."""
    instances, took = 64, 0.0
    while took < seconds:
        instances *= 4
        took = cpu(_cell(STUDIES[study], folder, instances, width).run)
    one = cpu(_cell(STUDIES[study], folder, 1, width).run)
    return {"study": study, "width": width, "instances": instances, "a_second": instances / took, "of_one": one}


def worker(study: str, few: int, many: int) -> float:
    """Return the bytes that a further instance of a cell adds to a worker."""
    held = [apart(_held, study, instances) for instances in (few, many)]
    return float((held[1] - held[0]) / (many - few))


def _held(study: str, instances: int) -> int | None:
    with tempfile.TemporaryDirectory() as name:
        small, cell = (_cell(STUDIES[study], Path(name), k, PLANNED) for k in (4, instances))
        small.run()  # what is imported on first use
        return peak_memory(cell.run)


# --- 10^9 instances -------------------------------------------------------------------------------


def plan(found: Mapping[str, Any], study: str, instances: int) -> dict[str, Any]:
    """Return what 10^9 instances take, so many a cell; calculated, from what was measured.

    Keys:
        core_hours: of all cells.
        fed: workers that the one process keeps busy; no more than cells.
        hours: with as many workers or more, ``alone`` included.
        alone: hours in which the one process works and they do not, before the first cell and after the last.
        journal, table, read, worker: bytes: the files, the table in memory, and what a cell adds to a worker.
    """
    rows = found["parents"]
    of = next(row for row in found["rates"] if (row["study"], row["width"]) == (study, PLANNED))
    cells, alone = math.ceil(ALL / instances), slope(rows, "again")
    handing = max(slope(rows, "cpu") - alone, found["dask"]["cpu"] - alone, found["dask"]["scheduler"])
    seconds = of["of_one"] + (instances - 1) / of["a_second"]
    core_hours, fed = cells * seconds / 3600, min(seconds / handing, cells)
    return {
        "study": study,
        "instances": instances,
        "cells": cells,
        "refused": cells > CELLS,
        "cell_seconds": seconds,
        "core_hours": core_hours,
        "fed": fed,
        "hours": core_hours / fed + cells * alone / 3600,
        "alone": cells * alone / 3600,
        **{name: cells * slope(rows, name) for name in ("journal", "table", "read")},
        "worker": instances * found["workers"][study],
    }


def figure(results: Mapping[str, Any]) -> Any:
    """Draw hours of 10^9 instances against workers, and the memory of the process that hands out and writes."""
    from linnet.plots import common_legend, look, panels, plain_log

    drawn, (left, right) = panels(2)
    plans = [p for p in results["plans"] if p["study"] == "problems" and not p["refused"]]
    names = [f"{p['instances']:,} a cell" for p in plans]
    workers = [10**k for k in range(6)]
    for p, name in zip(plans, names, strict=True):
        hours = [p["core_hours"] / min(w, p["fed"]) + p["alone"] for w in workers]
        colour, marker = look(name, names)
        left.plot(workers, hours, color=colour, marker=marker, label=name, linewidth=0.8)
    left.set(xscale="log", yscale="log", xlabel="workers", ylabel="calculated hours of $10^9$ instances")
    common_legend(drawn, left, columns=5)
    colour, marker = look("LoRA")
    rows = results["parents"]
    peaks = [row["peak"] / 1e6 for row in rows]
    right.plot([row["cells"] for row in rows], peaks, color=colour, marker=marker)
    right.set(xscale="log", xlabel="cells", ylabel="peak memory, handing out (MB)", ylim=(0, 1.2 * max(peaks)))
    plain_log(right.xaxis)
    return drawn


# --- all of it ------------------------------------------------------------------------------------


def guarded() -> dict[str, float]:
    """Return ratios that a change for the worse would raise."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, waiting = empty(folder, 300), empty(folder, 30, wait=0.02)
        sweep = read_sweep(file)
        works = {
            "run": lambda: run_sweep(sweep, fresh(file)),
            "bare": lambda: [json.dumps([vars(row) for row in cell.run()]) for cell in sweep.cells()],
        }
        empties = in_turn(works, 5, clock=time.process_time)
        sleepy = read_sweep(waiting)
        with Processes(2) as two:
            works = {"2": lambda: run_sweep(sleepy, fresh(file), two), "1": lambda: run_sweep(sleepy, fresh(file))}
            waits = in_turn(works, 3)
        few, many = (told(file, fresh(file))["peak"] for file in (empty(folder, 200), empty(folder, 2000)))
    return {
        "empty cells: a sweep over the cells alone": ratio(empties, "run", to="bare")["median"],
        "cells that wait: two processes over one": ratio(waits, "2", to="1")["median"],
        "memory: 2000 cells over 200": many / few,
    }


def measured(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    keep_memory()  # as linnet's workers do
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        replicates = calibrated(folder, options.width, options.cell)
        found["cell"] = {"width": options.width, "replicates": replicates}
        with local_cluster() as address:
            found["speed"] = speed(folder, options.cells, replicates, options.width, options.rounds, address)
            found["dask"] = on_dask(folder, options.dask, address)
        found["overhead"] = overhead(layer(folder, options.bare, replicates, options.width), options.rounds)
        found["kept"] = kept(layer(folder, max(2, options.bare // 5), replicates, options.width), options.rounds)
        found["parents"] = [parent(folder, cells) for cells in options.parents]
        found["journal"] = journal_rate(folder, options.journal)
        found["rates"] = [rate(folder, study, width, options.seconds) for width in WIDTHS for study in STUDIES]
        found["workers"] = {study: worker(study, options.held // 4, options.held) for study in STUDIES}
    found["plans"] = [plan(found, study, 10**k) for study in STUDIES for k in range(1, 7)]
    return found


def goals(found: Mapping[str, Any], cores: int) -> list[Target]:
    few, many = found["parents"][-2:]
    spent = found["overhead"]
    return [
        *(
            Target(f"speed-up, {name} over one", up["median"] if cores >= 2 else None, 1.85, "at least")
            for name, up in found["speed"]["speed_up"].items()
        ),
        Target(f"overhead, cells of {spent['cell_seconds']:.2g} s", spent["percent"]["median"], 3, unit="%"),
        Target(
            f"peak memory of the process that writes, {many['cells']} cells over {few['cells']}",
            many["peak"] / few["peak"],
            1.1,
        ),
    ]


def report(found: Mapping[str, Any]) -> None:
    cell, speed, spent = found["cell"], found["speed"], found["overhead"]
    print(f"a cell: width {cell['width']}, {cell['replicates']} replicates, {spent['cell_seconds']:.3f} s\n")
    print(f"{speed['cells']} cells              s   two empty cells, s   speed-up")
    for name, seconds in speed["seconds"].items():
        up = shown(speed["speed_up"].get(name))
        print(f"{name:>16} {seconds:7.2f} {speed['of_two_empty_cells'][name]:20.2f}   {up}")
    print(f"two processes without a sweep, over one: {shown(speed['machine'])}")
    print(f"overhead: {shown(spent['percent'])} %")
    print(f"a process that keeps its memory, over one that does not: {shown(found['kept'])}\n")

    print("The process that hands out and writes; differences to the line above, a cell:")
    print("   cells   peak MB   ms of a run   of a second one   journal B   table B   table in memory B")
    for i, row in enumerate(found["parents"]):
        more = "" if i == 0 else _further(found["parents"][: i + 1])
        print(f"{row['cells']:8d} {row['peak'] / 1e6:9.1f} {more}")
    dask, kept = found["dask"], found["journal"]
    print(f"with dask: {1000 * dask['cpu']:.3f} ms a cell, and its scheduler {1000 * dask['scheduler']:.3f}")
    print(f"a journal: {kept['first']:.0f} cells a second at first, {kept['last']:.0f} when it holds {kept['cells']}\n")

    print("   study   width   instances/s   core s a million   core h of 10^9   cell of one, ms")
    for row in found["rates"]:
        a_second = row["a_second"]
        print(
            f"{row['study']:>8} {row['width']:7d} {a_second:13.0f} {1e6 / a_second:18.1f} "
            f"{ALL / a_second / 3600:16.2f} {1000 * row['of_one']:17.2f}"
        )
    print(f"\n10^9 instances of width {PLANNED}, calculated; journal, table, table read: GB; worker: MB")
    print("   study   a cell       cells   s a cell   core h    fed      h   alone   journal   table    read   worker")
    for p in found["plans"]:
        print(
            f"{p['study']:>8} {p['instances']:8d} {p['cells']:11d} {p['cell_seconds']:10.3g} {p['core_hours']:8.1f} "
            f"{p['fed']:6.0f} {p['hours']:6.2f} {p['alone']:7.2f} {p['journal'] / 1e9:9.2f} {p['table'] / 1e9:7.2f} "
            f"{p['read'] / 1e9:7.2f} {p['worker'] / 1e6:8.1f}{'   too many cells' if p['refused'] else ''}"
        )
    print()


def _further(rows: Sequence[Mapping[str, Any]]) -> str:
    cpu, again, *sizes = (slope(rows, name) for name in ("cpu", "again", "journal", "table", "read"))
    return "{:13.3f} {:17.3f} {:11.0f} {:9.0f} {:19.0f}".format(1000 * cpu, 1000 * again, *sizes)


TINY = {"cell": 0.02, "cells": 6, "bare": 3, "width": 4, "rounds": 1, "parents": [20, 100], "dask": 40, "journal": 500,
        "seconds": 0.001, "held": 2000}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose numbers say nothing; nothing is stored")
    parser.add_argument("--out", type=Path, help="where to store; benchmarks/results/scale.json")
    parser.add_argument("--cell", type=float, default=0.1, help="seconds of a cell, about")
    parser.add_argument("--width", type=int, default=16, help="of its network")
    parser.add_argument("--cells", type=int, default=300, help="of the runs on one and two cores")
    parser.add_argument("--bare", type=int, default=50, help="cells of the runs against the cells alone")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--parents", type=int, nargs="+", default=[100, 1000, 10_000], help="numbers of empty cells")
    parser.add_argument("--dask", type=int, default=2000, help="empty cells on dask")
    parser.add_argument("--journal", type=int, default=100_000, help="cells that are added to a journal")
    parser.add_argument("--seconds", type=float, default=0.5, help="at least, of a cell that gives a rate")
    parser.add_argument("--held", type=int, default=40_000, help="instances of the cell whose memory is measured")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**TINY)
    options = parser.parse_args()
    on = here("distributed", "pandas", "pyarrow")
    found = measured(options)
    targets = goals(found, on["cores"])
    report(found)
    keep("scale", options, on, targets, found, figure)


if __name__ == "__main__":
    main()
