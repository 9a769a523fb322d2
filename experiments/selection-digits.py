"""The nine strategies of yang2024, Table 4, for four of the sixteen hidden channels of a network that knows the
digits 0 to 4 and learns 5 to 9 from 100 images, on which the scores are computed. Large gradients learn most: on new
digits their error is {gradient:+.3f} ± {gradient_se:.3f} beside that of random channels, network by network; small
ones least. The other strategies differ from random selection by at most {others:.1f} standard errors, small
activations by {small:+.3f} ± {small_se:.3f}: it is a strong baseline, as in the paper, which small activations do not
visibly beat. That large gradients hurt is not seen on the new digits, and on the old ones not decided ({old:+.3f} ±
{old_se:.3f}).
"""

from __future__ import annotations

from linnet.plots import panels, simulated, strategies

CAPTION = """Mean squared error of one-hot labels after S2FT on 4 of 16 channels: on images of the new digits that
were not trained on (left) and of the old ones (right). Means over 8 pre-trained networks with 20 splits each, with
standard errors over networks."""


def means(table):
    """Return means and standard errors over networks, a row for each strategy."""
    table = table.assign(strategy=strategies(table))
    return table.groupby("strategy")[["risk_in", "risk_out"]].agg(["mean", "sem"])


def draw(table):
    """Draw the errors, a row a strategy."""
    found = means(table).sort_values(("risk_in", "mean"), ascending=False)
    figure, axes = panels(2, height=2.4, sharey=True)
    for ax, y, title in zip(axes, ("risk_in", "risk_out"), ("new digits, 5-9", "old digits, 0-4"), strict=True):
        mine = found[y].reset_index()
        mine["row"] = range(len(mine))
        simulated(ax, mine, "mean", "row", name="S2FT", error="none", xerr=mine["sem"])
        ax.set(title=title, xlabel="mean squared error, sum of 10 outputs", yticks=range(len(found)))
    axes[0].set_yticklabels(found.index)
    axes[0].set_ylabel("channels chosen by")
    return figure


def findings(table):
    """Return differences from random selection, network by network: all strategies share networks and splits."""
    table = table.assign(strategy=strategies(table))

    def beside_random(column):
        wide = table.pivot(index="seed", columns="strategy", values=column)
        off = wide.sub(wide["random"], axis=0)
        return off.mean(), off.sem()

    inside, error = beside_random("risk_in")
    outside, outside_error = beside_random("risk_out")
    quiet = [name for name in inside.index if not name.startswith(("gradient", "random"))]
    return {
        "gradient": inside["gradient, largest"],
        "gradient_se": error["gradient, largest"],
        "others": (inside[quiet] / error[quiet]).abs().max(),
        "small": inside["activation, smallest"],
        "small_se": error["activation, smallest"],
        "old": outside["gradient, largest"],
        "old_se": outside_error["gradient, largest"],
    }
