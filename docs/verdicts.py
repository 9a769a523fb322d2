"""Copy the verdicts of figures/*.json into README.md, the last self-test into docs/self-test.md: ``make readme``.

Of verdicts only words are copied, no measured numbers: those differ in the last digits from machine to machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from linnet.report import words
from linnet.report.text import plain

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?<=<!-- verdicts -->\n).*?(?=<!-- /verdicts -->)", re.DOTALL)
FOUND = re.compile(r"(?<=<!-- real-models -->\n).*?(?=<!-- /real-models -->)", re.DOTALL)
PRINTED = re.compile(r"(?<=<!-- self-test -->\n).*?(?=<!-- /self-test -->)", re.DOTALL)


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
        if row["sharper"]:
            note = f"loose; its sharp form is `{row['sharper']}`"
        cells = (f"`{row['id']}`", plain(row["source"]), row["verdict"], plain(note))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def updated(readme: str, ledger: dict) -> str:
    """Return the text of README.md with the verdicts of ``ledger``."""
    return BLOCK.sub(lambda _: table(ledger), readme)


def models() -> list[dict]:
    """Return the ledgers of findings on real models, by the name of the model."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "figures").glob("llm-*.json"))]


def found(readme: str, ledgers: Sequence[dict]) -> str:
    """Return the text of README.md with what became of the findings, a column a model; empty if one was not asked."""
    words = [{row["id"]: row["verdict"] for row in ledger["claims"]} for ledger in ledgers]
    sources = {row["id"]: row["source"] for ledger in ledgers for row in ledger["claims"]}
    head = ["finding", "stated in", *(f"{one['model']['name']}, `{one['budget']}`" for one in ledgers)]
    rows = [(f"`{name}`", plain(sources[name]), *(of.get(name, "") for of in words)) for name in sorted(sources)]
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (head, ["---"] * len(head), *rows)]
    return FOUND.sub(lambda _: "\n".join(lines) + "\n", readme)


def tested(page: str, printed: str) -> str:
    """Return the text of docs/self-test.md with what ``linnet verify --self-test`` printed."""
    lines = "\n".join(line.rstrip() for line in printed.splitlines())
    return PRINTED.sub(lambda _: f"```text\n{lines}\n```\n", page)


if __name__ == "__main__":
    page, printed = ROOT / "docs" / "self-test.md", ROOT / "figures" / "self-test.txt"
    page.write_text(tested(page.read_text(encoding="utf-8"), printed.read_text(encoding="utf-8")), encoding="utf-8")
    path = ROOT / "README.md"
    ledger = json.loads((ROOT / "figures" / "ledger.json").read_text(encoding="utf-8"))
    readme = updated(path.read_text(encoding="utf-8"), ledger)
    path.write_text(found(readme, models()), encoding="utf-8")
