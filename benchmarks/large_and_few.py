"""One large layer: LoRA of rank 16 without any full decomposition, with all of them, and the decompositions alone.

A network of three square layers, the middle one tuned, and a task without means. ``linnet`` is what a user gets: from
1024 on products with a few columns, LU and Cholesky; ``dense`` is linnet with the full SVD of the residual, which
then serves all ranks; the decompositions alone are those of the textbook formulas: one ``eigh`` of the lower Gram
matrix, one SVD of the residual, one of the upper product and one of 16 selected columns. Every turn begins with a new
network and a new task. Seconds are of the wall clock, on as many BLAS threads as the machine has cores; what memory a
solution takes beyond its inputs is asked in a process of its own.

    python benchmarks/large_and_few.py            # minutes: at width 4096 the decompositions take a minute
    python benchmarks/large_and_few.py --quick    # small layers: does it run?
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Taken, Target, apart, exponent, here, in_turn, keep, peak_memory, ratio, shown

import linnet as ln

WIDTHS = (512, 1024, 2048, 4096)
RANK = 16
OURS, DENSE, BARE = "linnet", "linnet, dense", "decompositions alone"
FASTER, RISK, MEMORY, OVER = 10.0, 1e-6, 4.0, 1.2


def inputs(width: int) -> tuple[ln.DeepLinearNetwork, ln.Regression]:
    rng = np.random.default_rng(width)
    net = ln.DeepLinearNetwork.random([width] * 4, rng=rng)
    a = rng.normal(size=(width, 2 * width)) / np.sqrt(2 * width)
    return net, ln.Regression(rng.normal(size=(width, width)) / np.sqrt(width), a @ a.T, 0.1 * np.eye(width))


def anew(record: Any) -> Any:
    """The same arrays in a record that has kept nothing of what it has computed."""
    return dataclasses.replace(record)


def solved(net: ln.DeepLinearNetwork, task: ln.Regression, dense: bool) -> ln.Update:
    problem = ln.LayerProblem(net, 1, task.moments())
    if dense:
        _ = problem.residual_svd  # once there, it is what LoRA takes
    return ln.LoRA(RANK).solve(problem)


def decompose(gram: np.ndarray, square: np.ndarray) -> None:
    np.linalg.eigh(gram)
    np.linalg.svd(square)
    np.linalg.svd(square)
    np.linalg.svd(square[:, :RANK], full_matrices=False)


def times(width: int, rounds: int, unmeasured: int = 1) -> Taken:
    net, task = inputs(width)
    works: dict[str, Callable[..., object]] = {
        OURS: lambda net, task: solved(net, task, dense=False),
        DENSE: lambda net, task: solved(net, task, dense=True),
        BARE: lambda net, task: decompose(task.signal_cov, task.coef),
    }
    return in_turn(works, rounds, before=lambda: (anew(net), anew(task)), unmeasured=unmeasured)


def memory(width: int) -> float | None:
    """Matrices of the layer's size that a solution takes at most beyond its inputs, its own included."""
    solved(*inputs(64), dense=False)  # what is imported on first use is no part of it
    small = ln.LayerProblem(*inputs(64)[:1], 1, inputs(64)[1].moments())
    _ = small.residual_svd
    net, task = inputs(width)
    found = peak_memory(lambda: solved(net, task, dense=False))
    return None if found is None else found / (8 * width * width)


def accuracy(width: int) -> float:
    """Excess risk relative to that of the dense solution, less 1."""
    net, task = inputs(width)
    ours, dense = (ln.excess_risk(net.updated(solved(net, task, dense)), task) for dense in (False, True))
    return abs(ours / dense - 1)


def measure(width: int, rounds: int) -> dict[str, Any]:
    taken = times(width, rounds, unmeasured=0 if width > 2048 else 1)
    return {
        "width": width,
        "rank": RANK,
        "seconds": {name: float(np.median(s)) for name, s in taken.items()},
        "dense_over_decompositions": ratio(taken, DENSE, BARE),
        "dense_over_linnet": ratio(taken, DENSE, OURS),
        "decompositions_over_linnet": ratio(taken, BARE, OURS),
        "risk_off_by": accuracy(width),
        "matrices": apart(memory, width),
    }


def targets(rows: list[dict]) -> list[Target]:
    out = [
        Target(f"width {r['width']}, dense, over the decompositions", r["dense_over_decompositions"]["median"], OVER)
        for r in rows
    ]
    for r in rows:
        if r["width"] >= 1024:
            out.append(Target(f"width {r['width']}, risk off by", r["risk_off_by"], RISK))
            out.append(Target(f"width {r['width']}, memory beyond the inputs", r["matrices"], MEMORY, unit="matrices"))
        if r["width"] == max(WIDTHS):
            for key, name in (("dense_over_linnet", "dense"), ("decompositions_over_linnet", "the decompositions")):
                said = f"width {r['width']}, {name}, over linnet"
                out.append(Target(said, r[key]["median"], FASTER, "at least"))
    return out


def guarded() -> dict[str, float]:
    """Ratios that a change for the worse would raise."""
    taken = times(1024, 5)
    return {
        "width 1024, linnet over the decompositions": ratio(taken, OURS, BARE)["median"],
        "width 1024, dense over the decompositions": ratio(taken, DENSE, BARE)["median"],
    }


def exponents(rows: list[dict]) -> dict[str, Any]:
    wide = [row for row in rows if row["width"] >= 1024]
    return {
        name: exponent([row["width"] for row in wide], [row["seconds"][name] for row in wide])
        for name in (OURS, DENSE, BARE)
    }


def figure(results: dict) -> Any:
    """Draw time against width."""
    from linnet.plots import look, panels

    drawn, ax = panels(1, height=3.2)
    rows = results["rows"]
    widths = [row["width"] for row in rows]
    for name in (OURS, DENSE, BARE):
        colour, mark = look(name, (OURS, DENSE, BARE))
        fit = results["exponents"][name]
        said = name if fit is None else f"{name}: width to the {fit['slope']:.1f}"
        ax.plot(widths, [row["seconds"][name] for row in rows], color=colour, marker=mark, label=said)
    ax.set(xscale="log", yscale="log", xlabel="width of the layer", ylabel="time (s)")
    ax.set_xticks(widths, labels=widths)
    ax.minorticks_off()
    ax.legend(frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, help="3 by default, 7 up to width 1024")
    parser.add_argument("--quick", action="store_true", help="small layers, nothing written by default")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    widths = options.widths or ((64, 128) if options.quick else WIDTHS)
    rows = []
    print(
        "width   linnet s   dense s   decompositions s   dense / decompositions   dense / linnet   risk off   matrices"
    )
    for width in widths:
        row = measure(width, options.rounds or (7 if width <= 1024 else 3))
        rows.append(row)
        seconds, held = row["seconds"], row["matrices"]
        print(
            f"{width:5d} {seconds[OURS]:10.3f} {seconds[DENSE]:9.3f} {seconds[BARE]:18.3f}   "
            f"{shown(row['dense_over_decompositions']):>22}   {shown(row['dense_over_linnet']):>14}   "
            f"{row['risk_off_by']:8.1e}   {'' if held is None else f'{held:8.1f}'}",
            flush=True,
        )
    found = {"rows": rows, "exponents": exponents(rows)}
    keep("large_and_few", options, here(), targets(rows), found, figure)


if __name__ == "__main__":
    main()
