"""The front matter is true: the README runs, versions agree, nothing of one machine is in the repository."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import linnet
from linnet.trials.claim import installed_claims

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINNET = [sys.executable, "-m", "linnet.cli"]


def blocks(language, text=README):
    """Return the fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


CLAIM_FILES = [b for b in blocks("python") if "@claim(" in b]


def text_files():
    """Yield (path, text) of what the repository holds, built and downloaded things aside."""
    built, ours = {"build", "dist", "__pycache__"}, {".ci", ".gitignore"}
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT)
        if path.is_file() and not any(p in built or (p.startswith(".") and p not in ours) for p in inside.parts):
            try:
                yield inside, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture


def test_the_quick_start_runs_as_written():
    quick_start, _ = [b for b in blocks("python") if b not in CLAIM_FILES]
    names = {}
    exec(compile(quick_start, "README.md", "exec"), names)
    assert names["tuned"].product.shape == names["coef"].shape
    assert isinstance(names["ln"].excess_risk(names["tuned"], names["test"]), float)


def test_the_fine_tuning_runs_as_written():
    from transformers import LlamaConfig, LlamaForCausalLM

    _, fine_tuning = [b for b in blocks("python") if b not in CLAIM_FILES]
    names = {"model": LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=2))}
    total = names["model"].num_parameters()
    exec(compile(fine_tuning, "README.md", "exec"), names)
    assert 0.009 * total < names["model"].get_nb_trainable_parameters()[0] <= 0.01 * total


def test_the_claim_file_runs_from_another_folder(tmp_path):
    (text,) = CLAIM_FILES
    assert len(text.splitlines()) <= 25
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    command = [*LINNET, "verify", "mine.py", "--budget", "quick", "--json", "mine.json"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8")
    (row,) = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))["claims"]
    (printed,) = [line for line in blocks("text")[0].splitlines() if "mine/" in line]
    assert [cell.strip() for cell in printed.split("│")[1:4]] == [row["id"], row["verdict"], row["relation"]]
    assert row["id"] in ran.stdout


def test_the_guide_to_claims_runs_as_written(tmp_path):
    guide = blocks("python", (ROOT / "docs" / "writing-a-claim.md").read_text(encoding="utf-8"))
    assert guide
    for i, block in enumerate(guide):
        (tmp_path / f"block_{i}.py").write_text(block, encoding="utf-8")
        if "@claim(" in block:
            command = [*LINNET, "verify", f"block_{i}.py", "--budget", "quick"]
            subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
        else:
            exec(compile(block, "writing-a-claim.md", "exec"), {})


def test_the_commands_of_the_readme_name_what_there_is():
    made = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"^make ([a-z]+)$|`make ([a-z]+)`", README, re.MULTILINE)
    assert {a or b for a, b in named} <= set(made)
    assert set(re.findall(r"linnet (?:verify|show) (\w+/[\w-]+)", README)) <= set(installed_claims())


def test_the_readme_has_the_verdicts_of_the_ledger():
    ledger = ROOT / "figures" / "ledger.json"
    if not ledger.exists():
        pytest.skip("no ledger yet: make verify writes it")
    spec = importlib.util.spec_from_file_location("docs_verdicts", ROOT / "docs" / "verdicts.py")
    verdicts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(verdicts)
    fresh = verdicts.found(verdicts.updated(README, json.loads(ledger.read_text(encoding="utf-8"))), verdicts.models())
    assert fresh == README, "README.md has other verdicts than figures/*.json: make readme"


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == linnet.__version__
    released = re.findall(r"^## \[(\d.*?)\]", changes, re.MULTILINE)
    assert released[0] == linnet.__version__


def test_constraints_pin_versions_and_name_no_place():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9][a-z0-9-]*==[0-9][\w.]*( ; .*)?", line), line
        assert not line.startswith(("nvidia", "cuda", "triton")), "a CPU build of torch needs no CUDA package"
        assert "://" not in line


def test_every_dependency_is_constrained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.match(r"[\w-]+", d)[0].lower() for d in wanted} - {project["name"]}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert names <= pinned


PUBLIC = {
    "192.0.2.7",
    "localhost",
    "127.0.0.1",
    "www.apache.org",
    "keepachangelog.com",
    "semver.org",
    "arxiv.org",
    "doi.org",
}
PRIVATE_PATH = re.compile(r"(?<![\w.$}~*\])-])/(?:work|root|home|opt|srv|mnt|Users)/\w")


def test_nothing_of_one_machine_is_in_the_repository():
    found = []
    for path, text in text_files():
        found += [f"{path}: path {m[0]}" for m in PRIVATE_PATH.finditer(text)]
        found += [f"{path}: host {host}" for host in re.findall(r"\w+://([^\s/:)\"'`>]+)", text) if host not in PUBLIC]
    assert not found, found


def test_nobody_is_sent_to_another_projects_name():
    found = [str(path) for path, text in text_files() if re.search(r"pip install (?:-\S+ )*linnet(?![-\w])", text)]
    assert not found, found


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        (
            "from linnet.cli import app; app(['--help'], standalone_mode=False)",
            {"numpy", "jax", "torch", "rich.table", "jinja2", "markdown_it"},
        ),
        ("import linnet", {"numpy", "jax", "torch"}),
        ("import linnet.trials", {"jax", "torch"}),
        ("import linnet.report.verdicts", {"jinja2", "latex2mathml", "mdit_py_plugins", "torch"}),
        ("import linnet as ln; ln.LoRA, ln.LayerProblem, ln.excess_risk", {"jax", "torch", "scipy"}),
    ],
)
def test_what_is_slow_to_import_is_imported_where_it_is_used(code, banned):
    program = f"{code}\nimport sys\nfound = {banned!r} & set(sys.modules)\nassert not found, found"
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_types_are_shipped():
    assert (Path(linnet.__file__).parent / "py.typed").exists()
