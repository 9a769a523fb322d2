"""What a sweep's file may say, what a study must be, and what its cells may depend on."""

import json
import math
import sys

import numpy as np
import pytest
from pyarrow import parquet
from sweeps import mine, short, toys, write

from linnet.errors import DataError
from linnet.sweep import mean_and_error, read_sweep, read_table, run_sweep, study, sweep_of
from linnet.sweep.studies import layer
from linnet.sweep.study import cell_of

# The file.

LAYER = {
    "title": "t",
    "study": "layer",
    "base": {"network": {"widths": [4, 5, 3], "layer": 0}, "methods": [{"method": "FullFT"}], "n": 9.0},
    "grid": [{"seed": [0, 1]}],
}


def cells(sweep, *names):
    """Return the cells' columns of these names."""
    return [tuple(cell.columns()[name] for name in names) for cell in sweep.cells()]


def test_cells_are_the_product_of_each_grid_the_last_axis_fastest(tmp_path):
    sweep = toys(tmp_path, "[[grid]]\nn = [1, 2]\nseed = {range = [3, 5]}\n[[grid]]\nn = [7]\nseed = [9]\n")
    assert len(sweep) == 5
    assert cells(sweep, "n", "seed") == [(1, 3), (1, 4), (2, 3), (2, 4), (7, 9)]
    assert (sweep.name, sweep.title) == ("toys", "Toys")
    assert len(toys(tmp_path, "")) == 1, "no grid: the one cell of [base]"


def test_an_axis_reaches_into_a_table_and_leaves_the_rest_of_it(tmp_path):
    text = "base.box = {width = 6, depth = 2}\n[[grid]]\nbox.depth = [3, 4]\n"
    assert cells(toys(tmp_path, text), "box.width", "box.depth") == [(6, 3), (6, 4)]
    text = "base.box.width = 6\n[[grid]]\nbox = [{depth = 3}, {width = 9, depth = 4}]\n"
    assert cells(toys(tmp_path, text), "box.width", "box.depth") == [(6, 3), (9, 4)]


def altered(**changes):
    """Return LAYER with other values; dots in names are written as two underscores."""
    raw = json.loads(json.dumps(LAYER))
    for name, value in changes.items():
        *path, last = name.split("__")
        at = raw
        for key in path:
            at = at[int(key)] if key.isdigit() else at[key]
        at[last] = value
    return raw


LORA = [{"method": "FullFT"}, {"method": "LoRA", "ranks": [2, 5]}]
METHODS = "give one of FullFT, LoRA, S2FT, SparseFT, FrozenFactorLoRA"
AXIS = "an axis is a list of values; of a parameter that is a list itself write"
TWICE = [{"method": "S2FT", "channels": [1]}, {"method": "LoRA", "ranks": [1]}, {"method": "S2FT", "channels": [2, 1]}]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"study": "layer"}, "title: missing; this parameter has no default"),
        (altered(titel="x"), "titel: unknown key; did you mean title?"),
        (altered(title=3), "title: text is needed, in quotes (given: 3)"),
        (altered(study="layr"), "no study 'layr'; give one of "),
        (altered(study="none.py"), "none.py': there is no such file"),
        (altered(grid={"seed": [1]}), "grid: one table; write it in double brackets, [[grid]]"),
        (altered(grid=[]), "grid: empty; give at least one"),
        (altered(grid=[{"seed": 3}]), "grid.seed: 3 is no axis; give a list of at least one value"),
        (altered(grid=[{"seed": []}]), "grid.seed: [] is no axis"),
        (altered(grid=[{"seed": [1], "task": {}}]), "grid.task: {} is no axis"),
        (altered(grid=[{"seed": {"range": [3, 3]}}]), "grid.seed.range: [3, 3]; give [first, past the last]"),
        (altered(grid=[{"seed": {"range": [0, True]}}]), "grid.seed.range: [0, True]; give"),
        (altered(grid=[{"seed": {"range": 3}}]), "grid.seed.range: 3; give"),
        (altered(base__netwrk=1), "base.netwrk: unknown key"),
        (altered(base__network__depth=1), "base.network.depth: unknown key"),
        (altered(base__network={"layer": 0}), "base.network.widths: missing"),
        (altered(base__n=2.5), "base.n: give a whole number of samples, at least 1, or inf"),
        (altered(base__network__layer=2), "base.network.layer: layer 2 of a network with 2; layers count from 0"),
        (altered(base__methods=LORA), "base.methods[1].ranks[1]: rank 5 for a 5 x 4 layer; give 1 to 4"),
        (altered(base__methods__0__rank=1), "base.methods[0].rank: unknown key"),
        (altered(base__methods=[{"method": "LoRA", "ranks": ["x"]}]), "base.methods[0].ranks[0]: a whole number is"),
        (altered(base__methods=[{"method": "Lora", "ranks": [1]}]), f"base.methods[0]: no method 'Lora'; {METHODS}"),
        (altered(base__methods=[{"ranks": [1]}]), f"base.methods[0]: method is missing; {METHODS}"),
        (
            altered(base__methods=[{"method": "S2FT", "channels": [1], "by": "luck"}]),
            "base.methods[0].by: no by 'luck'; give one of random, weight, activation, product, gradient, first",
        ),
        (altered(grid__0__netwrk=[1]), "grid.netwrk: unknown key; did you mean network?"),
        (altered(grid__0__network={"layer": [0, 2]}), "grid.network.layer[1]: layer 2 of a network with 2"),
        (altered(grid__0__methods=[[{"method": "FullFT"}], LORA]), "grid.methods[1][1].ranks[1]: rank 5 for a 5 x 4"),
        (altered(grid__0__task=[{"rank": 1}, {"rank": 9}]), "grid.task[1].rank: rank 9 in a 5 x 4 layer"),
        (altered(grid=[{"seed": [0]}, {"n": [8], "seed": [0, -1]}]), "grid[1].seed[1]: input should be greater than"),
        (altered(base__seed=2**63), f"base.seed: {2**63} does not fit into 64 bits"),
        (altered(grid__0__seed=[1, -(2**70)]), f"grid[0].seed[1]: {-(2**70)} does not fit into 64 bits"),
    ],
)
def test_what_no_cell_can_be_is_refused_with_its_place(raw, said):
    with pytest.raises(DataError) as caught:
        sweep_of(raw)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid__0__seed": {"range": [0, 10**12]}}, f"grid.seed.range: {10**12} values; a sweep has at most 10000000"),
        (
            {"grid__0__seed": {"range": [0, 10**6]}, "grid__0__n": {"range": [1, 10**6 + 1]}},
            f"grid: {10**12} cells; a sweep has at most 10000000",
        ),
        ({"grid__0__seed": {"range": [-(2**63), 2**63 - 1]}}, f"grid.seed.range: {2**64 - 1} values; a sweep has"),
        ({"base__replicates": True}, "base.replicates: a whole number is needed (given: true)"),
        ({"base__replicates": "5"}, 'base.replicates: a whole number is needed (given: "5")'),
        ({"base__replicates": 5.0}, "base.replicates: a whole number is needed (given: 5.0)"),
        ({"base__n": "9"}, 'base.n: a number is needed (given: "9")'),
        ({"grid__0__n": [9, True]}, "grid.n[1]: a number is needed (given: true)"),
        ({"base__methods": [{"method": "LoRA", "ranks": ["1"]}]}, "base.methods[0].ranks[0]: a whole number is needed"),
        ({"base__methods": [{"method": "LoRA", "ranks": 2}]}, "base.methods[0].ranks: a list is needed: ranks = [2]"),
        ({"base__methods": [{"method": "LoRA", "ranks": []}]}, "base.methods[0].ranks: empty; give at least one"),
        ({"base__methods": []}, "base.methods: empty; give at least one"),
        ({"base__network__widths": [4]}, "base.network.widths: 1 given; give at least 2"),
        (
            {"base__methods": ["LoRA"]},
            'base.methods[0]: "LoRA"; give a table, such as { method = "LoRA", ranks = [2] }',
        ),
        ({"base__shift": "old"}, 'base.shift: "old"; give a table, such as { kind = "old" }'),
        ({"base__network": 3}, "base.network: 3; give a table, such as { widths = [2, 2], layer = 0 }"),
        ({"base__shift": {"kind": "odl"}}, "base.shift.kind: no kind 'odl'; give one of none, old, label, layer, chan"),
        ({"grid__0__network": {"widths": [4, 5, 3]}}, f"grid.network.widths: {AXIS} [[4, 5, 3]]"),
        (
            {"grid__0__methods": [{"method": "LoRA", "ranks": [2]}]},
            f'grid.methods: {AXIS} [[{{ method = "LoRA", ranks = [2] }}]]',
        ),
        ({"grid__0__methods": {"ranks": [1, 2]}}, "grid.methods.ranks: methods is a list, which an axis cannot reach"),
        ({"base__n": [8, 9]}, "base.n: a number is needed (given: [8, 9]); what varies belongs under [[grid]]"),
        ({"base__task": [1]}, "base.task: [1]; give a table, such as { size = 1.0 }"),
        ({"grid": 3}, "grid: no list of tables; begin each with its name in double brackets, [[grid]]"),
        ({"replicates": 3}, "replicates: a parameter of the study; it belongs under [base]"),
        ({"grid__0__sed": [1, 2, 3]}, "grid.sed: unknown key; did you mean seed?"),
        ({"grid__0__netwrk": {"layer": [0, 1]}}, "grid.netwrk: unknown key; did you mean network?"),
        ({"grid__0__network": {"layr": [0, 1]}}, "grid.network.layr: unknown key; did you mean layer?"),
        ({"base__replicats": 3}, "base.replicats: unknown key; did you mean replicates?"),
        ({"base__methods__0__xyz": 3}, "base.methods[0].xyz: unknown key; remove it, or correct its name"),
        (
            {"base__methods": [{"method": "LoRA", "ranks": [1], "rank": 2}]},
            "base.methods[0].rank: unknown key; did you",
        ),
        ({"grid__0__n": {"log": [1, 9]}}, "grid.n: log is no way to list values; give a list, or n.range = [first, pa"),
        ({"grid__0__n": {"range": [1, 9], "step": 2}}, "grid.n: range is no way to list values"),
        ({"base__shift": {"kind": "channels", "size": 1.0}}, 'base.shift: a shift of kind "channels" needs channels'),
        ({"base__shift": {"kind": "label"}}, 'base.shift: a shift of kind "label" needs a size'),
        ({"base__shift": {"kind": "layer"}}, 'base.shift: a shift of kind "layer" needs a size'),
        ({"base__shift": {"kind": "channels", "channels": 1}}, 'base.shift: a shift of kind "channels" needs a size'),
        ({"base__network__layer": 3}, "layer 3 of a network with 2; layers count from 0; give 0 to 1"),
        ({"base__methods": TWICE}, "base.methods[2].channels[1]: S2FT, channels 1, is given twice; leave one of them"),
        ({"base__methods": [{"method": "FullFT"}] * 2}, "base.methods[1]: full FT is given twice; leave one of them"),
    ],
)
def test_what_a_newcomer_writes_is_answered_in_words(changes, said):
    with pytest.raises(DataError) as caught:
        sweep_of(altered(**changes))
    assert str(caught.value).startswith(said) or str(caught.value).startswith(f"base.network.layer: {said}")
    assert "\n" not in str(caught.value), "once, whichever cells there are"


def test_what_is_right_is_taken_as_before():
    methods = [{"method": "S2FT", "channels": [1]}, {"method": "S2FT", "channels": [1], "by": "first"}]
    shift = {"kind": "label", "size": 0}
    sweep = sweep_of(
        altered(base__n=math.inf, base__shift=shift, base__methods=methods, grid__0__seed={"range": [0, 2]})
    )
    for cell in sweep.cells():
        assert type(cell.shift.size) is float, "a whole number is a number"
        assert cell.n == math.inf
        assert cell_of(type(cell), cell.model_dump(mode="json")) == cell, "as processes hand it on"
    assert sweep.grids[0][0].values == range(2), "not a list of its values: there may be millions"


def test_fields_that_toml_has_no_word_for(tmp_path):
    text = short(rows="[Row(float(sum(self.pair)))]").replace("size: int = 0", "pair: tuple[int, int]")
    (tmp_path / "mine.py").write_text(text)
    sweep = sweep_of({"title": "t", "study": "mine.py", "base": {"pair": [3, 4]}}, beside=tmp_path)
    done = run_sweep(sweep, tmp_path / "out")
    assert read_table(done.table)["value"].tolist() == [7.0]
    with pytest.raises(DataError, match=r"^pair: a parameter of the study; it belongs under \[base\]$"):
        sweep_of({"title": "t", "study": "mine.py", "pair": [3, 4]}, beside=tmp_path)


def test_a_file_that_begins_with_a_mark_is_read(tmp_path):
    file = write(tmp_path, "")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_sweep(file).title == "Toys"


def test_several_faults_are_named_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        sweep_of(altered(base__netwrk=1, base__replicates=0, grid__0__n=[1.0, 0.5]))
    head, *faults = str(caught.value).splitlines()
    assert head == "2 faults:"
    assert [fault.split(":")[0] for fault in faults] == ["  base.replicates", "  base.netwrk"], "each of them once"
    with pytest.raises(DataError) as caught:
        sweep_of(altered(base__methods=[{"method": "S2FT", "channels": [1], "by": "x", "form": "x"}]))
    _, by, form = str(caught.value).splitlines()
    assert by.endswith("no by 'x'; give one of random, weight, activation, product, gradient, first")
    assert form.endswith("base.methods[0].form: no form 'x'; give one of rows, columns")
    text = "[[grid]]\nn = [1, 2]\nbox.depth = [1, 5]\nseed = [-1, 0]\n"
    with pytest.raises(DataError) as caught:
        toys(tmp_path, text)
    assert "grid.seed[0]: input should be greater" in str(caught.value)
    assert "grid.box.depth[1]: Depth 5 in a box of width 4" in str(caught.value), "in the study's own words"
    with pytest.raises(DataError) as caught:
        toys(tmp_path, "[[grid]]\nseed = {range = [-20, 0]}\n")
    head, *faults = str(caught.value).splitlines()
    assert head.endswith("8 faults or more:")
    assert len(faults) == 8


def test_cells_that_are_the_same_are_refused(tmp_path, monkeypatch):
    for text, said in [
        ("[[grid]]\nseed = [4, 5, 4]\n", "two cells are the same: grid.seed[0] and grid.seed[2]"),
        ("[[grid]]\nn = [1, 1.0]\nseed = [0, 1]\n", "grid.n[0], grid.seed[0] and grid.n[1], grid.seed[0]"),
        ("[[grid]]\nn = [1, 2]\n[[grid]]\nseed = [1, 0]\nn = [2]\n", "grid[0].n[1] and grid[1].seed[1], grid[1].n[0]"),
        ("[[grid]]\nseed = [0, 1]\n[[grid]]\n", "grid[0].seed[0] and cell 3"),
    ]:
        with pytest.raises(DataError) as caught:
            toys(tmp_path, text)
        assert said in str(caught.value)
    kind = toys(tmp_path, "").study
    key = kind.key
    monkeypatch.setattr(kind, "key", lambda self: "0" * 16 + key(self)[16:])
    assert len(toys(tmp_path, "[[grid]]\nseed = [0, 1]\n")) == 2, "half of a key in common is no whole one"
    with pytest.raises(DataError, match="two cells are the same"):
        toys(tmp_path, "[[grid]]\nseed = [0, 1, 0]\n")


def test_files_that_are_no_sweep(tmp_path):
    with pytest.raises(DataError, match="does not exist; give the path of a sweep"):
        read_sweep(tmp_path / "none.toml")
    with pytest.raises(DataError, match="is a folder; give the path of a sweep"):
        read_sweep(tmp_path)
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"a\.toml cannot be read .*; a text file in TOML is needed"):
        read_sweep(tmp_path / "a.toml")
    for text, said in [
        ('title = "a"\ntitle = "b"', "is not TOML: Cannot overwrite"),
        ("a = [", "is not TOML"),
        ("grid = 1", r"a\.toml: "),
    ]:
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(DataError, match=said):
            read_sweep(tmp_path / "a.toml")


# The study.


def test_study_files_of_one_name_are_not_mixed_up(tmp_path):
    values = {"a": "[Row(1.0)]", "b": "[Row(2.0, 'x')]"}
    columns = {"a": "value: float", "b": "value: float\n    text: str | None = None"}
    sweep = {k: mine(tmp_path / k, columns[k], values[k], name="json.py") for k in values}
    for name in ("a", "b"):
        run_sweep(sweep[name], tmp_path / name)
    assert read_table(tmp_path / "a" / "sweep.parquet")["value"].tolist() == [1.0]
    assert read_table(tmp_path / "b" / "sweep.parquet")[["value", "text"]].to_numpy().tolist() == [[2.0, "x"]]
    assert sweep["a"].study.name() == "json"
    assert sys.modules["json"] is json
    assert study(str(tmp_path / "a" / "json.py")) is sweep["a"].study


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "defines 0 studies; exactly one subclass"),
        (short("x: int", "[]") + "class Other(Mine):\n    pass\n", "defines 2 studies"),
        (short("x: int", "[]").replace("    Row = Row\n", ""), "Mine has no Row"),
        (short("x: list[float]", "[]"), "Row.x is no float, int, str or bool"),
        (short("size: float", "[]"), "Row.size is the name of another column"),
        (short("cell: str", "[]"), "Row.cell is the name of another column"),
        ("1 / 0", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("raise SystemExit(0)", r"cannot be imported \(SystemExit"),
    ],
)
def test_files_that_define_no_study(tmp_path, text, said):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(DataError, match=said):
        sweep_of({"title": "t", "study": "mine.py"}, beside=tmp_path)
    (tmp_path / "mine.py").write_text(short("value: float", "[Row(1.0)]"))
    assert len(sweep_of({"title": "t", "study": "mine.py"}, beside=tmp_path)) == 1, "mended, it can be used at once"


@pytest.mark.parametrize(
    ("column", "rows", "said"),
    [
        ("value: float", "[{'value': 1.0}]", "run() returned a row of type dict; give a Row"),
        ("value: float", "[Row('high')]", "Row.value is 'high'; its column holds float"),
        ("value: float", "[Row(None)]", "Row.value is None; its column holds float"),
        ("value: int | None", "[Row(1.0)]", "Row.value is 1.0; its column holds int of 64 bits or None"),
        ("value: int", "[Row(2**63)]", f"Row.value is {2**63}; its column holds int of 64 bits"),
        ("value: bool", "[Row(1)]", "Row.value is 1; its column holds bool"),
        ("value: int", "[Row(True)]", "Row.value is True; its column holds int of 64 bits"),
        ("value: float", "None", "run() returned None; return a list, each of it a Row"),
        ("value: float", "Row(1.0)", "run() returned a Row; return a list of them"),
        ("value: float", "[]", "run() returned no rows; return a list of at least one Row"),
        ("value: float", "[Row(list(range(100)))]", "Row.value is [0, 1, 2, 3, 4, 5, ...]; its column holds float"),
    ],
)
def test_rows_that_the_table_cannot_hold_fail_their_cell_alone(tmp_path, column, rows, said):
    done = run_sweep(mine(tmp_path, column, rows), tmp_path)
    assert [failure.error for failure in done.failures] == [f"DataError: {said}"]
    assert len(read_table(done.table)) == 0


def test_scalars_of_numpy_are_as_good(tmp_path):
    columns = "a: float\n    b: int\n    c: bool\n    d: float | None\n    e: 'typing.Optional[int]'"
    rows = "[Row(np.float32(0.1), np.int64(-3), np.bool_(True), 2, np.int32(4))]"
    sweep = mine(tmp_path, columns, rows, imports="import typing\nimport numpy as np")
    done = run_sweep(sweep, tmp_path / "out")
    assert not done.failures
    found = parquet.read_table(done.table).to_pylist()[0]
    assert [found[k] for k in "abcde"] == [float(np.float32(0.1)), -3, True, 2.0, 4]
    assert [type(found[k]) for k in "abcde"] == [float, int, bool, float, int]


def test_streams_depend_on_what_is_named_and_on_nothing_else(tmp_path):
    kind = toys(tmp_path, "").study

    def drawn(purpose="p", of=(), **parameters):
        return kind.model_validate(parameters).stream(purpose, *of).random()

    assert drawn(of=(1, "x"), n=3.0) == drawn(of=(1, "x"), n=4.0)
    different = [
        drawn(),
        drawn(n=3.0),
        drawn(seed=1),
        drawn("q"),
        drawn(of=(1,)),
        drawn(of=(2,)),
        drawn(of=(1,), seed=1),
    ]
    assert len(set(different)) == len(different)


def test_means_and_their_errors():
    mean, error = mean_and_error(np.array([1.0, 2.0, 4.0, np.nan]))
    assert mean == pytest.approx(7 / 3)
    assert error == pytest.approx(math.sqrt((16 / 9 + 1 / 9 + 25 / 9) / 2 / 3))
    assert mean_and_error(np.full(7, 0.1)) == (0.1, 0.0)
    assert np.isnan(mean_and_error(np.array([3.0]))[1])
    assert np.isnan(mean_and_error(np.array([np.nan, np.nan]))).all()


# The study of one layer.

CHOICES = [
    {"method": "FullFT"},
    {"method": "S2FT", "channels": [1, 2]},
    {"method": "FrozenFactorLoRA", "ranks": [2], "frozen": "U"},
    {"method": "SparseFT", "entries": [7]},
]


def risks(methods, **parameters):
    """Return the rows of a cell of the layer study."""
    base = {"network": {"widths": [5, 4, 3], "layer": 0}, "task": {"noise": 0.3}, "n": 9, "replicates": 20}
    return study("layer").model_validate(base | parameters | {"methods": methods}).run()


def test_a_method_is_worth_the_same_in_every_company():
    rows = risks(CHOICES)
    assert len(rows) == 5
    assert len({row.risk_in for row in rows}) == 5
    assert risks(CHOICES[::-1]) == [rows[4], rows[3], rows[1], rows[2], rows[0]]
    for choice, own in zip(CHOICES, [rows[:1], rows[1:3], rows[3:4], rows[4:]], strict=True):
        assert risks([choice]) == own
    other = risks(CHOICES, shift={"kind": "label", "size": 2.0})
    assert [row.risk_in for row in other] == [row.risk_in for row in rows], "another shift, the same samples"
    assert [row.risk_out for row in other] != [row.risk_out for row in rows]


def test_a_method_is_worth_the_same_however_much_memory_the_others_need(monkeypatch):
    monkeypatch.setattr(layer, "BLOCK", 1000)
    assert risks([*CHOICES[:1], {"method": "SparseFT", "entries": [20]}])[:1] == risks(CHOICES[:1])
