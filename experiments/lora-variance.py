"""LoRA's variance has no closed form, but a first order in 1/n: what least squares along the matrices of rank r would
have, and what telling the r-th singular value from the next adds, which grows like one over the square of their
difference (docs/proofs/finite-sample.md). Simulation meets it as n grows, how soon depends on the gap: at n = 2560
the ratio of simulated to stated is between {fast_low:.2f} and {fast_high:.2f} with the spectrum $1/j$, and between
{slow_low:.2f} and {slow_high:.2f} with $j^{-1/4}$; at n = 40960, where standard errors are {error:.0%}, between
{far_low:.2f} and {far_high:.2f}. On few samples the expansion understates the variance with the fast spectrum (up to
{under:.1f} times), and overstates it where singular values nearly tie (up to {over:.1f} times), since a sample cannot
rotate a subspace further than it can. It stays within the order that yang2024, Theorem F.10, allows, r/n times an
eigengap factor; for what happens at a tie see `linnet/lora-gap`.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import common_legend, panels, plain_log, simulated, theory

CAPTION = """n times the variance of the sample's solution against n, for a spectrum that falls like 1/j (left) and
like j^(-1/4) (right). Lines: first order in 1/n (LoRA) and exact (full fine-tuning); points: means of 2000 samples,
with one standard error. One problem each."""

NAMES = ("full FT", "LoRA, rank 1", "LoRA, rank 2", "LoRA, rank 4")


def named(table):
    """Return the table with ranks in the methods' names, and variances times n."""
    rank = table["size"].astype(str)
    table = table.assign(name=np.where(table.method == "LoRA", "LoRA, rank " + rank, table.method))
    for column in ("variance", "variance_se", "predicted_variance"):
        table[f"n_{column}"] = table.n * table[column]
    return table


def draw(table):
    """Draw n times the variance, a panel a spectrum."""
    table = named(table)
    figure, axes = panels(2)
    spectra = sorted(table["task.spectrum"].unique(), reverse=True)
    for ax, spectrum in zip(axes, spectra, strict=True):
        part = table[table["task.spectrum"] == spectrum]
        for name in NAMES:
            mine = part[part.name == name]
            theory(ax, mine, "n", "n_predicted_variance", name=name, among=NAMES)
            simulated(ax, mine, "n", "n_variance", name=name, among=NAMES)
        ax.set(xscale="log", yscale="log", title=f"singular values fall like $j^{{-{spectrum:g}}}$", xlabel="samples n")
        ax.set_ylabel("n × variance (squared units of y)")
        plain_log(ax.yaxis)
    common_legend(figure, axes[0])
    return figure


def findings(table):
    """Return ratios of simulated to stated variance."""
    lora = table[table.method == "LoRA"]
    ratio = (lora.variance / lora.predicted_variance).groupby([lora["task.spectrum"], lora.n])
    low, high = ratio.min(), ratio.max()
    slow, fast = sorted(lora["task.spectrum"].unique())
    last = lora[lora.n == lora.n.max()]
    return {
        "fast_low": low[fast, 2560],
        "fast_high": high[fast, 2560],
        "slow_low": low[slow, 2560],
        "slow_high": high[slow, 2560],
        "far_low": min(low[s, last.n.max()] for s in (slow, fast)),
        "far_high": max(high[s, last.n.max()] for s in (slow, fast)),
        "error": (last.variance_se / last.variance).max(),
        "under": high[fast].max(),
        "over": 1 / low[slow].min(),
    }
