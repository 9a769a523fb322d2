"""Labels beside points, where they cover nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""

REACHES = (8, 14, 22, 32, 44, 58, 74, 92, 112)
"""Distances of a label from its point that are tried, in typographic points."""

FAR = 14
"""Distance beyond which a line leads from the label to its point."""


@dataclass(frozen=True)
class Point:
    """A labelled point with the ends of its error bars, in data units."""

    text: str
    x: float
    y: float
    xerr: float
    yerr: float
    colour: str


def place_labels(ax: Axes, points: list[Point], size: float = 8) -> None:
    """Write each label inside the axes, clear of points, lines and other labels, as near as can be.

    Greedy: the loneliest point first, the nearest free place of those tried. The layout of the figure is
    frozen, since the labels are placed for it.
    """
    figure: Any = ax.get_figure()
    figure.canvas.draw()
    figure.set_layout_engine("none")
    renderer, pixel = figure.canvas.get_renderer(), figure.dpi / 72
    frame = ax.get_window_extent(renderer)
    places = [tuple(ax.transData.transform((p.x, p.y))) for p in points]
    obstacles = _drawn(ax, points, pixel)
    crowd = [sum(np.hypot(x - u, y - v) < 60 * pixel for u, v in places) for x, y in places]
    labels: list[Box] = []
    for k in sorted(range(len(points)), key=lambda j: crowd[j]):
        x, y = places[k]
        trial = ax.annotate(points[k].text, (x, y), xycoords="figure pixels", fontsize=size)
        extent = trial.get_window_extent(renderer)
        trial.remove()
        w, h = extent.width, extent.height
        best, spot, far = np.inf, (x, y), False
        for reach in REACHES:
            for angle in range(0, 360, 15):
                dx, dy = np.cos(np.radians(angle)), np.sin(np.radians(angle))
                # The label's near side, not its centre, lies at this distance.
                cx, cy = x + dx * (reach * pixel + w / 2), y + dy * (reach * pixel + h / 2)
                area = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                outside = area[0] < frame.x0 or area[1] < frame.y0 or area[2] > frame.x1 or area[3] > frame.y1
                cost = reach + 0.02 * min(angle, 360 - angle) + 1e5 * outside
                cost += 1e4 * sum(_overlap(area, other) for other in labels)
                cost += 1e3 * sum(_overlap(area, other) for other in obstacles)
                if reach > FAR:
                    cost += 40 * sum(_overlap(step, other) for step in _path((x, y), (cx, cy)) for other in labels)
                if cost < best:
                    best, spot, far = cost, (cx, cy), reach > FAR
        cx, cy = spot
        labels.append((cx - w / 2 - 2, cy - h / 2 - 2, cx + w / 2 + 2, cy + h / 2 + 2))
        lead = {"arrowstyle": "-", "color": points[k].colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
        if far:
            obstacles += _path((x, y), spot)
        ax.annotate(
            points[k].text,
            xy=(points[k].x, points[k].y),
            xytext=((cx - x) / pixel, (cy - y) / pixel),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color="0.15",
            zorder=4,
            arrowprops=lead if far else None,
        )


def _drawn(ax: Axes, points: list[Point], pixel: float) -> list[Box]:
    """What the axes show of the points and of straight lines across, as boxes."""
    frame = ax.get_window_extent()
    out: list[Box] = []
    for p in points:
        x, y = ax.transData.transform((p.x, p.y))
        # The lower end of a bar may have no place on a logarithmic axis.
        low = ax.transData.transform((_shown(ax.get_xscale(), p.x, p.xerr), _shown(ax.get_yscale(), p.y, p.yerr)))
        high = ax.transData.transform((p.x + p.xerr, p.y + p.yerr))
        mark = 5 * pixel
        out += [
            (x - mark, y - mark, x + mark, y + mark),
            (low[0], y - pixel, high[0], y + pixel),
            (x - pixel, low[1], x + pixel, high[1]),
        ]
    for line in ax.get_lines():
        if line.get_transform() == ax.get_yaxis_transform(which="grid"):
            y = ax.transData.transform((1, np.asarray(line.get_ydata())[0]))[1]
            out.append((frame.x0, y - pixel, frame.x1, y + pixel))
        elif line.get_transform() == ax.get_xaxis_transform(which="grid"):
            x = ax.transData.transform((np.asarray(line.get_xdata())[0], 1))[0]
            out.append((x - pixel, frame.y0, x + pixel, frame.y1))
    return out


def _shown(scale: str, value: float, error: float) -> float:
    return max(value - error, 1e-3 * value) if scale == "log" else value - error


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _path(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """A line as a chain of small boxes."""
    xs, ys = (np.linspace(a, b, 24) for a, b in zip(start, end, strict=True))
    return [(x - 2, y - 2, x + 2, y + 2) for x, y in zip(xs, ys, strict=True)]
