"""What a sweep has computed so far, on disk: killed at any moment, every finished cell stays."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from linnet.errors import DataError


class Journal:
    """Finished cells by their keys, in one SQLite file that one process at a time may hold.

    A transaction a cell: after kill -9 the file holds exactly the cells that were added.

    Args:
        path: of the file; made if it does not exist.
        identity: what all results in it depend on beside the parameters, such as versions.

    Raises:
        DataError: another process holds it, it is no journal, it was written under another identity, or the disk
            refuses; what it holds stays.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = json.loads(json.dumps(identity))
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        with self._explained():
            # No waiting: whoever holds the file holds it for hours.
            self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            # Exclusive, so that the log needs no shared memory, which network file systems lack.
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
                self._sql(f"PRAGMA {pragma}")
            self._sql("CREATE TABLE IF NOT EXISTS identity (written TEXT)")
            self._sql("CREATE TABLE IF NOT EXISTS cells (key TEXT PRIMARY KEY, rows TEXT, error TEXT) WITHOUT ROWID")
            found = self._sql("SELECT written FROM identity").fetchone()
            if found is None:
                self._sql("INSERT INTO identity VALUES (?)", json.dumps(self._identity))
        if found is not None and json.loads(found[0]) != self._identity:
            self._close()
            raise DataError(_changed(self.path, json.loads(found[0]), self._identity))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def add(self, key: str, rows: str | None, error: str | None) -> None:
        """Keep one cell: its rows, as JSON, or why it failed.

        Raises:
            DataError: the disk refuses; everything added before is kept.
        """
        with self._explained():
            self._sql("INSERT OR REPLACE INTO cells VALUES (?, ?, ?)", key, rows, error)

    def done(self, key: str) -> bool:
        """Return whether the cell's rows are here; a failed one is not done."""
        with self._explained():
            return self._sql("SELECT 1 FROM cells WHERE key = ? AND rows IS NOT NULL", key).fetchone() is not None

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Return the rows of a cell; none, if it has not been computed."""
        with self._explained():
            found = self._sql("SELECT rows FROM cells WHERE key = ?", key).fetchone()
        return [] if found is None or found[0] is None else json.loads(found[0])

    def error(self, key: str) -> str | None:
        """Return why a cell failed; None if it did not, or was not tried."""
        with self._explained():
            found = self._sql("SELECT error FROM cells WHERE key = ?", key).fetchone()
        return None if found is None else found[0]

    def _sql(self, text: str, *values: Any) -> sqlite3.Cursor:
        assert self._connection is not None, "the journal is not open"
        return self._connection.execute(text, values)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as err:
            self._close()
            raise DataError(_refused(self.path, err)) from None


def _refused(path: Path, err: sqlite3.Error) -> str:
    reason = str(err)
    if "locked" in reason:
        return f"{path} is held by another run of this sweep; wait for it, or give another --out"
    if "not a database" in reason or "malformed" in reason:
        return f"{path} is not a journal of linnet, or is damaged; move it away, or give another --out"
    kept = "every finished cell is kept: mend that and run the same command again"
    return f"{path} cannot be written ({reason}); {kept}"


def _changed(path: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    names = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
    differing = ", ".join(f"{k} {before.get(k)} then, {now.get(k)} now" for k in names)
    return (
        f"{path} was written by other versions ({differing}), whose results must not be mixed; they are kept: "
        "go back to those versions, or give another --out"
    )
