"""The nine strategies of yang2024, Table 4, for four of the sixteen hidden channels of a network that knows the
digits 0 to 4 and learns 5 to 9 from 100 images. Large gradients learn most: error {gradient:.2f} against {random:.2f}
of random channels; small ones least. The other strategies lie within {others:.2f} of random selection, which agrees
with the paper's finding that it is a strong baseline, and disagrees with the one that large gradients hurt: on the
old digits they cost {gradient_out:.2f}, random channels {random_out:.2f}. Small activations {small}.
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
    """Return the errors that the text speaks of."""
    found = means(table)
    inside, outside = found["risk_in"], found["risk_out"]
    quiet = [name for name in inside.index if not name.startswith(("gradient", "random"))]
    gap = inside["mean"]["activation, smallest"] - inside["mean"]["random"]
    error = (inside["sem"]["activation, smallest"] ** 2 + inside["sem"]["random"] ** 2) ** 0.5
    word = (
        "beat them"
        if gap < -2 * error
        else "are worse"
        if gap > 2 * error
        else "make no difference beyond two standard errors"
    )
    return {
        "gradient": inside["mean"]["gradient, largest"],
        "random": inside["mean"]["random"],
        "others": max(abs(inside["mean"][name] - inside["mean"]["random"]) for name in quiet),
        "gradient_out": outside["mean"]["gradient, largest"],
        "random_out": outside["mean"]["random"],
        "small": word,
    }
