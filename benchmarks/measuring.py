"""What all benchmarks share: turns, ratios of turns, memory, where it was measured, what was to be reached.

Works that are to be compared take turns within rounds, in an order drawn anew each round; a ratio is the median of
those of turns of one round, with an interval that holds for any distribution. A machine that slows down slows all of
them down. Nothing is compared with a number of an earlier run but by ``guard.py``, and there ratios with ratios.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from linnet.processor import cores, processor_name

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent.parent / "figures"

Taken = dict[str, list[float]]
"""Seconds by the name of a work, one a round."""


@dataclass(frozen=True)
class Target:
    """Something that was to be reached.

    Attributes:
        what: what was measured, in words.
        measured: the number; None where it could not be measured.
        goal: what it was to be, at most or at least.
        sense: which of the two.
        unit: of both, "" for ratios.
        bounded: whether the measured number is a lower bound of what would have been measured.
    """

    what: str
    measured: float | None
    goal: float
    sense: Literal["at most", "at least"] = "at most"
    unit: str = ""
    bounded: bool = False

    @property
    def reached(self) -> bool | None:
        """None where nothing was measured, or too little to say so."""
        if self.measured is None or (self.bounded and self.sense == "at least" and self.measured < self.goal):
            return None
        return self.measured <= self.goal if self.sense == "at most" else self.measured >= self.goal


# --- time -----------------------------------------------------------------------------------------


def in_turn(
    works: Mapping[str, Callable[..., object]],
    rounds: int,
    *,
    before: Callable[[], tuple[Any, ...]] = tuple,
    seed: int = 0,
    unmeasured: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Taken:
    """Return the seconds of every work, one a round; ``unmeasured`` rounds come before.

    Every turn is given what ``before`` returns, made anew and not on the clock: records keep what they compute.
    ``clock=time.process_time`` counts all threads of this process, and hardly what other processes do.
    """
    draw = np.random.default_rng(seed)
    taken: Taken = {name: [] for name in works}
    for turn in range(-unmeasured, rounds):
        for name in draw.permutation(list(works)).tolist():
            given = before()
            start = clock()
            kept = works[name](*given)
            found = clock() - start
            del kept, given  # letting go of memory is not the next one's work
            if turn >= 0:
                taken[name].append(found)
    return taken


def ratio(taken: Mapping[str, Sequence[float]], name: str, to: str) -> dict[str, Any]:
    """Return the median of the ratios of two works within rounds, and a 95 % interval of the median.

    The interval lies between two order statistics, whatever the distribution; None of fewer than six rounds, where
    it would be wider than all of them.
    """
    values = sorted(np.divide(taken[name], taken[to]).tolist())
    n = len(values)
    k = int(stats.binom.ppf(0.025, n, 0.5))  # of n signs, fewer than k are plus in at most 2.5 %
    low, high = (values[k - 1], values[n - k]) if k >= 1 else (None, None)
    return {"median": statistics.median(values), "low": low, "high": high, "rounds": n}


def exponent(widths: Sequence[float], seconds: Sequence[float]) -> dict[str, float] | None:
    """Return the slope of time against width on logarithmic axes with its 95 % interval; None of under three widths."""
    if len(widths) < 3:
        return None
    fit = stats.linregress(np.log(widths), np.log(seconds))
    half = float(stats.t.ppf(0.975, len(widths) - 2) * fit.stderr)
    slope = float(fit.slope)
    return {"from": float(min(widths)), "slope": slope, "low": slope - half, "high": slope + half}


# --- memory ---------------------------------------------------------------------------------------


def peak_memory(work: Callable[[], object]) -> int | None:
    """Return the most bytes that ``work`` adds to this process while it runs; None where Linux does not count them.

    What the process has let go of is given back before; what libraries keep for later is counted once they take it.
    """
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _kilobytes("VmRSS")
        kept = work()
        peak = _kilobytes("VmHWM")
    except OSError:
        return None
    del kept
    return max(0, peak - before) * 1024


def _kilobytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """Return the result of work in a new process, which ends with this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, signal.signal, (signal.SIGINT, signal.SIG_DFL)) as pool:
        return pool.submit(work, *args).result()


# --- what is kept ---------------------------------------------------------------------------------


def here(*packages: str) -> dict[str, Any]:
    """Return where and with what is measured: processor, cores, threads, load before it, versions."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", *packages)}
    return {
        "device": processor_name(),
        "cores": cores(),
        "blas_threads": int(os.environ.get("OPENBLAS_NUM_THREADS") or cores()),
        "load": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **versions},
    }


def store(name: str, on: Mapping[str, Any], targets: Iterable[Target], out: Path | None = None, **found: Any) -> Path:
    """Write ``results/NAME.json``: where it was measured, what was to be reached, and all that was found."""
    path = out or RESULTS / f"{name}.json"
    stated = [asdict(target) | {"reached": target.reached} for target in targets]
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part")
    written.write_text(json.dumps({"on": on, "targets": stated, **found}, indent=1) + "\n", encoding="utf-8")
    written.replace(path)
    return path


def shown(value: Mapping[str, Any] | float | None, digits: int = 2) -> str:
    """Return a ratio with its interval, or a number, as it is printed."""
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return f"{value:.{digits}f}"
    between = "" if value["low"] is None else f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{value['median']:.{digits}f}{between}"


def say(targets: Iterable[Target]) -> None:
    """Print what was to be reached, and what was."""
    for target in targets:
        said = {True: "reached", False: "MISSED", None: "undecided"}[target.reached]
        number = "not measured" if target.measured is None else f"{target.measured:.3g}"
        print(f"{said:>10}  {target.what}: {number} {target.unit}, to be {target.sense} {target.goal:g} {target.unit}")


def keep(
    name: str,
    options: argparse.Namespace,
    on: Mapping[str, Any],
    targets: Sequence[Target],
    found: Mapping[str, Any],
    draw: Callable[[Mapping[str, Any]], Any] | None = None,
) -> None:
    """Say what was reached; store what was found, and draw it.

    A quick run is stored where ``--out`` says, or not at all, and no run that has ``--out`` draws.
    """
    say(targets)
    if options.out or not options.quick:
        print(store(name, on, targets, options.out, **found))
    if draw is not None and not options.out and not options.quick:
        save_figure(lambda: draw(found), FIGURES / name.replace("_", "-"))


def save_figure(draw: Callable[[], Any], stem: Path) -> None:
    """Write what ``draw`` returns as ``STEM.png`` and ``STEM.pdf``, in the style of linnet's figures."""
    from linnet.plots import style

    with style():
        figure = draw()
        figure.savefig(stem.with_suffix(".png"), dpi=200)
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
