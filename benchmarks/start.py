"""How long commands take to start: whole processes, from their start to their end.

Processes take turns; what the first round writes to caches is there for the others. Beside their seconds stand those of
the CPU, which other processes disturb less, and, to see where they go, how many modules a command has loaded at its
end, which large libraries are among them, and the packages whose import takes longest. A minute, with one BLAS thread:

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/start.py
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import Target, here, in_turn, keep, ratio, shown

LINNET = str(Path(sysconfig.get_path("scripts")) / "linnet")
VERIFY = ("verify", "yang2024/lemma-f12", "--budget", "quick")
PASS = "python -c pass"
PROCESSES: dict[str, list[str]] = {
    PASS: [sys.executable, "-c", "pass"],
    'python -c "import numpy"': [sys.executable, "-c", "import numpy"],
    'python -c "import linnet"': [sys.executable, "-c", "import linnet"],
    "linnet --help": [LINNET, "--help"],
    f"linnet {' '.join(VERIFY)}": [LINNET, *VERIFY],
}
GOALS = {"linnet --help": 0.3, f"linnet {' '.join(VERIFY)}": 3.0}
"""Seconds, at most."""
LARGE = ("numpy", "scipy", "jax", "torch", "flint", "pandas", "pyarrow", "matplotlib", "rich", "pydantic")


def ran(command: Sequence[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cpu() -> float:
    """Return seconds of CPU of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def loaded(arguments: Sequence[str]) -> dict[str, Any]:
    """Return how many modules ``linnet`` has loaded at its end, which large ones, and the slowest packages."""
    code = (
        "import atexit, sys; from linnet.cli import main\n"
        "atexit.register(lambda: print('loaded', *sys.modules, file=sys.stderr))\n"
        "main()"
    )
    command = [sys.executable, "-X", "importtime", "-c", code, *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    names = next(line for line in said.splitlines() if line.startswith("loaded ")).split()[1:]
    took: Counter[str] = Counter()
    for micro, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)$", said, re.M):
        took[name.partition(".")[0]] += int(micro)
    return {
        "command": " ".join(["linnet", *arguments]),
        "modules": len(names),
        "large": [name for name in LARGE if name in names],
        "milliseconds_of_imports": {name: micro / 1000 for name, micro in took.most_common(6)},
    }


def guarded() -> dict[str, float]:
    """Return seconds of CPU over those of an interpreter that does nothing."""
    taken = in_turn({name: ran(command) for name, command in PROCESSES.items()}, 4, clock=cpu)
    return {f"{name} over {PASS}": ratio(taken, name, to=PASS)["median"] for name in GOALS}


def measured(rounds: int) -> list[dict[str, Any]]:
    works = {name: ran(command) for name, command in PROCESSES.items()}
    walls, cpus = in_turn(works, rounds), in_turn(works, max(2, rounds // 3), clock=cpu)
    return [
        {
            "process": name,
            "seconds": statistics.median(walls[name]),
            "most": max(walls[name]),
            "cpu": statistics.median(cpus[name]),
            "over_pass": ratio(walls, name, to=PASS),
        }
        for name in works
    ]


def report(rows: Sequence[Mapping[str, Any]], loads: Sequence[Mapping[str, Any]]) -> None:
    print(f"{'process':55} median s   most s    CPU s   over {PASS}")
    for row in rows:
        times = shown(row["over_pass"], 1)
        print(f"{row['process']:55} {row['seconds']:8.3f} {row['most']:8.3f} {row['cpu']:8.3f}   {times}")
    for load in loads:
        slow = ", ".join(f"{name} {ms:.0f}" for name, ms in load["milliseconds_of_imports"].items())
        large = ", ".join(load["large"]) or "no large library"
        print(f"\n{load['command']}: {load['modules']} modules, {large}")
        print(f"  milliseconds of imports, which being watched makes slower: {slow}")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds; nothing is stored")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, help="where to store; benchmarks/results/start.json")
    options = parser.parse_args()
    on = here("typer", "rich", "pydantic")
    rows = measured(2 if options.quick else options.rounds)
    loads = [loaded(["--help"]), loaded(VERIFY)]
    targets = [Target(r["process"], r["seconds"], GOALS[r["process"]], unit="s") for r in rows if r["process"] in GOALS]
    report(rows, loads)
    keep("start", options, on, targets, {"rows": rows, "loaded": loads})


if __name__ == "__main__":
    main()
