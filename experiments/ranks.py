r"""What a further rank buys in distribution, for a residual whose singular values fall fast, like $j^{-3/2}$, and one
where they hardly do. The population's LoRA leaves the tail $\sum_{i>r}\sigma_i^2$ (eq. (33) of liu2025 in whitened
coordinates), and so by rank 4 of 16 has taken off {fast:.0%} of the risk of the first, {slow:.0%} of the second:
returns diminish as fast as the spectrum does, which agrees with the words of Theorem 3 and, as far as ranks 8 to 32
can show it, Fig. 3. With one factor frozen at a Gaussian draw there is no such thing as a first rank: in this
network, whose layers are orthogonal and whose inputs are alike in all directions, every rank takes off 1/16 in the
mean, whichever factor is frozen and whatever the spectrum.

On 60 samples the curves part ways. A frozen V of rank r sees r features, and what the others do to the outputs acts
as noise; a frozen U sees them all. LoRA's risk falls, reaches {least:.2f} at rank {at:.0f} where the spectrum is
fast, and then rises to full fine-tuning's {full:.2f}: beyond that rank it learns noise, the decline that the words of
Theorem 3 allow and its formula, a bound from above, does not assert. On the slow spectrum it falls to the end.
"""

from __future__ import annotations

import math

from linnet.plots import common_legend, panels, simulated, theory

CAPTION = """Excess risk in distribution against the rank, population (left) and 60 samples (right), for a fast
(above) and a slow spectrum (below). Lines: exact expectation, for frozen factors over their draws too; points: means
of 200 samples and draws, with one standard error. For the population U frozen lies under V frozen. LoRA's risk on
samples has no closed form, and its points are joined. One problem a spectrum."""

NAMES = ("LoRA", "LoRA, U frozen", "LoRA, V frozen")


def draw(table):
    """Draw risk against rank, a row a spectrum."""
    figure, axes = panels(2, 2, height=2.2, sharex=True, sharey=True)
    for row, spectrum in zip(axes, sorted(table["task.spectrum"].unique(), reverse=True), strict=True):
        for ax, n in zip(row, (math.inf, 60), strict=True):
            part = table[(table["task.spectrum"] == spectrum) & (table.n == n)]
            for name in NAMES:
                mine = part[part.method == name]
                theory(ax, mine, "size", "predicted_in", name=name, among=NAMES)
                simulated(ax, mine, "size", "risk_in", name=name, among=NAMES, join=n == 60 and name == "LoRA")
            where = "population" if n == math.inf else "60 samples"
            ax.set(title=f"{where}, singular values like $j^{{-{spectrum:g}}}$", xticks=[1, 4, 8, 12, 16])
            ax.set_ylim(bottom=0)
        row[0].set_ylabel("excess risk in distribution\n(squared units of y)")
    for ax in axes[1]:
        ax.set_xlabel("rank")
    common_legend(figure, axes[0, 0])
    return figure


def findings(table):
    """Return what four ranks take off, and where LoRA on samples is best."""
    lora = table[table.method == "LoRA"].set_index(["task.spectrum", "n", "size"]).sort_index()
    fast, slow = sorted(table["task.spectrum"].unique(), reverse=True)
    off = {s: 1 - lora.risk_in[s, math.inf, 4] / lora.pretrained_in[s, math.inf, 4] for s in (fast, slow)}
    sample = lora.risk_in[fast, 60]
    return {"fast": off[fast], "slow": off[slow], "least": sample.min(), "at": sample.idxmin(), "full": sample[16]}
