"""The site of the documentation: it builds without a warning, needs no network, and what its pages say runs."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytest.importorskip("material", reason="the extra docs is not installed")
pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINNET = [sys.executable, "-m", "linnet.cli"]
CODE = {"code", "pre", "script", "style", "annotation"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
REMOTE = re.compile(r"(?:\w+:)?//")


class Read(HTMLParser):
    """What the tests ask of a page: its anchors, links, what it fetches, and its text outside of code."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.ids, self.links, self.fetched, self.text, self.tags, self.open = set(), [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and "href" in found:
            self.fetched.append(found["href"])
        elif tag != "a":
            self.fetched += [found[name] for name in ("src", "srcset", "data", "poster") if found.get(name)]

    def handle_endtag(self, tag):
        while tag in self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not CODE & set(self.open):
            self.text.append(data)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built once from what lies in the repository; any warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site):
    return {path.relative_to(site).as_posix(): read(path) for path in sorted(site.rglob("*.html"))}


@cache
def read(path):
    return Read(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def titled(page):
    """Return the blocks of Python of a page that are files, by name; the pages to be read are tried as they stand."""
    found = re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```', (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)
    assert found
    return dict(found)


# --- the site ----------------------------------------------------------------------------------------


def test_every_page_is_there(pages):
    sources = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
    assert sources <= set(pages)
    assert {"changelog.html", "index.html", "api/core.html"} <= set(pages)


def test_nothing_is_fetched_from_elsewhere(site, pages):
    found = [f"{name}: {url}" for name, page in pages.items() for url in page.fetched if REMOTE.match(url)]
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.name}: {a or b}" for a, b in urls if REMOTE.match(a or b)]
    assert not found, found
    assert sum(len(page.fetched) for page in pages.values()) > len(pages)


def test_formulas_are_typeset(pages):
    raw = [f"{name}: {text.strip()[:80]}" for name, page in pages.items() for text in page.text if "$" in text]
    assert not raw, raw
    for name in ("theory.html", "proofs/truncation.html", "proofs/learning-rates.html", "index.html"):
        assert "math" in pages[name].tags, name
    assert pages["theory.html"].tags.count("math") > 200


def test_links_lead_somewhere(site, pages):
    broken = []
    for name, page in pages.items():
        if name == "404.html":  # it may be shown at any address, so that its links are a server's
            continue
        for link in page.links:
            address, _, place = link.partition("#")
            if REMOTE.match(address) or address.startswith("mailto:"):
                continue
            target = ((site / name).parent / unquote(address)).resolve() if address else site / name
            if not target.is_relative_to(site.resolve()) or not target.is_file():
                broken.append(f"{name}: {link}")
            elif place and target.suffix == ".html" and unquote(place) not in read(target).ids:
                broken.append(f"{name}: {link} has no such place")
    assert not broken, broken
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_every_claim_leads_to_the_ledger_and_its_proof_to_the_proofs(pages):
    ledger = json.loads((ROOT / "figures" / "ledger.json").read_text(encoding="utf-8"))
    links = set(pages["verdicts.html"].links)
    assert {f"ledger.html#{row['id']}" for row in ledger["claims"]} <= links
    assert "proofs/bias-order.html" in links


def test_every_proof_is_in_the_index(pages):
    listed = set(pages["proofs/index.html"].links)
    assert {path.with_suffix(".html").name for path in (DOCS / "proofs").glob("*.md")} <= listed


# --- what the hooks do -------------------------------------------------------------------------------


def written(hooks, text):
    import markdown

    return markdown.markdown(text, extensions=["tables", "fenced_code", hooks.FormulaExtension()])


def test_formulas_in_tables_and_beside_code(hooks):
    html = written(hooks, "| a | b |\n| --- | --- |\n| $|x|_F$ | `$a$` and *b* |\n\n$$x_1 * y_1 * z$$\n")
    assert html.count("<math") == 2
    assert 'display="block"' in html
    assert "<code>$a$</code>" in html
    assert html.count("<td>") == 2
    assert html.count("<em>") == 1


def test_code_is_left_alone(hooks):
    text = "```sh\necho $HOME $PATH\n```\n\nIndented:\n\n    cost = $5, $6\n\nand ``$a ` b$``.\n"
    html = written(hooks, text)
    assert "<math" not in html
    assert "echo $HOME $PATH" in html
    assert "cost = $5, $6" in html


def test_a_formula_that_does_not_parse_is_a_warning(hooks, caplog):
    with caplog.at_level("WARNING", logger="mkdocs"):
        assert "$\\nosuchthing x$" in written(hooks, "So $\\nosuchthing x$.")
    assert "does not parse" in caplog.text


def test_notebooks_become_pages(hooks, tmp_path):
    """As they were saved: text, code, what was printed, pictures and tables."""
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {"output_type": "display_data", "metadata": {}, "data": {"image/png": "aGVsbG8=\n", "text/plain": "<Figure>"}},
        {
            "output_type": "execute_result",
            "execution_count": 1,
            "metadata": {},
            "data": {"text/html": ["<div><style>x</style><table border=1>\n<tr><td>3</td></tr>\n</table></div>"]},
        },
    ]
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# The first look\n", "\n", "With $x$."]},
        {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": "plot(x)", "outputs": outputs},
    ]
    path = tmp_path / "01_look.ipynb"
    path.write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}), encoding="utf-8")
    text, pictures = hooks._notebook(path)
    assert hooks._notebook_title(path) == "The first look"
    assert pictures == {"01_look-1-1.png": b"hello"}
    for said in ("With $x$.", "```python\nplot(x)\n```", "```text\none\ntwo\n```", "](01_look-1-1.png)", "<td>3</td>"):
        assert said in text
    assert "<style>" not in text


def test_the_gallery_shows_pictures_that_have_a_text(hooks, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "FIGURES", tmp_path)
    assert "No picture" in hooks._gallery("")
    for name in ("law.png", "law.pdf", "alone.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "law.md").write_text(
        "# The law of $\\sigma_r$\n\nWhat it shows.\n\n## How\n\n`make figures`\n", encoding="utf-8"
    )
    shown = hooks._gallery("")
    for said in (
        "## The law of $\\sigma_r$ {",
        "![The law of σ_r](figures/law.png)",
        "](figures/law.pdf)",
        "What it shows.",
        "### How",
    ):
        assert said in shown
    assert "alone" not in shown


# --- what the pages say runs -------------------------------------------------------------------------


def test_the_first_verdict_runs_as_written(tmp_path):
    files = titled("first-verdict.md")
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        if "@claim(" not in text:
            exec(compile(text, name, "exec"), {})
    claims = {name for name, text in files.items() if "@claim(" in text}
    assert claims == {"mine.py", "instead.py"}
    command = ["verify", *sorted(claims), "--budget", "quick", "--json", "mine.json"]
    subprocess.run([*LINNET, *command], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    rows = {row["id"]: row for row in json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))["claims"]}
    page = (DOCS / "first-verdict.md").read_text(encoding="utf-8")
    printed = dict(re.findall(r"^│ (\S+/\S+) +│ (\S+) +│", page, re.MULTILINE))
    assert {name: row["verdict"] for name, row in rows.items()}.items() <= printed.items()
    ledger = json.loads((ROOT / "figures" / "ledger.json").read_text(encoding="utf-8"))["claims"]
    stored = {row["id"]: row["verdict"] for row in ledger}
    assert all(verdict == stored[name] for name, verdict in printed.items() if name in stored)


def test_the_counterexamples_of_the_first_verdict_are_counterexamples():
    """The numbers on the page, from their matrices, without linnet."""
    import numpy as np

    for train, test, rank, s2ft, lora in (
        ([[-1, 2], [1, 2]], [[1, 2], [1, 2]], 1, None, 2),
        ([[1, 0], [1, -1]], [[1, 0], [1, 0]], 1, 1, 0.829179606750063),
    ):
        u, s, vt = np.linalg.svd(np.array(train, float))
        learned = (u[:, :rank] * s[:rank]) @ vt[:rank]
        assert np.sum((np.array(test) - learned) ** 2) == pytest.approx(lora)
        if s2ft is not None:
            assert np.sum((np.array(test) - train) ** 2) == pytest.approx(s2ft)


def test_the_method_of_the_guide_is_found_and_equals_its_twin(tmp_path):
    """In a copy of the library, where the file is put as the guide says."""
    shutil.copytree(ROOT / "linnet", tmp_path / "linnet", ignore=shutil.ignore_patterns("__pycache__"))
    files = titled("writing-a-method.md")
    assert set(files) == {"linnet/methods/lora_xs.py", "found.py", "twin.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    budget = """
import numpy as np
import linnet as ln
assert ln.__file__.startswith(PLACE), ln.__file__
task = ln.Regression(np.eye(3), np.eye(3))
problem = ln.LayerProblem(ln.DeepLinearNetwork([np.eye(3), np.eye(3)]), 0, task.moments())
(found,) = ln.LoRAXS.at_budget(problem, 4, np.random.default_rng(0))
assert found[0] == "LoRA-XS" and found[1].n_parameters(problem) == 4
"""
    program = "".join([f"PLACE = {str(tmp_path)!r}\n", budget, files["found.py"], files["twin.py"]])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_the_experiment_of_the_guide_runs_and_is_drawn(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra figures is not installed")
    page = (DOCS / "writing-an-experiment.md").read_text(encoding="utf-8")
    for name, text in titled("writing-an-experiment.md").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for command in (
        ["sweep", "mine.toml"],
        ["draw", "mine.toml", "--out", "figures"],
        ["sweep", "norms.toml"],
        ["sweep", "digits.toml"],
    ):
        subprocess.run([*LINNET, *command], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert "times the risk of S2FT" in (tmp_path / "figures" / "mine.md").read_text(encoding="utf-8")
    wrong = (tmp_path / "mine.toml").read_text(encoding="utf-8").replace("ranks = [1, 2, 4]", "ranks = [20]")
    (tmp_path / "mine.toml").write_text(wrong, encoding="utf-8")
    refused = subprocess.run([*LINNET, "sweep", "mine.toml"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.strip() in page
    script = re.search(r"^```python\n(from concurrent.*?)^```", page, re.M | re.S)
    assert script is not None
    (tmp_path / "mine.toml").write_text(titled("writing-an-experiment.md")["mine.toml"], encoding="utf-8")
    subprocess.run([sys.executable, "-c", script[1]], cwd=tmp_path, check=True)


def test_the_guide_to_s2ft_runs_as_written(tmp_path):
    page = (DOCS / "fine-tuning.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S))
    assert script.count("get_peft_model(") == 2
    check = "\nassert loss < 4.0 and fresh.active_adapter == 'second'"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script + check],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "trainable params: " in run.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "as-lora"]


def test_the_finding_of_the_page_runs():
    from tiny_language import language

    from linnet.llm.checks.base import judge
    from linnet.llm.checks.workbench import BUDGETS, Workbench

    page = (DOCS / "real-models.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    made: dict = {}
    exec(compile(script, "real-models.md", "exec"), made)
    check, bench = made["RankOne"](), Workbench(language("causal"), BUDGETS["quick"])
    (effect,) = judge(check.promises(bench), [check.measure(bench, seed) for seed in (0, 1)])
    assert effect.name == "same"
    assert effect.mean != 0


def finding(**changes):
    """Return a row of a ledger of findings, with an effect of every sense."""
    common = {"says": "a | b", "unit": "nats", "mean": 0.12345, "interval": [0.1, 0.2], "margin": 0.05, "counts": True}
    effects = [
        common | {"sense": "above", "verdict": "agrees"},
        common | {"sense": "within", "verdict": "undecided", "interval": None},
        common | {"sense": "at_most", "verdict": "disagrees", "interval": [3.0, 3.0], "mean": 3.0},
        common | {"sense": "above", "verdict": "disagrees", "says": "aside", "counts": False},
    ]
    return {
        "id": "llm/some",
        "verdict": "disagrees",
        "source": "x",
        "finding": "at most |x|",
        "reason": None,
        "effects": effects,
    } | changes


def test_findings_are_shown_as_they_were_measured(hooks, tmp_path, monkeypatch):
    from linnet.llm.checks import CHECKS

    monkeypatch.setattr(hooks, "FIGURES", tmp_path)
    assert "make findings" in hooks._findings("")
    ledger = {
        "model": {"name": "tiny", "description": "a tiny model", "kind": "causal"},
        "seeds": [0, 42],
        "budget": "quick",
        "claims": [finding(), finding(id="llm/other", verdict="failed", reason="nothing fits", effects=[])],
    }
    with_what = {"device": "some processor", "versions": {"torch": "2"}, "code": "0"}
    for row in ledger["claims"]:
        row["measured"] = with_what
    (tmp_path / "llm-tiny.json").write_text(json.dumps(ledger), encoding="utf-8")
    made = hooks._findings("")
    for said in (
        "## tiny",
        "Budget `quick`, seeds 0, 42. some processor; torch 2; code 0. Every",
        "figures/llm-tiny.json",
    ):
        assert said in made
    assert "| a \\| b | nats | 0.123 | 0.1 to 0.2 | <span" in made
    assert "| one seed |" in made
    assert "| 3 | at most 0.05 |" in made
    assert "| (aside) | nats |" in made
    assert "at most \\|x\\| |" in made
    assert "It could not be measured: nothing fits." in made
    assert "[`llm/some`](#tiny-some)" in made
    assert "{ #tiny-some }" in made
    assert "Not measured yet: `llm/bridge`, `llm/capacity`" in made
    assert hooks._not_measured("encoder", set(CHECKS) - {"llm/fusion", "llm/rank"}) == ["llm/rank"]
    ledger["claims"] += [finding(id="llm/third", measured=with_what | {"device": "another"})]
    (tmp_path / "llm-tiny.json").write_text(json.dumps(ledger), encoding="utf-8")
    assert "some processor; torch 2; code 0. But `llm/third`: another. Everything" in hooks._findings("")


def test_costs_are_those_of_the_benchmark(hooks, tmp_path, monkeypatch):
    made = hooks._costs("")
    stored = json.loads((ROOT / "benchmarks" / "results" / "llm.json").read_text(encoding="utf-8"))
    for device, said in (("cpu", "On a CPU: not measured."), ("cuda", "On a GPU: not measured.")):
        assert (said in made) == (stored[device] == "not measured")
    (run,) = stored["cpu"]["train"]
    for row in run["methods"]:
        assert f"| {row['method']} | {row['trained']:,} | {row['seconds']:.2f} |" in made
        assert f"| {row['method']} | {row['peak'] / 1e6:,.0f} | {row['to_floor']['peak']:.3f} |" in made
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    assert hooks._costs("").split("\n")[1::2] == ["On a CPU: not measured.", "On a GPU: not measured."]


def test_budgets_and_systems_are_those_of_the_code(hooks):
    from linnet.llm.checks.workbench import BUDGETS
    from linnet.llm.systems import SYSTEMS

    made = hooks._budgets("")
    assert [line.split("|")[1].strip() for line in made.splitlines()[2:]] == [f"`{name}`" for name in BUDGETS]
    rows = hooks._systems("").splitlines()
    assert "| at 1,345,150 |" in rows[0]
    assert len(rows) == 2 + len(SYSTEMS)
    assert any("| S2FT | yang2024 | yes | yes |" in row for row in rows)


def test_the_gallery_has_a_place_for_every_picture(hooks):
    placed = [name for names in hooks.THEMES.values() for name in names]
    assert sorted(placed) == sorted([*(path.stem for path in (ROOT / "experiments").glob("*.toml")), "serving"])
    assert set(placed) == {path.stem for path in hooks._pictures()}


def test_the_theory_checks_itself():
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / "theory.md").read_text(encoding="utf-8"), re.M | re.S):
        exec(compile(block, "theory.md", "exec"), names)
    assert "bound" in names  # of the last block
