"""Tables of the documentation that are made from ``benchmarks/results/*.json``, by the name of their place."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Results = Mapping[str, Any]
ORDER = ("small_and_many", "large_and_few", "alternatives", "libraries", "scale", "start", "threads")
SAID = {True: "reached", False: "**missed**", None: "undecided"}


def stored(name: str) -> Results | None:
    """Return what a benchmark has found, or None."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def made(name: str, build: Callable[[Results], Iterable[str]]) -> str:
    """Return the lines that are made from a benchmark's results, or that there are none."""
    found = stored(name)
    again = f"`python benchmarks/{name}.py`"
    if found is None:
        return f"Not measured yet: {again}."
    on = found["on"]
    versions = ", ".join(f"{package} {version}" for package, version in on["versions"].items())
    threads = on["blas_threads"]
    where = f"{on['device']}, {on['cores']} cores, {threads} thread{'s' * (threads != 1)} of BLAS; {versions}"
    return "\n".join([*build(found), "", f"{where}. Again by {again}.", ""])


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 1) -> list[str]:
    """Return a table whose columns are aligned to the right from the ``right``-th on."""
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' if i < right else '---:' for i in range(len(head)))} |"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def ratio(value: Mapping[str, Any]) -> str:
    """Return a ratio with its interval, which stay on one line."""
    digits = 2 if value["median"] < 10 else 1 if value["median"] < 100 else 0
    low, median, high = ("" if value[key] is None else f"{value[key]:,.{digits}f}" for key in ("low", "median", "high"))
    return median + (f"&nbsp;[{low},&nbsp;{high}]" if low else "")


def number(value: float) -> str:
    """Return a number of three digits."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, power = f"{value:.1e}".split("e")
        times = "" if mantissa == "1.0" else f"{mantissa}·"
        return f"{times}10<sup>{int(power)}</sup>"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def picture(name: str, said: str) -> list[str]:
    """Return a picture, where there is one."""
    return ["", f"![{said}](figures/{name}.png)"] if (ROOT / "figures" / f"{name}.png").is_file() else []


def targets(_: str) -> str:
    """Return what was to be reached, and what was."""
    rows = [
        (
            target["what"],
            "not measured" if target["measured"] is None else f"{number(target['measured'])} {target['unit']}",
            f"{target['sense']} {number(target['goal'])} {target['unit']}",
            SAID[target["reached"]],
        )
        for name in ORDER
        if (found := stored(name))
        for target in found["targets"]
    ]
    return "\n".join(table(("", "measured", "to be", ""), rows)) if rows else "Nothing has been measured yet."


def small_and_many(_: str) -> str:
    """Return time a problem by width."""

    def build(found: Results) -> Iterable[str]:
        names = ("linnet", "linnet, not in pieces", "bare decompositions")
        rows = [
            (
                str(row["width"]),
                "with" if row["biases_and_means"] else "without",
                *(number(row["microseconds_a_problem"][name]) for name in names),
                ratio(row["ratio"]),
            )
            for row in found["rows"]
        ]
        yield f"Microseconds of CPU time a problem, of {found['rows'][0]['batch']:,}:"
        yield ""
        head = ("width", "biases and means", "linnet", "whole at once", "bare", "linnet over bare")
        yield from table(head, rows, right=2)
        yield from picture("small-and-many", "Time a problem, and over the bare decompositions, against width")
        yield from ("", "The dotted line is what was to be reached.")

    return made("small_and_many", build)


def large_and_few(_: str) -> str:
    """Return time of one layer by width."""

    def build(found: Results) -> Iterable[str]:
        names = ("linnet", "linnet, dense", "decompositions alone")
        rows = [
            (
                str(row["width"]),
                *(number(row["seconds"][name]) for name in names),
                ratio(row["dense_over_decompositions"]),
                ratio(row["dense_over_linnet"]),
                number(row["risk_off_by"]),
                "" if row["matrices"] is None else f"{row['matrices']:.1f}",
            )
            for row in found["rows"]
        ]
        yield "Seconds of linnet, of its dense solution and of the bare decompositions; memory in matrices:"
        yield ""
        head = (
            "width",
            "linnet",
            "dense",
            "decomposed",
            "dense over these",
            "dense over linnet",
            "risk off by",
            "memory",
        )
        yield from table(head, rows)
        fits = ", ".join(
            f"{name} {fit['slope']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}]"
            for name, fit in found["exponents"].items()
            if fit
        )
        yield from ("", f"Powers of the width that time grows with, from 1024 on: {fits}.") if fits else ()
        yield from picture("large-and-few", "Time of one layer against width")

    return made("large_and_few", build)


def alternatives(_: str) -> str:
    """Return what others take, over linnet."""

    def build(found: Results) -> Iterable[str]:
        rows = []
        for row in found["rows"]:
            more = "more than " if row["reached"] is not None and row["reached"] < 1 else ""
            there = "" if row["reached"] is None else f"{row['reached']:.0%}"
            cells = (row["against"], row["method"], row["network"], str(row["width"]), f"{row['batch']:,}")
            rows.append((*cells, more + ratio(row["ratio"]), there))
        head = ("instead of linnet", "method", "network", "width", "problems", "times as long", "at the goal")
        yield from table(head, rows, right=3)
        for row in (row for row in found["rows"] if "over_svd" in row):
            yield ""
            yield (
                f"At width {row['width']} the loop takes {ratio(row['over_svd'])} times as long as one batched SVD of "
                "the residuals and nothing else, which LoRA needs: with LAPACK's SVD nothing gains more on the loop."
            )
        yield from picture("alternatives", "How many times as long alternatives take")
        yield from ("", "Arrows stand on lower bounds, dotted lines are what was to be reached.")

    return made("alternatives", build)


def libraries(_: str) -> str:
    """Return which array library to take, and how fast each is."""

    def build(found: Results) -> Iterable[str]:
        sys.path.insert(0, str(ROOT / "benchmarks"))
        try:
            said = importlib.import_module("libraries").advice(found)
        finally:
            sys.path.remove(str(ROOT / "benchmarks"))
        yield from (f"- {line}" for line in said)
        yield ""
        labels = list(dict.fromkeys((row["label"], row["dtype"]) for row in found["rows"] if row["device"] == "cpu"))
        cells = dict.fromkeys((row["batch"], row["width"]) for row in found["rows"])
        times = {(r["batch"], r["width"], r["label"], r["dtype"]): r["seconds"] for r in found["rows"]}
        rows = [
            (
                f"{batch:,}",
                str(width),
                *(
                    number(1e6 * times[batch, width, *label] / batch) if (batch, width, *label) in times else ""
                    for label in labels
                ),
            )
            for batch, width in sorted(cells)
        ]
        yield "Microseconds of CPU time a problem:"
        yield ""
        yield from table(("problems", "width", *(f"{label}, {dtype}" for label, dtype in labels)), rows, right=0)
        yield from picture("libraries", "Time over NumPy's, against width")

    return made("libraries", build)


def start(_: str) -> str:
    """Return how long commands take."""

    def build(found: Results) -> Iterable[str]:
        rows = [(f"`{r['process']}`", number(r["seconds"]), number(r["cpu"])) for r in found["rows"]]
        yield from table(("whole process", "seconds", "seconds of CPU"), rows)

    return made("start", build)


def threads(_: str) -> str:
    """Return how many threads compute, and what busy cores do to a run."""

    def build(found: Results) -> Iterable[str]:
        rows = [
            (r["run"], r["setting"], str(r["computing"]), str(r["in_all"]), f"{r['ready']:.2f}") for r in found["rows"]
        ]
        head = ("run", "threads of BLAS", "computing in a process", "computing in all", "running or waiting for a core")
        yield from table(head, rows, right=2)
        yield ""
        slowed = [
            (name, setting, number(run["seconds"][f"{setting}, alone"]), ratio(times))
            for name, run in found["slowed"].items()
            for setting, times in run["busy_over_alone"].items()
        ]
        head = ("run", "threads of BLAS", "seconds alone", "times as long while both cores are busy elsewhere")
        yield from table(head, slowed, right=2)

    return made("threads", build)


def scale(_: str) -> str:
    """Return rates, what the process that hands out takes, and plans for 10^9 instances."""

    def build(found: Results) -> Iterable[str]:
        amounts = ("instances a second, one core", "core seconds a million", "core hours of 10<sup>9</sup>")
        rates = [
            (
                f"`{r['study']}`",
                str(r["width"]),
                f"{r['a_second']:,.0f}",
                number(1e6 / r["a_second"]),
                number(1e9 / r["a_second"] / 3600),
            )
            for r in found["rates"]
        ]
        yield from table(("study", "width", *amounts), rates, right=1)
        yield ""
        speed, spent = found["speed"], found["overhead"]
        yield from table(
            (f"over one process, {speed['cells']} cells of {number(spent['cell_seconds'])} s", "times as fast"),
            [
                *((f"`linnet sweep`, {name}", ratio(up)) for name, up in speed["speed_up"].items()),
                ("two processes that solve cells, without a sweep", ratio(speed["machine"])),
            ],
        )
        yield ""
        yield (
            f"A run in one process takes {ratio(spent['percent'])} % longer than its cells. Workers keep memory that "
            f"arrays are done with, if it is glibc's: {ratio(found['kept'])} of the time of processes that do not."
        )
        few, many = found["parents"][-2:]
        more = many["cells"] - few["cells"]
        a_cell = {key: (many[key] - few[key]) / more for key in ("cpu", "journal", "table", "read")}
        kept, dask = found["journal"], found["dask"]
        yield ""
        yield from table(
            ("the process that hands out and writes", ""),
            [
                *((f"peak memory, {row['cells']:,} cells", f"{row['peak'] / 1e6:.0f} MB") for row in found["parents"]),
                ("its own time a cell", f"{1000 * a_cell['cpu']:.2f} ms"),
                ("with dask; dask's scheduler", f"{1000 * dask['cpu']:.2f} ms; {1000 * dask['scheduler']:.2f} ms"),
                ("a journal takes, in a second", f"{kept['first']:,.0f} cells"),
                (f"a journal of {kept['cells']:,} cells takes, in a second", f"{kept['last']:,.0f} cells"),
                ("bytes a cell: journal", f"{a_cell['journal']:,.0f}"),
                ("bytes a cell: table; table in memory", f"{a_cell['table']:,.0f}; {a_cell['read']:,.0f}"),
            ],
        )
        yield ""
        plans = [
            (
                f"`{p['study']}`",
                f"{p['instances']:,}",
                f"{p['cells']:,}" + (" (refused)" if p["refused"] else ""),
                number(p["cell_seconds"]),
                number(p["core_hours"]),
                number(p["fed"]),
                number(p["hours"]),
                number(p["alone"]),
                number(p["journal"] / 1e9),
                number(p["table"] / 1e9),
                number(p["worker"] / 1e6),
            )
            for p in found["plans"]
        ]
        head = ("study", "instances a cell", "cells", "seconds a cell", "core hours", "fed", "hours")
        yield from table((*head, "alone (hours)", "journal (GB)", "table (GB)", "worker (MB)"), plans, right=1)
        yield from picture("scale", "Hours against workers; memory of the one process")

    return made("scale", build)


TABLES: Mapping[str, Callable[[str], str]] = {
    "targets": targets,
    "small and many": small_and_many,
    "large and few": large_and_few,
    "alternatives": alternatives,
    "libraries": libraries,
    "start": start,
    "threads": threads,
    "scale": scale,
}
