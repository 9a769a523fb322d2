"""The experiments: stored tables are those of the sweeps as they stand, agree with theory, and can be drawn."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from linnet.errors import DataError
from linnet.plots import LOOKS, draw_experiment, load_drawing, look, over_seeds
from linnet.sweep import read_sweep, read_table, run_sweep
from linnet.sweep.study import Study

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.toml"))

CAP = 0.1
"""Of a standard error, relative to what theory expects: a test of five of them then means something."""

ROUNDING = {"descent": 1e-7}
"""Of the largest value in a column, 1e-13 elsewhere: descent stops where the gradient is small."""

FAR = 10_000
"""Samples from which the first order has to hold: what it leaves out is of order 1/n."""


def sweep(name):
    return read_sweep(ROOT / "experiments" / f"{name}.toml")


def stored(name):
    return read_table(ROOT / "figures" / f"{name}.parquet")


def test_there_are_the_experiments_that_were_asked_for():
    assert {
        "memorisation",
        "selection",
        "fusion",
        "forgetting",
        "samples",
        "ranks",
        "capacity",
        "sensitivity",
        "increments",
        "descent",
        "width",
    } <= set(NAMES)
    real = [n for n in NAMES if any(column.split(".")[-1] == "data" for column in stored(n).columns)]
    assert len(real) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_table_is_of_the_sweep_as_it_stands(name):
    cells = [cell.key() for cell in sweep(name).cells()]
    assert list(dict.fromkeys(stored(name).cell)) == cells, "run make figures"


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_computed_again_gives_its_stored_rows(name):
    """The cheapest one: fewest samples or replicates, as far as one can tell from the parameters."""
    cell = min(sweep(name).cells(), key=cost)
    table = stored(name)
    old = table[table.cell == cell.key()].to_dict("records")
    new = cell.run()
    assert len(old) == len(new)
    for before, row in zip(old, new, strict=True):
        for column, value in vars(row).items():
            if isinstance(value, float):
                # What cancels to exactly zero on one processor is rounding on another: a few entries.
                rounding = 2e-3 if column in ("zeros", "zeros_se") else 1e-9
                assert value == pytest.approx(before[column], rel=1e-6, abs=rounding, nan_ok=True), column
            elif value is not None:
                assert value == before[column], column


def cost(cell: Study) -> float:
    columns = cell.columns()
    numbers = [columns.get(name, 1) for name in ("replicates", "n", "width", "depth", "steps")]
    return math.prod(float(n) if n is not None and math.isfinite(n) else 1e9 for n in numbers)


@pytest.mark.parametrize("name", NAMES)
def test_every_point_is_within_five_standard_errors_of_theory(name):
    table = stored(name)
    held = 0
    for predicted in [c for c in table.columns if c.startswith("predicted_")]:
        said = predicted.removeprefix("predicted_")
        measured = {"in": "risk_in", "out": "risk_out"}.get(said, said)
        if f"{measured}_se" not in table:
            continue
        rows = table[np.isfinite(table[predicted].astype(float)) & table[f"{measured}_se"].notna()]
        if "prediction" in rows:
            far = rows.n >= FAR if "n" in rows else rows.prediction == "exact"
            rows = rows[(rows.prediction == "exact") | ((rows.prediction == "first") & far)]
        expected, error = rows[predicted], rows[f"{measured}_se"]
        scale = expected.abs()
        if (expected < 0).any():  # of what crosses zero, the largest
            scale = scale.clip(lower=scale.max())
        rounding = ROUNDING.get(name, 1e-13) * table[measured].abs().max()
        off = (rows[measured] - expected).abs() - rounding
        late = rows[off > 5 * error]
        assert late.empty, late[["method", measured, predicted, f"{measured}_se"]].to_string()
        loose = rows[error > CAP * scale + rounding]
        assert loose.empty, loose[["method", measured, predicted, f"{measured}_se"]].to_string()
        held += len(rows)
    theories = {
        "samples",
        "interpolation",
        "subspace",
        "ranks",
        "lora-variance",
        "sensitivity",
        "descent",
        "width",
        "fusion",
    }
    assert held or name not in theories, "theory and simulation have lost each other"


@pytest.mark.parametrize("name", NAMES)
def test_the_figure_can_be_drawn_and_its_axes_are_labelled(name, tmp_path):
    file = ROOT / "experiments" / f"{name}.toml"
    targets = draw_experiment(file, ROOT / "figures" / f"{name}.parquet", tmp_path)
    assert [path.suffix for path in targets] == [".pdf", ".png", ".md"]
    assert all(path.stat().st_size > 0 for path in targets)
    text = targets[2].read_text(encoding="utf-8")
    assert text == (ROOT / "figures" / f"{name}.md").read_text(encoding="utf-8"), "run make redraw"
    outside = re.sub(r"\$[^$]*\$", "", text)
    assert not re.search(r"[{}]|\bnan\b|\binf\b", outside), outside
    figure = load_drawing(file.with_suffix(".py")).draw(stored(name))
    labels = [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes if ax.has_data()]
    assert labels
    # Panels that share an axis are labelled once.
    assert all(x for x, _ in labels) or any(len(ax.get_shared_x_axes().get_siblings(ax)) > 1 for ax in figure.axes)
    assert all(y for _, y in labels) or any(len(ax.get_shared_y_axes().get_siblings(ax)) > 1 for ax in figure.axes)
    assert figure.legends or any(ax.get_legend() for ax in figure.axes) or name == "selection-digits"


def test_parameters_that_are_lists_are_readable_in_the_table():
    widths = stored("samples")["network.widths"].iloc[0]
    assert json.loads(widths) == sweep("samples").base["network"]["widths"]


SAID = {
    "samples": lambda f: (
        f["ratio"] < 1 < f["ratio_columns"] < f["ratio_lora"] and f["crossing_low"] < f["crossing_high"]
    ),
    "memorisation": lambda f: (
        f["far_lora"] < f["far_sparse"] < f["far_full"]
        and f["sparse_many"] < f["lora_many"]
        and abs(f["gap"]) < 2 * f["gap_se"]
    ),
    "memorisation-digits": lambda f: (
        f["sparse_n"] < f["lora_n"]
        and f["sparse"] < f["lora"]
        and f["far_lora"] < f["far_sparse"] < f["full_out"]
        and f["out_lora"] < min(f["out_s2ft"], f["out_sparse"])
    ),
    "selection": lambda f: f["gradient_confined"] < f["gradient_spread"] < f["random_spread"] and f["others"] < 3,
    "selection-digits": lambda f: (
        f["gradient"] < -3 * f["gradient_se"] and f["others"] < 3 and abs(f["old"]) < 2 * f["old_se"]
    ),
    "forgetting": lambda f: f["variance"] > 0,
    "forgetting-data": lambda f: (
        f["lora"] < min(f["s2ft"], f["columns"], f["sparse"])
        and f["part_gain"] < f["full_gain"]
        and abs(f["full_lost"] - f["part_lost"]) < 2 * np.hypot(f["full_lost_se"], f["part_lost_se"])
    ),
    "interpolation": lambda f: max(f["full"], f["rows"], f["columns"]) < 1.2 * f["start"],
    "ranks": lambda f: f["fast"] > 0.9 > 0.5 > f["slow"] and f["least"] < f["full"],
    "lora-variance": lambda f: 0.95 < f["far_low"] < f["far_high"] < 1.05 and min(f["under"], f["over"]) > 1.5,
    "capacity": lambda f: f["violated_bound"] == 0 and f["factor_linear"] > 1 and f["gaussian"] == "none",
    "sensitivity": lambda f: f["share_extra"] == 0 and f["share_left"] == 1 and f["worst"] < 5,
    "width": lambda f: f["worst_se"] < 5 and abs(f["s2ft_plain"]) < 0.05 and f["grown"] > 0.9,
    "descent": lambda f: f["converged"] == 1 and f["s2ft_se"] < 5 and f["worst_excess"] < 1e-9,
    "increments": lambda f: f["near_all"] == f["cases"] and f["near_sparse_population"] == 0 and f["worst"] < 5,
    "subspace": lambda f: f["agree"] >= f["of"] - 1 and f["least"] < f["most"],
    "fusion": lambda f: f["undone"] < 1e-9 and f["own_tie"] == 1 and f["fused_related"] > 0.9 > f["fused_unrelated"],
}


@pytest.mark.parametrize("name", NAMES)
def test_what_the_text_says_is_in_the_table(name):
    """The sentences around the numbers, as far as no word of them is computed."""
    found = load_drawing(ROOT / "experiments" / f"{name}.py").findings(stored(name))
    assert SAID[name](found), found


def test_selection_by_gradient_costs_the_old_task_most():
    table = stored("selection")
    outside = table.groupby("method").risk_out.mean()
    assert outside.idxmax() == "S2FT, gradient, largest"
    assert outside.idxmin() == "S2FT, gradient, smallest"


def test_population_solutions_obey_the_law_of_forgetting():
    """SpFT among them."""
    table = stored("forgetting")
    whole = table[(table.n == math.inf) & (table["shift.kind"] == "old")]
    gain = whole.pretrained_in - whole.risk_in
    # Of what is chosen at random, means over draws: the law is linear and holds for them too.
    assert np.allclose(whole.forgetting, (2 * whole["shift.share"] - 1) * gain, atol=1e-9)
    assert set(whole.method) == {"full FT", "LoRA", "S2FT", "S2FT columns", "SpFT"}


FEW = """title = "Few"
study = "layer"
[base]
network = { widths = [4, 3, 2], layer = 0 }
methods = [{ method = "FullFT" }]
replicates = 5
[[grid]]
n = [6, 8]
"""
DRAWING = '''"""On {most:.0f} samples."""

from linnet.plots import panels

CAPTION = "Risk."


def draw(table):
    figure, ax = panels(1)
    ax.plot(table.n, table.risk_in)
    return figure


def findings(table):
    return {"most": table.n.max()}
'''


@pytest.fixture
def few(tmp_path):
    """A sweep, its drawing and its table."""
    (tmp_path / "few.toml").write_text(FEW, encoding="utf-8")
    (tmp_path / "few.py").write_text(DRAWING, encoding="utf-8")
    return tmp_path / "few.toml", run_sweep(read_sweep(tmp_path / "few.toml"), tmp_path).table


def test_a_drawing_is_made_with_its_text(few, tmp_path):
    draw_experiment(*few, tmp_path / "out")
    text = (tmp_path / "out" / "few.md").read_text(encoding="utf-8")
    assert "On 8 samples." in text
    assert "linnet sweep" in text


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("{most:.0f}", "{least:.0f}", r"few.py: the text needs 'least', but findings returns most"),
        ("{most:.0f}", "{most:.0q}", r"few.py: a placeholder of the text cannot be read"),
        ("{most:.0f}", "{most", r"few.py: a placeholder of the text cannot be read"),
        ("return figure", "return None", "draw returned a NoneType; return the figure"),
        ("table.risk_in", "table.risk", r"few.py, line 10: draw failed \(AttributeError"),
        ("table.n.max()", "1 / 0", r"few.py, line 15: findings failed \(ZeroDivisionError"),
        ("import panels", "import pannels", r"few.py cannot be imported \(ImportError"),
        ("def draw(table):", "def draw(table:", r"few.py cannot be imported \(SyntaxError"),
        ("def findings", "def found", "few.py lacks findings"),
        ("CAPTION", "CAPTIONS", "few.py lacks CAPTION"),
    ],
)
def test_a_mistake_in_a_drawing_is_said_in_a_line(few, tmp_path, before, after, said):
    assert before in DRAWING
    (tmp_path / "few.py").write_text(DRAWING.replace(before, after), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        draw_experiment(*few, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_table_of_another_sweep_is_not_drawn(few, tmp_path):
    file, table = few
    file.write_text(FEW.replace("[6, 8]", "[6, 8, 10]"), encoding="utf-8")
    with pytest.raises(DataError, match="1 of 3 cells are missing, 0 are of another sweep; run linnet sweep"):
        draw_experiment(file, table, tmp_path / "out")
    table.write_bytes(b"no table")
    with pytest.raises(DataError, match="is no Parquet table"):
        draw_experiment(file, table, tmp_path / "out")
    with pytest.raises(DataError, match="does not exist; run linnet sweep first"):
        draw_experiment(file, tmp_path / "none.parquet", tmp_path / "out")


def test_means_over_seeds_speak_of_the_spread_between_them():
    import pandas as pd

    table = pd.DataFrame({"method": ["a", "a", "b"], "risk": [1.0, 3.0, 5.0], "risk_se": [0.1, 0.2, 0.3]})
    means = over_seeds(table, ["method"], ["risk"]).set_index("method")
    assert means.risk.to_dict() == {"a": 2.0, "b": 5.0}
    assert means.risk_se.to_dict() == {"a": 1.0, "b": 0.3}


def test_no_two_names_of_a_figure_look_alike():
    names = ["LoRA", "S2FT", *(f"reading {i}" for i in range(6))]
    looks = [look(name, names) for name in names]
    assert len({colour for colour, _ in looks}) == len(names)
    assert not {marker for _, marker in looks[2:]} & {look(name)[1] for name in LOOKS}
