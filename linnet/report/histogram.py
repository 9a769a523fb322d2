"""How the ratios, or the margins, of a trial are spread: one drawing, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

LEFT, TOP, HEIGHT, FOOT = 42, 8, 116, 34
WIDTH = 378
NAMES = {"drawn": "drawn", "searched": "searched"}
AXES = {"ratio": "observed / stated (1: attained)", "margin": "margin: difference of the sides, relative to their size"}


def histogram(found: Mapping[str, Any], name: str) -> str:
    """Return a histogram of the ledger, ``{"of", "edges", "drawn", "searched"}``, as SVG with its description.

    Counts are drawn on a logarithmic scale, on which one instance is a step high: a single worst one is seen beside a
    hundred thousand others.
    """
    edges, series = found["edges"], {kind: found[kind] for kind in NAMES}
    most = max((count for counts in series.values() for count in counts), default=0)
    decades = math.ceil(math.log10(most)) if most > 1 else 1
    bins = len(edges) - 1
    step = (WIDTH - LEFT) / max(bins, 1)
    parts = [
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {TOP + HEIGHT + FOOT}" role="img" '
        f'aria-label="{escape(_said(found, name))}">'
    ]
    parts += _counts_axis(decades)
    for k, (kind, counts) in enumerate(series.items()):
        bars = (_bar(LEFT + i * step + (0.06 + 0.44 * k) * step, 0.44 * step, count, decades) for i, count in
                enumerate(counts) if count)  # fmt: skip
        parts.append(f'<g class="{kind}">{"".join(bars)}</g>')
    parts += _values_axis(edges, step, found["of"])
    return "".join(parts) + "</svg>"


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


def _values_axis(edges: Sequence[float | None], step: float, of: str) -> list[str]:
    base = TOP + HEIGHT
    out = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH}"/>']
    known = [(i, edge) for i, edge in enumerate(edges) if edge is not None]
    every = 5 if of == "ratio" else 3
    for i, edge in known[::every]:
        x = LEFT + i * step
        anchor = "end" if x > WIDTH - 12 else "middle"
        label = f"{edge:g}" if of == "ratio" else _edge(edge)
        out.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        out.append(f'<text x="{x:.1f}" y="{base + 15}" text-anchor="{anchor}">{label}</text>')
    if edges and edges[-1] is None:
        out.append(f'<text x="{WIDTH}" y="{base + 15}" text-anchor="end">&gt;\u20091</text>')
    out.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{base + 30}" text-anchor="middle">{AXES[of]}</text>')
    return out


def _edge(value: float) -> str:
    return "1" if value == 1 else "0" if value == 0 else power(round(math.log10(value)))


def power(k: int) -> str:
    """Return a power of ten, with a raised exponent."""
    return "10" + str(k).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))


def _said(found: Mapping[str, Any], name: str) -> str:
    """Say what the drawing shows."""
    out = [f"{found['of'].capitalize()}s of {name}."]
    for kind in NAMES:
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
