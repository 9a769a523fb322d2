"""Theorem 4 of liu2025 says that PEFT is the more sensitive to a perturbation of the gradient. What that says depends
on how "sensitive" is read. (a) The extra clean loss that the perturbation causes: PEFT's is the larger one for
{share_extra:.0%} of all perturbations here. It follows a perturbation in fewer directions; with half of the weights of
this one problem S2FT by rows takes {part:.0%} of the harm that full fine-tuning takes, by columns {part_columns:.0%},
a random subspace {part_random:.0%}, whatever the strength. (b) The loss left on the perturbed objective: PEFT's is the
larger one for {share_left:.0%}. But that is what it cannot fit, and it is so without any perturbation. (c) The clean
loss after adapting to the perturbed objective: PEFT loses by what it cannot fit and gains by what it does not follow.
The gain outweighs in the mean if the perturbation's entries are more than {turn:.2g} times the gradient's for S2FT by
rows with half of the weights; over all methods and shares from {turn_least:.2g} to {turn_most:.2g} times. The printed
formula has the expectation of (a), which is negative, beside a term of mean zero: it is positive, as the theorem says,
for {share_weak:.0%} of the weakest perturbations here and for {share_strong:.0%} of the strongest (S2FT by rows, half
of the weights).

Simulation and expectation {agrees}: of {count:d} means, from {sets:d} sets of perturbations that all methods share,
the farthest lies {worst:.1f} standard errors off. The readings stand as `liu2025/theorem-4`, `liu2025/theorem-4-a`,
`liu2025/theorem-4-b` and `liu2025/theorem-4-c` in the ledger, and the identities as `linnet/sensitivity`.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import panels, simulated, theory

CAPTION = """PEFT minus full fine-tuning on the quadratic of one layer of {weights:d} weights, of a single problem,
whose gradient is perturbed by Gaussian noise. Lines join exact expectations; points: mean of {replicates:d}
perturbations, with one standard error. The strength is the standard deviation of the noise over the root mean square
entry of the gradient: {weak:.2g} in the second panel, {strong:.2g} in the first and the third, which also shows (c) at
{weak:.2g}, pale. Last row: S2FT on half of the channels."""

NAMES = ("S2FT", "S2FT columns", "random subspace", "LoRA, tangents")
READINGS = {
    "extra": "(a) extra clean loss",
    "left": "(b) loss left, perturbed",
    "clean": "(c) clean loss, adapted",
    "printed": "as printed",
}
WEAK, STRONG = 0.05, 0.2


def draw(table):
    """Draw the readings over the share of trained parameters, and over the strength."""
    figure, axes = panels(3, 2, height=2.35)
    for ax, column, strength in zip(axes[0], ("extra_peft", "left", "clean"), (STRONG, WEAK, STRONG), strict=True):
        over_share(ax, table, column, strength)
    axes[0, 0].set(title="(a) extra clean loss of each")
    axes[0, 0].axhline(table[table.strength == STRONG].predicted_extra_full.iloc[0], color=".1", linewidth=1.2)
    axes[0, 0].text(0.02, 0.93, "full FT", transform=axes[0, 0].transAxes, fontsize=7, va="top")
    axes[0, 1].set(title="(b) left on the perturbed one")
    axes[0, 2].set(title="(c) clean loss, adapted")
    over_share(axes[0, 2], table, "clean", WEAK, alpha=0.35)
    axes[0, 2].axhline(0.0, color="0.35", linewidth=0.8)
    for ax in axes[0]:
        ax.set(xlabel="share trained, k/d", xlim=(0, 1))
        ax.set_ylabel("loss (squared units of y)")
    half = halved(table)
    for name in READINGS:
        for ax in axes[1, :2]:
            theory(ax, half, "relative", f"predicted_{name}", name=name, among=(*NAMES, *READINGS))
            # The printed formula has the expectation of (a): a ring around its point.
            how = {"markersize": 7, "markerfacecolor": "none", "markeredgecolor": "0.3"} if name == "printed" else {}
            simulated(ax, half, "relative", name, name=name, among=(*NAMES, *READINGS), label=READINGS[name], **how)
        simulated(
            axes[1, 2],
            half,
            "relative",
            f"share_{name}",
            error="",
            name=name,
            among=(*NAMES, *READINGS),
            label="",
            join=True,
            markersize=7 if name == "printed" else 4,
        )
    for ax in axes[1]:
        ax.set(xscale="log", xlabel="strength / gradient's entries")
    axes[1, 0].set(yscale="symlog", title="S2FT, half of the channels")
    axes[1, 1].set(ylim=(-1.0, 1.0), title="the same, near zero")
    axes[1, 2].set(title="how often PEFT is worse", ylabel="share of perturbations")
    for ax in axes[1, :2]:
        ax.axhline(0.0, color="0.35", linewidth=0.8)
        ax.set_ylabel("PEFT minus full FT\n(squared units of y)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    more, further = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles + more, labels + further, loc="outside lower center", ncols=4)
    return figure


def over_share(ax, table, column, strength, **style):
    """Draw a column over the share of trained parameters."""
    part = table[table.strength == strength]
    for name in NAMES:
        mine = part[part.method == name]
        theory(ax, mine, "share", f"predicted_{column}", name=name, among=NAMES, **style)
        simulated(ax, mine, "share", column, name=name, among=NAMES, **style)


def halved(table):
    """Return the rows of S2FT on half of the channels, with the strength relative to the gradient."""
    rows = table[(table.method == "S2FT") & (table.share == 0.5)].sort_values("strength")
    return rows.assign(relative=rows.strength / rows.gradient)


def findings(table):
    """Return how often and where PEFT is the worse, reading by reading, and how far means lie from expectations."""
    half = halved(table)
    first = half.iloc[0]
    gradient = float(table.gradient.iloc[0])

    def turn(rows):
        # Both parts of (c) are exact: what is not fitted does not depend on the strength, what is not followed is (a).
        return np.sqrt((rows.predicted_clean - rows.predicted_extra) / -rows.predicted_extra) * rows.strength / gradient

    names = [*READINGS, "extra_peft", "extra_full"]
    off = np.concatenate([(table[n] - table[f"predicted_{n}"]) / table[f"{n}_se"] for n in names])
    worst = float(np.max(np.abs(off)))
    weakest = table[table.strength == table.strength.min()]
    parts = weakest[weakest.share == 0.5].set_index("method")
    parts = parts.predicted_extra_peft / parts.predicted_extra_full
    return {
        "share_extra": float(table.share_extra.max()),
        "share_left": float(table.share_left.min()),
        "part": float(parts["S2FT"]),
        "part_columns": float(parts["S2FT columns"]),
        "part_random": float(parts["random subspace"]),
        "turn": float(turn(first)),
        "turn_least": float(turn(weakest).min()),
        "turn_most": float(turn(weakest).max()),
        "share_weak": float(half.share_printed.iloc[0]),
        "share_strong": float(half.share_printed.iloc[-1]),
        "agrees": "agree" if worst <= 5 else "disagree",
        "worst": worst,
        "count": len(off),
        "sets": table.groupby(["seed", "strength"]).ngroups,
        "weights": round(float(first.parameters / first.share)),
        "replicates": int(table.replicates.iloc[0]),
        "weak": WEAK / gradient,
        "strong": STRONG / gradient,
    }
