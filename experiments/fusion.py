"""Table 5 of yang2024 has fusion cost S2FT on disjoint channels less than LoRA, and S2FT on overlapping channels
more. Here two tasks of one network are learned apart, at matched parameters, and the updates added. Disjoint channels
are not what decides: it is what the tasks have in common. Where the tasks are unrelated, both orders {unrelated_word}
Table 5's: over {problems} problems the fused risk is lower on disjoint channels than on overlapping ones in
{fused_unrelated:.0%} (at weight 1) and {fused_unrelated_half:.0%} (at 1/2); the risk that fusion adds is lower than
LoRA's in {loss_unrelated:.0%} and {loss_unrelated_half:.0%}, but S2FT had less to lose: of its gain it keeps
{kept_disjoint_unrelated:.0%} at weight 1/2, LoRA {kept_lora_unrelated:.0%}. Updates that are orthogonal as matrices
do not help: on A's inputs B's adapter speaks, too.

Where the residuals correlate ({related:g}), both orders {related_word} Table 5's at weight 1: they hold in
{fused_related:.0%} and {loss_related:.0%} of the problems, and at weight 1/2 in {fused_related_half:.0%} and
{loss_related_half:.0%}. Adapters on the same channels say the same thing twice; on disjoint channels each adds what
the other left, and the sum may beat either alone: at weight 1 S2FT keeps {kept_disjoint_related:.0%} of its gain,
LoRA {kept_lora_related:.0%}.

Where the tasks live matters as much. If each lives in the channels of its own adapter, the fused risk is lower on
disjoint channels than on overlapping ones in {own_unrelated_half:.0%} of the unrelated problems and
{own_related_half:.0%} of the related ones at weight 1/2, in {own_unrelated:.0%} (in {own_tie:.0%} both are the same)
and {own_related:.0%} at weight 1; if both live in the first adapter's, in {same_unrelated_half:.0%} and
{same_related_half:.0%}, and in {same_unrelated:.0%} and {same_related:.0%}. In absolute terms fused LoRA, which
learns more alone on these tasks, {lora_word} than S2FT on disjoint channels, each at its best weight, in
{lora_best:.0%} of all problems.

One case is exact: let the inputs of both tasks have one law, and both adapters be trained on the population and on
the same weights, all of them or the same rows. Fused at weight w they take $w (1 - w)$ times a constant off the mean
risk: the best weight is 1/2, and weight 1 gives the pre-trained risk back, whatever the tasks (largest deviation:
{undone:.0e}).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from linnet.plots import panels, simulated, theory

CAPTION = """Two tasks that a layer of 16 channels can learn, and how alike they are. Left and middle: mean excess
risk of the fused network on both tasks, less that of each adapter on its own, at weights 1/2 and 1. Right: mean
excess risk of the fused network against the weight, at correlation {related:g}. Four channels, or LoRA of rank 2; n =
{n:.0f}. Points: mean of {seeds} problems with {replicates} pairs of samples each, with one standard error over the
samples; lines: exact expectation. LoRA's has no closed form on samples, so that its points are joined."""

NAMES = {"full FT": "full FT", "LoRA": "LoRA", "S2FT, overlap": "S2FT, overlap", "S2FT, disjoint": "S2FT"}
RELATED = 0.75
TIE = 1e-9


def draw(table):
    """Draw the loss by fusion against the tasks' correlation, and the fused risk against the weight."""
    figure, axes = panels(3, height=2.5)
    main = table[np.isfinite(table.n) & (table.chosen == "given")]
    among = tuple(NAMES.values())
    for method, name in NAMES.items():
        mine = main[main.method == method]
        for ax, weight in zip(axes, (0.5, 1.0), strict=False):
            points = averaged(mine[mine.weight == weight], "alike")
            theory(ax, points, "alike", "predicted_loss", name=name, among=among)
            simulated(ax, points, "alike", "loss", name=name, among=among, label=method, join=name == "LoRA")
        points = averaged(mine[mine.alike == RELATED], "weight")
        fine = parabola(points) if name != "LoRA" else points
        theory(axes[2], fine, "weight", "predicted_fused", name=name, among=among)
        if name == "LoRA":  # at weight 0 the network is the pre-trained one
            start = points.iloc[[0]].assign(weight=0.0, fused=points.pretrained.iloc[0], fused_se=0.0)
            points = pd.concat([start, points])
        simulated(axes[2], points, "weight", "fused", name=name, among=among, label=method, join=name == "LoRA")
    for ax, title in zip(axes, ("weight 1/2", "weight 1"), strict=False):
        ax.set(title=title, xlabel="correlation of the tasks", ylabel="risk added by fusion\n(squared units of y)")
        ax.axhline(0, color="0.6", linewidth=0.6)
    axes[2].axhline(main.pretrained.mean(), color="0.6", linewidth=0.8, linestyle=":")
    axes[2].annotate(
        "pre-trained", (0.02, main.pretrained.mean()), xytext=(0, 3), textcoords="offset points", fontsize=6
    )
    axes[2].set(title=f"correlation {RELATED:g}", xlabel="weight w", ylabel="fused excess risk\n(squared units of y)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def averaged(rows, by):
    """Return the means over problems; errors are those of their samples."""
    rows = rows.assign(predicted_loss=rows.predicted_fused - rows.predicted_alone)
    columns = ["loss", "fused", "predicted_loss", "predicted_fused", "pretrained"]
    means = rows.groupby(by)[columns].mean()
    for name in ("loss", "fused"):
        means[f"{name}_se"] = rows.groupby(by)[f"{name}_se"].agg(lambda e: np.sqrt(np.sum(e**2)) / len(e))
    return means.reset_index()


def parabola(points):
    """Return the fused risk at many weights: it is quadratic in the weight, and the pre-trained one at 0."""
    w = np.append(0.0, points.weight)
    line = np.polynomial.Polynomial.fit(w, np.append(points.pretrained.iloc[0], points.predicted_fused), 2)
    at = np.linspace(0, 1, 60)
    return pd.DataFrame({"weight": at, "predicted_fused": line(at)})


def findings(table):
    """Return in how many problems the orders of Table 5 hold, and what is kept of the gains."""
    exact = table[np.isinf(table.n)]
    cells = ["where", "inputs", "channels", "alike", "seed"]

    def pivot(rows, value):
        return rows.pivot_table(index=cells, columns="method", values=value)

    found = {}
    anywhere = exact[exact["where"] == "anywhere"]
    parts = {"unrelated": anywhere[anywhere.alike == 0], "related": anywhere[anywhere.alike == RELATED]}
    for place, name in (("disjoint", "own"), ("same", "same")):
        for label, alike in (("unrelated", 0), ("related", RELATED)):
            parts[f"{name}_{label}"] = exact[(exact["where"] == place) & (exact.alike == alike)]
    for name, part in parts.items():
        for suffix, weight in (("", 1.0), ("_half", 0.5)):
            rows = part[(part.chosen == "given") & (part.weight == weight)]
            fused, loss = pivot(rows, "fused"), pivot(rows, "loss")
            # Both may be the pre-trained risk again: what differs by rounding is no order.
            lower = (fused["S2FT, overlap"] - fused["S2FT, disjoint"] > TIE).mean()
            if name == "own_unrelated" and weight == 1:
                found["own_tie"] = ((fused["S2FT, overlap"] - fused["S2FT, disjoint"]).abs() <= TIE).mean()
            if name.startswith(("own", "same")):
                found[name + suffix] = lower
            else:
                found[f"fused_{name}{suffix}"] = lower
                found[f"loss_{name}{suffix}"] = (loss["LoRA"] - loss["S2FT, disjoint"] > TIE).mean()
    for name, weight in (("unrelated", 0.5), ("related", 1.0)):
        rows = parts[name][(parts[name].chosen == "given") & (parts[name].weight == weight)]
        kept = pivot(rows, "kept").mean()
        found[f"kept_disjoint_{name}"], found[f"kept_lora_{name}"] = kept["S2FT, disjoint"], kept["LoRA"]
        orders = found[f"fused_{name}"], found[f"loss_{name}"]
        found[f"{name}_word"] = "agree with" if min(orders) > 0.9 else "need not agree with"
    best = pivot(exact[exact.chosen == "best"], "fused")
    found["lora_best"] = (best["LoRA"] < best["S2FT, disjoint"]).mean()
    found["lora_word"] = "has a lower risk" if found["lora_best"] > 0.5 else "has no lower risk mostly, but has one"
    one = exact[(exact.inputs == "same") & (exact.chosen == "given") & (exact.weight == 1)]
    one = one[one.method.isin(["full FT", "S2FT, overlap"])]
    sampled = table[np.isfinite(table.n)]
    return found | {
        "problems": len(pivot(parts["unrelated"], "fused")),
        "related": RELATED,
        "undone": (one.fused - one.pretrained).abs().max(),
        "n": sampled.n.iloc[0],
        "seeds": sampled.seed.nunique(),
        "replicates": sampled.replicates.iloc[0],
    }
