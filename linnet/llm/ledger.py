"""The ledger of findings: one file a model, which grows finding by finding."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linnet.errors import DataError
from linnet.report.files import Outputs
from linnet.trials.ledger import read

SAME = ("model", "budget", "amounts", "seeds")
"""What all rows of a ledger share."""


class Ledger:
    """Findings on one model under one budget, in a file. What other runs measured of the same stays.

    Args:
        path: of the file; None keeps nothing.
        header: what is true of all findings, ``SAME`` among it.

    Raises:
        DataError: the file cannot be written, is no ledger, or holds findings on another model, budget or seeds.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any]) -> None:
        self.path, self._header = path, dict(header)
        if path is not None:
            with Outputs([path]):  # refused now, not in an hour
                self._rows()

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row, in place of the one that the file has of the same finding.

        Raises:
            DataError: as above; what the file held stays.
        """
        if self.path is None:
            return
        with _alone_in(self.path.resolve().parent), Outputs([self.path]) as outputs:
            rows = {one["id"]: one for one in (*self._rows(), row)}
            ledger = self._header | {"claims": [rows[name] for name in sorted(rows)]}
            text = json.dumps(ledger, indent=1, allow_nan=False) + "\n"
            outputs.part(self.path).write_text(text, encoding="utf-8")
            outputs.commit()

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        if self.path is None or not self.path.exists():
            return []
        ledger = read(self.path)
        if others := [line for key in SAME for line in _differing(key, ledger.get(key), self._header[key])]:
            what = "; ".join(others)
            raise DataError(
                f"{self.path} holds findings measured otherwise ({what}); give another file, or move it away"
            )
        rows: list[dict[str, Any]] = ledger["claims"]
        return rows


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other processes that write a ledger in a folder: of two that read it and then write, one would lose."""
    at = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(at, fcntl.LOCK_EX)
        yield
    finally:
        os.close(at)


def _differing(name: str, there: Any, now: Any) -> list[str]:
    """Return in words what differs, part by part."""
    if there == now:
        return []
    if isinstance(there, dict) and isinstance(now, dict):
        return [line for key in now for line in _differing(f"{name}'s {key}", there.get(key), now[key])]
    return [f"{name} {_said(there)} there, {_said(now)} now"]


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
