"""Forgetting against gain where nothing is Gaussian and the shift is what it is. On the digits everybody forgets,
LoRA least at equal gain: at a gain of {level:.2g} the error on old digits rises by {lora:.2f} for LoRA, {s2ft:.2f}
for S2FT by rows, {columns:.2f} by columns and {sparse:.2f} for SpFT. On diabetes and the reviews there is one output,
so that LoRA of any rank and S2FT by rows of any number *are* full fine-tuning in closed form, and their marks
coincide. On diabetes they gain most, {full_gain:.2f}, and forget {full_lost:.2f} ± {full_lost_se:.2f}, columns and
SpFT gain up to {part_gain:.2f} and forget up to {part_lost:.2f} ± {part_lost_se:.2f}: three networks do not tell what
they forget apart. On the reviews everybody forgets about what it gains. linnerud has five men to learn from; the
pre-trained network's error on the others is {start:.0f}, and most of any gain is undoing that. That S2FT forgets less
than LoRA, as yang2024, Fig. 2d and Theorem 4.2, suggest, is {order} on the digits.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import common_legend, over_seeds, panels, simulated

CAPTION = """Rise of the error on held-out rows of the old distribution against its fall on held-out rows of the new
one. Means over 3 pre-trained networks with 40 splits of the same rows each; standard errors over networks. Trained on
400 images, 100 patients, 1000 reviews and 5 men. With one output (diabetes, reviews) the marks of full fine-tuning,
LoRA and S2FT lie on each other."""

NAMES = ("full FT", "LoRA", "S2FT", "S2FT columns", "SpFT")
SETS = {
    "digits": "digits: 0-4, then 5-9",
    "diabetes": "diabetes: younger, then older",
    "reviews": "reviews: viewers, then critics",
    "linnerud": "linnerud: weaker men, then stronger",
}
LEVEL = 0.7


def means(table):
    """Return means over seeds, a row for each data set, method and size."""
    return over_seeds(table, ["data", "method", "size"], ["gain", "forgetting", "pretrained_in"])


def draw(table):
    """Draw forgetting against gain, a panel a data set."""
    table = means(table)
    figure, axes = panels(2, 2, height=2.3)
    for ax, (name, title) in zip(axes.flat, SETS.items(), strict=True):
        part = table[table.data == name]
        for method in NAMES:
            mine = part[part.method == method].sort_values("gain")
            simulated(ax, mine, "gain", "forgetting", name=method, among=NAMES, join=True, xerr=mine.gain_se)
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set(title=title, xlabel="gain (squared units of y)")
        ax.set_ylabel("forgetting\n(squared units of y)")
    common_legend(figure, axes.flat[0], columns=5)
    return figure


def findings(table):
    """Return what each method forgets on the digits at one gain."""
    table = means(table)
    digits = table[table.data == "digits"]

    def at_level(method):
        mine = digits[digits.method == method].sort_values("gain")
        return float(np.interp(LEVEL, mine.gain, mine.forgetting))

    cost = {name: at_level(name) for name in ("LoRA", "S2FT", "S2FT columns", "SpFT")}
    diabetes = table[table.data == "diabetes"]
    full = diabetes[diabetes.method == "full FT"].iloc[0]
    part = diabetes[diabetes.method.isin(["S2FT columns", "SpFT"])]
    return {
        "full_gain": full.gain,
        "full_lost": round(full.forgetting, 2) + 0.0,  # no negative zero
        "full_lost_se": full.forgetting_se,
        "part_gain": part.gain.max(),
        "part_lost": part.forgetting.max(),
        "part_lost_se": part.forgetting_se[part.forgetting.idxmax()],
        "start": table[table.data == "linnerud"].pretrained_in.mean(),
        "level": LEVEL,
        "lora": cost["LoRA"],
        "s2ft": cost["S2FT"],
        "columns": cost["S2FT columns"],
        "sparse": cost["SpFT"],
        "order": "found" if min(cost["S2FT"], cost["S2FT columns"]) < cost["LoRA"] else "not found",
    }
