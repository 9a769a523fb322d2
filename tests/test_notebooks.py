"""The notebooks: each runs from top to bottom, calls the library and holds no logic, and was saved as it ran."""

import ast
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from linnet.errors import ClaimError
from linnet.report.verdicts import shown
from linnet.trials import Layer, claim
from linnet.trials import ledger as ledgers
from linnet.trials.trial import QUICK, run

SLASH = "/"  # paths are put together, so that this file holds none
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

LINES = 3
"""Of a function in a cell, at most."""

SIMULATES = {name for name in dir(np.random.Generator) if not name.startswith("_")} | {
    "sample", "sample_moments", "pretrained", "run_sweep", "compare",
}  # fmt: skip
"""What draws at random: a loop around it belongs to the library, as a sweep."""

OWN_PATHS = re.compile(r"(?<![\w./])/(?:home|root|Users|tmp|work|var|opt|usr|private|mnt)/|[A-Z]:\\\\?Users\b")


def test_there_are_notebooks():
    assert [path.name[:3] for path in NOTEBOOKS] == ["01-", "02-", "03-", "04-", "05-"]


@each
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    # The kernel of this interpreter, without the user's own settings.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "empty"
    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    assert not list(folder.iterdir()), "it leaves files behind"


@each
def test_cells_call_the_library_and_hold_no_logic(path):
    for tree in code(path):
        for node in ast.walk(tree):
            assert not isinstance(node, ast.ClassDef | ast.While), f"line {node.lineno}: {type(node).__name__}"
            if isinstance(node, ast.FunctionDef) and not (path.name.startswith("01-") and is_claim(node)):
                assert node.end_lineno - node.lineno < LINES, f"{node.name} is longer than {LINES} lines"
            if isinstance(node, ast.For | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
                drawn = {called(inner) for inner in ast.walk(node)} & SIMULATES
                assert not drawn, f"line {node.lineno}: a loop over {drawn}"


@each
def test_was_saved_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.metadata == {} for cell in notebook.cells), "metadata that change from run to run"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) / 2
    texts = [text for output in outputs for text in [output.get("text", ""), *output.get("data", {}).values()]]
    found = [OWN_PATHS.search(text) for text in [*texts, *(cell.source for cell in notebook.cells)]]
    assert not [match[0] for match in found if match]
    assert not [name for output in outputs for name in output.get("data", {}) if "widget" in name]


@each
def test_opens_with_a_title_and_closes_with_what_to_try(path):
    cells = nbformat.read(path, as_version=4).cells
    assert re.match(r"# .+\n\n\S", cells[0].source)
    assert "## What to try next" in cells[-1].source
    numbers = [cell.source for cell in cells if cell.cell_type == "markdown" and re.search(r"\d\.\d{3}", cell.source)]
    assert not numbers, "a number that was measured belongs into a cell that measures it"


@pytest.mark.parametrize("text", ["/tmp/x", f"in {SLASH}work/main/a.py", f"{SLASH}home/me", r"C:\Users\me"])
def test_own_paths_are_found(text):
    assert OWN_PATHS.search(text)


def code(path):
    """Yield the cells of code, parsed."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            yield ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE))


def is_claim(function):
    return any(called(decorator) == "claim" for decorator in function.decorator_list)


def called(node):
    """Return the name of what a node calls; None if it calls nothing."""
    if not isinstance(node, ast.Call):
        return None
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)


# --- what the notebooks call, and nobody else does -------------------------------------------------


@claim("mine/no-harm", setting=Layer, relation="<=", source="mine", hypotheses=[Layer.no_covariate_shift])
def no_harm(layer):
    r"""$\mathcal E_o(\text{S2FT}) \le \mathcal E_o(\text{pre})$."""
    return layer.s2ft.test_risk, layer.pretrained.test_risk


def test_shown_says_what_linnet_show_prints(capsys):
    text = shown(no_harm, run(no_harm, QUICK, seed=0))
    assert text.startswith("mine/no-harm  refuted\nℰ_o(S2FT) ≤ ℰ_o(pre).\n")
    assert "counterexample, exact: observed " in text
    assert "coef_test = [" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert capsys.readouterr().out == ""


def test_tried_is_a_ledger_that_can_be_read_again(tmp_path):
    ledger = ledgers.tried(["conjecture/lora-ood-never-better"], seed=3)
    (row,) = ledger["claims"]
    assert (ledger["budget"], ledger["seed"], row["verdict"]) == ("quick", 3, "refuted")
    assert set(row) == set(ledgers.KEYS)
    with pytest.raises(ClaimError, match="no budget 'small'; give one of quick, full, thorough"):
        ledgers.tried([], budget="small")
    with pytest.raises(ClaimError, match="no claim 'linnet/forgeting'"):
        ledgers.tried(["linnet/forgeting"])


def test_stored_finds_the_ledger_above_then_that_of_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "figures").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    mine = tmp_path / "figures" / "ledger.json"
    mine.write_text("{}")
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert ledgers.stored() == mine
    shutil.rmtree(mine.parent)
    monkeypatch.setattr(ledgers.linnet, "__file__", str(tmp_path / "site" / "linnet" / "__init__.py"))
    assert ledgers.stored() is None
    (tmp_path / "site" / "figures").mkdir(parents=True)
    beside = tmp_path / "site" / "figures" / "ledger.json"
    beside.write_text("{}")
    assert ledgers.stored() == beside.resolve()
