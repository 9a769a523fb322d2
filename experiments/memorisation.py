"""The linear counterpart of yang2024, Fig. 2: training error, and risk under a small and a large shift, at equal
numbers of trained parameters. Memorising grows with the parameters for every method, as in Fig. 2a. Which method
memorises most depends on the budget: at {few} parameters LoRA leaves a training error of {lora_few:.2f} and SpFT of
{sparse_few:.2f}, at {many} LoRA {lora_many:.2f} and SpFT {sparse_many:.2f}. The closed forms need no optimiser; the
paper explains LoRA's lag at small budgets by one, and here {small}.

Far from the training data, where the network is asked for what it knew before, the risk of every method grows with
what it has learned in distribution: who freezes more forgets less, and learns less. The paper's order, SpFT before
full FT before LoRA, is not found: at {many} parameters the risks are {far_sparse:.2f} (SpFT), {far_full:.2f} (full
FT) and {far_lora:.2f} (LoRA). What is forgotten at equal gain is a figure of its own, "Forgetting against gain".
"""

from __future__ import annotations

from linnet.plots import against_budget, common_legend, over_seeds, panels

CAPTION = """Training error, noise included, and excess risk out of distribution against the number of trained
parameters, after fine-tuning on 40 samples. Middle: labels that differ a little from the training ones; right: those
that the network was pre-trained on. Means over 6 problems and 100 samples each; standard errors of the sampling."""

NAMES = ("full FT", "LoRA", "S2FT", "SpFT")
FEW, MANY = 32, 128


def means(table):
    """Return means over seeds, a row for each shift, method and budget."""
    return over_seeds(table, ["shift.kind", "method", "parameters"], ["training", "risk_in", "risk_out"])


def draw(table):
    """Draw training error, and risk near and far, against the budget."""
    table = means(table)
    near, far = (table[table["shift.kind"] == kind] for kind in ("label", "old"))
    figure, axes = panels(3)
    for ax, part, y, title, said in zip(
        axes,
        (near, near, far),
        ("training", "risk_out", "risk_out"),
        ("training error", "near: labels moved a little", "far: what was known before"),
        ("mean squared error", "excess risk", "excess risk"),
        strict=True,
    ):
        against_budget(ax, part, y, NAMES)
        ax.set(title=title, ylabel=f"{said}\n(squared units of y)")
        ax.set_ylim(bottom=0)
    common_legend(figure, axes[0])
    return figure


def findings(table):
    """Return the training errors and far risks that the text speaks of."""
    table = means(table)
    far = table[table["shift.kind"] == "old"].set_index(["method", "parameters"])
    lora, sparse = far.training["LoRA"], far.training["SpFT"]
    return {
        "few": FEW,
        "many": MANY,
        "lora_few": lora[FEW],
        "sparse_few": sparse[FEW],
        "lora_many": lora[MANY],
        "sparse_many": sparse[MANY],
        "far_sparse": far.risk_out["SpFT"][MANY],
        "far_lora": far.risk_out["LoRA"][MANY],
        "far_full": far.risk_out["full FT"].iloc[0],
        "small": "LoRA does not lag" if lora[FEW] < sparse[FEW] else "LoRA lags without one",
    }
