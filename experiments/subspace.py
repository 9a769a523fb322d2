r"""One target and d = {d:.0f} inputs, of which a method trains k coefficients: least squares in a subspace, liu2025's
linear model of PEFT. With noise of variance $\sigma^2$ and an approximation error $\tau^2$ of the subspace, the
expected error, noise included, is $(\sigma^2 + \tau^2)\frac{N - 1}{N - k - 1}$, and training everything is better
from $N^* = d + 1 + (d - k)\sigma^2/\tau^2$ on (`conjecture/subspace-least-squares`): fewer parameters pay up to
$N^*$, which exceeds $d + 1$, the more so the more the noise drowns what the subspace misses. Here $N^*$ runs from
{least:.0f} (k = {least_k}, less noise) to {most:.0f} (k = {most_k}, more noise). The simulated means change their
order between the same two sample sizes in {agree} of {of} cases. That PEFT wins on few samples and full fine-tuning
on many agrees with liu2025, Fig. 2; where they cross, Theorem 5 does not say.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import common_legend, look, panels, plain_log, simulated, theory

CAPTION = """Expected squared error less the noise against the number of samples, for all 32 coefficients and for the
first k of them, at two sizes of the noise. Lines: exact expectation; points: means of 1000 samples, with one standard
error. Vertical: where training everything starts to be better than training k, in the colour of k. One problem."""

SIZES = {0: "full FT", 4: "k = 4", 8: "k = 8", 16: "k = 16"}


def draw(table):
    """Draw the risks against n, a panel a noise."""
    names = tuple(SIZES.values())
    figure, axes = panels(2)
    for ax, (noise, part) in zip(axes, table.groupby("task.noise"), strict=True):
        for size, name in SIZES.items():
            mine = part[part["size"] == size]
            theory(ax, mine, "n", "predicted_in", name=name, among=names)
            simulated(ax, mine, "n", "risk_in", name=name, among=names)
            if size:
                ax.axvline(crossing(mine), color=look(name, names)[0], linestyle=(size // 4, (2, 4)), linewidth=1.2)
        ax.set(xscale="log", yscale="log", title=f"noise of standard deviation {noise:g}", xlabel="samples N")
        ax.set_ylabel("excess risk (squared units of y)")
        plain_log(ax.xaxis)
        plain_log(ax.yaxis)
    common_legend(figure, axes[0])
    return figure


def crossing(rows):
    """Return the number of samples from which training everything is better than these rows' subspace."""
    row = rows.iloc[0]
    d, k = inputs(rows), row["size"]
    return d + 1 + (d - k) * row["task.noise"] ** 2 / row.bias


def inputs(table):
    """Return d."""
    return int(table["network.widths"].iloc[0].strip("[]").split(",")[0])


def findings(table):
    """Return the crossings, and how often simulation has them between the same sample sizes."""
    where, agree = {}, 0
    for (noise, size), rows in table[table["size"] > 0].groupby(["task.noise", "size"]):
        where[noise, size] = crossing(rows)
        full = table[(table["size"] == 0) & (table["task.noise"] == noise)].set_index("n")
        ahead = (full.risk_in < rows.set_index("n").risk_in).to_numpy()
        agree += bool(np.array_equal(ahead, full.index.to_numpy() > where[noise, size]))
    least, most = min(where, key=lambda c: where[c]), max(where, key=lambda c: where[c])
    return {
        "d": inputs(table),
        "least": where[least],
        "least_k": least[1],
        "most": where[most],
        "most_k": most[1],
        "agree": agree,
        "of": len(where),
    }
