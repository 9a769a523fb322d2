"""Table 5 of yang2024 has three orders: fused on disjoint channels S2FT is better than on overlapping ones; it loses
less by fusion than LoRA; on overlapping channels it loses more than LoRA. Here two tasks of one network are learned
apart, at matched parameters, and the updates added. Disjoint channels are not what decides: it is what the tasks have
in common. Where the tasks are unrelated, {unrelated_word} at both weights: over {problems} problems ({pairs} pairs of
tasks on {networks} networks, some with several numbers of channels) the fused risk is lower on disjoint channels than
on overlapping ones in {fused_unrelated:.0%} (at weight 1) and {fused_unrelated_half:.0%} (at 1/2); the risk that
fusion adds is lower than LoRA's in {loss_unrelated:.0%} and {loss_unrelated_half:.0%}, but S2FT had less to lose: of
its gain it keeps {kept_disjoint_unrelated:.0%} at weight 1/2, LoRA {kept_lora_unrelated:.0%}; on overlapping channels
it is higher than LoRA's in {third_unrelated:.0%} and {third_unrelated_half:.0%}. Updates that are orthogonal as
matrices do not help: on A's inputs B's adapter speaks, too.

Where the residuals correlate ({related:g}), {related_word} at weight 1: the three hold, in turn, in
{fused_related:.0%}, {loss_related:.0%} and {third_related:.0%} of as many problems, and at weight 1/2 in
{fused_related_half:.0%}, {loss_related_half:.0%} and {third_related_half:.0%}. Adapters on the same channels say the
same thing twice; on disjoint channels each adds what the other left, and the sum may beat either alone: at weight 1
S2FT keeps {kept_disjoint_related:.0%} of its gain, LoRA {kept_lora_related:.0%}.

Where the tasks live matters as much. If each lives in the channels of its own adapter, the fused risk is lower on
disjoint channels than on overlapping ones in {own_unrelated_half:.0%} of the unrelated problems and
{own_related_half:.0%} of the related ones at weight 1/2, in {own_unrelated:.0%} (in {own_tie:.0%} both are the same)
and {own_related:.0%} at weight 1; if both live in the first adapter's, in {same_unrelated_half:.0%} and
{same_related_half:.0%}, and in {same_unrelated:.0%} and {same_related:.0%}. There, where S2FT on these channels learns
both tasks whole, the third order holds in {third_same_least:.0%} or more.

In absolute risk Table 5 has fused LoRA behind S2FT on disjoint channels. Where tasks live anywhere, LoRA is ahead here
at weight 1/2, in {ahead_unrelated_half:.0%} of the unrelated problems and {ahead_related_half:.0%} of the related
ones, since it learns more alone; at weight 1 in {ahead_unrelated:.0%} and {ahead_related:.0%}. Each at its best
weight, LoRA is ahead in {best_anywhere:.0%} where tasks live anywhere and {best_same:.0%} where both live in the first
adapter's channels; where each lives in its own adapter's, the case nearest to the paper, in {best_own_unrelated:.0%}
of the unrelated problems and {best_own_related:.0%} of the related ones.

One case is exact: let the inputs of both tasks have one law, and both adapters be trained on the population and on the
same weights, all of them or the same rows. Fused at weight w they take $w (1 - w)$ times a constant off the mean risk:
the best weight is 1/2, and weight 1 gives the pre-trained risk back, whatever the tasks (largest deviation:
{undone:.0e}).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from linnet.plots import panels, simulated, theory

CAPTION = """Two tasks that a layer of 16 channels can learn, and how alike they are. Left and middle: mean excess risk
of the fused network on both tasks, less that of each adapter on its own, at weights 1/2 and 1. Right: mean excess risk
of the fused network against the weight, at correlation {related:g}. Four channels, or LoRA of rank 2; n = {n:.0f}.
Points: mean of {seeds} problems with {replicates} pairs of samples each, with one standard error over the samples;
lines: exact expectation. LoRA's has no closed form on samples: its points are joined, on the right by the parabola
through them, since every fused risk is quadratic in the weight."""

NAMES = {"full FT": "full FT", "LoRA": "LoRA", "S2FT, overlap": "S2FT, overlap", "S2FT, disjoint": "S2FT"}
RELATED = 0.75
TIE = 1e-9
HOLD = ("none of the orders holds", "one of the orders holds", "two of the orders hold", "all three orders hold")


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
        column = "fused" if name == "LoRA" else "predicted_fused"
        theory(axes[2], parabola(points, column), "weight", column, name=name, among=among)
        simulated(axes[2], points, "weight", "fused", name=name, among=among, label=method)
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


def parabola(points, column):
    """Return a fused risk at many weights: it is quadratic in the weight, and the pre-trained one at 0."""
    w = np.append(0.0, points.weight)
    line = np.polynomial.Polynomial.fit(w, np.append(points.pretrained.iloc[0], points[column]), 2)
    at = np.linspace(0, 1, 60)
    return pd.DataFrame({"weight": at, column: line(at)})


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
                found[f"ahead_{name}{suffix}"] = (fused["S2FT, disjoint"] - fused["LoRA"] > TIE).mean()
            found[f"third_{name}{suffix}"] = (loss["S2FT, overlap"] - loss["LoRA"] > TIE).mean()
    for name, weight in (("unrelated", 0.5), ("related", 1.0)):
        rows = parts[name][(parts[name].chosen == "given") & (parts[name].weight == weight)]
        kept = pivot(rows, "kept").mean()
        found[f"kept_disjoint_{name}"], found[f"kept_lora_{name}"] = kept["S2FT, disjoint"], kept["LoRA"]
        weights = ("", "_half") if name == "unrelated" else ("",)
        orders = [min(found[f"{order}_{name}{w}"] for w in weights) for order in ("fused", "loss", "third")]
        found[f"{name}_word"] = HOLD[sum(share > 0.9 for share in orders)]
    best = exact[exact.chosen == "best"]
    own = best["where"] == "disjoint"
    for name, rows in {
        "anywhere": best[best["where"] == "anywhere"],
        "same": best[best["where"] == "same"],
        "own_unrelated": best[own & (best.alike == 0)],
        "own_related": best[own & (best.alike == RELATED)],
    }.items():
        fused = pivot(rows, "fused")
        found[f"best_{name}"] = (fused["S2FT, disjoint"] - fused["LoRA"] > TIE).mean()
    one = exact[(exact.inputs == "same") & (exact.chosen == "given") & (exact.weight == 1)]
    one = one[one.method.isin(["full FT", "S2FT, overlap"])]
    sampled = table[np.isfinite(table.n)]
    return found | {
        "problems": len(pivot(parts["unrelated"], "fused")),
        "pairs": len(parts["unrelated"][["inputs", "seed"]].drop_duplicates()),
        "networks": parts["unrelated"].seed.nunique(),
        "third_same_least": min(found[name] for name in found if name.startswith("third_same")),
        "related": RELATED,
        "undone": (one.fused - one.pretrained).abs().max(),
        "n": sampled.n.iloc[0],
        "seeds": sampled.seed.nunique(),
        "replicates": sampled.replicates.iloc[0],
    }
