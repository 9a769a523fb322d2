"""How the ratios, or the margins, of a trial are spread: one drawing, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

LEFT, TOP, HEIGHT, FOOT = 42, 8, 116, 34
WIDTH, APART = 378, 14
SERIES = ("drawn", "searched")
MARGINS = "margin: difference of the sides, relative to their size"


def histogram(found: Mapping[str, Any], relation: str, name: str) -> str:
    """Return a histogram of the ledger, ``{"of", "edges", "drawn", "searched"}``, as SVG with its description.

    Counts are drawn on a logarithmic scale, on which one instance is a step high: a single worst one is seen beside a
    hundred thousand others.
    """
    most = max(max(found[kind]) for kind in SERIES)
    decades = math.ceil(math.log10(most)) if most > 1 else 1
    places = _places(found["edges"])
    parts = [
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {TOP + HEIGHT + FOOT}" role="img" '
        f'aria-label="{escape(_said(found, name))}">'
    ]
    parts += _counts_axis(decades)
    for k, kind in enumerate(SERIES):
        bars = (
            _bar(left + (0.06 + 0.44 * k) * width, 0.44 * width, count, decades)
            for (left, width), count in zip(places, found[kind], strict=True)
            if count
        )
        parts.append(f'<g class="{kind}">{"".join(bars)}</g>')
    ratio = "stated / observed" if relation in (">=", ">") else "observed / stated"
    parts += _values_axis(found["edges"], places, MARGINS if found["of"] == "margin" else f"{ratio} (1: attained)")
    return "".join(parts) + "</svg>"


def _places(edges: Sequence[float | None]) -> list[tuple[float, float]]:
    """Return the left end and the width of each bin; one without an upper edge stands apart."""
    bins, apart = len(edges) - 1, edges[-1] is None
    width = (WIDTH - LEFT - APART * apart) / bins
    return [(LEFT + i * width + APART * (apart and i == bins - 1), width) for i in range(bins)]


def _height(count: float, decades: int) -> float:
    return HEIGHT * (math.log10(count) + 1) / (decades + 1)


def _bar(x: float, width: float, count: int, decades: int) -> str:
    h = _height(count, decades)
    return f'<rect x="{x:.1f}" y="{TOP + HEIGHT - h:.1f}" width="{width:.1f}" height="{h:.1f}"/>'


def _counts_axis(decades: int) -> list[str]:
    """Grid lines and labels at powers of ten; few enough to be read."""
    every = max(1, math.ceil(decades / 4))
    out = []
    for k in range(0, decades + 1, every):
        y = TOP + HEIGHT - _height(10**k, decades)
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH}"/>')
        out.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_count(k)}</text>')
    return out


def _count(k: int) -> str:
    return f"{10**k:,}".replace(",", "\u202f") if k < 6 else power(k)


def _values_axis(edges: Sequence[float | None], places: Sequence[tuple[float, float]], title: str) -> list[str]:
    """Ticks and numbers at some edges: a few of the linear ones, or powers of ten."""
    base = TOP + HEIGHT
    out = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH}"/>']
    width = places[0][1]
    known = [(LEFT + i * width, edge) for i, edge in enumerate(edges) if edge is not None]
    linear = title != MARGINS
    for x, edge in known[:: 5 if linear else 3]:
        anchor = "end" if x > WIDTH - 12 else "middle"
        label = f"{edge:g}" if linear else _edge(edge)
        out.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        out.append(f'<text x="{x:.1f}" y="{base + 15}" text-anchor="{anchor}">{label}</text>')
    if edges[-1] is None:
        out.append(f'<text x="{WIDTH}" y="{base + 15}" text-anchor="end">&gt;\u20091</text>')
    out.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{base + 30}" text-anchor="middle">{title}</text>')
    return out


def _edge(value: float) -> str:
    return "1" if value == 1 else "0" if value == 0 else power(round(math.log10(value)))


def power(k: int) -> str:
    """Return a power of ten, with a raised exponent."""
    return "10" + str(k).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))


def _said(found: Mapping[str, Any], name: str) -> str:
    """Say what the drawing shows."""
    out = [f"{found['of'].capitalize()}s of {name}."]
    for kind in SERIES:
        total = sum(found[kind])
        if not total:
            out.append(f"None {kind}.")
            continue
        fullest = max(range(len(found[kind])), key=found[kind].__getitem__)
        last = max(i for i, count in enumerate(found[kind]) if count)
        out.append(
            f"{total} {kind}, most of them, {found[kind][fullest]}, {_between(found['edges'], fullest)}; "
            f"the farthest, {found[kind][last]}, {_between(found['edges'], last)}."
        )
    return " ".join(out)


def _between(edges: Sequence[float | None], i: int) -> str:
    low, high = list(pairwise(edges))[i]
    return f"above {low:g}" if high is None else f"from {low:g} to {high:g}"
