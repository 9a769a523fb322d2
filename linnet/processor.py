"""The processor and its memory: linnet runs as many processes as there are cores, which the threads of BLAS must not
multiply, and which take the same memory again and again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What BLAS reads when a process loads it."""

BRINGING = ("numpy", "scipy.linalg", "torch", "sklearn")
"""Modules that bring a BLAS of their own."""

KEPT = {"MALLOC_MMAP_THRESHOLD_": (-3, 1 << 25), "MALLOC_TRIM_THRESHOLD_": (-1, 1 << 28)}
"""Of glibc, by the variables that say so in its place: from how many bytes on an array is given back when it is let go
of, and how many bytes of smaller ones are kept; 32 MiB is the most that the first may be. With the numbers that
``mallopt`` knows them by."""

_counting = threading.Lock()
_inside = 0
"""How many in this process are inside ``one_thread``."""
_limit: Any = None
"""What gives BLAS its threads back when the last of them leaves."""


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return what the processor is called."""
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    return " / ".join(sorted(names)) or platform.processor() or platform.machine()


@contextmanager
def children_of_one_thread() -> Iterator[None]:
    """Give the processes that are started meanwhile one thread for BLAS, whatever the environment asks for."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def one_thread() -> Iterator[None]:
    """Give BLAS one thread in this process, until the last of the threads that ask for it has left."""
    global _inside, _limit
    with _counting:
        if _inside == 0:
            _limit = _controller(tuple(name in sys.modules for name in BRINGING)).limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _counting:
            _inside -= 1
            if _inside == 0:
                _limit.restore_original_limits()
                _limit = None


def keep_memory() -> None:
    """Let this process keep memory that arrays are done with, for those that follow; nothing where it is not glibc's.

    Else pages are given back to the system, which clears them before it gives them out again: ``benchmarks/scale.py``
    says how long that takes. For processes of linnet's own, not for those of others; what the environment says counts.
    """
    import ctypes

    mallopt = None if os.name == "nt" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not KEPT.keys() & os.environ.keys():
        for option, size in KEPT.values():
            mallopt(option, size)


@cache
def _controller(loaded: tuple[bool, ...]) -> Any:
    """Return what finds all BLAS libraries, looked for anew when another may have been loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
