"""NumPy, JAX and torch at the same work: the core as it stands, under jit and under vmap, by width and batch.

The work is the problem of the middle one of three square layers, its solutions by LoRA, S2FT and full fine-tuning, and
the excess risks of these and of the pre-trained network on both tasks of a shift. It starts from networks and tasks in
the library's own arrays and ends when the risks are there. JAX's jit compiles it for a batch, and jit(vmap) the code
for one problem; without either, a CPU goes through the batch with ``in_pieces``. What compiling takes is the first call
less the median of later ones, the library's caches emptied before each width and batch; traces are counted within what
is traced, over calls with other values of the same shape.
Torch's compiler is left out: the core looks at values, at which it breaks its graphs.

Every library has a process of its own, of one thread on one core, and the processes take turns within rounds. Seconds
are of the process's CPU time on a CPU, and of the clock on a GPU. The difference of a risk is to NumPy's in float64,
over the larger of that risk and the pre-trained network's; the largest of a batch is stated, and beside it the share of
problems that get no value where NumPy in float64 has one.

    python benchmarks/libraries.py                 # on the CPU, and on a GPU where one is at hand
    python benchmarks/libraries.py --device cpu    # on the CPU alone
    python benchmarks/libraries.py --quick         # tiny sizes: does it run?
"""

import argparse
import functools
import itertools
import math
import multiprocessing
import os
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import Target, here, in_turn, keep, ratio, shown

import linnet as ln
from linnet import plots
from linnet.errors import MaskedWarning

WIDTHS = (4, 8, 16, 32, 64, 128)
BATCHES = (1, 100, 10_000)
MOST = 16**3 * 10_000
"""Of problems times the cube of their width; larger cells are left out, for their time and memory."""
ROUNDS = 6
"""The fewest that give a ratio its interval."""
TURN = 0.05
"""Seconds that a turn is to last, by repeated calls, no more than ``CALLS`` of them."""
CALLS = 50
MODES = {"NumPy": ("",), "JAX": ("", "jit", "jit(vmap)"), "torch": ("", "vmap")}
DTYPES = ("float64", "float32")
SURROUNDINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NPROC": "1",  # the threads of XLA
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX and torch share a GPU
}

Place = tuple[str, str]
"""A library and a device: what has a process of its own."""
Pools = dict[Place, ProcessPoolExecutor]
Problems = tuple[ln.DeepLinearNetwork, ln.Shift]
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How the work is done; without a mode the core is called as it stands."""

    library: str
    mode: str
    dtype: str = "float64"
    device: str = "cpu"

    @property
    def place(self) -> Place:
        return self.library, self.device

    @property
    def label(self) -> str:
        return f"{self.library} {self.mode}".strip()

    @property
    def compiled(self) -> bool:
        return self.mode.startswith("jit")

    def __str__(self) -> str:
        return f"{self.label}, {self.dtype}, {self.device}"


YARDSTICK = Way("NumPy", "")


def ways(places: Iterable[Place]) -> list[Way]:
    """All that is measured. Without jit JAX compiles each operation of a shape, for seconds: float64 has to do."""
    chosen = [
        Way(library, mode, dtype, device)
        for library, device in places
        for dtype, mode in itertools.product(DTYPES, MODES[library])
    ]
    return [way for way in chosen if way.label != "JAX" or way.dtype == "float64"]


# --- the work -------------------------------------------------------------------------------------


def drawn(width: int, batch: int, seed: int) -> Problems:
    rng = np.random.default_rng([seed, width, batch])
    net = ln.DeepLinearNetwork.random([width] * 4, rng=rng, batch=(batch,))
    root = rng.normal(size=(batch, width, 2 * width)) / np.sqrt(2 * width)
    coef = rng.normal(size=(batch, width, width)) / np.sqrt(width)
    noise = np.broadcast_to(0.1 * np.eye(width), coef.shape)  # under vmap every array has the batch's axis
    train = ln.Regression(coef, root @ np.swapaxes(root, -1, -2), noise)
    return net, ln.Shift.both(train, 0.5, 0.5, rng=rng)


def risks(net: ln.DeepLinearNetwork, shift: ln.Shift) -> list[Any]:
    """Excess risks on both tasks in turn, those of the pre-trained network first."""
    problem = ln.LayerProblem(net, 1, shift.train.moments())
    r = problem.d_out // 4
    methods = (ln.LoRA(r), ln.S2FT(range(r)), ln.FullFT())
    nets = [net, *(net.updated(method.solve(problem)) for method in methods)]
    return [ln.excess_risk(each, task) for each in nets for task in (shift.train, shift.test)]


def in_pieces(*problems: Any) -> list[Any]:
    """The same, a piece of the batch at a time, as users are told to on a CPU."""
    return ln.in_pieces(risks, *problems)


# --- in the process of a library ------------------------------------------------------------------


class Work:
    """The work done in one way."""

    def __init__(self, way: Way) -> None:
        self.xp, self.device, self.wait = library(way)
        self.dtype = getattr(self.xp, way.dtype)
        self.clock = time.process_time if way.device == "cpu" else time.perf_counter
        self.calls = 1
        self.traces = 0
        self.run = self._transformed(way)

    def _transformed(self, way: Way) -> Callable[..., Any]:
        if way.mode == "vmap":
            return self.xp.vmap(risks)
        if not way.compiled:
            return in_pieces if way.device == "cpu" else risks
        import jax

        inner = jax.vmap(risks) if way.mode == "jit(vmap)" else risks

        def traced(*records: Any) -> Any:
            self.traces += 1
            return inner(*records)

        return jax.jit(traced)

    def once(self, problems: Problems) -> tuple[Any, float]:
        """Return the risks of NumPy's ``problems``, and the seconds that they took, the way to the library aside."""
        # New records for every call: they keep what was computed of them.
        records = self.wait([each.to(self.xp, dtype=self.dtype, device=self.device) for each in problems])
        begun = self.clock()
        found = self.wait(self.run(*records))
        return found, self.clock() - begun

    def seconds(self, problems: Problems) -> float:
        return statistics.fmean(self.once(problems)[1] for _ in range(self.calls))


CELL: dict[Way, tuple[Work, Problems]] = {}
"""What takes turns at present; every process has its own."""


def library(way: Way) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Return the library's module of arrays, the device as it names it, and what waits until values are there."""
    if way.library == "JAX":
        import jax

        return jax.numpy, jax.devices(way.device)[0], jax.block_until_ready
    if way.library == "torch":
        import torch

        def wait(found: Any) -> Any:
            if way.device == "cuda":
                torch.cuda.synchronize()
            return found

        return torch, way.device, wait
    return np, None, lambda found: found


def start(place: Place) -> None:
    """Make this process one of one thread, and of one library."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    warnings.simplefilter("ignore", MaskedWarning)  # what has no value is counted
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    name, device = place
    if name == "JAX":
        if device == "cpu":
            os.environ["JAX_PLATFORMS"] = "cpu"
        import jax

        jax.config.update("jax_enable_x64", True)
    elif name == "torch":
        import torch

        torch.set_num_threads(1)


def device_name(place: Place) -> str | None:
    """Return what the library calls the device; None where it has none."""
    name, device = place
    if name == "JAX":
        import jax

        try:
            return jax.devices(device)[0].device_kind
        except RuntimeError:
            return None
    if name == "torch" and device == "cuda":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return device


def prepare(chosen: list[Way], width: int, batch: int) -> dict[Way, dict[str, Any]]:
    """Make the works of a cell, and return what their first calls say: seconds, traces, risks."""
    CELL.clear()
    if any(way.compiled for way in chosen):
        import jax

        jax.jit(lambda a: a @ a)(jax.numpy.ones((2, 2)))  # what JAX does once a process
        jax.clear_caches()
    problems, others = drawn(width, batch, 0), drawn(width, batch, 1)
    said = {}
    for way in chosen:
        work = Work(way)
        found, first = work.once(problems)
        _, again = work.once(others)
        work.calls = min(CALLS, math.ceil(TURN / again))
        CELL[way] = work, problems
        values = [np.asarray(a.cpu() if way.library == "torch" else a, dtype=np.float64) for a in found]
        said[way] = {"risks": np.stack(values), "first": first, "traces": work.traces if way.compiled else None}
    return said


def turn(way: Way) -> float:
    work, problems = CELL[way]
    return work.seconds(problems)


# --- turns over processes -------------------------------------------------------------------------


@contextmanager
def processes(places: Iterable[Place]) -> Iterator[Pools]:
    """Yield a process for each of those places that are at hand."""
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    before = dict(os.environ)
    with ExitStack() as stack:
        os.environ.update(SURROUNDINGS)  # read by the libraries when they are imported
        try:
            pools = {each: stack.enter_context(ProcessPoolExecutor(1, context, start, (each,))) for each in places}
            found = {each: pool for each, pool in pools.items() if pool.submit(device_name, each).result()}
        finally:
            os.environ.clear()
            os.environ.update(before)
        yield found


def measure(pools: Pools, chosen: list[Way], width: int, batch: int, rounds: int) -> list[Row]:
    """Return a row for each way to do the work on ``batch`` problems of ``width``."""
    said: dict[Way, dict[str, Any]] = {}
    for place, pool in pools.items():
        said |= pool.submit(prepare, [way for way in chosen if way.place == place], width, batch).result()
    spent = [0.0]

    def take(way: Way) -> None:
        spent[0] += pools[way.place].submit(turn, way).result()

    # The clock is the processes' own: what it takes to call them is no part of the work.
    works = {str(way): functools.partial(take, way) for way in chosen}
    taken = in_turn(works, rounds, unmeasured=0, clock=lambda: spent[0])
    exact = said[YARDSTICK]["risks"]
    rows = []
    for way in chosen:
        seconds = statistics.median(taken[str(way)])
        largest, without = difference(said[way]["risks"], exact)
        double = replace(way, dtype="float64")
        rows.append(
            asdict(way)
            | {
                "label": way.label,
                "width": width,
                "batch": batch,
                "seconds": seconds,
                "to_numpy": ratio(taken, str(way), to=str(YARDSTICK)),
                "to_float64": None if way == double else ratio(taken, str(way), to=str(double)),
                "compile_seconds": said[way]["first"] - seconds if way.library == "JAX" else None,
                "traces": said[way]["traces"],
                "difference": largest,
                "without_value": without,
            }
        )
    return rows


def difference(risks: np.ndarray, exact: np.ndarray) -> tuple[float | None, float]:
    """Return the largest relative difference, None of no values, and the share of problems that lack a value."""
    wanted = np.isfinite(exact)
    there = wanted & np.isfinite(risks)
    scale = np.maximum(np.tile(exact[:2], (len(exact) // 2, 1)), exact)
    apart = np.abs(risks - exact)[there] / scale[there]
    return float(apart.max()) if apart.size else None, float((wanted & ~there).any(axis=0).mean())


def most_traces(rows: Iterable[Row]) -> int | None:
    return max((row["traces"] for row in rows if row["traces"] is not None), default=None)


def guarded() -> dict[str, float]:
    """The guests' time over NumPy's, for a batch of 100 problems of width 8; and traces a shape."""
    with processes((name, "cpu") for name in MODES) as pools:
        chosen = [way for way in ways(pools) if way.dtype == "float64" and way.label != "JAX"]
        rows = measure(pools, chosen, 8, 100, 5)
    guests = {f"{row['label']} over NumPy": row["to_numpy"]["median"] for row in rows if row["label"] != "NumPy"}
    return guests | {"traces a shape": float(most_traces(rows) or math.nan)}


# --- what follows ---------------------------------------------------------------------------------


def advice(results: Mapping[str, Any]) -> list[str]:
    """Return what to take where, in sentences that follow from the stored numbers by rule."""
    every, said = _table(results), []
    for device, libraries in results["devices"].items():
        if set(libraries) - {"NumPy"}:
            table = every[(every.device == device) | (every.library == "NumPy")]
            where = "On one core" if device == "cpu" else f"On {device} (NumPy on one core)"
            for rule in (_fastest, _compiling, _mapping, _single, _agreement):
                said += [f"{where}, {line}." for line in rule(table)]
    if not results["devices"].get("cuda"):
        said.append("On a GPU nothing was measured: none was at hand.")
    return said


def _table(results: Mapping[str, Any]) -> pd.DataFrame:
    table = pd.json_normalize(results["rows"])
    high = table["to_numpy.high"].fillna(table["to_numpy.median"])
    return table.assign(faster=high < 1, order=table["to_numpy.median"])  # for certain: the whole interval is


def _fastest(table: pd.DataFrame) -> Iterator[str]:
    """The fastest way in float64 over the widths, a line a batch; NumPy, unless another is faster for certain.

    Under jit the code for one problem, mapped, and the code given a batch count as one: what they differ by is below.
    """
    guests = table[(table["dtype"] == "float64") & (table.library != "NumPy")]
    for batch, rows in guests.groupby("batch"):
        best = rows.sort_values("order").drop_duplicates("width").sort_values("width")
        best = best.assign(take=best.label.str.replace("(vmap)", "").where(best.faster, "NumPy"))
        parts = []
        for _, run in best.groupby((best["take"] != best["take"].shift()).cumsum()):
            take, times = run["take"].iloc[0], span(run.order)
            how = f"the next best takes {times} times as long" if take == "NumPy" else f"{times} of NumPy's time"
            parts.append(f"{take} at width {whole(run.width)} ({how})")
        yield f"for {problems(batch)} a call in float64, take {', '.join(parts)}"


def _compiling(table: pd.DataFrame) -> Iterator[str]:
    """What jit costs before it runs, and after how many calls it has paid."""
    numpy = table[(table.library == "NumPy") & (table["dtype"] == "float64")].set_index(["width", "batch"]).seconds
    jitted = table[table.traces.notna()].join(numpy.rename("numpy_seconds"), on=["width", "batch"])
    traces = jitted.traces.max()
    again = "nothing is compiled again" if traces <= 1 else f"up to {traces:.0f} traces were counted, which is a fault"
    yield f"compiling takes jit {span(jitted.compile_seconds)} s a shape, and for other values of that shape {again}"
    calls = jitted.compile_seconds / (jitted.numpy_seconds - jitted.seconds)
    pays = jitted.assign(calls=calls.where(jitted.faster))
    for batch, rows in pays[pays["dtype"] == "float64"].groupby("batch"):
        least = rows.groupby("width").calls.min().dropna()
        yield f"jit for {problems(batch)} a call " + (
            "never pays: at no width is it faster than NumPy"
            if least.empty
            else f"has paid for its compilation after {span(least)} calls, at width {whole(least.index)}"
        )


def _mapping(table: pd.DataFrame) -> Iterator[str]:
    """What the code of one problem costs under vmap, over the code that is given a batch."""
    seconds = table.pivot(index=["width", "batch", "dtype"], columns="label", values="seconds")
    for mapped, batched in (("JAX jit(vmap)", "JAX jit"), ("torch vmap", "torch")):
        if mapped in seconds:
            yield f"{mapped} takes {span((seconds[mapped] / seconds[batched]).dropna())} of the time of {batched}"


def _single(table: pd.DataFrame) -> Iterator[str]:
    """What float32 saves, and what it costs."""
    single = table[table["dtype"] == "float32"]
    if single.empty:
        return
    saved = [f"{label} {span(rows)}" for label, rows in single.groupby("label")["to_float64.median"]]
    yield f"float32 takes, of the time of float64: {', '.join(saved)}"
    yield f"risks in float32 differ from NumPy's in float64 by up to {_by_batch(single)}, {RELATIVE}"
    without = single.without_value.max()
    some = f"up to {number(100 * without)} % of a batch get none" if without else "none gets none"
    yield f"of the problems that have a value in float64, {some} in float32"


def _agreement(table: pd.DataFrame) -> Iterator[str]:
    guests = table[(table["dtype"] == "float64") & (table.library != "NumPy")]
    yield f"risks in float64 differ from NumPy's by up to {_by_batch(guests)}, {RELATIVE}"


RELATIVE = "relative to the larger of the risk and the pre-trained network's"


def _by_batch(table: pd.DataFrame) -> str:
    return ", ".join(
        f"{number(most)} in {problems(batch)}" for batch, most in table.groupby("batch").difference.max().items()
    )


def problems(batch: int) -> str:
    return "one problem" if batch == 1 else f"{batch:,} problems"


def number(value: float) -> str:
    """Return a number to two digits, written out where that is short."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.10g}" if rounded == 0 or 1e-3 <= rounded < 1e7 else f"{rounded:.2g}".replace("e-0", "e-")


def whole(values: Iterable[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def span(values: Iterable[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def figure(results: Mapping[str, Any]) -> Any:
    """Draw each way's time over NumPy's in float64 against width, a column a batch and a row a precision."""
    table = _table(results)
    labels, batches, dtypes = (table[key].unique().tolist() for key in ("label", "batch", "dtype"))
    with plots.style():
        drawn, axes = plots.panels(len(batches), len(dtypes), 2.0, sharex=True, sharey=True, squeeze=False)
        for (row, dtype), (column, batch) in itertools.product(enumerate(dtypes), enumerate(batches)):
            ax = axes[row][column]
            panel = table[(table["dtype"] == dtype) & (table.batch == batch)]
            for (label, device), line in panel.groupby(["label", "device"], sort=False):
                colour, marker = plots.look(label, labels)
                low, high = (line[f"to_numpy.{end}"].fillna(line.order) for end in ("low", "high"))
                ax.errorbar(
                    line.width,
                    line.order,
                    yerr=[line.order - low, high - line.order],
                    color=colour,
                    marker=marker,
                    markeredgecolor="white",
                    markeredgewidth=0.4,
                    elinewidth=0.8,
                    capsize=1.5,
                    linestyle="-" if device == "cpu" else "--",
                    label=label if device == "cpu" else f"{label}, {device}",
                )
            ax.set(xscale="log", yscale="log", title=f"{problems(batch)} a call, {dtype}")
        for ax in axes[-1]:
            widths = sorted(table.width.unique())
            ax.set_xticks(widths, [f"{width}" for width in widths], minor=False)
            ax.set_xticks([], minor=True)
            ax.set(xlabel="width of the layers")
        for ax in axes[:, 0]:
            ax.set(ylabel="time over NumPy's\nin float64")
            plots.plain_log(ax.yaxis)
        plots.common_legend(drawn, axes[0][0], columns=6 if table.device.nunique() == 1 else 4)
    return drawn


HEADER = (
    f"{'width':>5} {'batch':>6}  {'way':<14} {'dtype':<8} {'on':<5} {'us/problem':>10}  {'over NumPy float64':<20} "
    f"{'compile s':>9} {'traces':>6} {'difference':>10} {'no value':>9}"
)


def show(rows: list[Row]) -> None:
    for row in rows:
        compiling = "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.2f}"
        traces = "" if row["traces"] is None else row["traces"]
        differs = "" if row["difference"] is None else f"{row['difference']:.0e}"
        print(
            f"{row['width']:5d} {row['batch']:6d}  {row['label']:<14} {row['dtype']:<8} {row['device']:<5} "
            f"{1e6 * row['seconds'] / row['batch']:10.2f}  {shown(row['to_numpy']):<20} {compiling:>9} {traces:>6} "
            f"{differs:>10} {100 * row['without_value']:7.2f} %",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help=f"where width^3 batch <= {MOST:,}")
    parser.add_argument("--device", nargs="+", choices=("cpu", "cuda"), default=("cpu", "cuda"), dest="devices")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing is written without --out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.widths, options.batches, options.rounds = [4], [10], 2
    places = [YARDSTICK.place]
    places += [(name, device) for device in options.devices for name in MODES if name != "NumPy"]
    cells = [(w, b) for b, w in itertools.product(options.batches, options.widths) if w**3 * b <= MOST]
    rows = []
    with processes(places) as pools:
        chosen = ways(pools)
        devices = {
            device: {
                each[0]: pool.submit(device_name, each).result() for each, pool in pools.items() if each[1] == device
            }
            for device in options.devices
        }
        print(HEADER)
        for width, batch in cells:
            rows += measure(pools, chosen, width, batch, options.rounds)
            show(rows[-len(chosen) :])
    targets = [Target("traces a shape under JAX's jit, over calls with other values", most_traces(rows), 1)]
    results = {"devices": devices, "rows": rows}
    print("\n".join(advice(results)))
    on = here("jax", "torch") | {"blas_threads": 1}  # of the processes; this one measures nothing
    keep("libraries", options, on, targets, results, figure)


if __name__ == "__main__":
    main()
