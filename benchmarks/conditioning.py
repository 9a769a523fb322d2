"""Relative error of each closed form against its exact twin, over the condition number.

One problem of width 4 a cell, whose ``upper`` product, ``lower`` product or inputs' covariance has the condition
number on the axis; the worst of several draws counts. The line is eps times the condition number: what a method
that is as accurate as its input allows may lose. Writes the curve and its picture:

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/conditioning.py
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import linnet as ln
from linnet._linalg import RANK_FACTOR
from linnet.reference import exact_least_squares, exact_low_rank, relative_error

HERE = Path(__file__).parent
SIDES = {"upper": "the upper product", "lower": "the lower product", "covariance": "the inputs' covariance"}
EPS = float(np.finfo(float).eps)
WIDTH = 4
CUT = 1 / (2 * RANK_FACTOR * WIDTH * EPS)
"""Condition number at which the least direction sinks to the rank policy's cut, the layers' sizes allowed for."""


def problem(side: str, condition: float, rng: np.random.Generator) -> ln.LayerProblem:
    """Three layers of width 4, all well-conditioned but the one that ``side`` names."""
    flat, graded = np.ones(WIDTH), np.geomspace(1.0, 1.0 / condition, WIDTH)
    spectra = [graded if side == "lower" else flat, 1 + rng.random(WIDTH), graded if side == "upper" else flat]
    net = ln.DeepLinearNetwork.with_spectra([WIDTH] * 4, spectra, rng=rng)
    frame = ln.haar(WIDTH, rng)
    cov = (frame * (graded if side == "covariance" else flat)) @ frame.T
    coef = rng.normal(size=(WIDTH, WIDTH))
    return ln.LayerProblem(net, 1, ln.Regression(coef, (cov + cov.T) / 2).moments())


def errors(layer: ln.LayerProblem, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """Yield (method, relative error of its update) for one problem."""
    mask = rng.permutation(WIDTH * WIDTH).reshape(WIDTH, WIDTH) < 6
    linear = {
        "full FT": ln.FullFT(),
        "S2FT rows": ln.S2FT([0, 2]),
        "S2FT columns": ln.S2FT([0, 2], form="columns"),
        "LoRA, U frozen": ln.FrozenFactorLoRA(left=rng.normal(size=(WIDTH, 2))),
        "LoRA, V frozen": ln.FrozenFactorLoRA(right=rng.normal(size=(WIDTH, 2))),
        "SpFT": ln.SparseFT(mask),
        "IA3 output": ln.IA3(),
        "IA3 input": ln.IA3("input"),
        "subspace": ln.Subspace(rng.normal(size=(WIDTH * WIDTH, 5))),
    }
    for name, method in linear.items():
        yield name, relative_error(method.solve(layer).delta, exact_least_squares(method, layer))
    yield "LoRA", relative_error(ln.LoRA(2).solve(layer).delta, exact_low_rank(layer, 2))


def curve(conditions: np.ndarray, draws: int, seed: int = 0) -> list[dict]:
    """Return one row a method, side and condition number: the worst error of ``draws`` problems."""
    rows = []
    for side in SIDES:
        for condition in conditions:
            worst: dict[str, float] = {}
            for draw in range(draws):
                rng = np.random.default_rng([seed, draw])
                for name, error in errors(problem(side, float(condition), rng), rng):
                    worst[name] = max(worst.get(name, 0.0), error)
            rows += [
                {"side": side, "condition": float(condition), "method": name, "error": error}
                for name, error in worst.items()
            ]
    return rows


def figure(rows: list[dict]):
    """Draw the curves of all sides, the line eps * condition beneath."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(style="ticks", context="paper", font_scale=1.1)
    names = list(dict.fromkeys(r["method"] for r in rows))
    colours = sns.color_palette("colorblind", len(names))
    marks = ["o", "s", "D", "^", "v", "P", "X", "<", ">", "*"]
    drawn, axes = plt.subplots(1, 3, figsize=(13.5, 4.4), sharey=True, layout="constrained")
    for ax, (side, label) in zip(axes, SIDES.items(), strict=True):
        # Curves that coincide stay visible: hollow marks, each smaller than the one beneath.
        for i, (name, colour, mark) in enumerate(zip(names, colours, marks, strict=False)):
            chosen = [r for r in rows if r["side"] == side and r["method"] == name]
            x = [r["condition"] for r in chosen]
            y = [max(r["error"], EPS / 8) for r in chosen]
            style = {"markersize": 10 - 0.7 * i, "markerfacecolor": "none", "markeredgewidth": 1.2}
            ax.plot(x, y, color=colour, marker=mark, linewidth=1.1, label=name, **style)
        x = np.array(sorted({r["condition"] for r in rows}))
        ax.plot(x, EPS * x, color="black", linestyle="--", linewidth=1.4, label="eps × condition number", zorder=0)
        # From here on the rank policy takes the smallest direction for zero, and the exact twin does not.
        if side != "upper":
            ax.axvspan(CUT, 4e14, color="0.88", zorder=-1, label="least direction counts as zero")
        ax.set(xlim=(0.25, 4e14), xscale="log", yscale="log", xlabel=f"condition number of {label}")
        ax.grid(visible=True, which="major", linewidth=0.4, alpha=0.6)
        sns.despine(ax=ax)
    axes[0].set_ylabel("relative error of the update")
    handles, labels = axes[-1].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right center", frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "conditioning.json")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "figures" / "conditioning")
    options = parser.parse_args()
    rows = curve(np.geomspace(1.0, 1e14, 15), options.draws)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"eps": EPS, "draws": options.draws, "rows": rows}, indent=1) + "\n")
    drawn = figure(rows)
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "pdf"):
        drawn.savefig(options.figure.with_suffix(f".{kind}"), dpi=200)
    for side in SIDES:
        worst = max(rows, key=lambda r: r["error"] / r["condition"] if r["side"] == side else 0.0)
        constant = worst["error"] / (EPS * worst["condition"])
        print(f"{side}: error <= {constant:.1f} * eps * condition ({worst['method']}, {worst['condition']:.0e})")


if __name__ == "__main__":
    main()
