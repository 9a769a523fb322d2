"""The linear counterpart of yang2024, Fig. 2: training error, and risk under a small and a large shift, at equal
numbers of trained parameters. Memorising grows with the parameters for every method, and from {first:.0f} parameters
on SpFT has the lower training error than LoRA at the same budget, as in Fig. 2a ({sparse_many:.2f} against
{lora_many:.2f} at {many}); at {few} the two cannot be told apart ({gap:+.2f} ± {gap_se:.2f}). The gap grows with the
budget, where the paper's is largest at small ones and explained by the optimiser, which closed forms do not have.

Far from the training data, where the network is asked for what it knew before, the risk of every method grows with
what it has learned in distribution: who freezes more forgets less, and learns less. Of the paper's order, SpFT before
full FT before LoRA, the first half is found and the second is not: at {many} parameters the risks are
{far_sparse:.2f} (SpFT), {far_full:.2f} (full FT) and {far_lora:.2f} (LoRA). What is forgotten at equal gain is a
figure of its own, "Forgetting against gain".
"""

from __future__ import annotations

from linnet.plots import against_budget, common_legend, over_seeds, panels

CAPTION = """Training error, noise included, and excess risk out of distribution against the number of trained
parameters (of LoRA: entries of both factors), after fine-tuning on 40 samples. Middle: labels that differ a little
from the training ones; right: those that the network was pre-trained on. Means over 6 problems with 100 samples each;
standard errors over problems. Full fine-tuning coincides with the largest LoRA in the middle."""

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
    far = table[table["shift.kind"] == "old"]
    # Both methods learn the same problems: their difference, problem by problem.
    trained = far.pivot(index="seed", columns=["method", "parameters"], values="training")
    both = [k for k in trained["LoRA"].columns if k in trained["SpFT"].columns]
    gap = trained["LoRA"][both] - trained["SpFT"][both]
    clear = [k for k in both if gap[k].mean() > 3 * gap[k].sem()]
    risk = means(table).query("`shift.kind` == 'old'").set_index(["method", "parameters"]).risk_out
    return {
        "few": FEW,
        "many": MANY,
        "first": min(clear),
        "gap": gap[FEW].mean(),
        "gap_se": gap[FEW].sem(),
        "lora_many": trained["LoRA"][MANY].mean(),
        "sparse_many": trained["SpFT"][MANY].mean(),
        "far_sparse": risk["SpFT"][MANY],
        "far_lora": risk["LoRA"][MANY],
        "far_full": risk["full FT"].iloc[0],
    }
