"""Sweeps of the toy study: written to a folder, run as a user would, counted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from linnet.sweep import read_sweep, sweep_of

LINNET = [sys.executable, "-c", "from linnet.cli import main; main()"]
STUDY = Path(__file__).with_name("toy_study.py")


def write(folder, text, name="toys"):
    """Return a sweep's file, beside a copy of the toy study."""
    if not (folder / "toy.py").exists():
        shutil.copy(STUDY, folder / "toy.py")
    file = folder / f"{name}.toml"
    file.write_text('title = "Toys"\nstudy = "toy.py"\n' + text)
    return file


def toys(folder, text, name="toys"):
    """Return a sweep of the toy study."""
    return read_sweep(write(folder, text, name))


SHORT = """from __future__ import annotations
from dataclasses import dataclass
from linnet.sweep import Study
{imports}
@dataclass(frozen=True)
class Row:
    {column}
class Mine(Study):
    Row = Row
    size: int = 0
    def run(self):
        return {rows}
"""


def short(column="value: float", rows="[Row(1.0)]", imports=""):
    """Return a file with a study of this column and these rows."""
    return SHORT.format(column=column, rows=rows, imports=imports)


def mine(folder, column="value: float", rows="[Row(1.0)]", imports="", name="mine.py"):
    """Return a sweep of one cell whose study is written here."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(short(column, rows, imports))
    return sweep_of({"title": "t", "study": name}, beside=folder)


def ran(folder):
    """Return the seeds of the cells that were begun, in order, as often as they were."""
    log = folder / "log"
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


def processes(folder):
    """Return the processes that began cells."""
    log = folder / "log"
    return {int(line.split()[1]) for line in log.read_text().splitlines()} if log.exists() else set()


def started(*arguments, before="", **options):
    """Return ``linnet sweep``, running; ``before`` is Python that it runs first."""
    command = LINNET if not before else [sys.executable, "-c", f"{before}\n{LINNET[-1]}"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*command, "sweep", *map(str, arguments)], env={**os.environ}, **options)


def linnet(*arguments, before="", cwd=None):
    """Run ``linnet sweep`` to its end."""
    process = started(*arguments, before=before, cwd=cwd)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def refused(done, code=2):
    """Return the one line on standard error; no traceback."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("linnet: ")
    return lines[0]
