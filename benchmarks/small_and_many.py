"""Ten thousand small problems: what linnet takes over the decompositions that the textbook formulas need.

From networks and tasks to the solutions of LoRA, S2FT and full fine-tuning and their excess risks on both tasks, a
piece of the batch at a time (``in_pieces``), against the bare batched decompositions in NumPy on matrices of the same
shapes in the same pieces: one ``eigh`` of the lower Gram matrix, one SVD of the residual, one of the upper product
and one of its selected columns, for the pseudo-inverses. Nothing is prepared: every turn begins with new networks and
tasks. Seconds are of the process's CPU time, with one BLAS thread.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/small_and_many.py
    ... --quick          # few problems: does it run?
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Taken, Target, here, in_turn, keep, ratio, shown

import linnet as ln
from linnet.batches import ENTRIES

WIDTHS = (4, 8, 16, 32, 64)
GOAL = 1.25
OURS, WHOLE, BARE = "linnet", "linnet, not in pieces", "bare decompositions"


def covariances(width: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    a = rng.normal(size=(batch, width, 2 * width)) / np.sqrt(2 * width)
    return a @ np.swapaxes(a, -1, -2)


def inputs(width: int, batch: int, affine: bool, rng: np.random.Generator) -> tuple[ln.DeepLinearNetwork, ln.Shift]:
    net = ln.DeepLinearNetwork.random([width] * 4, rng=rng, batch=(batch,), biases=affine)
    coef = rng.normal(size=(batch, width, width)) / np.sqrt(width)
    noise = 0.1 * np.eye(width)
    mean = rng.normal(size=(batch, width)) if affine else None
    train = ln.Regression(coef, covariances(width, batch, rng), noise, mean)
    return net, ln.Shift.both(train, 0.5, 0.5, rng=rng)


def risks(net: ln.DeepLinearNetwork, shift: ln.Shift) -> list[np.ndarray]:
    """Excess risks of all methods on both tasks."""
    width = net.widths[1]
    problem = ln.LayerProblem(net, 1, shift.train.moments())
    found = []
    for method in (ln.LoRA(width // 4), ln.S2FT(range(width // 4)), ln.FullFT()):
        tuned = net.updated(method.solve(problem))
        found += [ln.excess_risk(tuned, task) for task in (shift.train, shift.test)]
    return found


def decompose(gram: np.ndarray, square: np.ndarray) -> None:
    """Decompose as the textbook formulas do, in pieces."""
    piece = max(1, ENTRIES // (square.shape[-1] ** 2))
    for start in range(0, len(gram), piece):
        g, m = gram[start : start + piece], square[start : start + piece]
        np.linalg.eigh(g)  # root of the lower Gram matrix
        np.linalg.svd(m, full_matrices=False)  # LoRA: SVD_r of the residual
        np.linalg.svd(m, full_matrices=False)  # pseudo-inverse of the upper product
        np.linalg.svd(m[..., : m.shape[-1] // 4], full_matrices=False)  # S2FT: of its selected columns


def anew(record: Any) -> Any:
    """A copy that has kept nothing of what it has computed."""
    return record.to(np)


def times(width: int, batch: int, affine: bool, rounds: int) -> Taken:
    rng = np.random.default_rng(width)
    net, shift = inputs(width, batch, affine, rng)
    gram, square = covariances(width, batch, rng), rng.normal(size=(batch, width, width))
    works: dict[str, Callable[..., object]] = {
        OURS: lambda net, shift: ln.in_pieces(risks, net, shift),
        WHOLE: risks,
        BARE: lambda net, shift: decompose(gram, square),
    }
    return in_turn(works, rounds, before=lambda: (anew(net), anew(shift)), clock=time.process_time)


def measure(width: int, batch: int, affine: bool, rounds: int) -> dict[str, Any]:
    taken = times(width, batch, affine, rounds)
    return {
        "width": width,
        "batch": batch,
        "biases_and_means": affine,
        "microseconds_a_problem": {name: 1e6 * float(np.median(s)) / batch for name, s in taken.items()},
        "ratio": ratio(taken, OURS, BARE),
        "ratio_whole": ratio(taken, WHOLE, BARE),
    }


def targets(rows: list[dict]) -> list[Target]:
    plain = [row for row in rows if not row["biases_and_means"]]
    return [
        Target(f"{row['batch']} problems of width {row['width']}, over the bare decompositions",
               row["ratio"]["median"], GOAL)
        for row in plain
    ]  # fmt: skip


def guarded() -> dict[str, float]:
    """Ratios that a change for the worse would raise."""
    found = {}
    for width, batch in ((8, 2_000), (32, 100)):
        taken = times(width, batch, False, 9)
        found[f"width {width}, over the bare decompositions"] = ratio(taken, OURS, BARE)["median"]
    return found


def figure(results: dict) -> Any:
    """Draw time a problem, and its ratio to the bare decompositions, over the width."""
    from linnet.plots import look, panels

    drawn, (left, right) = panels(2, height=2.6)
    plain = [row for row in results["rows"] if not row["biases_and_means"]]
    widths = [row["width"] for row in plain]
    for name in (OURS, BARE):
        colour, mark = look(name, (OURS, BARE))
        left.plot(widths, [row["microseconds_a_problem"][name] for row in plain], color=colour, marker=mark, label=name)
    left.set(xscale="log", yscale="log", xlabel="width", ylabel="CPU time a problem (µs)")
    for key, name in (("ratio", "in pieces"), ("ratio_whole", "whole batch at once")):
        colour, mark = look(name, ("in pieces", "whole batch at once"))
        right.plot(widths, [row[key]["median"] for row in plain], color=colour, marker=mark, label=name)
    right.axhline(GOAL, color="0.5", linestyle=":", linewidth=1)
    right.set(xscale="log", xlabel="width", ylabel="over the bare decompositions", ylim=(0, None))
    for ax in (left, right):
        ax.set_xticks(widths, labels=widths)
        ax.minorticks_off()
        ax.legend(frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--batch", type=int, help="problems a width")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="few problems, nothing written by default")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    batch, rounds = options.batch or (200 if options.quick else 10_000), options.rounds or (2 if options.quick else 7)
    rows = []
    print("width  biases   problems   linnet µs   whole µs   bare µs   linnet / bare")
    for width, affine in itertools.product(options.widths, (False, True)):
        row = measure(width, batch, affine, rounds)
        rows.append(row)
        each = row["microseconds_a_problem"]
        print(
            f"{width:5d} {affine!s:>7} {batch:10d} {each[OURS]:11.1f} {each[WHOLE]:10.1f} {each[BARE]:9.1f}   "
            f"{shown(row['ratio'])}"
        )
    keep("small_and_many", options, here(), targets(rows), {"rows": rows}, figure)


if __name__ == "__main__":
    main()
