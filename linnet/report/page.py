"""The ledger as one page of HTML that needs nothing else: no network, no font, no script to be read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from linnet.report import text, words
from linnet.report.histogram import histogram, power
from linnet.trials.claim import Claim

TEMPLATE = Path(__file__).with_name("page.html.jinja")
NEGATED = {"==": "≠", "<=": "≰", ">=": "≱", "<": "≮", ">": "≯", "<~": "≴", "~": "≁"}
SIGNS = {"==": "=", "<=": "≤", ">=": "≥", "<": "<", ">": ">", "<~": "≲", "~": "∼"}
BALL = re.compile(r"\[(\S+) \+/- (\S+)\]")

# What the instances of a setting are called in its claims, and in a file.
SYMBOLS = {
    "layer": {
        "coef_train": "B_i", "coef_test": "B_o", "cov_train": r"\Sigma_i", "cov_test": r"\Sigma_o", "weights": "W",
        "rank": "r", "channels": "C",
    },
    "quadratic": {"eps": r"\epsilon", "grad": r"\nabla"},
    "activated": {"weights": "W", "increments": r"\Phi"},
    "parametrisation": {
        "alpha": r"\alpha", "beta": r"\beta", "at": r"\Phi", "other": r"\Phi'", "other_U": "U'", "other_V": "V'",
        "grad": r"\nabla", "direction_U": r"\dot U", "direction_V": r"\dot V",
    },
}  # fmt: skip
COUNTED_FROM_ONE = {"activated"}
"""Settings whose claims count layers from one."""


def page(ledger: Mapping[str, Any], claims: Mapping[str, Claim]) -> str:
    """Draw a ledger.

    Args:
        ledger: as ``linnet verify --json`` writes it; all verdicts and numbers are its own.
        claims: by id, for statements and proofs; what is missing here is said to be missing.
    """
    from jinja2 import Environment, StrictUndefined

    rows: Sequence[words.Row] = ledger["claims"]
    link = _links(rows, claims)
    replaces: dict[str, list[str]] = {}
    for row in rows:
        for named in {row["replaced_by"], row["nearest"]} - {None}:
            replaces.setdefault(named, []).append(row["id"])
    panels = [_panel(row, claims.get(row["id"]), replaces.get(row["id"], []), link) for row in rows]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["inline"] = lambda value: _safe(text.inline(value, link))
    environment.filters["number"] = number
    environment.filters["signed"] = lambda value, digits: f"{value:{digits}}".replace("-", "−")
    environment.filters["to"] = lambda name: _safe(_reference(name, link))
    counts = Counter(row["verdict"] for row in rows)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        facts={"budget": ledger["budget"], "seed": ledger["seed"], "linnet": ledger["linnet"]},
        panels=panels,
        papers=sorted({paper(row["id"]) for row in rows}),
        counts=[(name, counts[name], words.MEANINGS[name]) for name in words.MEANINGS if counts[name]],
        failures=ledger.get("failures", {}),
        seconds=sum(row["seconds"] for row in rows),
    )


def paper(name: str) -> str:
    """Return the part of an id before its slash."""
    return name.partition("/")[0]


def anchor(name: str) -> str:
    """Return the address of a claim within the page; no name of the page itself has only such characters."""
    return quote(name, safe="/")


def _safe(markup: str) -> Any:
    from markupsafe import Markup

    return Markup(markup)


def _links(rows: Sequence[words.Row], claims: Mapping[str, Claim]) -> text.Link:
    """Return what maps ids of claims, and names of proofs, to addresses within the page."""
    found: dict[str, str] = {}
    for row in rows:
        proof = claims[row["id"]].proof if row["id"] in claims else None
        for name in (row["id"], *([proof, Path(proof).name] if proof else [])):
            found.setdefault(name, "#" + anchor(row["id"]))
    return found.get


def _reference(name: str, link: text.Link) -> str:
    address = link(name)
    said = f"<code>{escape(name)}</code>"
    return said if address is None else f'<a href="{escape(address)}">{said}</a>'


def _panel(row: words.Row, claim: Claim | None, replaces: Sequence[str], link: text.Link) -> dict[str, Any]:
    """Return what the template says of a claim: the row as it is, and the rest as words and markup."""
    found = row.get("histogram")
    if found is not None and not any(found["drawn"]) and not any(found["searched"]):
        found = None
    certificate = row["certificate"]
    courses = certificate if certificate and "courses" in certificate else None
    said = words.sentence(row)
    if row["nearest"]:
        said = said.replace(row["nearest"], f"`{row['nearest']}`")
    return {
        "row": row,
        "anchor": anchor(row["id"]),
        "paper": paper(row["id"]),
        "sign": SIGNS[row["relation"]],
        "margin": number(row["margin"]) if words.margin(row) else "",
        "ratio": "" if row["ratio"] is None else number(row["ratio"]),
        "tightness": words.tightness(row).replace("x", "×"),
        "factor": words.loose_by(row) or (1.0 if row["tight"] and words.tightness(row) else None),
        "summary": _summary(row),
        "sentence": _typeset(said[:1].upper() + said[1:]) + ".",
        "instances": grouped(row["instances"]),
        "statement": None if claim is None else _safe(text.html(claim.statement, link)),
        "words": _sought(row, claim),
        "setting": claim.setting.name if claim else None,
        "histogram": None if found is None else _safe(histogram(found, row["relation"], row["id"])),
        "fit": row["fit"] if row["fit"] and "exponent" in row["fit"] else None,
        "exact": None if certificate is None or courses else _exact(certificate),
        "ratios": _ratios(row["ratios"]),
        "equalities": [_exact(record) for record in row["equalities"] or ()],
        "courses": None if courses is None else {**courses, "courses": [_course(c) for c in courses["courses"]]},
        "worst": None if row["worst"] is None else _worst(row["worst"]),
        "replaces": replaces,
        "proof": _proof(claim, link),
    }


def _sought(row: words.Row, claim: Claim | None) -> str:
    """Return what the search looks in: small letters, formulas as they are on a terminal, no points, so F.8 is f8."""
    said = [row["id"], row["source"], *row["hypotheses"], claim.statement if claim else ""]
    return re.sub(r"[.,]", "", text.plain(" ".join(said))).lower()


def _summary(row: words.Row) -> str:
    """Say in a few words what the verdict comes to."""
    if row["holds_if"]:
        return f"if {'; '.join(row['holds_if'])}"
    if row["verdict"] == "rate":
        return words.order(row)
    factor = words.loose_by(row)
    return "" if factor is None else f"loose by a factor of {factor:.3g}"


def _proof(claim: Claim | None, link: text.Link) -> dict[str, Any] | None:
    """Return the part of its proof that speaks of a claim."""
    if claim is None or claim.proof is None:
        return None
    file = claim.proof_file
    if file is None:
        return {"path": claim.proof, "html": None}
    written = text.sections(file.read_text(encoding="utf-8"), claim.id)
    return {"path": claim.proof, "html": _safe(text.document(written, link))}


def number(x: float) -> str:
    """Return a number with four digits, small and large ones with a power of ten."""
    if x == 0:
        return "0"
    if not math.isfinite(x):
        return str(x)
    if 1e-3 <= abs(x) < 1e5:
        return f"{x:.4g}".replace("-", "−")
    digits, exponent = f"{x:.1e}".split("e")
    return f"{digits}×{power(int(exponent))}".replace("-", "−")


def grouped(n: int) -> str:
    """Return a whole number in groups of three digits."""
    return f"{n:,}".replace(",", "\u202f")


def _typeset(said: str) -> str:
    """Return a sentence of the terminal with its powers of ten and large numbers as on paper."""
    said = re.sub(r"(-?[\d.]+)e([+-]\d+)", lambda n: f"{n[1]}×{power(int(n[2]))}", said)
    said = re.sub(r"(?<![\w.-])\d{5,}(?![\w.])", lambda n: grouped(int(n[0])), said)
    return re.sub(r"(?<!\w)-(?=[\d.])", "−", said)


def _ratios(bounds: Sequence[Mapping[str, float]] | None) -> dict[str, Any] | None:
    """Return the worst ratios as a table: a column for each way to find them, a row for each bound."""
    if not bounds:
        return None
    ways = list(dict.fromkeys(way for bound in bounds for way in bound))
    rows = [[number(bound[way]) if way in bound else "" for way in ways] for bound in bounds]
    return {"ways": ways, "rows": rows}


def _exact(certificate: Mapping[str, Any]) -> dict[str, Any]:
    sides = [str(certificate[side]) for side in ("observed", "stated")]
    return {
        "observed": _side(sides[0]),
        "stated": _side(sides[1]),
        "sign": SIGNS[certificate["relation"]],
        "negated": NEGATED[certificate["relation"]],
        "bound": certificate.get("bound"),
        "enclosed": any(BALL.search(side) for side in sides),
        "instance": list(_instance(certificate["instance"], certificate["setting"])),
    }


def _side(value: str) -> Any:
    """Return a side of a comparison: a whole number, a fraction, a ball with its radius, or words."""
    if fraction := re.fullmatch(r"(-?)(\d+)/(\d+)", value):
        sign, above, below = fraction.groups()
        minus = "<mo>−</mo>" if sign else ""
        return _safe(f"<math>{minus}<mfrac><mn>{above}</mn><mn>{below}</mn></mfrac></math>")
    if re.fullmatch(r"-?\d+", value):
        return _safe(f"<math><mn>{value.replace('-', '−')}</mn></math>")
    return _typeset(BALL.sub(lambda ball: f"{ball[1]} ± {ball[2]}", value))


def _course(course: Mapping[str, Any]) -> dict[str, Any]:
    columns = (course[name] for name in ("sizes", "observed", "error", "stated"))
    return {
        "shape": _shape(course["shape"]),
        "parameters": list(_instance(course["parameters"], "")),
        "rows": [
            (grouped(n), number(a), number(e), number(b), number(a / b) if b else "")
            for n, a, e, b in zip(*columns, strict=True)
        ],
    }


def _worst(worst: Mapping[str, Any]) -> dict[str, Any]:
    return {"shape": _shape(worst["shape"]), "parameters": list(_instance(worst["parameters"], ""))}


def _shape(shape: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_plainly(value)}" for name, value in shape.items() if value not in ([], "", None)
    )


def _plainly(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "(" + ", ".join(map(_plainly, value)) + ")"
    return str(value).replace("-", "−") if isinstance(value, int | float) else str(value)


def _instance(instance: Mapping[str, Any], setting: str) -> Iterator[Any]:
    """Yield what an instance consists of: matrices as formulas, all else as words."""
    symbols = SYMBOLS.get(setting, {})
    first = setting in COUNTED_FROM_ONE
    for name, value in instance.items():
        symbol = symbols.get(name)
        if _is_matrix(value):
            yield _matrix(symbol, name, value)
        elif isinstance(value, list) and value and all(map(_is_matrix, value)):
            for k, one in enumerate(value):
                yield _matrix(symbol and f"{symbol}_{k + first}", f"{name}[{k}]", one)
        else:
            yield _safe(f"<span>{_label(symbol, name)} = {escape(_plainly(value))}</span>")


def _is_matrix(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(r, list) and not any(isinstance(x, list) for x in r) for r in value)
    )


def _label(symbol: str | None, name: str) -> str:
    called = f"<code>{escape(name)}</code>"
    return f"{text.inline(f'${symbol}$')} {called}" if symbol else called


def _matrix(symbol: str | None, name: str, rows: Sequence[Sequence[Any]]) -> Any:
    cells = "".join(
        "<mtr>" + "".join(f"<mtd><mn>{escape(_entry(x))}</mn></mtd>" for x in row) + "</mtr>" for row in rows
    )
    return _safe(
        f'<span class="matrix"><span>{_label(symbol, name)} =</span>'
        f'<math><mtable class="m">{cells}</mtable></math></span>'
    )


def _entry(x: Any) -> str:
    return x.replace("-", "−") if isinstance(x, str) else number(x)
