"""The comparison on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from linnet.compare.records import Comparison, Estimate, Recommendation, Row, Side, in_order

WIDTH = 100
"""Columns that the tables need; text is wrapped to them."""


def show(result: Comparison, console: Console | None = None) -> None:
    """Print tables, recommendations and how to read them, never narrower than the numbers need."""
    out = console or Console(highlight=False)
    plus_minus = "±" if "utf" in out.encoding.lower() else "+-"
    tables = [_table(result, where, plus_minus) for where in ("in", "out")]
    wide = out.options.update(width=1000, max_width=1000)
    out.width = max(WIDTH, *(out.measure(table, options=wide).maximum for table in tables))

    def line(text: str = "", style: str = "") -> None:
        for part in wrap(text.replace("±", plus_minus), WIDTH, break_on_hyphens=False) or [""]:
            out.print(Text(part, style=style))

    widths = "-".join(str(w) for w in result.widths)
    line(
        f"Network {widths}, layer {result.layer}; budget {result.budget} parameters (LoRA of rank {result.rank})",
        "bold",
    )
    if result.source is not None:
        shift = "" if result.source.shift is None else f"shift                {result.source.shift}"
        for text in (
            f"network              {result.source.network}",
            f"in distribution      {result.source.train}",
            f"out of distribution  {result.source.test}",
            shift,
        ):
            for part in wrap(text, WIDTH, subsequent_indent=" " * 21, break_on_hyphens=False):
                out.print(Text(part))
    for table in tables:
        line()
        out.print(table)
    line("over: less that of, paired. forgetting: risk over the pre-trained network's.", "dim")
    line("* parameters more than a row or a column of the layer away from the budget", "dim")
    line()
    line("Which method to take", "bold")
    for scope, heading in _SCOPE.items():
        answers = [a for a in result.recommendations if a.scope == scope]
        if not answers:
            continue
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column()
        for a in answers:
            grid.add_row(f"  {_WHERE[a.distribution]}", _answer(a, result).replace("±", plus_minus))
        line(heading.format(budget=result.budget))
        out.print(grid, width=WIDTH)
    if result.bounds:
        line()
        out.print(_bounds(result))
    if result.same_predictions or result.notes:
        line()
    for group in result.same_predictions:
        line(f"Same predictions on all samples: {'; '.join(group)}.")
    for note in result.notes:
        line(note)
    line()
    for text in (f"Units: {result.units}.", result.protocol, result.errors, result.rule):
        line(text, "dim")


_SCOPE = {
    "any size": "Of all methods",
    "within budget": "Of those within the budget of {budget} parameters, give or take a row or a column",
}
_WHERE = {"in": "in distribution", "out": "out of distribution", "overall": "overall"}


def _table(result: Comparison, where: str, plus_minus: str) -> Table:
    inside = where == "in"
    title = (
        f"In distribution: held-out folds of {result.n_train} samples"
        if inside
        else f"Out of distribution: {result.n_test} samples"
    )
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        expand=False,
    )
    table.add_column("method", min_width=20)
    heads = ["parameters"] if inside else []
    heads += ["risk", "excess over\nbest affine"]
    heads += [] if inside else ["forgetting"]
    for head in [*heads, "over best\nmethod", "z"]:
        table.add_column(head, justify="right", no_wrap=True)

    def side(row: Row) -> Side:
        return row.in_distribution if inside else row.out_of_distribution

    def add(name: str, parameters: str, estimates: Iterable[Estimate | None], z: str) -> None:
        cells = ["" if e is None else pretty(e).replace("±", plus_minus) for e in estimates]
        table.add_row(name, *([parameters] if inside else []), *cells, z)

    for row in sorted(result.methods, key=lambda r: in_order(side(r))):
        s = side(row)
        forgetting = [] if inside else [row.forgetting]
        is_best = s.to_best.value == 0 and s.to_best.se == 0
        add(
            row.name,
            f"{row.parameters}{' ' if row.matched else '*'}",
            [s.risk, s.excess, *forgetting, None if is_best else s.to_best],
            "best" if is_best else _z(s.z),
        )
    table.add_section()
    s = side(result.pretrained)
    add("pre-trained", "0 ", [s.risk, s.excess, *([] if inside else [None]), s.to_best], _z(s.z))
    affine = result.best_affine.in_distribution if inside else result.best_affine.out_of_distribution
    count = result.widths[-1] * (result.widths[0] + 1)
    add("best affine map", f"{count} ", [affine, None, *([] if inside else [None]), None], "")
    return table


def _answer(answer: Recommendation, result: Comparison) -> str:
    if answer.distribution == "overall":
        return f"{answer.method}, on both" if answer.method else "no method is the clear winner on both"
    if answer.method is not None:
        text = answer.method
        if answer.runner_up is not None and answer.lead is not None:
            text += f"; next is {answer.runner_up}, {signed(answer.lead)}"
    else:
        parameters = {row.name: row.parameters for row in result.methods}
        cheapest = min(answer.not_separated, key=lambda name: parameters[name])
        text = f"no clear winner among {'; '.join(answer.not_separated)}"
        text += f" (fewest parameters: {cheapest}, {parameters[cheapest]})"
    return f"{text}. {_against_pretrained(answer)}"


def _against_pretrained(answer: Recommendation) -> str:
    gain = answer.tuning_gain
    if gain is None:
        return ""
    change = signed(Estimate(value=-gain.value, se=gain.se))
    verdict = {
        True: "Better than the pre-trained network",
        False: "Worse than leaving the network as it is",
        None: "Not told apart from leaving the network as it is",
    }[answer.tuning_helps]
    return f"{verdict}: {change}."


def _bounds(result: Comparison) -> Table:
    table = Table(
        title="Bounds that apply, data as population",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("id", no_wrap=True)
    for head in ("observed", "bound", "slack"):
        table.add_column(head, justify="right", no_wrap=True)
    for b in result.bounds:
        table.add_row(
            b.id if b.part is None else f"{b.id} ({b.part})", *(f"{v:.3g}" for v in (b.observed, b.stated, b.slack))
        )
    return table


def _z(z: float | None) -> str:
    return "" if z is None else f"{z:.3g}"


def signed(e: Estimate) -> str:
    """Return ``pretty`` with an explicit sign."""
    return f"+{pretty(e)}" if e.value > 0 else pretty(e)


def pretty(e: Estimate) -> str:
    """Return ``value ± se``: the error to two digits, the value to the same place.

    Where that would take more than six decimals or whole digits, both are in scientific notation.
    """
    if e.se == 0:
        return f"{e.value:.3g} ± 0"
    place = 1 - math.floor(math.log10(e.se))
    if abs(e.value) >= 1e6 or e.se >= 1e6 or place > 6:
        return f"{e.value:.2e} ± {e.se:.0e}"
    decimals = max(place, 0)
    # An error of 120 is rounded to tens all the same: its third digit is noise.
    return f"{round(e.value, place) + 0.0:.{decimals}f} ± {round(e.se, place):.{decimals}f}"
