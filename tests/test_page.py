"""The page of the ledger, read as text: well formed, complete, linked, and harmless whatever a claim says."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser

import pytest
from pages import FRESH, HOSTILE, ROOT, claims, fresh_ledger, full_ledger

from linnet.errors import ClaimError, DataError
from linnet.report import tex, text, words
from linnet.report.histogram import histogram
from linnet.report.page import anchor, number, page
from linnet.trials import Quadratic, claim
from linnet.trials.claim import installed_claims
from linnet.trials.ledger import read

LINNET = [sys.executable, "-m", "linnet.cli"]
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Page(HTMLParser):
    """What is in a page: elements in order, each with its attributes and its text; every end has its beginning."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.open, self.said = [], [], []
        self.feed(content)
        self.close()
        assert not self.open, [e["tag"] for e in self.open]

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice: {attrs}"
        element = {"tag": tag, "text": "", "from": len(self.said), **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> ends nothing"
        assert self.open[-1]["tag"] == tag, f"</{tag}> ends <{self.open[-1]['tag']}>"
        element = self.open.pop()
        element["text"] = "".join(self.said[element["from"] :])

    def handle_data(self, data):
        self.said.append(data)

    def all(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and attributes.items() <= e.items()]

    def id(self, name):
        (found,) = [e for e in self.elements if e.get("id") == name]
        return found


@pytest.fixture(scope="module", params=["full", "fresh"])
def ledger(request):
    return full_ledger() if request.param == "full" else fresh_ledger()


@pytest.fixture(scope="module")
def drawn(ledger):
    return full() if ledger is full_ledger() else page(ledger, claims())


@pytest.fixture(scope="module")
def parsed(drawn):
    return Page(drawn)


@cache
def full():
    """The page of the committed ledger."""
    return page(full_ledger(), claims())


def panel(content, name):
    """Return what a page says of a claim."""
    return content.split(f'class="body" id="{anchor(name)}">')[1].split('class="back"')[0]


@pytest.fixture(scope="module")
def fresh():
    return Page(page(fresh_ledger(), claims()))


def test_it_is_well_formed_and_ids_are_unique(parsed):
    ids = [e["id"] for e in parsed.elements if "id" in e]
    assert len(ids) == len(set(ids))
    assert not [e["id"] for e in parsed.elements if re.search(r"\s", e.get("id", ""))]


def test_every_claim_has_a_row_and_a_panel_and_every_link_leads_somewhere(parsed, ledger):
    ids = {e["id"] for e in parsed.elements if "id" in e}
    links = [e["href"] for e in parsed.all("a") if "href" in e]
    assert not [link for link in links if not link.startswith("#") or link[1:] not in ids]
    for row in ledger["claims"]:
        assert anchor(row["id"]) in ids
        assert "#" + anchor(row["id"]) in links
    assert len(parsed.all("details", **{"class": "panel"})) == len(ledger["claims"])


@pytest.mark.parametrize(
    ("here", "there"),
    [("yang2024/theorem-f8-lora", "linnet/lora-label-shift"), ("liu2025/eq-20", "liu2025/eq-20-one-output")],
)
def test_a_replacement_and_what_it_replaces_lead_to_each_other(here, there):
    for one, other in ((here, there), (there, here)):
        assert f'href="#{other}"' in panel(full(), one)


def test_nothing_is_fetched(drawn, parsed):
    for element in parsed.elements:
        assert not {"src", "srcset", "data", "poster", "action", "background", "xlink:href"} & set(element), element
        assert not any(k.startswith("on") for k in element), element
    assert [e["href"] for e in parsed.all("link")] == ["data:,"]
    assert not parsed.all("img")
    assert not re.search(r"url\(|@import|@font-face|fetch\(|XMLHttpRequest|import\(", drawn)


def test_it_is_light(drawn):
    assert len(drawn.encode()) < 3_000_000


def test_the_committed_page_is_of_the_committed_ledger():
    file = ROOT / "figures" / "ledger.html"
    if not file.exists():
        pytest.skip("no page yet: make verify writes it, make page draws it again")
    committed = Page(file.read_text(encoding="utf-8"))
    rows = [(e["data-paper"], e["data-verdict"]) for e in committed.all("tr") if "data-verdict" in e]
    said = "figures/ledger.html shows another ledger than figures/ledger.json: make page"
    assert rows == [(r["id"].partition("/")[0], r["verdict"]) for r in full_ledger()["claims"]], said


def test_what_a_claim_says_stays_text(fresh, drawn):
    assert len(fresh.all("script")) == 1
    assert not fresh.all("b")
    assert not fresh.all("img")
    assert "<script>alert" not in drawn
    shown = fresh.id(anchor(HOSTILE))["text"]
    assert "alert(2)" in shown, "and it is still there to be read"
    assert r"$\frac{1}{$" in shown
    assert 'no/"such".md, which was not at hand' in shown


def test_what_is_not_installed_is_said_to_be_missing(ledger):
    content = page({**ledger, "failures": {"mine/<b>": "KeyError: <i>"}}, {})
    parsed = Page(content)
    assert parsed.id(anchor(ledger["claims"][0]["id"]))["text"].count("was not at hand") == 1
    assert "mine/<b>: KeyError: <i>" in parsed.all("main")[0]["text"]


# --- formulas ------------------------------------------------------------------------------------

TEXTS = [
    (c.id, said)
    for c in installed_claims().values()
    for said in (c.statement, c.source, *(h.text for h in (*c.hypotheses, *c.rescue)))
]


def test_every_formula_of_every_claim_is_typeset():
    formulas = 0
    for name, said in TEXTS:
        found = text.FORMULA.findall(said)
        formulas += len(found)
        markup = text.html(said)
        assert markup.count('<span class="tex"><math>') + markup.count('class="display"') == len(found), (name, said)
        assert 'class="raw"' not in markup, (name, markup)
        assert "merror" not in markup, name
        assert "$" not in re.sub(r"<[^>]*>", "", markup), (name, markup)
    assert formulas > 500


def test_every_formula_of_every_claim_is_a_line_on_a_terminal():
    for name, said in TEXTS:
        line = text.plain(said)
        assert not set("\\$") & set(line), (name, line)
        assert line.count("(") == line.count(")"), (name, line)
    statements = [c for c in installed_claims().values() if "$" in c.statement]
    assert len(statements) > 100


def test_every_formula_of_every_proof_is_typeset():
    files = sorted((ROOT / "docs" / "proofs").glob("*.md"))
    assert files
    for file in files:
        markup = text.document(file.read_text(encoding="utf-8"))
        assert 'class="raw"' not in markup, file
        assert "$" not in re.sub(r"<[^>]*>", "", markup), file
        Page(markup)


@pytest.mark.parametrize(
    ("formula", "line"),
    [
        (r"\|(I - P_U) B_o\Sigma_o^{1/2}\|_F^2", "‖(I − P_U)B_o Σ_o^(1/2)‖_F²"),
        (r"\mathcal E_o(\text{S2FT}) \le (1 + 3\epsilon^2)\,e(\text{pre})", "ℰ_o(S2FT) ≤ (1 + 3ϵ²) e(pre)"),
        (r"x^{n - m - 1}", "x^(n−m−1)"),
        (r"\frac{a + b}{c}", "(a + b)/c"),
        (r"-\tfrac12 x^\top H^{-1} x", "−1/2 xᵀH⁻¹x"),
        (r"\|a\| + \|b\| - 1", "‖a‖ + ‖b‖ − 1"),
        (r"\operatorname{rank} M < -1", "rank M < −1"),
        (r"\sum_{j>r}\sigma_j(M)^2", "∑_(j>r) σ_j(M)²"),
        (r"\overline W\Delta\underline W \in \mathbb R^d", "W̄ΔW̲ ∈ ℝ^d"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "(1 2; 3 4)"),
        (r"\mathrm{root}^+", "root⁺"),
        (r"\sqrt{d/N}", "√(d/N)"),
    ],
)  # fmt: skip
def test_a_formula_keeps_its_meaning_on_a_terminal(formula, line):
    assert tex.plain(formula) == line


@pytest.mark.parametrize(
    "formula",
    [r"\frac{1}{", r"\begin{pmatrix", r"\nosuch{x}", r"\text{<script>}", r"\text{<b></b>}", "x_{", r"\left( x"],
)
def test_what_does_not_parse_is_shown_as_it_is(formula):
    said = f"Let ${formula}$ be."
    assert text.plain(said) == said
    parsed = Page(text.html(said))
    assert parsed.all("p")[0]["text"] == said
    assert not parsed.all("math")


def test_a_statement_without_a_formula_is_shown_as_it_is():
    said = "a_1 * b * c <= # d\n  - and $5, or $6 more"
    assert Page(text.html(said)).all("p")[0]["text"] == said
    assert text.plain(said) == said


def test_alphabets_are_characters_as_browsers_know_no_others():
    for formula, letters in [(r"\mathbb{R}", "ℝ"), (r"\mathcal{L}", "ℒ"), (r"\mathbf{x}", "𝐱"), (r"\mathfrak{g}", "𝔤")]:
        assert re.sub("<.*?>", "", tex.mathml(formula)) == letters
        assert "mathvariant" not in tex.mathml(formula)


def test_a_long_formula_may_break_before_relations_and_signs_in_no_bracket():
    long = r"\|(a + b + c + d)(e + f + g + h)\| \le a + \|x - y\| + b \ge -c"
    parts = re.findall("<math>.*?</math>", tex.mathml(long))
    assert [re.sub("<.*?>", "", part) for part in parts] == ["‖(a+b+c+d)(e+f+g+h)‖", "≤a", "+‖x−y‖", "+b", "≥−c"]
    assert tex.mathml("a + b").count("<math>") == 1


# --- what a panel says ---------------------------------------------------------------------------


def test_a_certificate_is_shown_as_it_is_recorded():
    seen = 0
    for row in full_ledger()["claims"]:
        record = row["certificate"]
        if record is None or "courses" in record:
            continue
        after = panel(full(), row["id"]).split('class="sides"')[1]
        part = Page(after.split('<div class="matrices">')[1].split("<h4>")[0].rpartition("</div>")[0])
        stored = [
            str(x).replace("-", "−")
            for value in record["instance"].values()
            if isinstance(value, list) and value and isinstance(value[0], list)
            for matrix in (value if isinstance(value[0][0], list) else [value])
            for line in matrix
            for x in line
        ]
        assert [cell["text"] for cell in part.all("mtd")] == stored, row["id"]
        seen += len(stored)
    assert seen > 200


def test_sides_of_a_certificate():
    sides = panel(full(), "liu2025/eq-19").split('class="sides">')[1].split("</p>")[0]
    observed, stated = sides.split("≮")
    assert "<mfrac><mn>5</mn><mn>4</mn></mfrac>" in observed
    assert "<math><mn>1</mn></math>" in stated
    assert "the claim has &lt;" in sides


def test_words_agree_with_the_ledger(parsed, ledger):
    for row in ledger["claims"]:
        shown = parsed.id(anchor(row["id"]))["text"]
        assert row["verdict"] in shown
        if row["verdict"] == "holds-if":
            assert "It holds if, moreover," in shown
        if row["fit"] and "exponent" in row["fit"]:
            assert f"{row['fit']['exponent']:.3f}".replace("-", "−") in shown
            assert f"{row['fit']['stated']:.3f}".replace("-", "−") in shown
        for bound in row["ratios"] or ():
            for value in bound.values():
                assert number(value) in shown


def test_a_loose_bound_says_by_which_factor():
    base = {"verdict": "holds", "reason": None, "fit": None}
    assert words.tightness({**base, "tight": False, "ratio": 0.25}) == "loose 4x"
    assert words.tightness({**base, "tight": False, "ratio": 5.0}) == "loose 5x"
    assert words.tightness({**base, "tight": True, "ratio": 0.95}) == "yes"
    assert words.tightness({**base, "tight": True, "ratio": 0.95, "verdict": "refuted"}) == ""
    assert words.loose_by({**base, "tight": None, "ratio": None}) is None


def test_an_ill_posed_claim_has_its_reason_and_its_nearest_reading(fresh):
    shown = fresh.id("liu2025/eq-20")["text"]
    assert "matrices compared by <=" in shown
    assert "its nearest sensible reading is liu2025/eq-20-one-output" in shown


@pytest.mark.parametrize(
    ("x", "shown"), [(0.0, "0"), (-0.0, "0"), (0.25, "0.25"), (-3, "−3"), (2.1e-12, "2.1×10⁻¹²"), (1e6, "1.0×10⁶")]
)
def test_numbers(x, shown):
    assert number(x) == shown


def heights(svg, kind):
    (group,) = re.findall(rf'<g class="{kind}">(.*?)</g>', svg)
    return [(float(x), float(h)) for x, h in re.findall(r'x="([\d.]+)".*?height="([\d.]+)"', group)]


def test_a_histogram_draws_each_count_in_its_bin():
    edges = [0.0, 0.25, 0.5, 0.75, 1.0, None]
    found = {"of": "ratio", "edges": edges, "drawn": [0, 1, 10, 0, 100], "searched": [1000, 0, 0, 0, 0]}
    svg = histogram(found, ">=", "a<b")
    drawn, searched = heights(svg, "drawn"), heights(svg, "searched")
    assert len(drawn) == 3
    assert len(searched) == 1
    assert drawn == sorted(drawn)
    first, second, third = (h for _, h in drawn)
    assert second - first == pytest.approx(third - second, abs=0.2), "logarithmic"
    assert searched[0][1] > third
    assert searched[0][0] < drawn[0][0]
    assert 'role="img"' in svg
    assert "a&lt;b" in svg
    assert "111 drawn" in svg
    assert "stated / observed" in svg
    assert "observed / stated" in histogram(found, "<=", "a")
    assert "the farthest, 100, above 1" in svg
    assert "> 1" in Page(svg).all("svg")[0]["text"].replace("\u2009", " ")


def test_histograms_are_drawn_where_something_was_counted(fresh):
    rows = {row["id"]: row["histogram"] for row in fresh_ledger()["claims"]}
    counted = {name for name, found in rows.items() if found and any(found["drawn"] + found["searched"])}
    assert {rows[name]["of"] for name in counted} == {"ratio", "margin"}
    assert len(counted) < len(rows)
    labels = " ".join(e["aria-label"] for e in fresh.all("svg", role="img"))
    assert {name for name in FRESH if f"of {name}." in labels} == counted & set(FRESH)


# --- proofs --------------------------------------------------------------------------------------


def test_every_replacement_has_a_proof_and_every_proof_is_found():
    found = installed_claims()
    proved = {name for name, c in found.items() if c.proof}
    assert {c.replaced_by for c in found.values()} - {None} <= proved
    assert {name for name in found if name.startswith("linnet/")} <= proved
    for name in proved:
        file = found[name].proof_file
        assert file is not None, name
        assert f"`{name}`" in file.read_text(encoding="utf-8") or found[name].source.startswith("yang2024"), name


def test_a_panel_has_the_part_of_the_proof_that_is_its_own():
    shown = panel(full(), "linnet/cube")
    assert "Jensen" in shown
    assert "Throughout" in shown, "what stands before all parts"
    assert "Cauchy" not in shown, "of another claim"


def test_a_proof_is_looked_for_beside_the_claim_and_above(tmp_path):
    folder = tmp_path / "mine" / "claims"
    folder.mkdir(parents=True)
    (tmp_path / "mine" / "proof.md").write_text("# near", encoding="utf-8")
    (tmp_path / "proof.md").write_text("# far", encoding="utf-8")
    code = compile("def f(q):\n    '''x'''\n    return 0, 0\n", str(folder / "one.py"), "exec")
    names: dict = {}
    exec(code, names)
    made = claim("mine/one", setting=Quadratic, relation="==", proof="proof.md")(names["f"])
    assert made.proof_file == tmp_path / "mine" / "proof.md"
    assert made.source == "proof.md", "a claim without a source is stated where it is proved"
    assert claim("mine/two", setting=Quadratic, relation="==", proof="no.md")(names["f"]).proof_file is None
    with pytest.raises(ClaimError, match="stated nowhere"):
        claim("mine/three", setting=Quadratic, relation="==")


# --- commands ------------------------------------------------------------------------------------

MINE = '''"""One claim of my own."""

from linnet.trials import Quadratic, claim, sq


@claim("mine/same", setting=Quadratic, relation="==", source="me", proof="mine.md")
def same(q):
    r"""$|\\epsilon|^2 = |\\epsilon|^2$."""
    return sq(q.eps), sq(q.eps)
'''


def linnet(*arguments, cwd, **environment):
    return subprocess.run(
        [*LINNET, *map(str, arguments)], capture_output=True, cwd=cwd, encoding="utf-8", errors="strict",
        env=os.environ | environment, timeout=300, check=False,
    )  # fmt: skip


def test_verify_writes_the_page_and_page_draws_it_again(tmp_path):
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "mine.md").write_text("Obvious: $1 = 1$.", encoding="utf-8")
    done = linnet("verify", "mine.py", "--budget", "quick", "--json", "a.json", "--html", "a.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Obvious" in first
    done = linnet("page", "a.json", "--html", "b.html", "--claims", "mine.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.html").read_text(encoding="utf-8") == first
    assert {p.name for p in tmp_path.iterdir()} <= {"mine.py", "mine.md", "a.json", "a.html", "b.html", "__pycache__"}
    # An encoding that lacks the letters gets question marks, no traceback.
    done = linnet("show", "mine.py", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "|?|" in done.stdout
    done = linnet("show", "mine.py", cwd=tmp_path, PYTHONIOENCODING="utf-8")
    assert "|ϵ|² = |ϵ|²." in done.stdout
    assert f"proof       {tmp_path / 'mine.md'}" in done.stdout


def test_what_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.json").write_text(json.dumps(fresh_ledger()), encoding="utf-8")
    for name, content in [
        ("a.json", "{"), ("b.json", "[]"), ("c.json", '{"claims": [1]}'), ("d.json", '{"claims": [{"id": "x"}]}'),
        ("e.json", '{"claims": []}'),
    ]:  # fmt: skip
        (tmp_path / name).write_text(content, encoding="utf-8")
    for name in ("a.json", "missing.json"):
        with pytest.raises(DataError):
            read(tmp_path / name)
    from linnet.report.verdicts import redraw

    for name in "bcde":
        with pytest.raises(DataError, match="no ledger"):
            redraw(tmp_path / f"{name}.json", tmp_path / "out.html", [])
    with pytest.raises(DataError, match="one of the inputs"):
        redraw(tmp_path / "ledger.json", tmp_path / "ledger.json", [])
    assert not (tmp_path / "out.html").exists()
    assert redraw(tmp_path / "ledger.json", tmp_path / "out.html", []) == 0
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]
