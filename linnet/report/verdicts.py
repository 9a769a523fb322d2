"""``linnet verify``, ``show``, ``certify`` and ``page``: trials on the terminal, and the page."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import StringIO, TextIOWrapper
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from linnet.errors import ClaimError, DataError, LinnetError
from linnet.processor import cores
from linnet.report import words
from linnet.report.files import Outputs
from linnet.report.page import page
from linnet.report.text import plain
from linnet.trials import certificate as certificates
from linnet.trials import ledger as ledgers
from linnet.trials.claim import Claim, claims_in_file, installed_claims, select
from linnet.trials.ledger import Ledger, try_claims
from linnet.trials.planted import planted, planted_claims
from linnet.trials.settings.base import Ladder
from linnet.trials.trial import BUDGETS, Verdict, run

COLOURS = {
    "holds": "green", "holds-if": "cyan", "refuted": "red", "rate": "blue", "ill-posed": "magenta",
    "undecided": "yellow",
}  # fmt: skip


def verify(names: Sequence[str], json: Path | None, html: Path | None, budget: str, seed: int, jobs: int | None) -> int:
    """Try claims, print the ledger, write it; return the exit code."""
    claims = select(names)
    with Outputs([path for path in (json, html) if path is not None]) as outputs:
        began = time.monotonic()
        ledger = _try_with_progress(partial(select, names), claims, budget, seed, jobs).as_json()
        took = time.monotonic() - began
        if json is not None:
            outputs.part(json).write_text(_text(ledger), encoding="utf-8")
        if html is not None:
            outputs.part(html).write_text(page(ledger, claims), encoding="utf-8")
        outputs.commit()
    console = _console()
    console.print(ledger_table(ledger))
    instances = sum(row["instances"] for row in ledger["claims"])
    tried = "1 claim" if len(claims) == 1 else f"{len(claims)} claims"
    console.print(f"{tried}, {instances} instances, {took:.0f} s", highlight=False)
    _notes(console, ledger)
    return 1 if "failures" in ledger else 0


def redraw(path: Path, html: Path, claim_files: Sequence[Path]) -> int:
    """Draw the page of a ledger that is there already; return the exit code.

    Raises:
        DataError: no ledger of claims, or the page cannot be written there.
    """
    ledger = ledgers.read(path)
    if any(isinstance(row, dict) and "effects" in row for row in ledger["claims"]):
        raise DataError(f"{path} holds findings on a model, which have no page; linnet llm verify prints them")
    claims = installed_claims()
    for file in claim_files:
        claims |= claims_in_file(file)
    with Outputs([html], inputs=[path, *claim_files]) as outputs:
        try:
            drawn = page(ledger, claims)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as err:
            raise DataError(
                f"{path} is no ledger ({type(err).__name__}: {err}); give what linnet verify --json wrote"
            ) from None
        outputs.part(html).write_text(drawn, encoding="utf-8")
        outputs.commit()
    return 0


def _try_with_progress(
    find: Callable[[], Mapping[str, Claim]], claims: Mapping[str, Claim], budget: str, seed: int, jobs: int | None
) -> Ledger:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        bar = progress.add_task(f"{budget} trials", total=len(claims))

        def done(name: str, verdict: Verdict | None) -> None:
            progress.update(bar, advance=1, description=name)

        return try_claims(find, claims, budget, seed, jobs or cores(), done)


def self_test(names: Sequence[str], seed: int, jobs: int | None) -> int:
    """Put planted claims on trial, and print which false ones were caught at which budget; return the exit code.

    What the quick budget misses goes to the full one, and then to the thorough one. True ones are tried at
    the quick budget; those about something that grows, where no exact arithmetic clears, at the full one too.
    """
    false, true = planted()
    if names:
        raise ClaimError("--self-test tries linnet's planted claims and no others; leave out the names")
    console = _console()
    caught: dict[str, str] = {}
    lost: dict[str, str] = {}
    for budget in BUDGETS:
        left = {c.id: c for c in false.values() if c.id not in caught}
        kept = {c.id: c for c in true.values() if budget == "quick" or isinstance(c.setting, Ladder)}
        kept = {} if budget == "thorough" else {i: c for i, c in kept.items() if i not in lost}
        ledger = _try_with_progress(planted_claims, left | kept, budget, seed, jobs)
        for v in ledger.verdicts:
            if v.id in left and v.verdict == "refuted":
                caught[v.id] = budget
            if v.id in kept and v.verdict not in ("holds", "rate"):
                lost[v.id] = v.verdict
        lost |= {i: reason for i, reason in ledger.failures.items() if i in kept}
        if len(caught) == len(false) and budget != "quick":
            break
    console.print(_sensitivity(false, true, caught, lost, seed))
    missed = [c.id for c in false.values() if c.id not in caught]
    for name in missed:
        console.print(f"[red]missed[/]  {name}, which is false", highlight=False)
    for name, reason in lost.items():
        console.print(f"[red]lost[/]    {name}, which is true: {reason}", highlight=False)
    return 1 if missed or lost else 0


def _sensitivity(
    false: Mapping[str, Claim], true: Mapping[str, Claim], caught: Mapping[str, str], lost: Mapping[str, str], seed: int
) -> Table:
    """Return how many planted claims each budget told apart, by setting."""
    table = Table(title=f"linnet verify --self-test: seed {seed}", title_justify="left")
    table.add_column("planted over")
    table.add_column("false", justify="right")
    for budget in BUDGETS:
        table.add_column(f"caught: {budget}", justify="right")
    table.add_column("true", justify="right")
    table.add_column("kept", justify="right")
    settings = sorted({c.setting.name for c in (*false.values(), *true.values())})
    for name in (*settings, "all"):
        wrong = [c.id for c in false.values() if name in (c.setting.name, "all")]
        right = [c.id for c in true.values() if name in (c.setting.name, "all")]
        order = list(BUDGETS)
        counts = [sum(order.index(caught[i]) <= k for i in wrong if i in caught) for k in range(len(order))]
        kept = sum(i not in lost for i in right)
        table.add_row(
            name, str(len(wrong)), *map(str, counts), str(len(right)), str(kept), end_section=name == settings[-1]
        )
    return table


def _text(content: Any) -> str:
    return dumps(content, indent=1, allow_nan=False) + "\n"


def show(name: str, budget: str, seed: int) -> int:
    """Print one claim, its verdict and the instance behind it; return the exit code."""
    claims = select([name])
    console = _console()
    code = 0
    for claim in claims.values():
        try:
            verdict = run(claim, BUDGETS[budget], seed)
        except Exception as err:  # a claim is the user's code: it may raise anything
            code = 1
            print(f"linnet: {claim.id} could not be tried: {err}", file=sys.stderr)
        else:
            _show(console, claim, ledgers.row(verdict))
    return code


def shown(claim: Claim, verdict: Verdict, width: int = 100) -> str:
    """Return what ``linnet show`` prints of a claim and its verdict, in lines of ``width`` characters."""
    # In a notebook rich would display what it is given, and write nothing to the file.
    out = StringIO()
    _show(Console(file=out, width=width, color_system=None, force_jupyter=False), claim, ledgers.row(verdict))
    return out.getvalue()


def certify(path: Path, claim_files: Sequence[Path]) -> int:
    """Re-check the certificates in a file exactly; return 0 if all stand, 1 if one does not, 2 if one is none."""
    records = certificates.read(path)
    claims = installed_claims()
    for file in claim_files:
        claims |= claims_in_file(file)
    console = _console()
    code = 0
    for record in records:
        try:
            console.print(f"[green]certified[/]  {escape(certificates.check(record, claims))}", soft_wrap=True)
        except LinnetError as err:
            code = max(code, 2 if isinstance(err, DataError) else 1)
            console.print(f"[red]rejected[/]   {escape(str(err))}", soft_wrap=True)
    return code


def ledger_table(ledger: Mapping[str, Any]) -> Table:
    """Return a ledger, as it is written, as a table for the terminal."""
    table = Table(title=f"linnet verify: {ledger['budget']} budget, seed {ledger['seed']}", title_justify="left")
    table.add_column("claim", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("instances", justify="right", no_wrap=True)
    table.add_column("margin", justify="right", no_wrap=True)
    table.add_column("worst ratio", justify="right", no_wrap=True)
    table.add_column("tight", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for row in ledger["claims"]:
        table.add_row(
            row["id"],
            f"[{COLOURS[row['verdict']]}]{row['verdict']}[/]",
            row["relation"],
            str(row["instances"]),
            words.margin(row),
            "" if row["ratio"] is None else f"{row['ratio']:.4g}",
            words.tightness(row),
            f"{row['seconds']:.1f}",
        )
    return table


def _notes(console: Console, ledger: Mapping[str, Any]) -> None:
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    for row in ledger["claims"]:
        if row["verdict"] == "rate" and row["fit"]:
            low, high = row["fit"]["interval"]
            say(
                f"{row['id']} exponent {row['fit']['exponent']:.2f} [{low:.2f}, {high:.2f}], "
                f"stated {row['fit']['stated']:.2f}"
            )
        if row["holds_if"]:
            say(plain(f"{row['id']} holds if {'; '.join(row['holds_if'])}"))
        if row["reason"]:
            nearest = "" if row["nearest"] is None else f"; its nearest reading is {row['nearest']}"
            say(f"{row['id']} is {row['verdict']}: {row['reason']}{nearest}")
        if row["replaced_by"]:
            say(f"{row['id']} is false; read {row['replaced_by']} in its place")
        if row["sharper"]:
            say(f"{row['id']} is loose; its sharp form is {row['sharper']}")
    for name, reason in ledger.get("failures", {}).items():
        print(f"linnet: {name} could not be tried: {reason}", file=sys.stderr)


def _show(console: Console, claim: Claim, row: Mapping[str, Any]) -> None:
    say = partial(console.print, highlight=False, markup=False)
    console.print(f"[bold]{escape(claim.id)}[/]  [{COLOURS[row['verdict']]}]{row['verdict']}[/]", highlight=False)
    say(plain(claim.statement))
    say(f"\nsource      {plain(claim.source)}")
    for h in claim.hypotheses:
        say(f"hypothesis  {plain(h.text)}")
    for text in row["holds_if"]:
        say(f"holds if    {plain(text)}")
    say(f"trial       {words.sentence(row)}")
    if row["replaced_by"]:
        say(f"instead     {row['replaced_by']}")
    if row["sharper"]:
        say(f"sharp form  {row['sharper']}")
    if claim.proof:
        say(f"proof       {claim.proof_file or f'{claim.proof}, which is not beside the claim'}", soft_wrap=True)
    c = row["certificate"]
    if c is not None and "courses" in c:
        for line in _courses(c):
            say(line)
    elif c is not None:
        say(f"\ncounterexample, exact: observed {c['observed']}, not {c['relation']} stated {c['stated']}")
        for line in matrices(c["instance"]):
            say(line)
    elif row["worst"] is not None:
        what = "margin" if row["relation"] == "==" else "ratio"
        say(f"\ninstance of the worst {what}")
        say(", ".join(f"{k} {v}" for k, v in row["worst"]["shape"].items()))
        for line in matrices(row["worst"]["parameters"]):
            say(line)


def _courses(record: dict[str, Any]) -> list[str]:
    """Return the lines that print what contradicts a claim about growing samples."""
    lines = [f"\nwhat contradicts it ({record['statistic']} of {record['replicates']} realisations)"]
    for course in record["courses"]:
        lines.append(", ".join(f"{k} {v}" for k, v in course["shape"].items()))
        lines.append(f"{'size':>12}{'observed':>14}{'stated':>14}")
        rows = zip(course["sizes"], course["observed"], course["stated"], strict=True)
        lines += [f"{n:>12}{a:>14.4g}{b:>14.4g}" for n, a, b in rows]
    return lines


def matrices(instance: dict[str, Any]) -> list[str]:
    """Return the lines that print an instance: whole numbers, lists, matrices row under row."""
    lines: list[str] = []
    for name, value in instance.items():
        if isinstance(value, list) and value and isinstance(value[0], list) and isinstance(value[0][0], list):
            for i, matrix in enumerate(value):
                lines += _matrix(f"{name}[{i}]", matrix)
        elif isinstance(value, list) and value and isinstance(value[0], list):
            lines += _matrix(name, value)
        else:
            lines.append(f"  {name} = {value}")
    return lines


def _matrix(name: str, rows: list[list[Any]]) -> list[str]:
    cells = [[x if isinstance(x, str) else f"{x:.4g}" for x in row] for row in rows]
    width = max((len(c) for row in cells for c in row), default=1)
    head = f"  {name} = "
    return [
        (head if i == 0 else " " * len(head)) + "[" + "  ".join(c.rjust(width) for c in row) + "]"
        for i, row in enumerate(cells)
    ]


def _console() -> Console:
    """A console that never truncates what is piped, and writes "?" for what the terminal's encoding lacks."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    console = Console()
    return console if console.is_terminal else Console(width=120)
