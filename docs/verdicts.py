"""Copy the verdicts of figures/ledger.json into README.md: ``make readme``.

Only words are copied, no measured numbers: those differ in the last digits from machine to machine.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from linnet.report import words
from linnet.report.text import plain

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?<=<!-- verdicts -->\n).*?(?=<!-- /verdicts -->)", re.DOTALL)


def table(ledger: dict) -> str:
    """Return the verdicts as a table in Markdown."""
    lines = ["| claim | stated in | verdict | |", "| --- | --- | --- | --- |"]
    for row in ledger["claims"]:
        note = f"if {'; '.join(row['holds_if'])}" if row["holds_if"] else ""
        if row.get("nearest"):
            note = f"its nearest reading is `{row['nearest']}`"
        if row.get("fit") and row["verdict"] == "rate":
            note = words.order(row)
        if row["replaced_by"]:
            note = f"read `{row['replaced_by']}` in its place"
        cells = (f"`{row['id']}`", plain(row["source"]), row["verdict"], plain(note))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def updated(readme: str, ledger: dict) -> str:
    """Return the text of README.md with the verdicts of ``ledger``."""
    return BLOCK.sub(lambda _: table(ledger), readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    ledger = json.loads((ROOT / "figures" / "ledger.json").read_text(encoding="utf-8"))
    path.write_text(updated(path.read_text(encoding="utf-8"), ledger), encoding="utf-8")
