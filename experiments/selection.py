"""Four of sixteen channels are trained, chosen in the nine ways of yang2024, Table 4, on tasks that move four
channels of the layer, which the choice does not know, or all of them. Scores are computed on the 60 training samples
themselves. What counts is the gradient: its largest channels are mostly those that the task moves, and training them
leaves {gradient_confined:.2f} of risk where random ones leave {random_confined:.2f} (spread tasks:
{gradient_spread:.2f} and {random_spread:.2f}). Weights and activations say little about a task that is drawn without
regard to them: their strategies differ from random selection by at most {others:.1f} standard errors of the
difference. That random selection is a strong baseline agrees with the paper. That small activations and small
products beat it is not seen ({small_a:+.3f} ± {small_a_se:.3f} and {small_s:+.3f} ± {small_s_se:.3f} on spread
tasks), and that large gradients hurt is not either: they hurt what the network knew before, by what they learn in its
place. Where that is asked for (right), the order is reversed, as `linnet/forgetting` has it: without covariate shift,
what is gained is lost.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import common_legend, panels, simulated, strategies

CAPTION = """Excess risk after S2FT on 4 of 16 channels and 60 samples, by the strategy that chose them: in
distribution (left), and on what the network was pre-trained for (right). Means over 20 problems, with their standard
errors over problems."""

NAMES = ("confined to 4 channels", "spread over all")


def means(table):
    """Return means and standard errors over problems, a row for each strategy and place of the task."""
    table = table.assign(place=np.where(table["task.channels"].notna(), *NAMES), strategy=strategies(table))
    return table.groupby(["place", "strategy"])[["risk_in", "risk_out"]].agg(["mean", "sem"])


def draw(table):
    """Draw the risks, a row a strategy."""
    found = means(table)
    order = found.loc[NAMES[0], ("risk_in", "mean")].sort_values(ascending=False).index
    figure, axes = panels(2, height=2.6, sharey=True)
    for ax, y, title in zip(axes, ("risk_in", "risk_out"), ("the task", "what was known before"), strict=True):
        for i, place in enumerate(NAMES):
            mine = found.loc[place].loc[order, y].reset_index()
            mine["row"] = np.arange(len(mine)) + (0.12 if i else -0.12)
            simulated(ax, mine, "mean", "row", name=place, among=NAMES, error="none", xerr=mine["sem"])
        ax.set(title=title, xlabel="excess risk (squared units of y)", yticks=range(len(order)))
        ax.set_xlim(left=0)
    axes[0].set_yticklabels(order)
    axes[0].set_ylabel("channels chosen by")
    common_legend(figure, axes[0])
    return figure


def findings(table):
    """Return the risks that the text speaks of, and differences from random selection problem by problem."""
    risk = means(table)["risk_in"]["mean"]
    confined, spread = (risk[place] for place in NAMES)
    table = table.assign(place=np.where(table["task.channels"].notna(), *NAMES), strategy=strategies(table))
    wide = table.pivot(index=["place", "seed"], columns="strategy", values="risk_in")
    off = wide.sub(wide["random"], axis=0).groupby("place")
    size, error = off.mean(), off.sem()
    quiet = [name for name in wide.columns if not name.startswith(("gradient", "random"))]
    small = {"a": "activation, smallest", "s": "product, smallest"}
    return {
        "gradient_confined": confined["gradient, largest"],
        "random_confined": confined["random"],
        "gradient_spread": spread["gradient, largest"],
        "random_spread": spread["random"],
        "others": (size[quiet] / error[quiet]).abs().to_numpy().max(),
        **{f"small_{key}": size[name][NAMES[1]] for key, name in small.items()},
        **{f"small_{key}_se": error[name][NAMES[1]] for key, name in small.items()},
    }
