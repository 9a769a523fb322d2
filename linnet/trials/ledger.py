"""The ledger: the verdicts of many claims, tried one by one or in several processes."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import linnet
from linnet.errors import ClaimError, DataError
from linnet.processor import children_of_one_thread
from linnet.trials.certificate import load
from linnet.trials.claim import Claim, select
from linnet.trials.settings.base import Ladder
from linnet.trials.trial import BUDGETS, Verdict, run

KEYS = (
    "id", "verdict", "relation", "instances", "margin", "ratio", "tight", "hypotheses", "holds_if",
    "certificate", "replaced_by", "sharper", "reason", "nearest", "fit", "ratios", "equalities", "exact", "cleared",
    "empty", "source", "worst", "histogram", "seconds",
)  # fmt: skip
"""What a row of the ledger has, in this order."""


def row(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a row of the ledger: what is written, and what every report is made from."""
    found = asdict(verdict)
    return {k: found[k] for k in KEYS} | {"seconds": round(verdict.seconds, 2)}


@dataclass(frozen=True)
class Ledger:
    """Verdicts in order of id, and the claims that could not be tried, with the reason."""

    budget: str
    seed: int
    verdicts: tuple[Verdict, ...]
    failures: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return what ``linnet verify --json`` writes."""
        rows = [row(v) for v in self.verdicts]
        out = {"linnet": linnet.__version__, "seed": self.seed, "budget": self.budget, "claims": rows}
        return out | ({"failures": dict(self.failures)} if self.failures else {})


def read(path: Path) -> dict[str, Any]:
    """Return a ledger as ``linnet verify --json`` wrote it.

    Raises:
        DataError: missing file, not JSON, no ledger, or one of another version.
    """
    content = load(path, "a ledger")
    if not isinstance(content, dict) or not isinstance(content.get("claims"), list):
        raise DataError(f"{path} is no ledger; give what linnet verify --json wrote")
    rows = [r for r in content["claims"] if isinstance(r, dict)]
    if missing := sorted({k for k in KEYS for r in rows if k not in r}):
        what = ", ".join(missing)
        raise DataError(f"{path} is no ledger of this version: it lacks {what}; run linnet verify again")
    return content


def stored() -> Path | None:
    """Return the path of the last full run's ledger, ``figures/ledger.json`` of a checkout; None where there is none.

    It is looked for in the working folder and those above it, then beside the package.
    """
    here = Path.cwd()
    roots = (here, *here.parents, Path(linnet.__file__).resolve().parent.parent)
    return next((path for root in roots if (path := root / "figures" / "ledger.json").is_file()), None)


def tried(names: Sequence[str], budget: str = "quick", seed: int = 0) -> dict[str, Any]:
    """Put claims on trial, one after the other, and return the ledger: ``linnet verify --json`` without a file.

    Args:
        names: ids, prefixes of ids or paths of claim files; none stand for every installed claim.
        budget: "quick", "full" or "thorough".
        seed: of all drawing.

    Raises:
        ClaimError: a name stands for nothing, or there is no such budget.
    """
    if budget not in BUDGETS:
        raise ClaimError(f"no budget {budget!r}; give one of {', '.join(BUDGETS)}")
    return try_claims(partial(select, names), select(names), budget, seed, 1, lambda name, verdict: None).as_json()


def try_claims(
    find: Callable[[], Mapping[str, Claim]],
    claims: Mapping[str, Claim],
    budget: str,
    seed: int,
    jobs: int,
    done: Callable[[str, Verdict | None], None],
) -> Ledger:
    """Put claims on trial; a claim's verdict depends on its id, the budget and the seed alone.

    Args:
        find: finds ``claims`` again in another process; must travel there (a function of a module, or a
            ``functools.partial`` of one).
        claims: the claims to try.
        budget: "quick" or "full". seed: of all drawing. jobs: number of processes.
        done: called with id and verdict (None if it could not be tried) as each ends.
    """
    found: dict[str, Verdict] = {}
    failures: dict[str, str] = {}

    def settle(name: str, outcome: Callable[[], Verdict]) -> None:
        try:
            found[name] = outcome()
        except Exception as err:  # a claim is the user's code: it may raise anything, and the others go on
            failures[name] = f"{type(err).__name__}: {err}"
        done(name, found.get(name))

    if jobs == 1 or len(claims) == 1:
        for name, claim in claims.items():
            settle(name, lambda claim=claim: run(claim, BUDGETS[budget], seed))  # type: ignore[misc]  # mypy cannot infer lambdas
    else:
        longest_first = sorted(claims, key=lambda i: not isinstance(claims[i].setting, Ladder))
        _in_processes(find, longest_first, budget, seed, jobs, settle)
    order = sorted(found)
    return Ledger(budget, seed, tuple(found[i] for i in order), dict(sorted(failures.items())))


def _in_processes(
    find: Callable[[], Mapping[str, Claim]],
    ids: Sequence[str],
    budget: str,
    seed: int,
    jobs: int,
    settle: Callable[[str, Callable[[], Verdict]], None],
) -> None:
    # Spawned, not forked: a fork of a process with threads (JAX has some) may never come back.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(ids)), mp_context=context)
    try:
        with children_of_one_thread():
            waiting: dict[Future[Verdict], str] = {pool.submit(_run_by_name, find, i, budget, seed): i for i in ids}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                settle(waiting.pop(future), future.result)
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


_found: dict[bytes, Mapping[str, Claim]] = {}


def _run_by_name(find: Callable[[], Mapping[str, Claim]], claim_id: str, budget: str, seed: int) -> Verdict:
    """Run in another process: claims do not travel, what finds them does."""
    key = pickle.dumps(find)
    if key not in _found:
        _found[key] = find()
    return run(_found[key][claim_id], BUDGETS[budget], seed)
