"""The linear counterpart of yang2024, Fig. 2, on data: a network pre-trained on the digits 0 to 4 learns 5 to 9 from
100 images. Training error, error on other images of the new digits, and error on the old ones. SpFT reaches with
{sparse_n} parameters a training error of {sparse:.2f}, for which LoRA takes {lora_n} ({lora:.2f}): per parameter it
memorises more, as in yang2024, Fig. 2a. What is gained in distribution is lost out of it: full fine-tuning takes the
error on new digits from {start_in:.2f} to {full_in:.2f}, and on old ones from {start_out:.2f} to {full_out:.2f}. The
paper finds SpFT ahead of full FT and LoRA far from the training data. Here SpFT is ahead of full fine-tuning and
behind LoRA, at equal budget ({budget} parameters: {far_sparse:.2f} against {far_lora:.2f}) as at equal error on new
digits ({level:.2g}: {out_sparse:.2f} against {out_lora:.2f}; S2FT {out_s2ft:.2f}).
"""

from __future__ import annotations

import numpy as np

from linnet.plots import against_budget, common_legend, over_seeds, panels

CAPTION = """Mean squared error of one-hot labels against the number of trained parameters: on the 100 training images
of the digits 5 to 9, on other images of these, and on the digits 0 to 4 that the network was pre-trained on. Means
over 4 pre-trained networks with 20 splits of the same images each; standard errors over networks. Grey: the
pre-trained network."""

NAMES = ("full FT", "LoRA", "S2FT", "SpFT")
LEVEL = 0.85
BUDGET = 128


def means(table):
    """Return means over seeds, a row for each method and budget."""
    return over_seeds(
        table, ["method", "parameters"], ["training", "risk_in", "risk_out", "pretrained_in", "pretrained_out"]
    )


def draw(table):
    """Draw the three errors against the budget."""
    table = means(table)
    figure, axes = panels(3)
    for ax, y, title, start in zip(
        axes,
        ("training", "risk_in", "risk_out"),
        ("training images, digits 5-9", "other images, digits 5-9", "images of digits 0-4"),
        (None, "pretrained_in", "pretrained_out"),
        strict=True,
    ):
        against_budget(ax, table, y, NAMES)
        ax.set(title=title, ylabel="mean squared error,\nsum of 10 outputs")
        if start is not None:
            ax.axhline(table[start].mean(), color="0.6", linewidth=0.8)
        ax.set_ylim(bottom=0)
    common_legend(figure, axes[0])
    return figure


def findings(table):
    """Return the errors that the text speaks of."""
    table = means(table)
    part = {name: table[table.method == name].sort_values("parameters") for name in NAMES}
    full, lora, sparse = part["full FT"].iloc[0], part["LoRA"], part["SpFT"]

    def at_level(name):
        mine = part[name].sort_values("risk_in")
        return float(np.interp(LEVEL, mine.risk_in, mine.risk_out))

    return {
        "lora": lora.training.iloc[0],
        "lora_n": lora.parameters.iloc[0],
        "sparse": sparse.training.iloc[1],
        "sparse_n": sparse.parameters.iloc[1],
        "start_in": full.pretrained_in,
        "start_out": full.pretrained_out,
        "full_in": full.risk_in,
        "full_out": full.risk_out,
        "budget": BUDGET,
        "far_sparse": float(np.interp(BUDGET, sparse.parameters, sparse.risk_out)),
        "far_lora": float(np.interp(BUDGET, lora.parameters, lora.risk_out)),
        "level": LEVEL,
        "out_lora": at_level("LoRA"),
        "out_s2ft": at_level("S2FT"),
        "out_sparse": at_level("SpFT"),
    }
