"""Findings measured by several processes at once, which share what one journal keeps."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from typing import Any, cast

import torch

from linnet.errors import DataError
from linnet.llm.checks import Check
from linnet.llm.checks.workbench import BUDGETS, Archive, Workbench
from linnet.llm.findings import Finding, chosen, findings, silence
from linnet.llm.models import load
from linnet.sweep.run import deaf, follow_parent


@dataclass(frozen=True)
class Order:
    """What every process is told.

    Attributes:
        model: smollm2, minilm or a folder.
        device: cpu or cuda.
        budget: quick, small or full.
        seeds: one measurement each.
        threads: of the CPU, for each process.
        names: ids and files, as the user gave them.
    """

    model: str
    device: str
    budget: str
    seeds: tuple[int, ...]
    threads: int
    names: tuple[str, ...]


class _Shared(Archive):
    """The journal of the parent, asked through a pipe.

    Who asks for rows that are not there is about to make them, and who asks for them meanwhile waits.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def add(self, key: str, rows: str | None, error: str | None) -> None:
        self._ask("add", key, rows, error)

    def done(self, key: str) -> bool:
        answer: bool = self._ask("done", key)
        return answer

    def rows(self, key: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._ask("rows", key)
        return answer

    def _ask(self, *question: Any) -> Any:
        self._pipe.send(question)
        return self._pipe.recv()


def _work(pipe: Connection, order: Order) -> None:
    """Measure the checks that the parent names, until it names none."""
    follow_parent()
    silence()
    torch.set_num_threads(order.threads)
    language, shared = load(order.model, order.device), _Shared(pipe)
    bench = Workbench(language, BUDGETS[order.budget], order.device, shared)
    checks = {check.id: check for check in chosen(order.names, language)}

    def tell(doing: str) -> None:
        pipe.send(("doing", doing))

    while (name := pipe.recv()) is not None:
        try:
            (found,) = findings(bench, [checks[name]], order.seeds, shared, order.budget, tell)
        except Exception:  # a fault of the check's, which one process alone would show as it is
            pipe.send(("broke", traceback.format_exc()))
            return
        parts = found.verdict, found.effects, found.beside, found.seconds, found.devices, found.reason
        pipe.send(("found", *parts))


class _Desk:
    """Answers what processes ask of the journal; nothing is made twice at a time."""

    def __init__(self, journal: Archive) -> None:
        self._journal = journal
        self._making: dict[str, Connection] = {}
        self._waiting: dict[str, list[Connection]] = {}

    def answer(self, pipe: Connection, verb: str, key: str, *rest: Any) -> None:
        """Answer a question, or let who asks wait."""
        if verb == "done":
            pipe.send(self._journal.done(key))
        elif verb == "add":
            self._journal.add(key, *rest)
            pipe.send(None)
            self._release(key)
        elif self._making.get(key, pipe) is not pipe and not self._journal.done(key):
            self._waiting.setdefault(key, []).append(pipe)
        else:
            found = self._journal.rows(key)
            if not found:
                self._making[key] = pipe
            pipe.send(found)

    def left(self, pipe: Connection) -> None:
        """Let others make what a process that has finished with its check has not."""
        for key in [key for key, maker in self._making.items() if maker is pipe]:
            self._release(key)

    def _release(self, key: str) -> None:
        self._making.pop(key, None)
        for pipe in self._waiting.pop(key, []):
            self.answer(pipe, "rows", key)


def findings_by(
    jobs: int,
    checks: Sequence[Check],
    order: Order,
    journal: Archive,
    progress: Callable[[str], object] = lambda doing: None,
) -> Iterator[Finding]:
    """Measure checks in several processes, and yield what became of each as it is done; see ``findings``.

    Args:
        jobs: number of processes.
        checks: what to measure, each by one process.
        order: how.
        journal: open; what it holds is not measured again.
        progress: told what is being measured.

    Raises:
        DataError: a process died; what was measured is kept.
        RuntimeError: a check is broken; its traceback.
    """
    context, desk, left = get_context("spawn"), _Desk(journal), deque(checks)
    busy: dict[Connection, Check] = {}

    def engage(pipe: Connection) -> None:
        if left:
            busy[pipe] = left.popleft()
            pipe.send(busy[pipe].id)
        else:
            pipe.send(None)

    with ExitStack() as stack:
        stack.enter_context(_explained(busy, jobs))
        for _ in range(min(jobs, len(checks))):
            pipe, end = context.Pipe()
            process = context.Process(target=_work, args=(end, order), daemon=True)
            with deaf():
                process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            end.close()
            engage(pipe)
        while busy:
            for ready in connection.wait(list(busy)):
                pipe = cast(Connection, ready)
                verb, *rest = pipe.recv()
                if verb == "found":
                    yield Finding(busy.pop(pipe), *rest)
                    desk.left(pipe)
                    engage(pipe)
                elif verb == "broke":
                    raise RuntimeError(f"{busy[pipe].id} is broken:\n{rest[0]}")
                elif verb == "doing":
                    progress(*rest)
                else:
                    desk.answer(pipe, verb, *rest)


@contextmanager
def _explained(busy: Mapping[Connection, Check], jobs: int) -> Iterator[None]:
    """Say of a pipe that breaks what it means.

    Raises:
        DataError: one does.
    """
    try:
        yield
    except (EOFError, OSError):
        measured = " or ".join(check.id for check in busy.values()) or "the last finding"
        raise DataError(
            f"the process that measured {measured} died; is there memory enough for {jobs + 1} models? What was "
            "measured is kept: run the same command again, or with fewer --jobs"
        ) from None
