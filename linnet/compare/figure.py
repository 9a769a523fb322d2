"""In- against out-of-distribution risk, a point a method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linnet.compare.labels import Point, place_labels
from linnet.compare.records import Comparison, Row
from linnet.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".pdf", ".svg")

# Okabe and Ito's colours, told apart by all common kinds of colour blindness, and a marker each besides.
_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#7F7F7F", "X"),
    ("#8C6D1F", "<"),
)
_LOG_FROM = 10.0
"""Ratio of the largest to the least risk from which an axis is logarithmic."""


def check_figure(path: Path) -> None:
    """Refuse a figure that could not be drawn, before anything is computed.

    Raises:
        DataError: an unknown suffix, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        given = f"suffix {path.suffix}" if path.suffix else "no suffix"
        raise DataError(f"{path} has {given}; give a path that ends in {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401  # only to know whether it is here
    except ImportError:
        raise DataError(
            "--figure draws with matplotlib, which is not installed here; pip install matplotlib, or leave --figure out"
        ) from None


def save(result: Comparison, path: Path, suffix: str) -> None:
    """Draw the comparison into ``path`` in the format that ``suffix`` names, whatever the path ends in."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "linnet"}):
        figure = Figure(figsize=(7.2, 5.2), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)  # no window, whatever the user's backend; it also measures the labels
        draw(result, figure.add_subplot())
        # Without a date the same comparison gives the same bytes.
        stamp = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}[suffix.lower()]
        figure.savefig(path, format=suffix.lower()[1:], metadata=stamp)


def draw(result: Comparison, ax: Axes) -> None:
    """Draw every method with one standard error each way, the pre-trained network as a cross of lines."""
    classes = sorted({row.method or "" for row in result.methods})
    style = {name: _STYLES[i % len(_STYLES)] for i, name in enumerate(classes)}
    points = [("pre-trained", result.pretrained, ("black", "*"))]
    points += [(label, row, style[row.method or ""]) for label, row in _labelled(result)]
    for label, row, (colour, marker) in points:
        inside, outside = row.in_distribution.risk, row.out_of_distribution.risk
        ax.errorbar(
            inside.value,
            outside.value,
            xerr=inside.se,
            yerr=outside.se,
            fmt=marker,
            color=colour,
            markersize=11 if label == "pre-trained" else 6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            elinewidth=1,
            zorder=3,
        )
    _scale(ax, [row for _, row, _ in points])
    ax.axhline(result.pretrained.out_of_distribution.risk.value, color="0.75", linewidth=0.8, zorder=1)
    ax.axvline(result.pretrained.in_distribution.risk.value, color="0.75", linewidth=0.8, zorder=1)
    ax.set_xlabel(f"in-distribution risk ({_units(result)})")
    ax.set_ylabel(f"out-of-distribution risk ({_units(result)})")
    widths = "-".join(str(w) for w in result.widths)
    ax.set_title(
        f"Layer {result.layer} of {widths}, budget {result.budget} parameters; bars: one standard error",
        loc="left",
        fontsize=9,
    )
    place_labels(ax, [_point(text, row, colour) for text, row, (colour, _) in points])


def _labelled(result: Comparison) -> list[tuple[str, Row]]:
    """Each method with its label; methods of the same predictions share a point and a label."""
    first = {name: group for group in result.same_predictions for name in group}
    done: set[str] = set()
    out = []
    for row in result.methods:
        if row.name in done:
            continue
        group = first.get(row.name, (row.name,))
        done.update(group)
        out.append((",\n".join(group), row))
    return out


def _point(text: str, row: Row, colour: str) -> Point:
    inside, outside = row.in_distribution.risk, row.out_of_distribution.risk
    return Point(text, inside.value, outside.value, inside.se, outside.se, colour)


def _units(result: Comparison) -> str:
    q = result.widths[-1]
    return "training variances of y" if q == 1 else f"training variances of y, sum of {q} outputs"


def _scale(ax: Axes, rows: list[Row]) -> None:
    for side, axis, setter in (
        ("in_distribution", ax.xaxis, ax.set_xscale),
        ("out_of_distribution", ax.yaxis, ax.set_yscale),
    ):
        values = [getattr(row, side).risk.value for row in rows]
        if min(values) > 0 and max(values) / min(values) > _LOG_FROM:
            setter("log")
            plain = max(values) < 1e4 and min(values) > 1e-3
            if plain:
                from matplotlib.ticker import FuncFormatter, LogLocator

                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
                axis.set_minor_formatter("")
    ax.margins(0.12)
