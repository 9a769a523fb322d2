"""Gradient descent fits as well as the closed form from every start above zero: over the whole table its risk exceeds
the closed form's by at most {worst_excess:.0e} of what that gains, and {converged:.0%} of the runs converged. What it
finds is another matter. For S2FT the claim of yang2024, Sec. F.2, {s2ft_zero} from a start at zero
(`yang2024/min-norm-implicit-bias`): the distance to Lemma F.12 is at most {s2ft_zero_distance:.0e}. From other starts
it does where no rank is lost (`yang2024/min-norm-implicit-bias-any-start`). Where rank is lost, what no data sees
stays as it was at the start: the root mean square distance is what `linnet/implicit-bias` says, within {s2ft_se:.1f}
standard errors, in proportion to the scale, up to {s2ft_most:.0%} of the closed form.

For LoRA the claim, as stated, {lora_zero} (`yang2024/min-norm-implicit-bias-lora`): from a start at zero nothing
moves, and from $U = 0$, $V = V_0$ no limit has the least norm, because $U^\\top U - V^\\top V$ stays. At a start of
scale 1 and no rank lost the norm ends {lora_norm_one:.0%} above the least at rank 1 (theory: {lora_norm_theory:.0%})
and {lora_norm_two:.0%} at rank 2. For smaller starts the excess falls with the fourth power of the scale (measured
from {slope_low:g} to {slope_high:g}: {slope:.2f}), down to a floor that belongs to the finite step: {floor:.1e} with
steps of $1/(2L)$, $L$ a bound on the curvature, and {floor_small:.1e} with a tenth of these. Where 7 of 12 dimensions
are lost it is {floor_lost:.1e} at scale {hidden_scale:g}, where theory says {floor_theory:.1e}. The product
$U V^\\top$, on which alone risks depend, is the closed form's to {lora_distance:.0e} where no rank is lost; where rank
is lost it keeps what the inputs do not see of $V_0$, as for S2FT.

Lines are exact for S2FT, and for LoRA of rank 1 as steps become small. At rank 2 theory speaks of small starts alone
(dashed): at scale 1 it is up to {first_off:.0%} off. For the balanced start it says that without rank loss the norm is
the least, as it is here up to the step; with rank loss it says nothing.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import panels, simulated, theory

CAPTION = """Gradient descent from starts of one scale, {replicates:.0f} for each point, on a 12 x 12 layer that sees
and reaches 12, 11 or 5 dimensions. Above: root mean square distance of the update from the closed form. Below: squared
norm of what is trained, over the least, less 1. Lines: theory; points: means with one standard error. Left out below
on the right: S2FT at scale {hidden_scale:g}, {hidden:.1e} where theory says {hidden_theory:.1e}, since descent stops
where the gradient is small. S2FT: 6 rows; step: $1/(2L)$, $L$ a bound on the curvature, unless a tenth of it is named.
At small scales LoRA's points below on the left hide those of the balanced start."""

WIDTHS = {12: "no rank lost", 11: "1 of 12 lost", 5: "7 of 12 lost"}
FLOOR = 1e-9


def draw(table):
    """Draw distance and norm against the scale of the start."""
    table = table[table.scale > 0]
    usual = table[table.step == table.step.max()]
    figure, axes = panels(2, rows=2, height=2.3, sharex=True, sharey="row")
    shown = list(WIDTHS.values())
    for seen, name in WIDTHS.items():
        part = usual[usual.seen == seen]
        for ax, method, size, dashes in (
            (axes[0, 0], "S2FT", 6, "-"),
            (axes[0, 1], "LoRA", 1, "-"),
            (axes[0, 1], "LoRA", 2, "--"),
        ):
            mine = part[(part.method == method) & (part["size"] == size)]
            filled = {} if size != 2 else {"markerfacecolor": "white", "markeredgecolor": None}
            if seen < 12:
                theory(ax, mine, "scale", "predicted_distance", name=name, among=shown, linestyle=dashes)
            label = name if size != 2 else ""
            simulated(ax, mine, "scale", "distance", name=name, among=shown, label=label, **filled)
    axes[0, 0].set(title="S2FT: distance", ylabel="distance of the update\n(over the closed form's norm)")
    axes[0, 1].set(title="LoRA: distance (filled: rank 1, hollow: rank 2)")
    names = ["S2FT", "LoRA", "LoRA, balanced", "a tenth of the step"]
    full = table[table.seen == 12]
    for name, mine in (
        ("LoRA, balanced", full[full.method == "LoRA, balanced"]),
        ("LoRA", full[(full.method == "LoRA") & (full.step == full.step.max())]),
        ("a tenth of the step", full[(full.method == "LoRA") & (full.step == full.step.min())]),
    ):
        mine = mine[mine["size"] == 1]
        if name == "LoRA":
            theory(axes[1, 0], mine, "scale", "predicted_norm_excess", name=name)
        label = {"LoRA": "LoRA", "a tenth of the step": "LoRA, a tenth of the step"}.get(name, "LoRA, balanced start")
        simulated(axes[1, 0], mine, "scale", "norm_excess", name=name, among=names, label=label)
    axes[1, 0].set(title="norm, no rank lost (rank 1)", ylabel="squared norm above the least\n(over the least)")
    lost = usual[usual.seen == 5]
    for name, size in (("S2FT", 6), ("LoRA", 1), ("LoRA, balanced", 1)):
        mine = lost[(lost.method == name) & (lost["size"] == size)]
        theory(axes[1, 1], mine, "scale", "predicted_norm_excess", name=name, among=names)
        label = "LoRA, balanced start" if "balanced" in name else name
        mine = mine[mine.norm_excess > 0]  # the caption names what this leaves out
        simulated(axes[1, 1], mine, "scale", "norm_excess", name=name, among=names, label=label)
    axes[1, 1].set(title="norm, 7 of 12 lost (LoRA: rank 1)")
    for ax in axes.flat:
        ax.set(xscale="log", yscale="log")
        ax.legend(loc="upper left", fontsize=6)
    for ax in axes[0]:
        ax.set_ylim(FLOOR / 3, 30)
    for ax in axes[1]:
        ax.set_ylim(1e-9, 30)
        ax.set_xlabel("scale of the start")
    return figure


def findings(table):
    """Return how far descent ends from the closed forms, and from what theory says of that."""
    usual = table[table.step == table.step.max()]
    moving = table[(table.scale > 0) | (table.method == "S2FT")]
    rows, one = usual[usual.method == "S2FT"], usual[(usual.method == "LoRA") & (usual["size"] == 1)]
    lost = rows[(rows.unseen > 0) & (rows.scale > 0)]
    full = one[one.seen == one.seen.max()].set_index("scale")
    two = usual[(usual.method == "LoRA") & (usual["size"] == 2)]
    falling = full.norm_excess.loc[[0.3, 1.0]]
    small = table[(table.step == table.step.min()) & (table.method == "LoRA")]
    still = usual[(usual.scale == 0) & (usual.method != "S2FT")]
    slow = two[(two.seen < two.seen.max()) & (two.scale == 1)]
    product = table[(table.method != "S2FT") & (table.scale > 0) & (table.seen == table.seen.max())]
    zero = rows[rows.scale == 0]
    least = table.scale[table.scale > 0].min()
    smallest = usual[(usual.scale == least) & (usual.seen == usual.seen.min())].set_index(["method", "size"])
    hidden, floor = smallest.loc[("S2FT", 6)], smallest.loc[("LoRA", 1)]
    return {
        "replicates": table.replicates.iloc[0],
        "worst_excess": moving.excess.abs().max(),
        "converged": table.converged.min(),
        "s2ft_zero_distance": zero.distance.max(),
        "s2ft_zero": "holds" if zero.distance.max() < 1e-6 else "does not hold",
        "s2ft_se": ((lost.distance - lost.predicted_distance).abs() / lost.distance_se).max(),
        "s2ft_most": lost.distance.max(),
        "lora_zero": "fails" if (still.distance == 1).all() and (full.norm_excess > 0).any() else "holds",
        "lora_norm_one": full.norm_excess[1.0],
        "lora_norm_theory": full.predicted_norm_excess[1.0],
        "lora_norm_two": float(two[(two.seen == two.seen.max()) & (two.scale == 1)].norm_excess.iloc[0]),
        "slope_low": falling.index[0],
        "slope_high": falling.index[-1],
        "slope": np.log(falling.iloc[-1] / falling.iloc[0]) / np.log(falling.index[-1] / falling.index[0]),
        "floor": full.norm_excess[full.index > 0].min(),
        "floor_lost": floor.norm_excess,
        "floor_theory": floor.predicted_norm_excess,
        "hidden_scale": least,
        "hidden": hidden.norm_excess,
        "hidden_theory": hidden.predicted_norm_excess,
        "floor_small": small.norm_excess.min(),
        "lora_distance": product.distance.max(),
        "first_off": (slow.distance / slow.predicted_distance - 1).abs().max(),
    }
