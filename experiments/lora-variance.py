"""LoRA's variance has no closed form, but a first order in 1/n: what least squares along the matrices of rank r would
have, and what telling the r-th singular value from the next adds, which grows like one over the square of their
difference. Simulation meets it once n is large, how large depends on the gap: with the spectrum $1/j$ the ratio is
within 5 % from n = {fast:.0f} on at every rank, with $j^{-1/4}$ from n = {slow:.0f} on. Before that the expansion
overstates the variance where singular values nearly tie, since the sample cannot rotate the subspaces further than it
can. It agrees with yang2024, Theorem F.10, in its order, r/n times an eigengap factor, and says what the factor is:
see `linnet/lora-gap` for what happens at a tie. Full fine-tuning is drawn for comparison; its line is exact.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import common_legend, panels, plain_log, simulated, theory

CAPTION = """n times the variance of the sample's solution against n, for a spectrum that falls like 1/j (left) and
like j^(-1/4) (right). Lines: first order in 1/n (LoRA) and exact (full fine-tuning); points: means of 2000 samples,
with one standard error."""

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
    """Return from which n on the first order is within 5 % at all ranks."""
    lora = table[table.method == "LoRA"]
    off = (lora.variance / lora.predicted_variance - 1).abs()
    last = lora[off > 0.05].groupby("task.spectrum").n.max()
    sizes = np.sort(lora.n.unique())
    first = {spectrum: sizes[sizes > last[spectrum]].min() for spectrum in last.index}
    return {"fast": first[max(first)], "slow": first[min(first)]}
