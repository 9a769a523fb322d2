"""What the site is made of beside the files in docs: ``mkdocs build`` calls these functions.

Formulas become MathML by linnet's own reader of TeX, names of claims become links into the ledger, and the verdicts,
the gallery, the notebooks and the changelog are made from where they live. What is wrong is a warning, and so an error
under ``--strict``: a formula that does not parse, above all.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from html import escape, unescape
from pathlib import Path
from types import ModuleType
from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from linnet.report import tex, text, words
from linnet.report.page import anchor

log = logging.getLogger("mkdocs.hooks.linnet")
ROOT = Path(__file__).resolve().parent.parent
FIGURES, NOTEBOOKS = ROOT / "figures", ROOT / "notebooks"
SILENT = "<math data-search-exclude"
LEDGER, NO_LEDGER = "ledger.html", "There is no ledger yet: `make verify` writes it."

# Code is stepped over: spans between backquotes, and what is indented after an empty line. Fenced blocks are gone then.
SPAN = r"(?<![\\`])(`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)\1(?!`)"
INDENTED = r"(?:\A|(?<=\n\n))(?: {4}.*(?:\n|\Z)|\n(?= {4}))+"
CODE_OR_FORMULA = re.compile(rf"{SPAN}|{text.FORMULA.pattern}", re.DOTALL)
CODE_BLOCK = re.compile(INDENTED)
JOINT = re.compile(
    r"<b><code><[^>]*>([^<]*),</[^>]*></code></b>"
    r"\s*\(<code>\(?((?:<[^>]*>\w+</[^>]*>(?:, )?)+)\)?</code>\)"
)
"""Attributes that share a text, ``a, b: text``: Griffe takes the first for the name, and the others for its type."""
MATRIX = re.compile(r"<mo>\(</mo><mtable>((?:(?!<mtable).)*?)</mtable><mo>\)</mo>")
"""Few fonts have brackets that grow: the site draws those of matrices itself."""

PAPERS = {"conjecture": "Conjectures of this project", "linnet": "In place of what is false, loose or unclear"}
THEMES = {
    "Risk and samples": ("samples", "subspace", "interpolation", "lora-variance"),
    "Risk and rank": ("ranks",),
    "What is forgotten": ("forgetting", "forgetting-data", "memorisation", "memorisation-digits"),
    "Which channels": ("selection", "selection-digits", "fusion"),
    "Weights, layers and steps": ("capacity", "sensitivity", "increments", "descent", "width"),
    "Language models": ("serving",),
}
"""The order of the gallery; pictures that stand in no theme come last, under a heading of their own."""
OTHERS = "Others"
TITLES = {"lora": "LoRA", "peft": "PEFT", "s2ft": "S2FT"}
OUTSIDE = {"CHANGELOG.md": "changelog.md", "README.md": "index.md", "figures/ledger.html": LEDGER}
"""Files that pages may link to as the repository has them, and where the site has them."""


# --- formulas ----------------------------------------------------------------------------------------


class Formulas(Preprocessor):
    """Replaces formulas by MathML before tables and emphasis are looked for: both would take a formula apart."""

    page = ""
    """What is being read, for those who look for a formula."""

    def run(self, lines: list[str]) -> list[str]:
        """Return the lines with formulas stashed."""
        whole = "\n".join(lines)
        out, end = [], 0
        for block in CODE_BLOCK.finditer(whole):
            out += [CODE_OR_FORMULA.sub(self._typeset, whole[end : block.start()]), block[0]]
            end = block.end()
        out.append(CODE_OR_FORMULA.sub(self._typeset, whole[end:]))
        return "".join(out).split("\n")

    def _typeset(self, found: re.Match[str]) -> str:
        if found[1]:
            return found[0]
        display = found[2] is not None
        formula = tex.mathml((found[2] or found[3]).strip(), display)
        if formula is None:
            log.warning("%s: a formula does not parse: %s", self.page, found[0])
            formula = f"<code>{escape(found[0])}</code>"
        formula = MATRIX.sub(r'<mtable class="matrix">\1</mtable>', formula)
        said = escape(tex.plain((found[2] or found[3]).strip()) or found[0])
        markup = f'<span class="{"display" if display else "tex"}" data-said="{said}">{formula}</span>'
        return str(self.md.htmlStash.store(markup))


class FormulaExtension(Extension):
    """Formulas in Markdown, in pages and in docstrings."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Come after fenced blocks (25) and before blocks of HTML (20)."""
        md.preprocessors.register(Formulas(md), "linnet-formulas", 24)


# --- the site ------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Have formulas read, and put proofs and notebooks into the navigation."""
    config.markdown_extensions.append(FormulaExtension())
    proofs = [{_title(path.stem): f"proofs/{path.name}"} for path in _proofs()]
    notebooks = [{_notebook_title(path): f"notebooks/{path.stem}.md"} for path in _notebooks()]
    _extend(config.nav or [], {"proofs/index.md": proofs, "notebooks/index.md": notebooks})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made here, and what the pages show from elsewhere."""

    def add(name: str, **made: Any) -> None:
        if (there := files.get_file_from_path(name)) is not None:
            files.remove(there)
        files.append(File.generated(config, name, **made))

    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    add("changelog.md", content=changes.replace("](docs/", "]("))
    if (FIGURES / "ledger.html").is_file():
        add(LEDGER, abs_src_path=str(FIGURES / "ledger.html"))
    for path in sorted(FIGURES.glob("*.png")):
        for beside in (path, path.with_suffix(".pdf")):
            if beside.is_file():
                add(f"figures/{beside.name}", abs_src_path=str(beside))
    for path in _notebooks():
        page, pictures = _notebook(path)
        add(f"notebooks/{path.stem}.md", content=page)
        for name, data in pictures.items():
            add(f"notebooks/{name}", content=data)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what a page leaves to be made, and turn links out of docs into links within the site."""
    Formulas.page = page.file.src_uri
    made = {
        "counts": _counts,
        "verdicts": _verdicts,
        "gallery": _gallery,
        "studies": _studies,
        "notebooks": _list_of_notebooks,
        "other proofs": _other_proofs,
        "budgets": _budgets,
        "costs": _costs,
        "findings": _findings,
        "systems": _systems,
        **_beside("benchmarks").TABLES,
    }
    for name, make in made.items():
        if f"<!-- {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- {name} -->", make(markdown))
    here = posixpath.dirname(page.file.src_uri)
    for there, name in OUTSIDE.items():
        target = posixpath.relpath(there, posixpath.join("docs", here))
        markdown = re.sub(rf"\]\({re.escape(target)}(?=[)#])", f"]({posixpath.relpath(name, here or '.')}", markdown)
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link names of claims to the ledger, and names of pages to the pages, wherever they stand as code."""
    html = JOINT.sub(_apart, html)
    targets = _targets(files) if page.file.src_uri != "changelog.md" else {}

    def linked(found: re.Match[str]) -> str:
        name = unescape(found[1])
        address, _, place = targets.get(name, "").partition("#")
        if not address or address == page.file.src_uri:
            return found[0]
        file = files.get_file_from_path(address)
        url = file.url_relative_to(page.file) if file else ""
        return f'<a href="{escape(url + ("#" + place if place else ""))}">{found[0]}</a>' if url else found[0]

    # Neither in headings, nor where there is a link already, nor in blocks of code.
    parts = re.split(r"(<h\d.*?</h\d>|<a\b.*?</a>|<pre\b.*?</pre>)", html, flags=re.DOTALL)
    parts[::2] = [re.sub(r"<code>([^<>]+)</code>", linked, part) for part in parts[::2]]
    html = re.sub(r"<p>Source: ", '<p class="source"><span>Source</span> ', "".join(parts))
    # What the search finds, and shows, is a line of Unicode; markup without its tags would say 22 for 2√2.
    html = re.sub(r' data-said="([^"]*)">', r"><span hidden> \1 </span>", html).replace("<math", SILENT)
    return text._glued(html)


def _apart(found: re.Match[str]) -> str:
    names = [found[1], *re.findall(r">(\w+)<", found[2])]
    return ", ".join(f"<b><code>{name}</code></b>" for name in names)


def _targets(files: Files) -> dict[str, str]:
    """Return which page, and which place on it, a name in code stands for."""
    found = {row["id"]: f"{LEDGER}#{anchor(row['id'])}" for row in _ledger()}
    for file in files.documentation_pages():
        for name in (f"docs/{file.src_uri}", file.src_uri, posixpath.basename(file.src_uri)):
            if posixpath.basename(name) != "index.md":
                found.setdefault(name, file.src_uri)
    return found | {name: there for name, there in OUTSIDE.items() if there != "index.md"}


def _extend(nav: list[Any], more: Mapping[str, list[Any]]) -> None:
    """Make a section of an entry of the navigation: its page, and those that were found."""
    for item in nav:
        for title, where in item.items() if isinstance(item, dict) else ():
            if isinstance(where, list):
                _extend(where, more)
            elif where in more:
                item[title] = [where, *more[where]]


# --- proofs ----------------------------------------------------------------------------------------------


def _proofs() -> list[Path]:
    return [path for path in sorted((ROOT / "docs" / "proofs").glob("*.md")) if path.stem != "index"]


def _title(stem: str) -> str:
    said = " ".join(TITLES.get(word, word) for word in stem.split("-"))
    return said[:1].upper() + said[1:]


def _other_proofs(index: str) -> str:
    """Return rows for the proofs that the index does not name, with their own titles."""
    rows = []
    for path in _proofs():
        if f"]({path.name})" not in index:
            title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            rows.append(f"| [{_title(path.stem)}]({path.name}) | {title} |")
    return "\n".join(rows)


# --- verdicts ----------------------------------------------------------------------------------------------


def _ledger() -> Sequence[words.Row]:
    file = FIGURES / "ledger.json"
    return json.loads(file.read_text(encoding="utf-8"))["claims"] if file.is_file() else []


def _counts(_: str) -> str:
    """Say in a sentence what became of the claims."""
    rows = _ledger()
    if not rows:
        return NO_LEDGER
    counts = Counter(row["verdict"] for row in rows)
    said = ", ".join(f"{counts[name]} {_badge(name)}" for name in words.MEANINGS if counts[name])
    return f"Of **{len(rows)} claims** on trial so far: {said}: [see them all](verdicts.md)."


def _verdicts(_: str) -> str:
    """Return the verdicts, a table a paper; the same words as in README.md, of which every row is a link."""
    from linnet.trials.claim import installed_claims

    rows = _ledger()
    if not rows:
        return NO_LEDGER
    counts, claims, tables = Counter(row["verdict"] for row in rows), installed_claims(), _beside("verdicts")
    out = ["| verdict | claims | what it says |", "| --- | ---: | --- |"]
    out += [f"| {_badge(name)} | {counts[name]} | {said} |" for name, said in words.MEANINGS.items() if counts[name]]
    for paper in dict.fromkeys(row["id"].partition("/")[0] for row in rows):
        rows_here = [row for row in rows if row["id"].partition("/")[0] == paper]
        cells = [("claim", "stated in", "verdict", "", "proof")]
        for row in rows_here:
            (line,) = tables.table({"claims": [row]}).splitlines()[2:]
            note = re.split(r"(?<!\\)\|", line)[4].strip()
            # Of what is false, the proof of what holds in its place.
            ids = [row["id"], row["replaced_by"], row["sharper"]]
            proof = next((claims[i].proof for i in ids if i in claims and claims[i].proof), None)
            stated = "" if row["source"] == proof else row["source"]
            named = f"[{Path(proof).stem}](proofs/{Path(proof).name})" if proof else ""
            cells.append((f"`{row['id']}`", stated, _badge(row["verdict"]), note, named))
        kept = [i for i in range(5) if any(line[i] for line in cells[1:])]
        lines = [f"| {' | '.join(line[i] for i in kept)} |" for line in cells]
        out += [
            "",
            f"## {PAPERS.get(paper, paper)} {{ #{paper} }}",
            "",
            lines[0],
            "| --- " * len(kept) + "|",
            *lines[1:],
        ]
    return "\n".join(out)


def _badge(verdict: str) -> str:
    return f'<span class="badge {verdict}">{verdict}</span>'


def _beside(name: str) -> ModuleType:
    """Return a file of Python that lies beside this one."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"docs/{name}.py is not there; it makes tables of the documentation")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- real models -----------------------------------------------------------------------------------------


def _findings(_: str) -> str:
    """Return what became of the papers' findings on every model that was measured: a table of all, then one each."""
    out = []
    for path in sorted(FIGURES.glob("llm-*.json")):
        ledger = json.loads(path.read_text(encoding="utf-8"))
        model = ledger["model"]
        seeds = ", ".join(map(str, ledger["seeds"]))
        out += [
            f"## {model['name']} {{ #{model['name']} }}",
            "",
            f"{text.plain(model['description'])}. Budget `{ledger['budget']}`, seeds {seeds}. "
            f"{' '.join(_measured_with(ledger['claims']))} Everything measured is in `figures/{path.name}`.",
            "",
            "| finding | stated in | verdict | the source says |",
            "| --- | --- | --- | --- |",
        ]
        rows = ledger["claims"]
        for row in rows:
            named = f"[`{row['id']}`](#{_place(model['name'], row['id'])})"
            out.append(_line(named, row["source"], _badge(row["verdict"]), text.plain(row["finding"])))
        if left := _not_measured(model["kind"], {row["id"] for row in rows}):
            out += ["", f"Not measured yet: {', '.join(f'`{name}`' for name in left)}."]
        for row in rows:
            out += ["", f"### {row['id']} {{ #{_place(model['name'], row['id'])} }}", "", *_effects(row)]
        out.append("")
    return "\n".join(out) or "Nothing has been measured yet: `make findings` does it."


def _measured_with(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return with what most findings were measured, and of the others what is different."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        with_what = row["measured"]
        versions = ", ".join(f"{name} {version}" for name, version in with_what["versions"].items())
        parts = (with_what["device"], versions, f"code {with_what['code'][:8]}")
        found.setdefault(parts, []).append(f"`{row['id']}`")
    most = max(found, key=lambda parts: len(found[parts]))
    others = {
        "; ".join(part for part, usual in zip(parts, most, strict=True) if part != usual): names
        for parts, names in found.items()
        if parts != most
    }
    return [f"{'; '.join(most)}.", *(f"But {', '.join(names)}: {different}." for different, names in others.items())]


def _not_measured(kind: str, measured: Set[str]) -> list[str]:
    """Return the findings that could be put to a model of this kind, and were not."""
    from linnet.llm.checks import CHECKS

    return [name for name, check in CHECKS.items() if kind in check.kinds and name not in measured]


def _place(model: str, finding: str) -> str:
    return f"{model}-{finding.partition('/')[2]}"


def _effects(row: Mapping[str, Any]) -> list[str]:
    """Return a table of what became of each promise of a finding."""
    if row["reason"]:
        return [f"It could not be measured: {row['reason']}."]
    lines = ["| measured | unit | mean | interval | verdict |", "| --- | --- | ---: | --- | --- |"]
    for effect in row["effects"]:
        between = "one seed"
        if effect["sense"] == "at_most":
            between = f"at most {effect['margin']:.3g}"
        elif effect["interval"]:
            between = f"{effect['interval'][0]:.3g} to {effect['interval'][1]:.3g}"
            if effect["sense"] == "within":
                between += f"; within ±{effect['margin']:.3g}"
        said = effect["says"] if effect["counts"] else f"({effect['says']})"
        cells = (said, effect["unit"], f"{round(effect['mean'], 12) + 0.0:.3g}", between, _badge(effect["verdict"]))
        lines.append(_line(*cells))
    return lines


def _line(*cells: str) -> str:
    """Return a line of a table; norms have bars, too."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _costs(_: str) -> str:
    """Return what a training step costs under every method, as the last benchmark measured it, and on what."""
    file = ROOT / "benchmarks" / "results" / "llm.json"
    measured = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    out: list[str] = []
    for device in ("cpu", "cuda"):
        if not isinstance(measured.get(device), dict):
            out += ["", f"On {'a GPU' if device == 'cuda' else 'a CPU'}: not measured."]
            continue
        for run in measured[device]["train"]:
            out += [
                "",
                f"**{run['shape']}**, {run['dtype']}, {run['length']} tokens, batch {run['batch']}; "
                f"{run['on']['device']}, torch {run['on']['versions']['torch']}, peft {run['on']['versions']['peft']}:",
                "",
                "| time | trained | seconds | over the floor | over LoRA |",
                "| --- | ---: | ---: | --- | --- |",
                *(_time(row) for row in run["methods"]),
                "",
                "| memory | peak, MB | over the floor | over LoRA | kept for backward, MB |",
                "| --- | ---: | ---: | ---: | ---: |",
                *(_memory(row) for row in run["methods"]),
            ]
    return "\n".join(out)


def _time(row: Mapping[str, Any]) -> str:
    if "seconds" not in row:
        return f"| {row['method']} | | {row.get('failed', 'did not fit')} | | |"
    found = [(row.get(to) or {}).get("seconds") for to in ("to_floor", "to_lora")]
    ratios = [f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})".replace(" to ", "–") if r else "" for r in found]
    return f"| {row['method']} | {row['trained']:,} | {row['seconds']:.2f} | {' | '.join(ratios)} |"


def _memory(row: Mapping[str, Any]) -> str:
    if "peak" not in row:
        return f"| {row['method']} | {row.get('failed', 'did not fit')} | | | |"
    found = [(row.get(to) or {}).get("peak") for to in ("to_floor", "to_lora")]
    ratios = [f"{r:.3f}" if r else "" for r in found]
    return f"| {row['method']} | {row['peak'] / 1e6:,.0f} | {' | '.join(ratios)} | {row['saved'] / 1e6:,.0f} |"


def _budgets(_: str) -> str:
    """Return what each budget of a measurement is, one a row."""
    from linnet.llm.checks.workbench import BUDGETS

    out = [
        "| budget | steps | batch | examples | evaluated | beyond | tokens | rates |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, b in BUDGETS.items():
        sizes = (b.steps, b.batch_size, b.train, b.evaluated, b.beyond, b.tokens, len(b.rates))
        out.append(f"| `{name}` | {' | '.join(map(str, sizes))} |")
    return "\n".join(out)


def _systems(_: str) -> str:
    """Return the systems that are compared on real models, one a row, within one per cent of SmolLM2-135M."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from linnet.llm.systems import table

    shape = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):  # shapes alone
        model = AutoModelForCausalLM.from_config(shape)
    budget = sum(p.numel() for p in model.parameters()) // 100
    out = [
        f"| system | from | merges | in one batch | at {budget:,} | can change |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    for row in table(model, budget):
        yes = ["yes" if value else "no" for value in (row.merges, row.batches)]
        size = f"`{row.instance}`" if row.instance and row.n_moments and row.n_moments <= budget else "does not fit"
        size = "finds no biases" if "no biases" in row.why_not else size
        changed = "" if row.n_parameters is None else f"{row.n_parameters:,}"
        out.append(f"| {row.name} | {row.source.partition(' (')[0]} | {' | '.join(yes)} | {size} | {changed} |")
    return "\n".join(out)


# --- gallery -----------------------------------------------------------------------------------------------


def _pictures() -> list[Path]:
    """Return the pictures of figures/ that have a text beside them."""
    return [path for path in sorted(FIGURES.glob("*.png")) if path.with_suffix(".md").is_file()]


def _in_words(title: str) -> str:
    """Return a title for where there is no markup: the name of a picture, an entry of the navigation."""
    return re.sub(r"[`\[\]*]", "", text.plain(title))


def _studies(_: str) -> str:
    """Return the studies that sweeps know: what each takes, and what a row of it measures."""
    out = []
    for path in sorted((ROOT / "linnet" / "sweep" / "studies").glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        study = re.search(r"^class (\w+)\(Study\)", text, re.MULTILINE)
        row = re.search(r"Row: ClassVar\[type\] = (\w+)", text)
        if study is None or row is None:
            log.warning("%s defines no study", path)
            continue
        out += [f'### `study = "{path.stem}"`', ""]
        for name in (study[1], row[1]):
            options = "    options: { heading_level: 4, members: [] }"
            out += [f"::: linnet.sweep.studies.{path.stem}.{name}", options, ""]
    return "\n".join(out)


def _gallery(_: str) -> str:
    """Return all pictures with their texts, by theme: what stands in NAME.md beside NAME.png."""
    there = {path.stem: path for path in _pictures()}
    themes = {theme: [there.pop(name) for name in names if name in there] for theme, names in THEMES.items()}
    themes[OTHERS] = list(there.values())
    out: list[str] = []
    for theme, paths in themes.items():
        if paths:
            out += [f"## {theme}", "", *(line for path in paths for line in _picture(path))]
    return "\n".join(out) or "No picture with a text has been drawn yet."


def _picture(path: Path) -> Iterator[str]:
    """Yield a picture with its text; it links to itself, to be seen at its full size."""
    title, _, rest = path.with_suffix(".md").read_text(encoding="utf-8").strip().partition("\n")
    said, shown = title.lstrip("# "), f"figures/{path.name}"
    rest = re.sub(r"^#(?=#* )", "###", rest, flags=re.MULTILINE)
    # What lies beside the text lies in figures/ here.
    rest = re.sub(rf"\]\({re.escape(path.stem)}(\.png|\.pdf)\)", rf"](figures/{path.stem}\1)", rest)
    rest = re.sub(rf"(?<!\[)!\[([^\]]*)\]\({re.escape(shown)}\)", rf"[![\1]({shown})]({shown})", rest)
    yield from (f"### {said} {{ #{path.stem} }}", "")
    if f"]({shown})" not in rest:
        yield from (f"[![{_in_words(said)}]({shown})]({shown})", "")
    yield from (rest.strip(), "")
    if path.with_suffix(".pdf").is_file() and f"](figures/{path.stem}.pdf)" not in rest:
        yield from (f"[As PDF](figures/{path.stem}.pdf)", "")


# --- notebooks ---------------------------------------------------------------------------------------------


def _notebooks() -> list[Path]:
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def _notebook_title(path: Path) -> str:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown" and (title := re.search(r"^# (.+)$", _joined(cell["source"]), re.MULTILINE)):
            return _in_words(title[1])
    return _title(path.stem.lstrip("0123456789-_").replace("_", "-"))


def _list_of_notebooks(_: str) -> str:
    return "\n".join(f"- [{_notebook_title(path)}]({path.stem}.md)" for path in _notebooks()) or "There is none yet."


def _notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as it was saved, in Markdown, and its pictures by name.

    So its text goes the way of all pages: the same formulas, the same code, and nothing that is fetched.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    out: list[str] = []
    pictures: dict[str, bytes] = {}
    if not re.search(r"^# ", _joined(content["cells"][0]["source"]) if content["cells"] else "", re.MULTILINE):
        out.append(f"# {_notebook_title(path)}")
    for number, cell in enumerate(content["cells"]):
        source = _joined(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            out.append(source)
        elif cell["cell_type"] == "code" and source:
            out.append(_fenced(source, "python"))
            for part, output in enumerate(cell["outputs"]):
                out += _shown(output, f"{path.stem}-{number}-{part}", pictures)
    return "\n\n".join(out) + "\n", pictures


def _shown(output: Mapping[str, Any], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """Yield what a cell has put out: a picture before a table, a table before text."""
    import base64

    data = output.get("data", {})
    if output["output_type"] == "stream":
        yield _fenced(_joined(output["text"]).rstrip(), "text")
    elif output["output_type"] == "error":
        yield _fenced("\n".join(re.sub(r"\x1b\[[\d;]*m", "", line) for line in output["traceback"]), "text")
    elif "image/png" in data:
        pictures[f"{name}.png"] = base64.b64decode(_joined(data["image/png"]))
        yield f"![What the code above draws]({name}.png)"
    elif "image/svg+xml" in data:
        pictures[f"{name}.svg"] = _joined(data["image/svg+xml"]).encode()
        yield f"![What the code above draws]({name}.svg)"
    elif "text/markdown" in data:
        yield _joined(data["text/markdown"])
    elif "text/html" in data and "<table" in (markup := _joined(data["text/html"])):
        table = re.search(r"<table.*?</table>", markup, re.DOTALL)
        yield re.sub(r"\s*\n\s*", "", re.sub(r"<table[^>]*>", "<table>", table[0])) if table else ""
    elif "text/plain" in data:
        yield _fenced(_joined(data["text/plain"]).rstrip(), "text")


def _fenced(code: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def _joined(source: str | Sequence[str]) -> str:
    """Return text of a notebook, which may be stored line by line."""
    return source if isinstance(source, str) else "".join(source)
