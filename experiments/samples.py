"""Full fine-tuning fits every output to every input that reaches the layer and pays for it with variance; PEFT leaves
something unlearnt, and needs fewer samples to learn the rest. The two curves cross: against S2FT on 8 of 16 rows at n
= {crossing_low:.0f} with little noise, and at n = {crossing_high:.0f} with three times as much; LoRA is overtaken
between {lora_low}, and between {lora_high}. That much agrees with liu2025, Fig. 2. Theorem 5, by which a further
sample is worth less to PEFT, agrees as long as rows are trained (8 of them reach 8 of the 12 outputs): at n =
{far:.0f} it takes {ratio:.2g} times as much off the risk of S2FT as off that of full fine-tuning. It does not where
columns are trained: what they do not see acts as noise, and a further sample takes off {ratio_columns:.2g} times as
much; nor for LoRA, which takes samples to tell singular values apart that are nearly equal, and gains
{ratio_lora:.1f} ± {ratio_lora_se:.1f} times as much (simulated). For S2FT the limit, by `linnet/benefit`, is the
ratio of the trained dimensions times that of the noises, which may lie on either side of 1.

Lines are exact expectations. LoRA's has none in closed form, so that its points are joined.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from linnet.plots import common_legend, panels, plain_log, simulated, theory

CAPTION = """Left and middle: excess risk in distribution against the number of samples, at two sizes of the noise.
Right: what a further sample takes off the risk, over what it is expected to take off that of full fine-tuning, at the
smaller noise. Lines: exact expectation; points: mean of 1000 samples, with one standard error. One problem."""

NAMES = ("full FT", "LoRA", "S2FT", "S2FT columns")


def draw(table):
    """Draw risk against n, a panel a noise, and the benefit of a further sample."""
    figure, axes = panels(3, height=2.5)
    for ax, (noise, part) in zip(axes, table.groupby("task.noise"), strict=False):
        for name in NAMES:
            mine = part[part.method == name]
            theory(ax, mine, "n", "predicted_in", name=name, among=NAMES)
            simulated(ax, mine, "n", "risk_in", name=name, among=NAMES, join=name == "LoRA")
        ax.set(xscale="log", yscale="log", title=f"noise {noise:g} per output", xlabel="samples n")
        ax.set_ylabel("excess risk in distribution\n(squared units of y)")
    low = table[table["task.noise"] == table["task.noise"].min()]
    full = benefit(low[low.method == "full FT"])
    for name in NAMES:
        mine = benefit(low[low.method == name])
        for column in ("gain", "gain_se", "predicted"):
            mine[column] = mine[column] / full.predicted
        theory(axes[2], mine, "n", "predicted", name=name, among=NAMES)
        simulated(axes[2], mine, "n", "gain", name=name, among=NAMES, join=name == "LoRA")
    axes[2].set(xscale="log", title="one more sample, noise 0.2", xlabel="samples n")
    axes[2].set_ylabel("fall of the risk per sample,\nover full FT's")
    axes[2].set_ylim(bottom=0)
    for ax in axes:
        plain_log(ax.xaxis)
    common_legend(figure, axes[0])
    return figure


def benefit(rows):
    """Return what a further sample takes off the risk, between neighbouring sizes: at their geometric mean."""
    rows = rows.sort_values("n")
    n, step = rows.n.to_numpy(), np.diff(rows.n)
    risk, error, expected = (rows[c].to_numpy() for c in ("risk_in", "risk_in_se", "predicted_in"))
    return pd.DataFrame(
        {
            "n": np.sqrt(n[1:] * n[:-1]),
            "gain": -np.diff(risk) / step,
            "gain_se": np.hypot(error[1:], error[:-1]) / step,
            "predicted": -np.diff(expected) / step,
        }
    )


def findings(table):
    """Return where full fine-tuning overtakes S2FT, and what a further sample is worth far beyond."""
    low, high = sorted(table["task.noise"].unique())
    found = {}
    for which, noise in (("low", low), ("high", high)):
        part = table[table["task.noise"] == noise]
        full, s2ft = (part[part.method == name].iloc[-1] for name in ("full FT", "S2FT"))
        # Both see all 16 features, so that their variances are constants over n - 17.
        gap = (full.predicted_variance - s2ft.predicted_variance) * (full.n - 17)
        found[f"crossing_{which}"] = 17 + gap / (s2ft.bias - full.bias)
        risks = part.pivot(index="n", columns="method", values="risk_in")
        before = risks.index[risks["full FT"] > risks["LoRA"]].max()
        found[f"lora_{which}"] = f"{before:.0f} and {risks.index[risks.index > before].min():.0f}"
    low = table[table["task.noise"] == table["task.noise"].min()]
    last = {name: benefit(low[low.method == name]).iloc[-1] for name in NAMES}
    found["far"] = last["full FT"].n
    found["ratio"] = last["S2FT"].predicted / last["full FT"].predicted
    found["ratio_lora"] = last["LoRA"].gain / last["full FT"].predicted
    found["ratio_lora_se"] = last["LoRA"].gain_se / last["full FT"].predicted
    found["ratio_columns"] = last["S2FT columns"].predicted / last["full FT"].predicted
    return found
