"""What became of a check on a real model, and the measuring of it, seed by seed."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linnet.errors import ArgumentError, LinnetError
from linnet.llm.checks import CHECKS, Check, checks_in_file
from linnet.llm.checks.base import Effect, judge, together
from linnet.llm.checks.workbench import Archive, Workbench
from linnet.llm.models import LanguageModel
from linnet.llm.own import digest_of
from linnet.processor import processor_name
from linnet.trials.ledger import KEYS


@dataclass(frozen=True)
class Finding:
    """What became of a check.

    Attributes:
        check: the check.
        verdict: agrees, disagrees or undecided; ``failed`` if it could not be measured.
        effects: one a promise.
        beside: further numbers, a list over the seeds each.
        seconds: that it took, all seeds together.
        devices: on which it was measured; one, unless a run went on elsewhere.
        reason: why it failed.
    """

    check: Check
    verdict: str
    effects: tuple[Effect, ...]
    beside: Mapping[str, list[float]]
    seconds: float
    devices: tuple[str, ...]
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
        more = checks_in_file(Path(name)) if name.endswith(".py") else {name: CHECKS[name]}
        if twice := [one for one, check in more.items() if found.get(one, check) is not check]:
            raise ArgumentError(f"two findings are called {', '.join(twice)}; rename one")
        found |= more
    for name, check in found.items():
        if language.kind not in check.kinds:
            raise ArgumentError(f"{name} is for {' and '.join(check.kinds)} models; {language.name} is none")
    return [found[name] for name in sorted(found)]


def findings(
    bench: Workbench,
    checks: Sequence[Check],
    seeds: Sequence[int],
    journal: Archive,
    budget: str,
    progress: Callable[[str], object] = lambda doing: None,
) -> Iterator[Finding]:
    """Measure checks, seed by seed, and yield what became of each; what the journal holds is not measured again.

    Args:
        bench: the model and its budget.
        checks: what to measure.
        seeds: at least one; two or more for an interval.
        journal: keeps every seed of every check as it is done.
        budget: the name of the bench's budget.
        progress: told what is being measured.
    """
    for check in checks:
        measured, seconds = [], 0.0
        devices: dict[str, None] = {}
        try:
            for seed in seeds:
                key = json.dumps([check.id, seed, budget, *digest_of(check)])
                if not journal.done(key):
                    progress(f"{check.id}, seed {seed}")
                    began = time.perf_counter()
                    numbers = {k: float(v) for k, v in check.measure(bench, seed).items()}
                    row = {
                        "numbers": numbers,
                        "seconds": time.perf_counter() - began,
                        "device": device_name(bench.device),
                    }
                    journal.add(key, json.dumps([row]), None)
                kept = journal.rows(key)[0]
                measured.append(kept["numbers"])
                devices[kept["device"]] = None
                seconds += kept["seconds"]
            effects = tuple(judge(check.promises(bench), measured))
        except LinnetError as err:
            yield Finding(check, "failed", (), {}, seconds, tuple(devices), str(err))
            continue
        promised = {effect.name for effect in effects}
        beside = {k: [row[k] for row in measured] for k in measured[0] if k not in promised}
        yield Finding(check, together(effects), effects, beside, seconds, tuple(devices))


def device_name(device: str) -> str:
    """Return what a device is called and, of a processor, how many threads compute."""
    name, threads = called(device), torch.get_num_threads()
    return name if torch.device(device).type == "cuda" else f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def called(device: str) -> str:
    """Return what a device is called."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return processor_name()


def silence() -> None:
    """Leave out a warning that says nothing here, for the rest of the process."""
    # SpFT's layers build a sparse tensor in every step, and PyTorch says once that it trusts the indices.
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
