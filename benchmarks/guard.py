"""Has a change made anything slower? Ratios of all benchmarks, against those that were recorded.

A ratio compares linnet with something else that is measured in the same run, so that it depends little on the machine.
It fails where it is half as much again as the recorded one. What fails is measured a second time, since a machine
may hiccup; the lower one counts. Part of ``.ci/run``; a minute, or two beside other work:

    python benchmarks/guard.py             # compare with benchmarks/results/guard.json; exit code 1 if one fails
    python benchmarks/guard.py --record    # write it anew, after a change that is meant
    python benchmarks/guard.py start       # of these benchmarks alone
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
from pathlib import Path

# Before NumPy is loaded: ratios are those of one thread.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from measuring import RESULTS, here  # noqa: E402  # it loads NumPy

GUARDED = ("small_and_many", "large_and_few", "alternatives", "libraries", "scale", "start", "threads")
WORSE = 1.5
FILE = RESULTS / "guard.json"


def measured(name: str) -> dict[str, float]:
    """Return the ratios of a benchmark, by what they are of."""
    found: dict[str, float] = importlib.import_module(name).guarded()
    return found


def worse(found: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """Return the ratios that are too large, not finite, or without a recorded one."""
    return [key for key, value in found.items() if not value < WORSE * recorded.get(key, -math.inf)]


def compared(name: str, recorded: dict[str, float]) -> list[str]:
    """Measure a benchmark's ratios, print them, and return those that fail."""
    found = measured(name)
    if worse(found, recorded):
        again = measured(name)
        found = {key: min(value, again.get(key, value)) for key, value in found.items()}
    failed = worse(found, recorded) + [key for key in recorded if key not in found]
    for key in [*found, *(key for key in failed if key not in found)]:
        before = f"{recorded[key]:8.2f}" if key in recorded else "    none"
        now = f"{found[key]:8.2f}" if key in found else "    gone"
        print(f"{'WORSE' if key in failed else 'ok':>6} {now} recorded {before}  {name}: {key}", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*GUARDED, []], help="benchmarks; all by default")
    parser.add_argument("--record", action="store_true", help="write the ratios")
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    names = options.names or GUARDED
    stored = json.loads(options.file.read_text(encoding="utf-8")) if options.file.is_file() else {"ratios": {}}
    if options.record:
        ratios = stored["ratios"]
        for name in names:
            ratios[name] = measured(name)
            print(name, *(f"\n  {value:8.2f}  {key}" for key, value in ratios[name].items()), flush=True)
        options.file.write_text(json.dumps({"on": here(), "ratios": ratios}, indent=1) + "\n", encoding="utf-8")
        return 0
    failed = [key for name in names for key in compared(name, stored["ratios"].get(name, {}))]
    print(f"{len(failed)} ratios are {WORSE:g} times the recorded ones, or more" if failed else "no ratio has grown")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
