"""Figure 1 of liu2025 shows the increments of PEFT more sharply peaked at zero, and less spread, than those of full
fine-tuning. Counting all weights of the layer the peak {near_all_word}: in {near_all} of {cases} comparisons here
(Gaussian layer problems with and without sampling, two layers of a network on digits; LoRA, S2FT and SpFT at matched
budgets) more of the entries lie within a tenth of full fine-tuning's root mean square. Where only some weights are
trained that is little more than their exact zeros, a share of 1 less the trained one: with a share $f$ trained the
kurtosis is $1/f$ times that of the trained entries, whatever these are like.

Among the trained entries the peak {near_word}: LoRA's share near zero is larger in {near_lora} of {of_lora}
comparisons, and S2FT's and SpFT's in {near_sparse} of {of_sparse}. On the population of the Gaussian problem it is
{near_sparse_population} of {of_sparse_population}: few weights do the work of all, and the root mean square of the
trained ones is {wide_population:.2f} times full fine-tuning's (geometric mean). On a sample of {n:.0f} it is
{near_sparse_sample} of {of_sparse_sample}, and {wide_sample:.2f} times full fine-tuning's, which has grown with the
noise that it fits. The digits are a sample too, but this {covers} them: on the first layer it is {near_sparse_first}
of {of_sparse_first}, on the second {near_sparse_second} of {of_sparse_second}. The spread over all entries is below
full fine-tuning's in {narrow} of {cases}; the widest, of {widest_name}, is {widest:.0f} times as wide.

In units of their own, shapes speak of ranks. Where directions are random, the kurtosis of an update depends in the
mean on the effective rank of its singular values alone, $3 (1 + 2 / \\text{rank})$ but for a factor near 1: 3 as for a
Gaussian where they are many, 9 where there is one (largest deviation: {worst:.1f} standard errors). So LoRA is more
peaked than full fine-tuning as far as its rank is lower: in {shape_gaussian} of {of_gaussian} comparisons on the
Gaussian problems, and in {shape_data} of {of_data} on the digits, where the update of full fine-tuning has an
effective rank of {rank_low:.2f} to {rank_high:.2f} of itself.
"""

from __future__ import annotations

import numpy as np

from linnet.plots import look, panels, simulated, theory

CAPTION = """Densities of the entries of the update of a layer, in units of the root mean square entry of full
fine-tuning. Above: Gaussian problem, 32 x 32, population, {budget_gaussian:.0f} trained weights, mean of
{problems:.0f} problems; below: second layer of a network on digits, 16 x 32, n = {n_data:.0f}, {budget_data:.0f}
trained weights, {splits:.0f} splits. Left: all entries (exact zeros fall into the middle bin); middle: those that are
trained. Right: kurtosis of the trained entries, with one standard error; lines without error bars (full fine-tuning:
bar): exact mean for random directions, given the singular values."""

NAMES = ("full FT", "LoRA", "S2FT", "SpFT")
SHOWN = {"gaussian": 128, "real": 96}
"""Trained weights of the PEFT methods whose densities are drawn."""


def draw(table):
    """Draw densities of all and of trained entries, and kurtosis against the effective rank."""
    figure, axes = panels(3, rows=2, height=2.3)
    for line, part in zip(axes, (population(table), digits(table)), strict=True):
        kind = part["problem.kind"].iloc[0]
        title = "Gaussian" if kind == "gaussian" else "digits"
        for ax, view in zip(line, ("all", "trained"), strict=False):
            for name in NAMES:
                mine = part[(part.method == name) & (part["view"] == view)]
                if name != "full FT":
                    mine = mine[mine.parameters == SHOWN[kind]]
                colour = look(name, NAMES)[0]
                edges = [*mine.left, mine.right.iloc[-1]]
                ax.stairs(mine.density.where(mine.density > 0), edges, color=colour, linewidth=0.9, label=name)
            ax.set(yscale="log", title=f"{title}: {view} entries", xlabel="entry (rms of full FT)")
            ax.set_ylabel("density (per rms of full FT)")
            ax.set_ylim(2e-4, 20)
        ax = line[2]
        one = methods(part)
        for name in NAMES:
            mine = one[one.method == name]
            if name == "full FT":  # a single point of theory is no line
                theory(ax, mine, "parameters", "predicted_kurtosis_trained", name=name, marker="_", markersize=12)
            else:
                theory(ax, mine, "parameters", "predicted_kurtosis_trained", name=name, among=NAMES)
            join = kind == "real" or name == "SpFT"
            simulated(ax, mine, "parameters", "kurtosis_trained", name=name, among=NAMES, join=join)
        ax.set(title=f"{title}: shape", xlabel="trained weights", ylabel="kurtosis (trained entries)")
        for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
            scale("log", base=2)
            axis.set_major_formatter("{x:g}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def population(table):
    """Return the rows of the Gaussian problem without sampling."""
    return table[(table["problem.kind"] == "gaussian") & np.isinf(table["problem.n"])]


def digits(table):
    """Return the rows of the second layer on digits."""
    return table[(table["problem.kind"] == "real") & (table["problem.layer"] == 1)]


def methods(table):
    """Return a row for each cell, method and size."""
    return table.drop_duplicates(["cell", "method", "size"])


def findings(table):
    """Return how often PEFT is more peaked than full fine-tuning, and narrower."""
    one = methods(table)
    full = one[one.method == "full FT"].set_index("cell")
    peft = one[one.method != "full FT"]

    def against(name):
        return peft[name].to_numpy() / full[name].loc[peft.cell].to_numpy()

    peft = peft.assign(
        more_near=against("near") > 1,
        more_near_trained=against("near_trained") > 1,
        more_peaked=against("kurtosis_trained") > 1,
        narrower=peft.rms < 1,
    )
    lora, sparse = peft[peft.method == "LoRA"], peft[peft.method != "LoRA"]
    drawn, sampled = population(sparse), sparse[sparse["problem.n"] == 200]
    gaussian, data = lora[lora["problem.kind"] == "gaussian"], lora[lora["problem.kind"] == "real"]
    layers = [sparse[sparse["problem.layer"] == layer].more_near_trained for layer in (0, 1)]
    widest = peft.loc[peft.rms.idxmax()]
    ranks = full[full["problem.kind"] == "real"]["rank"]
    return {
        "problems": population(one).replicates.iloc[0],
        "splits": digits(one).replicates.iloc[0],
        "budget_gaussian": SHOWN["gaussian"],
        "budget_data": SHOWN["real"],
        "n_data": digits(table)["problem.n"].iloc[0],
        "n": sampled["problem.n"].iloc[0],
        "cases": len(peft),
        "near_all": int(peft.more_near.sum()),
        "near_all_word": "agrees" if peft.more_near.all() else "agrees in part",
        "near_word": "agrees" if peft.more_near_trained.all() else "agrees in part",
        "near_lora": int(lora.more_near_trained.sum()),
        "of_lora": len(lora),
        "near_sparse": int(sparse.more_near_trained.sum()),
        "of_sparse": len(sparse),
        "near_sparse_population": int(drawn.more_near_trained.sum()),
        "of_sparse_population": len(drawn),
        "near_sparse_sample": int(sampled.more_near_trained.sum()),
        "of_sparse_sample": len(sampled),
        "covers": "explains" if all(layer.all() for layer in layers) else "does not explain",
        "near_sparse_first": int(layers[0].sum()),
        "of_sparse_first": len(layers[0]),
        "near_sparse_second": int(layers[1].sum()),
        "of_sparse_second": len(layers[1]),
        "widest": widest.rms,
        "widest_name": f"{widest.method} on the {'digits' if widest['problem.kind'] == 'real' else 'Gaussian problem'}",
        "wide_population": float(np.exp(np.log(drawn.rms_trained).mean())),
        "wide_sample": float(np.exp(np.log(sampled.rms_trained).mean())),
        "narrow": int(peft.narrower.sum()),
        "shape_gaussian": int(gaussian.more_peaked.sum()),
        "of_gaussian": len(gaussian),
        "shape_data": int(data.more_peaked.sum()),
        "of_data": len(data),
        "worst": (one.kurtosis_gap / one.kurtosis_gap_se).abs().max(),
        "rank_low": ranks.min(),
        "rank_high": ranks.max(),
    }
