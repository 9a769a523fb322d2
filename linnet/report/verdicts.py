"""``linnet verify``, ``show`` and ``certify``: trials on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from linnet.errors import ClaimError, DataError, LinnetError
from linnet.report.files import Outputs
from linnet.trials import certificate as certificates
from linnet.trials.claim import Claim, claims_in_file, installed_claims, select
from linnet.trials.ledger import Ledger, default_jobs, try_claims
from linnet.trials.planted import planted, planted_claims
from linnet.trials.settings.base import Ladder
from linnet.trials.trial import BUDGETS, Verdict, run

COLOURS = {
    "holds": "green", "holds-if": "cyan", "refuted": "red", "rate": "blue", "ill-posed": "magenta",
    "undecided": "yellow",
}  # fmt: skip


def verify(names: Sequence[str], json: Path | None, budget: str, seed: int, jobs: int | None) -> int:
    """Try claims, print the ledger, write it; return the exit code."""
    claims = select(names)
    with Outputs([] if json is None else [json]) as outputs:
        ledger = _try_with_progress(partial(select, names), claims, budget, seed, jobs)
        if json is not None:
            outputs.part(json).write_text(_text(ledger.as_json()), encoding="utf-8")
        outputs.commit()
    console = _console()
    console.print(ledger_table(ledger))
    _notes(console, ledger)
    return 1 if ledger.failures else 0


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

        return try_claims(find, claims, budget, seed, jobs or default_jobs(), done)


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
            _show(console, claim, verdict)
    return code


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


def ledger_table(ledger: Ledger) -> Table:
    """Return the ledger as a table for the terminal."""
    table = Table(title=f"linnet verify: {ledger.budget} budget, seed {ledger.seed}", title_justify="left")
    table.add_column("claim", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("instances", justify="right", no_wrap=True)
    table.add_column("margin", justify="right", no_wrap=True)
    table.add_column("worst ratio", justify="right", no_wrap=True)
    table.add_column("tight", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for v in ledger.verdicts:
        table.add_row(
            v.id,
            f"[{COLOURS[v.verdict]}]{v.verdict}[/]",
            v.relation,
            str(v.instances),
            "" if v.verdict == "ill-posed" or (v.fit and "exponent" in v.fit) else f"{v.margin:.1e}",
            "" if v.ratio is None else f"{v.ratio:.4g}",
            _tightness(v),
            f"{v.seconds:.1f}",
        )
    return table


def _tightness(v: Verdict) -> str:
    """Whether a bound is attained; if not, by which factor it is too large (too small, for lower ones)."""
    if v.tight is None or v.verdict == "refuted":
        return ""
    return "yes" if v.tight or not v.ratio else f"loose {max(v.ratio, 1 / v.ratio):.3g}x"


def _notes(console: Console, ledger: Ledger) -> None:
    for v in ledger.verdicts:
        if v.verdict == "rate" and v.fit:
            low, high = v.fit["interval"]
            console.print(
                f"{v.id} exponent {v.fit['exponent']:.2f} [{low:.2f}, {high:.2f}], stated {v.fit['stated']:.2f}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
        if v.holds_if:
            console.print(f"{v.id} holds if {'; '.join(v.holds_if)}", highlight=False, soft_wrap=True)
        if v.reason:
            nearest = "" if v.nearest is None else f"; its nearest reading is {v.nearest}"
            console.print(f"{v.id} is {v.verdict}: {v.reason}{nearest}", highlight=False, soft_wrap=True)
        if v.replaced_by:
            console.print(f"{v.id} is false; read {v.replaced_by} in its place", highlight=False, soft_wrap=True)
    for name, reason in ledger.failures.items():
        print(f"linnet: {name} could not be tried: {reason}", file=sys.stderr)


def _show(console: Console, claim: Claim, verdict: Verdict) -> None:
    console.print(f"[bold]{claim.id}[/]  [{COLOURS[verdict.verdict]}]{verdict.verdict}[/]", highlight=False)
    console.print("\n".join(line.strip() for line in claim.statement.splitlines()), highlight=False, markup=False)
    console.print(f"\nsource      {claim.source}", highlight=False, markup=False)
    for h in claim.hypotheses:
        console.print(f"hypothesis  {h.text}", highlight=False, markup=False)
    for text in verdict.holds_if:
        console.print(f"holds if    {text}", highlight=False, markup=False)
    console.print(f"trial       {sentence(verdict)}", highlight=False, markup=False)
    if verdict.replaced_by:
        console.print(f"instead     {verdict.replaced_by}", highlight=False, markup=False)
    c = verdict.certificate
    if c is not None and "courses" in c:
        for line in _courses(c):
            console.print(line, highlight=False, markup=False)
    elif c is not None:
        console.print(
            f"\ncounterexample, exact: observed {c['observed']}, not {c['relation']} stated {c['stated']}",
            highlight=False, markup=False,
        )  # fmt: skip
        for line in matrices(c["instance"]):
            console.print(line, highlight=False, markup=False)
    elif verdict.worst is not None:
        what = "margin" if verdict.relation == "==" else "ratio"
        console.print(f"\ninstance of the worst {what}", highlight=False, markup=False)
        console.print(", ".join(f"{k} {v}" for k, v in verdict.worst["shape"].items()), highlight=False)
        for line in matrices(verdict.worst["parameters"]):
            console.print(line, highlight=False, markup=False)


def _courses(record: dict[str, Any]) -> list[str]:
    """Return the lines that print what contradicts a claim about growing samples."""
    lines = [f"\nwhat contradicts it ({record['statistic']} of {record['replicates']} realisations)"]
    for course in record["courses"]:
        lines.append(", ".join(f"{k} {v}" for k, v in course["shape"].items()))
        lines.append(f"{'size':>12}{'observed':>14}{'stated':>14}")
        rows = zip(course["sizes"], course["observed"], course["stated"], strict=True)
        lines += [f"{n:>12}{a:>14.4g}{b:>14.4g}" for n, a, b in rows]
    return lines


def sentence(v: Verdict) -> str:
    """Say in a sentence what a trial found."""
    seen = f"{v.instances} instances drawn and searched, {v.exact} more decided exactly"
    cleared = f", {v.cleared} suspects cleared exactly" if v.cleared else ""
    if v.verdict == "ill-posed":
        return f"ill-posed: {v.reason}; its nearest sensible reading is {v.nearest}"
    if v.fit is not None:
        return _fitted(v)
    if v.verdict == "refuted":
        return f"refuted by an exact counterexample; {seen}, worst margin {v.margin:.2g}"
    if v.reason is not None:
        return f"undecided: {v.reason}; {seen}"
    if v.verdict == "undecided" and not v.instances:
        return "no instance met the hypotheses; state them so that drawing can meet them, or choose from the setting's"
    if v.verdict == "undecided":
        return f"violated in float64 (margin {v.margin:.2g}), but at no exact instance; {seen}"
    by = "; ".join(", ".join(f"{r:.4g} {how}" for how, r in bound.items()) for bound in v.ratios or ())
    worst = "" if v.ratio is None else f", worst ratio {by}"
    zero = f", {v.empty} of them 0 against 0" if v.empty else ""
    if v.verdict == "holds-if":
        return f"fails as printed; with the extra hypothesis no violation in {seen}{zero}{worst}{cleared}"
    return f"no violation in {seen}{zero}{worst}, worst margin {v.margin:.1e}{cleared}"


def _fitted(v: Verdict) -> str:
    f = v.fit or {}
    drawn = f"{v.instances} realisations"
    if "deviation" in f:
        return f"{f['means']} means over {drawn}, the farthest {f['deviation']:.1f} standard errors off"
    low, high = f["interval"]
    constant = "" if f["constant"] is None else f", largest observed over stated {f['constant']:.3g}"
    return (
        f"exponent {f['exponent']:.3f} [{low:.3f}, {high:.3f}], stated {f['stated']:.3f}, over {f['ladders']} ladders "
        f"of {drawn} in all{constant}"
    )


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
    """A console that never truncates what is piped."""
    console = Console()
    return console if console.is_terminal else Console(width=120)
