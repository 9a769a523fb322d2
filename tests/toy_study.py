"""A study whose cells take no time, note that they ran, and fail when they are told to. Tests copy this file."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from linnet.sweep import MisfitError, Part, Study

HERE = Path(__file__).parent


@dataclass(frozen=True)
class ToyRow:
    method: str
    value: float
    limit: float
    error: float | None
    count: int | None
    label: str | None


class Box(Part):
    width: Annotated[int, Field(ge=1)] = 4
    depth: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.depth > self.width:
            raise MisfitError(("depth",), f"Depth {self.depth} in a box of width {self.width}")
        return self


class ToyStudy(Study):
    Row: ClassVar[type] = ToyRow
    aside: ClassVar[tuple[str, ...]] = ("methods",)

    methods: list[str] = ["a", "b"]  # noqa: RUF012  # pydantic copies it
    n: float = math.inf
    kind: int | Literal["none"] | None = None
    sizes: list[int] | None = None
    box: Box = Box()
    wait: float = 0
    fate: Literal["", "raise", "leave", "exit", "kill", "interrupt"] = ""

    def run(self) -> list[ToyRow]:
        with (HERE / "log").open("a") as log:
            log.write(f"{self.seed} {os.getpid()}\n")
        time.sleep(self.wait)
        if not (HERE / "healed").exists():
            self._meet_fate()
        rng = self.stream("value", self.n)
        return [ToyRow(name, float(rng.normal()), self.n, None, None, None) for name in self.methods]

    def _meet_fate(self) -> None:
        match self.fate:
            case "raise":
                raise ValueError(f"[/cell {self.seed}] is wrong")
            case "leave":
                raise SystemExit(0)
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "interrupt":
                raise KeyboardInterrupt
