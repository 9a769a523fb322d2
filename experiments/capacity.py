"""Theorem 2 of liu2025 bounds how far increments of the layers move a network's output. It leaves out what the layers
below an increment do to the input, and where these amplify, it can fail. With orthogonal layers of norm 2 and random
increments most linear networks exceed eq. (6) from depth {first:d} on, and at depth {deepest:d} {violated_linear:.0%}
of them do, by a factor of {factor_linear:.2g} in the mean. With layers that permute and increments along them, which
move every activation alike, norm 1 is enough: at depth {deepest:d} the linear, the ReLU and the tanh network exceed it
by a factor of {factor_aligned:.2g}, and `linnet/capacity` is attained to {missed:.0e}. With even norms eq. (29) is eq.
(6), and random increments of linear networks of depth 6 exceed it from norm {norm_even:.2g} on; where the first
layer's norm is 16 times the last one's, from a (geometric mean) norm of {norm_tilted:.2g} on. The trials of
`liu2025/theorem-2` and `liu2025/theorem-2-product` refute both. `linnet/capacity` is exceeded by {violated_bound:.0%}
of all networks here.

A true bound need not be a near one. It multiplies norms, as if each layer stretched most what the one below it
stretched most. Of Gaussian layers at depth {deepest:d} the linear network reaches {loose_gaussian:.1g} of
`linnet/capacity`, and ReLU, as far as the search finds, {loose_relu:.1g}; eq. (6), false as it is, is exceeded by
{gaussian}.

By the remark after the theorem layers nearer the output count more. What is measured {remark}; the remark speaks of
the weights $M^{N-k}$ in the bound. Of the linear network with orthogonal layers the last layer counts
{last_linear:.2f} times as much as the first, whatever the norm; with ReLU, as far as the search finds, {last_relu:.2f}
times, and tanh, not drawn, equals the linear one to {tanh_gap:.0e}. Eq. (6) says {stated_small:.2g} at norm {small:g}
and {stated_large:.2g} at norm {large:g} (`liu2025/theorem-2-depth`).
"""

from __future__ import annotations

import numpy as np

from linnet.plots import look, panels, simulated, theory

CAPTION = """Largest displacement of the output, relative to the input, that a search from many inputs finds: mean of
{networks:d} networks of width {width:d}, with one standard error; increments of {strength:g} times the norm M of the
weights. Lines: what is stated, and for the linear network the exact value. Lower middle: displacement over eq. (29) of
linear networks of depth 6, which is violated above 1; tilted: the last layer's norm is a sixteenth of the first's.
Lower right: only the k-th of 8 layers is tuned; all relative to `linnet/capacity`, which is the same for each k."""

NAMES = ("identity", "relu", "tanh")
SHOWN = {"identity": "linear", "relu": "ReLU", "tanh": "tanh"}
PLACES = (
    ("gaussian", 2.0, "Gaussian, M = 2"),
    ("orthogonal", 0.7, "orthogonal, M = 0.7"),
    ("orthogonal", 2.0, "orthogonal, M = 2"),
    ("permutation", 1.0, "permutations, aligned, M = 1"),
)
STATED = {
    "printed": {"color": "0.35", "linestyle": "--", "label": "liu2025, eq. (6)"},
    "bound": {"color": "0.35", "linestyle": "-", "label": "linnet/capacity"},
    "bound_norms": {"color": "0.35", "linestyle": ":", "label": "linnet/capacity, by norms"},
}


def over_depth(table, weights, norm):
    """Return the rows of networks whose layers are all tuned."""
    return table[
        table.layer.isna()
        & (table.tilt == 1)
        & (table.weights == weights)
        & (table.norm == norm)
        & table.increments.isin(["random", "aligned"])
    ]


def draw(table):
    """Draw displacement over depth in four kinds of networks, over the norm, and over the layer."""
    figure, axes = panels(3, 2, height=2.3)
    for ax, (weights, norm, title) in zip(axes.flat, PLACES, strict=False):
        part = over_depth(table, weights, norm)
        linear = part[part.activation == "identity"]
        for column, how in STATED.items():
            theory(ax, linear, "depth", column, name="identity", **how)
        theory(ax, linear, "depth", "exact", name="identity", among=NAMES, label="exact, linear")
        for name in NAMES:
            mine = part[part.activation == name]
            # The tanh network's largest displacement is the linear one's, at small inputs: a ring around its point.
            how = {"markersize": 6.5, "markerfacecolor": "none", "markeredgecolor": None} if name == "tanh" else {}
            if name == "tanh":
                how["markeredgecolor"] = look(name, NAMES)[0]
            simulated(ax, mine, "depth", "displacement", name=name, among=NAMES, label=SHOWN[name], **how)
        ax.set(yscale="log", title=title, xlabel="depth N", xticks=[1, 4, 8, 12])
        ax.set_ylabel("|f(x) $-$ f$_0$(x)| / |x|")
    over_norm(axes[1, 1], table)
    over_layer(axes[1, 2], table)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def over_norm(ax, table):
    """Draw the linear network's displacement over eq. (29)."""
    part = table[(table.depth == 6) & (table.weights == "orthogonal") & table.layer.isna()]
    part = part[(part.activation == "identity") & ~part.norm.isin([0.7, 2.0])]
    kinds = [("random", 1.0), ("rank one", 1.0), ("random", 0.0625), ("rank one", 0.0625)]
    names = [f"{increments}{', tilted' if tilt < 1 else ''}" for increments, tilt in kinds]
    for name, (increments, tilt) in zip(names, kinds, strict=True):
        mine = part[(part.increments == increments) & (part.tilt == tilt)]
        simulated(ax, mine, "norm", "ratio_product", name=name, among=(*NAMES, *names), join=True)
    ax.axhline(1.0, color="0.35", linewidth=0.8)
    ax.set(yscale="log", title="linear, orthogonal, depth 6", xlabel="norm M (geometric mean)")
    ax.set_ylabel("displacement / eq. (29)")
    ax.legend(loc="lower right", fontsize=6)


def over_layer(ax, table):
    """Draw what the increment of one layer alone does."""
    part = table[table.layer.notna()].copy()
    part["k"] = part.layer + 1
    part["relative"] = part.displacement / part.bound
    part["relative_se"] = part.displacement_se / part.bound
    part["stated"] = part.printed / part.bound
    large = part[part.norm == part.norm.max()]
    for name in ("identity", "relu"):
        mine = large[large.activation == name]
        simulated(ax, mine, "k", "relative", name=name, among=NAMES, label="")
    for (norm, mine), dashes in zip(part[part.activation == "identity"].groupby("norm"), ("-.", "--"), strict=True):
        how = {"color": "0.35", "linestyle": dashes, "label": f"eq. (6), M = {norm:g}"}
        theory(ax, mine, "k", "stated", name="identity", **how)
    ax.set(yscale="log", title="one layer tuned, orthogonal", xlabel="tuned layer k of 8", xticks=[1, 3, 5, 7])
    ax.set_ylabel("displacement / true bound")
    ax.legend(loc="upper left", fontsize=6)


def findings(table):
    """Return where eq. (6) is violated and by how much, how loose the true bound is, and which layer counts most."""
    deepest = int(table.depth.max())
    linear = over_depth(table, "orthogonal", 2.0)
    linear = linear[linear.activation == "identity"].sort_values("depth")
    wrong = linear[linear.violated > 0.5]
    deep = table[(table.depth == deepest) & table.layer.isna()].set_index(["weights", "norm", "activation"])
    aligned = deep.loc[("permutation", 1.0)]
    one = table[table.layer.notna()]
    ends = one.pivot(index=["norm", "activation"], columns="layer", values="displacement")
    stated = one.pivot(index=["norm", "activation"], columns="layer", values="printed")
    last, said = (t.iloc[:, -1] / t.iloc[:, 0] for t in (ends, stated))
    small, large = one.norm.min(), one.norm.max()
    by_activation = one.pivot(index=["norm", "layer"], columns="activation", values="displacement")
    return {
        "deepest": deepest,
        "first": int(wrong.depth.min()),
        "violated_linear": float(linear.violated.iloc[-1]),
        "factor_linear": float(linear.ratio_printed.iloc[-1]),
        "factor_aligned": float(aligned.ratio_printed.min()),
        "missed": float(1 - aligned.ratio_bound.min()),
        "norm_even": crossing(table, 1.0),
        "norm_tilted": crossing(table, 0.0625),
        "violated_bound": float(table.violated_bound.max()),
        "loose_gaussian": float(deep.loc[("gaussian", 2.0, "identity")].ratio_bound),
        "loose_relu": float(deep.loc[("gaussian", 2.0, "relu")].ratio_bound),
        "gaussian": "some" if over_depth(table, "gaussian", 2.0).violated.max() > 0 else "none",
        "remark": "bears that out" if np.all(last > 1 + 1e-6) else "does not bear that out",
        "last_linear": float(last[large, "identity"]),
        "last_relu": float(last[large, "relu"]),
        "tanh_gap": float((by_activation["tanh"] / by_activation["identity"] - 1).abs().max()),
        "small": float(small),
        "large": float(large),
        "stated_small": float(said[small, "identity"]),
        "stated_large": float(said[large, "identity"]),
        "networks": int(table.replicates.iloc[0]),
        "width": int(table.width.iloc[0]),
        "strength": float(table.strength.iloc[0]),
    }


def crossing(table, tilt):
    """Return the norm from which on random increments exceed eq. (29) in the mean, between those of the table."""
    part = table[(table.depth == 6) & (table.weights == "orthogonal") & table.layer.isna() & (table.tilt == tilt)]
    part = part[(part.activation == "identity") & (part.increments == "random")].sort_values("norm")
    return float(np.exp(np.interp(0.0, np.log(part.ratio_product), np.log(part.norm))))
