"""Four of sixteen channels are trained, chosen in the nine ways of yang2024, Table 4, on tasks that move four
channels of the layer, which the choice does not know, or all of them. What counts is the gradient: its largest
channels are those that the task moves, and training them leaves {gradient_confined:.2f} of risk where random ones
leave {random_confined:.2f} (spread tasks: {gradient_spread:.2f} and {random_spread:.2f}). Weights and activations say
little about a task that is drawn without regard to them: their strategies lie within {others:.2f} of random
selection. That random selection is a strong baseline agrees with the paper; that small activations beat it does
{small} here, and that large gradients hurt does not: they hurt only what the network knew before, and by what they
learn in its place. Where that is asked for (right), the order is reversed, as `linnet/forgetting` has it: without
covariate shift, what is gained is lost.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import panels, simulated, strategies

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
    axes[1].legend(loc="best")
    return figure


def findings(table):
    """Return the risks that the text speaks of."""
    risk = means(table)["risk_in"]["mean"]
    confined, spread = (risk[place] for place in NAMES)
    quiet = [name for name in confined.index if not name.startswith(("gradient", "random"))]
    others = max(abs(part[name] - part["random"]) for part in (confined, spread) for name in quiet)
    small = [part["activation, smallest"] < part["random"] for part in (confined, spread)]
    return {
        "gradient_confined": confined["gradient, largest"],
        "random_confined": confined["random"],
        "gradient_spread": spread["gradient, largest"],
        "random_spread": spread["random"],
        "others": others,
        "small": "too" if all(small) else "not",
    }
