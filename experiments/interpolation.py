"""Exact expectations on both sides of interpolation, where n samples just fit what the m = {m} features that reach
the layer allow. Below it the least-norm solution sees n of the m directions, above it the noise is averaged; at m -
1, m and m + 1 samples the expected risk is infinite. S2FT with 6 of 16 rows has its peak where full fine-tuning has
it, and near it less variance, since it moves 6 of 12 outputs; with 6 of 16 columns it has 6 features, and peaks
there. So the number of trained *columns*, not of parameters, decides how many samples are enough: with as many
parameters as S2FT by rows, S2FT by columns is past its peak when the other has not reached its own. Out of
distribution, where the inputs move too, the peaks are at the same places. Far beyond, at n = {far:.0f}, the risks are
{full:.2f} (full FT), {rows:.2f} (rows) and {columns:.2f} (columns), before all training {start:.2f}: the shift leads
half way back, so that little is won or lost. Neither paper has this figure; `conjecture/s2ft-finite-sample` states
the half above interpolation.
"""

from __future__ import annotations

import json

import numpy as np

from linnet.plots import common_legend, panels, plain_log, simulated, theory

CAPTION = """Expected excess risk in (left) and out of distribution (right) against the number of samples. Lines:
exact expectation, broken where it is infinite, about 6 (S2FT by columns) and 16 samples (the others), dotted; points:
means of 1000 samples, with one standard error. The layer's inputs are isotropic, as the closed form below
interpolation needs. One problem."""

NAMES = ("full FT", "S2FT", "S2FT columns")


def draw(table):
    """Draw the risks against n; the line is broken where it is infinite."""
    figure, axes = panels(2)
    for ax, side, title in zip(axes, ("in", "out"), ("in distribution", "out of distribution"), strict=True):
        for name in NAMES:
            mine = table[(table.method == name)]
            finite = mine[np.isfinite(mine[f"predicted_{side}"]) | mine[f"predicted_{side}"].isna()]
            features = (6 if name == "S2FT columns" else layer_inputs(table)) + 0.5
            for part in (finite[finite.n < features], finite[finite.n > features]):
                theory(ax, part, "n", f"predicted_{side}", name=name, among=NAMES)
            simulated(ax, finite, "n", f"risk_{side}", name=name, among=NAMES)
        ax.set(xscale="log", yscale="log", title=title, xlabel="samples n")
        ax.set_ylabel("excess risk (squared units of y)")
        for m in (6, layer_inputs(table)):
            ax.axvline(m, color="0.6", linestyle=":", linewidth=0.8)
        plain_log(ax.xaxis)
        plain_log(ax.yaxis)
    common_legend(figure, axes[0])
    return figure


def layer_inputs(table):
    """Return how many features reach the layer."""
    widths, layer = json.loads(table["network.widths"].iloc[0]), int(table["network.layer"].iloc[0])
    return min(widths[: layer + 1])


def findings(table):
    """Return the risks out of distribution at the largest n."""
    far = table[table.n == table.n.max()].set_index("method")
    return {
        "m": layer_inputs(table),
        "far": table.n.max(),
        "start": far.pretrained_out.iloc[0],
        **{key: far.predicted_out[name] for key, name in zip(("full", "rows", "columns"), NAMES, strict=True)},
    }
