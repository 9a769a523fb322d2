"""The arrows of docs/architecture.md: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "linnet"

# From the ground up; a room imports from its own floor and from those below it.
FLOORS = [
    {"errors", "processor"},
    {"_linalg"},
    {"network", "task", "datasets", "batches"},
    {"problem", "pretrain"},
    {"channels", "large"},
    {"methods"},
    {"risk"},
    {"finite_sample"},
    {"reference"},
    {"trials"},
    {"report", "compare"},
    {"sweep"},
    {"llm"},
    {"plots"},
    {"cli"},
]
CORE, ABOVE = set().union(*FLOORS[:8]), set().union(*FLOORS[8:])
GUESTS = {"array_api_compat", "jax", "torch"}
LANGUAGE = {"accelerate", "gguf", "peft", "reasoning_gym", "safetensors", "transformers"}


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the library."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """Return the room of the library that a module lies in; "" is the door, ``linnet`` itself."""
    return [*module.split("."), ""][1]


def imported(path: Path, *, at_import: bool = False) -> set[str]:
    """Return the modules that a file names in imports; only those that run when it is imported, if asked."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            # ``from linnet import _linalg`` names a module, ``from linnet.errors import X`` does not.
            from_package = node.module == "linnet"
            found.update(f"linnet.{alias.name}" if from_package else node.module for alias in node.names)
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


FILES = {module_name(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def test_every_room_has_a_floor():
    assert {room(name) for name in FILES} - {""} == set().union(*FLOORS)


def test_imports_point_down():
    height = {name: i for i, floor in enumerate(FLOORS) for name in floor} | {"": 0}
    up = [
        f"{name} imports {module}"
        for name, path in FILES.items()
        if room(name)  # the door itself opens every room, on first use
        for module in imported(path, at_import=True)
        if module.startswith("linnet.") and height.get(room(module), 0) > height[room(name)]
    ]
    assert not up, up


def test_the_core_knows_nothing_of_what_is_built_on_it():
    outside = [
        f"{name} imports {module}"  # be it inside a function
        for name, path in FILES.items()
        if room(name) in CORE
        for module in imported(path)
        if module.startswith("linnet.") and room(module) in ABOVE
    ]
    assert not outside, outside


def test_only_the_seam_asks_for_an_array_library():
    asking = {name: {m.split(".")[0] for m in imported(path)} & GUESTS for name, path in FILES.items()}
    assert {name for name, guests in asking.items() if guests and room(name) != "llm"} == {"linnet._linalg.libraries"}
    assert set().union(*(guests for name, guests in asking.items() if room(name) == "llm")) == {"torch"}


def test_only_the_torch_module_knows_language_models():
    knowing = {room(name) for name, path in FILES.items() if {m.split(".")[0] for m in imported(path)} & LANGUAGE}
    assert knowing == {"llm"}


def test_the_library_knows_no_claim():
    knowing = [name for name, path in FILES.items() if {m.split(".")[0] for m in imported(path)} & {"paper_checks"}]
    assert not knowing


def test_a_claim_file_imports_the_language_of_claims_and_at_most_a_family_of_another():
    files = sorted((ROOT / "paper_checks").rglob("*.py"))
    assert files
    known = set().union(*(imported(path) for path in files))
    assert {name for name in known if not name.startswith("paper_checks.")} == {"linnet.trials"}


def test_an_experiment_draws_with_what_is_there_for_all():
    files = [path for path in sorted((ROOT / "experiments").glob("*.py")) if path.with_suffix(".toml").exists()]
    assert files
    known = {
        m for path in files for m in imported(path) if m.split(".")[0] in ("linnet", "experiments", "paper_checks")
    }
    assert known == {"linnet.plots"}


def test_one_study_a_file():
    for path in sorted((LIBRARY / "sweep" / "studies").glob("[a-z]*.py")):
        classes = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)]
        assert sum(any(ast.unparse(base) == "Study" for base in n.bases) for n in classes) == 1, path


def test_one_method_a_file():
    for path in sorted((LIBRARY / "methods").glob("[a-z]*.py")):
        classes = [n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)]
        assert len(classes) == 1 or path.stem == "base", path


def test_exact_arithmetic_touches_no_floating_point():
    assert not {m.split(".")[0] for m in imported(LIBRARY / "trials" / "exact.py")} & {"numpy", "scipy"}


EYE, ZERO = [["1", "0"], ["0", "1"]], [["0", "0"], ["0", "0"]]
COUNTEREXAMPLES = [
    {
        "claim": "liu2025/eq-56",
        "setting": "quadratic",
        "instance": {
            "H": [["1", "1"], ["1", "2"]],
            "P": [["1"], ["0"]],
            "grad": [["0"], ["0"]],
            "eps": [["1"], ["1"]],
        },
        "observed": "-1",
        "relation": "==",
        "stated": "0",
    },
    {
        "claim": "yang2024/theorem-f8-lora",
        "setting": "layer",
        "instance": {
            "weights": [ZERO],
            "layer": 0,
            "rank": 1,
            "channels": [0],
            "coef_train": [["2", "0"], ["0", "1"]],
            "coef_test": [["2", "0"], ["0", "0"]],
            "cov_train": EYE,
            "cov_test": EYE,
            "x": [["0"], ["0"]],
            "noise": [["0"], ["0"]],
        },
        "observed": "0",
        "relation": ">=",
        "stated": "1",
    },
]


def test_checking_a_certificate_loads_no_search_and_no_solver():
    code = f"""
import sys
from linnet.trials.certificate import check
from linnet.trials.claim import installed_claims
for record in {COUNTEREXAMPLES!r}:
    check(record, installed_claims())
drawing = ["linnet.trials." + m for m in ("search", "climb", "shrink", "trial", "ledger")]
solving = ["linnet." + m for m in ("problem", "methods", "risk", "reference", "network")]
loaded = [m for m in drawing + solving if m in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)
