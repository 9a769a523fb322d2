r"""What a method forgets, against what it gains. By `linnet/forgetting` the population solutions of full fine-tuning,
LoRA and S2FT obey one law: $\mathcal E_o - \mathcal E_o(\text{pre}) = -g - 2\langle S, L\rangle$, $g$ the gain in
distribution, $S$ the shift and $L$ what was learned. If the shift leads back by a share $t$ of the task, that is $(2t
- 1)g$, whatever the method, its rank or its channels: whoever gains as much forgets as much. Asked for the old task
($t = 1$) the points lie on the diagonal; half way back ($t = 1/2$) nothing is forgotten at any gain; after a shift in
a random direction learning helps out of distribution nearly as much as in it, with a scatter that is the overlap of
$S$ and $L$. SpFT learns no $P_CZ\Pi$, but still an orthogonal projection of $Z$, which is all the law needs. On 40
samples all points move up and to the left, by the variance (LoRA by less): {worst} has the most, {variance:.2f} on
average. That one method forgets less than another at the same gain, as yang2024, Theorem 4.2, suggests for S2FT,
needs a shift whose direction tells them apart.
"""

from __future__ import annotations

from linnet.plots import common_legend, look, panels

CAPTION = """Forgetting against gain in distribution, for three shifts. Filled: population solutions, on the line of
theory (none on the right, where the overlap differs by method; the line is its mean, no overlap). Hollow: means over
50 samples of size 40, whose standard errors are mostly below the size of the marks. Two problems."""

NAMES = ("full FT", "LoRA", "S2FT", "S2FT columns", "SpFT")


def shifts(table):
    """Return the rows of each shift, with a title and the slope of theory."""
    old = table["shift.kind"] == "old"
    share = table["shift.share"]
    return (
        (table[old & (share == 1)], "asked for the old task", 1.0),
        (table[old & (share == 0.5)], "half way back", 0.0),
        (table[~old], "shifted in a random direction", -1.0),
    )


def draw(table):
    """Draw forgetting against gain, a panel a shift."""
    figure, axes = panels(3, height=2.6)
    for ax, (part, title, slope) in zip(axes, shifts(table), strict=True):
        part = part.assign(gain=part.pretrained_in - part.risk_in)
        ax.plot([0, 1], [0, slope], color="0.5", linewidth=1, zorder=1)
        for name in NAMES:
            colour, marker = look(name)
            mine = part[part.method == name]
            whole, sample = mine[mine.n == float("inf")], mine[mine.n < float("inf")]
            ax.plot(whole.gain, whole.forgetting, marker, color=colour, label=name, markersize=4)
            ax.errorbar(
                sample.gain,
                sample.forgetting,
                xerr=sample.risk_in_se,
                yerr=sample.forgetting_se,
                fmt=marker,
                color=colour,
                markerfacecolor="white",
                markersize=4,
                elinewidth=0.7,
            )
        ax.set(title=title, xlabel="gain in distribution\n(squared units of y)")
        ax.set_ylabel("forgetting (squared units of y)")
    common_legend(figure, axes[0], columns=5)
    return figure


def findings(table):
    """Return which method has the largest variance on samples."""
    mean = table[table.n < float("inf")].groupby("method").variance.mean()
    return {"worst": mean.idxmax(), "variance": mean.max()}
