"""Sec. 4.2 of yang2024 asks which learning rates keep one update of a layer's output of order 1 as the layer grows
wide. Here the entries of the input x and of the gradient G by the output are of order 1, and G is the same in both
steps: all exponents depend on it. At rates that do not depend on the width n, full fine-tuning and S2FT grow like n,
both with plain gradient steps and with their signs, which stand for Adam: `yang2024/sec-4.2-learning-rate`, that S2FT
needs a rate of order 1/n, {s2ft} (fitted exponent {s2ft_plain:.2f} ± {s2ft_plain_se:.2f} at that rate). Its output
over *all* channels moves less as n grows, if the number of trained channels does not grow with it (fitted exponent
{overall:.2f}).

For LoRA the section gives a rate of order 1 for U and 1/n for V. With signs that {lora_sign}: the fitted exponents lie
within {sign_worst:.3f} of 0. With plain gradients, which the section computes with, it {lora_plain}: from U = 0, the
second step moves the output through V like n^{grown:.2f} (± {grown_se:.2f}), since by then U has learnt the gradient
(`yang2024/sec-4.2-learning-rate-lora`, and `linnet/learning-rates` in its place, with a rate of order 1/n² for V).
From V = 0, where the claim does not start, it is the first step already that grows, like n^{first_v:.2f} (±
{first_v_se:.2f}), and the second one through U like n^{second_u:.2f} (± {second_u_se:.2f}); plain steps from there
need a rate of order n^(-3/2) for V.

All {count:d} fits, over widths of {least:d} and more, {agrees} with the exponents that the study derives: they differ
by at most {worst:.2f}, {worst_se:.1f} standard errors from what the exact sizes give at the same widths.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from linnet.plots import look, panels, simulated, theory

CAPTION = """Root mean square change of the output, per entry that the method can move, against the width: above with
plain gradient steps, below with their signs, as in Adam's first step. Left: all learning rates 1; middle: those of
Sec. 4.2; right: those that keep every part of order 1. Lines: exact expectation; points: {replicates:d} draws, with
one standard error. Full fine-tuning and S2FT move each trained entry alike."""

SERIES = {
    ("full FT", 1): "full FT",
    ("S2FT", 1): "S2FT, a fixed number",
    ("S2FT, a share", 1): "S2FT, a fixed share",
    ("LoRA from U = 0", 1): "LoRA from U = 0, step 1 (U)",
    ("LoRA from U = 0", 2): "LoRA from U = 0, step 2 (V)",
    ("LoRA from V = 0", 1): "LoRA from V = 0, step 1 (V)",
    ("LoRA from V = 0", 2): "LoRA from V = 0, step 2 (U)",
}
RATES = {"one": "rates 1", "yang2024": "rates of Sec. 4.2", "linnet": "rates for order 1"}
STEPS = {"gradient": "plain", "sign": "signs"}
RING = {("full FT", 1): 9.0, ("S2FT", 1): 6.5, ("S2FT, a share", 1): 3.0, ("LoRA from U = 0", 2): 7.0}
LEAST = 256
"""Width from which on exponents are fitted."""


def draw(table):
    """Draw sizes over widths, a row an optimiser, a column a choice of learning rates."""
    names = list(SERIES.values())
    figure, axes = panels(3, 2, height=2.5, sharex=True)
    for row, (optimiser, steps) in zip(axes, STEPS.items(), strict=True):
        for ax, (rates, said) in zip(row, RATES.items(), strict=True):
            part = table[(table.optimiser == optimiser) & (table.rates == rates)]
            for (method, step), name in SERIES.items():
                mine = part[(part.method == method) & (part.step == step)]
                theory(ax, mine, "n", "predicted_size", name=name, among=names)
                # Full fine-tuning and S2FT lie on each other, and so do LoRA's second steps by signs: rings.
                how = ring(method, step, name, names) if (method, step) in RING else {}
                simulated(ax, mine, "n", "size", name=name, among=names, **how)
            ax.set(xscale="log", yscale="log", title=f"{steps}, {said}")
            if rates == "linnet" or (rates, optimiser) == ("yang2024", "sign"):
                ax.set_ylim(0.3, 30)
            ax.set_ylabel("change of f (units of f)")
            ax.set_xticks([16, 64, 256, 1024, 4096], ["16", "64", "256", "1024", "4096"])
    for ax in axes[1]:
        ax.set_xlabel("width n")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def ring(method, step, name, names):
    """Return how the points of a method look that lie on those of others."""
    return {"markersize": RING[method, step], "markerfacecolor": "none", "markeredgecolor": look(name, names)[0]}


def exponents(table, column="size"):
    """Return the exponents of n in a column, fitted to logarithms by weighted least squares, with standard errors."""
    wide = table[table.n >= LEAST]
    rows = []
    for key, part in wide.groupby(["optimiser", "rates", "method", "step"]):
        n, weight = np.log(part.n.to_numpy()), (part["size"] / part.size_se).to_numpy() ** 2
        away = n - np.average(n, weights=weight)
        spread = np.sum(weight * away**2)
        fitted = np.sum(weight * away * np.log(part[column].to_numpy())) / spread
        rows.append((*key, fitted, spread**-0.5, part.predicted_exponent.iloc[0]))
    columns = ["optimiser", "rates", "method", "step", "fitted", "se", "derived"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:4])


def findings(table):
    """Return the fitted exponents, and whether the learning rates of Sec. 4.2 keep updates of order 1."""
    fits = exponents(table)
    exact = exponents(table, "predicted_size")
    gap = (fits.fitted - fits.derived).abs()
    noise = (fits.fitted - exact.fitted).abs() / fits.se
    # The order is missed where the fit is off by more than 0.05 beyond 4 standard errors, as in the trials.
    missed = gap > 0.05 + 4 * fits.se
    section = fits.xs("yang2024", level="rates")
    grows = section.fitted.abs() > 0.05 + 4 * section.se
    s2ft = [("gradient", "S2FT", 1), ("sign", "S2FT", 1)]
    lora = {o: [key for key in section.index if key[0] == o and key[1].startswith("LoRA")] for o in STEPS}
    overall = exponents(table, "overall").loc[("gradient", "yang2024", "S2FT", 1)]
    return {
        "s2ft": "does not stand" if grows.loc[s2ft].any() else "stands",
        "s2ft_plain": section.fitted[s2ft[0]],
        "s2ft_plain_se": section.se[s2ft[0]],
        "overall": overall.fitted,
        "lora_sign": "does not keep every part of order 1" if grows.loc[lora["sign"]].any() else "keeps order 1",
        "sign_worst": section.fitted.loc[lora["sign"]].abs().max(),
        "lora_plain": "does not" if grows.loc[lora["gradient"]].any() else "does too",
        "grown": section.fitted["gradient", "LoRA from U = 0", 2],
        "grown_se": section.se["gradient", "LoRA from U = 0", 2],
        "first_v": section.fitted["gradient", "LoRA from V = 0", 1],
        "first_v_se": section.se["gradient", "LoRA from V = 0", 1],
        "second_u": section.fitted["gradient", "LoRA from V = 0", 2],
        "second_u_se": section.se["gradient", "LoRA from V = 0", 2],
        "count": len(fits),
        "least": LEAST,
        "agrees": "disagree" if missed.any() else "agree",
        "worst": gap.max(),
        "worst_se": noise.max(),
        "replicates": int(table.replicates.iloc[0]),
    }
