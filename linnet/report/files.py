"""Output files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from linnet.errors import DataError


class Outputs:
    """Reserves a temporary file beside each target at once, and moves them into place together at the end.

    A target that cannot be written is thus refused before anything is computed, and whatever goes wrong
    later leaves nothing behind.

    Raises:
        DataError: on entering, a target that cannot be written, is named twice or is among the inputs.
    """

    def __init__(self, targets: Sequence[Path], inputs: Iterable[Path] = ()) -> None:
        self._targets = list(targets)
        self._inputs = list(inputs)
        self._parts: dict[Path, Path] = {}

    def __enter__(self) -> Self:
        try:
            for target in self._targets:
                self._parts[target] = self._reserved(target)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def part(self, target: Path) -> Path:
        """Return the temporary file to write in place of ``target``."""
        return self._parts[target]

    def commit(self) -> None:
        """Move all files into place.

        Raises:
            DataError: the system refuses.
        """
        for target, part in list(self._parts.items()):
            try:
                os.replace(part, os.path.realpath(target))
            except OSError as err:
                raise DataError(_refused(target, err)) from None
            del self._parts[target]

    def _reserved(self, target: Path) -> Path:
        real = Path(os.path.realpath(target))
        if real in {Path(os.path.realpath(p)) for p in self._inputs}:
            raise DataError(f"{target} is one of the inputs and would be overwritten; give another path")
        if real in {Path(os.path.realpath(p)) for p in self._parts}:
            raise DataError(f"{target} was given for two outputs; give each its own path")
        if real.exists() and not real.is_file():
            raise DataError(f"{target} is not a regular file and cannot be written; give a path to a file")
        if real.exists() and not os.access(real, os.W_OK):
            raise DataError(f"{target} is read-only; make it writable or give another path")
        part = real.parent / f".{real.name}.{os.getpid()}.part"
        try:
            part.open("xb").close()
        except OSError as err:
            raise DataError(_refused(target, err)) from None
        return part

    def _discard(self) -> None:
        for part in self._parts.values():
            with contextlib.suppress(OSError):
                part.unlink()
        self._parts.clear()


def _refused(target: Path, err: OSError) -> str:
    reason = err.strerror or type(err).__name__
    return f"{target} cannot be written ({reason.lower()}); give a path in an existing folder that you may write to"
