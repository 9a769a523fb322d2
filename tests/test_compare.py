"""``linnet compare``: on small networks, on the bundled examples, and on input that it must refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import linnet as ln
from linnet import cli
from linnet.compare import Estimate, compare, crossfit
from linnet.compare.affine import best_affine
from linnet.compare.bounds import bounds_that_apply
from linnet.compare.core import _Table
from linnet.compare.crossfit import FOLDS, Losses, difference, estimate, fit_methods, losses, split
from linnet.compare.decide import critical, recommend
from linnet.compare.report import pretty
from linnet.compare.standard import standardise
from linnet.errors import DataError, LinnetError, NonFiniteError, RankError, ShapeError
from linnet.methods import METHODS
from linnet.risk import expected_risk

WIDTHS = [6, 5, 4, 3]
LAYER, RANK = 1, 1


def network(seed: int = 0, biases: bool = True) -> ln.DeepLinearNetwork:
    return ln.DeepLinearNetwork.random(WIDTHS, rng=np.random.default_rng(seed), biases=biases)


def own_task(net: ln.DeepLinearNetwork, noise: float = 0.3) -> ln.Regression:
    """The task that the network has learnt."""
    p, q = net.widths[0], net.widths[-1]
    return ln.Regression(
        coef=net.product,
        signal_cov=np.diag(np.linspace(0.5, 2.0, p)),
        noise_cov=noise**2 * np.eye(q),
        mean=np.linspace(-1, 1, p),
        intercept=net.offset,
    )


def moved_task(net: ln.DeepLinearNetwork, delta: np.ndarray, noise: float = 0.3) -> ln.Regression:
    """The task of the network with ``delta`` added to its layer: what fine-tuning the layer can reach."""
    weights = list(net.weights)
    weights[LAYER] = weights[LAYER] + delta
    tuned = ln.DeepLinearNetwork(tuple(weights), net.biases)
    old = own_task(net, noise)
    return ln.Regression(tuned.product, old.signal_cov, old.noise_cov, old.mean, tuned.offset)


def full_rank(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(WIDTHS[LAYER + 1], WIDTHS[LAYER]))


def answer(result, distribution, scope):
    (found,) = [r for r in result.recommendations if (r.distribution, r.scope) == (distribution, scope)]
    return found


# --- what it computes -------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [[6, 5, 4, 3], [6, 3]])
@pytest.mark.parametrize("biases", [True, False])
def test_standardising_leaves_the_function_unchanged(widths, biases):
    rng = np.random.default_rng(0)
    net = ln.DeepLinearNetwork.random(widths, rng=rng, biases=biases)
    x = rng.normal(size=(50, 6)) * [1e-3, 1, 1e3, 1, 1, 0] + [0, 5, 1e3, -2, 0, 7]
    y = rng.normal(size=(50, 3)) * [1, 100, 0] + [3, 0, 0.1]
    new = rng.normal(size=(20, 6)) + x.mean(axis=0)
    s = standardise(net, (x, y), (new, net(new)))
    moved, targets = s.train
    np.testing.assert_allclose(moved[:, :5].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(moved[:, :5].std(axis=0), 1)
    np.testing.assert_allclose(targets[:, :2].std(axis=0), 1)
    assert s.constant_x.tolist() == [False] * 5 + [True]
    assert s.constant_y.tolist() == [False, False, True]
    back = s.net(moved) * np.where(s.constant_y, 1, y.std(axis=0)) + y.mean(axis=0)
    np.testing.assert_allclose(back, net(x), rtol=1e-10, atol=1e-9)
    # The test set moves with the network: a perfect fit stays perfect.
    np.testing.assert_allclose(s.net(s.test[0]), s.test[1], rtol=1e-9, atol=1e-9)


def test_every_method_is_there_with_its_parameters():
    net = network()
    rng = np.random.default_rng(1)
    task = moved_task(net, full_rank())
    result = compare(net, task.sample(60, rng=rng), own_task(net).sample(40, rng=rng), LAYER, RANK, seed=3)
    d_out, d_in = WIDTHS[LAYER + 1], WIDTHS[LAYER]
    assert result.budget == RANK * (d_out + d_in)
    rows = {row.name: row for row in result.methods}
    assert {row.method for row in result.methods} == set(METHODS) - {"Subspace"}  # a subspace has no budget of its own
    assert rows["LoRA"].parameters == result.budget
    assert rows["LoRA"].matched
    assert rows["full FT"].parameters == d_out * d_in
    assert not rows["full FT"].matched
    assert not rows["full FT"].affordable
    risks = [row.in_distribution.risk.value for row in result.methods]
    assert risks == sorted(risks)
    best = answer(result, "in", "any size").best
    assert rows[best].in_distribution.to_best == Estimate(value=0, se=0)
    assert result.pretrained.forgetting == Estimate(value=0, se=0)


def test_held_out_risks_by_hand():
    """Full FT, fold by fold, with nothing of the package's cross-fitting."""
    net = network()
    rng = np.random.default_rng(2)
    train, test = (t.sample(40, rng=rng) for t in (moved_task(net, full_rank()), own_task(net)))
    result = compare(net, train, test, LAYER, RANK, seed=5)
    s = standardise(net, train, test)
    fold = split(40, 5, "training folds")
    assert np.bincount(fold).tolist() == [8] * FOLDS
    inside, outside = np.zeros(40), []
    for k in range(FOLDS):
        rest = fold != k
        problem = ln.LayerProblem(s.net, LAYER, ln.Moments.from_data(s.train[0][rest], s.train[1][rest]))
        tuned = s.net.updated(ln.FullFT().solve(problem))
        inside[~rest] = ((s.train[1][~rest] - tuned(s.train[0][~rest])) ** 2).sum(axis=1)
        outside.append(((s.test[1] - tuned(s.test[0])) ** 2).sum(axis=1))
    row = next(row for row in result.methods if row.name == "full FT")
    assert row.in_distribution.risk.value == pytest.approx(inside.mean(), rel=1e-12)
    within = sum(inside[fold == k].var(ddof=0) * 8 for k in range(FOLDS)) / (40 - FOLDS)
    assert row.in_distribution.risk.se == pytest.approx(np.sqrt(within / 40), rel=1e-12)
    each = np.mean(outside, axis=0)
    assert row.out_of_distribution.risk.value == pytest.approx(each.mean(), rel=1e-12)
    gap = ((s.train[1] - s.net(s.train[0])) ** 2).sum(axis=1) - inside
    within = sum(gap[fold == k].var(ddof=0) * 8 for k in range(FOLDS)) / (40 - FOLDS)
    assert answer(result, "in", "any size").best == "full FT"
    assert result.pretrained.in_distribution.to_best.value == pytest.approx(gap.mean(), rel=1e-10)
    assert result.pretrained.in_distribution.to_best.se == pytest.approx(np.sqrt(within / 40), rel=1e-10)
    before = ((s.test[1] - s.net(s.test[0])) ** 2).sum(axis=1)
    assert row.forgetting.value == pytest.approx((each - before).mean(), rel=1e-10)
    assert row.forgetting.se == pytest.approx((each - before).std(ddof=1) / np.sqrt(40), rel=1e-10)


def test_excess_over_the_best_affine_map_approaches_the_population_s():
    net = network()
    rng = np.random.default_rng(3)
    task, old = moved_task(net, full_rank()), own_task(net)
    train, test = task.sample(6000, rng=rng), old.sample(6000, rng=rng)
    result = compare(net, train, test, LAYER, RANK)
    scale = train[1].std(axis=0)
    for side, tested in (("in_distribution", task), ("out_of_distribution", old)):
        gap = (tested.coef - net.product) / scale[:, None]
        at_mean = (tested.y_mean - net(tested.mean[None])[0]) / scale
        truth = np.sum((gap @ tested.signal_cov) * gap) + at_mean @ at_mean
        excess = getattr(result.pretrained, side).excess
        assert abs(excess.value - truth) <= 5 * excess.se + 1e-3
        assert excess.se < 0.05 * max(truth, 1)


def test_the_best_affine_map_is_least_squares_where_that_is_well_posed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4)) + 2
    y = x @ rng.normal(size=(4, 2)) + 1
    coef, intercept = best_affine(x, y)
    np.testing.assert_allclose(x @ coef.T + intercept, y, atol=1e-10)
    # A column that is on in one sample only carries nothing that other samples could confirm.
    x = np.column_stack([x, np.eye(400)[0]])
    noisy = y + rng.normal(size=y.shape)
    coef, intercept = best_affine(x, noisy)
    assert abs(coef[0, 4]) < 2
    design = np.column_stack([x[:, :4], np.ones(400)])
    reference = np.linalg.lstsq(design, noisy, rcond=None)[0]
    np.testing.assert_allclose(coef[:, :4], reference[:4].T, atol=0.05)


def test_a_map_through_every_sample_is_no_best_affine_map():
    """As many columns as samples, pure noise: least squares leaves no error to judge it by, and must not be asked."""
    energies = []
    with np.errstate(divide="raise", invalid="raise"):
        for seed in range(8):
            rng = np.random.default_rng(seed)
            coef, _ = best_affine(rng.normal(size=(24, 24)), rng.normal(size=(24, 1)))
            energies.append(np.sum(coef**2))
    assert np.median(energies) < 0.05


# --- which method to take ---------------------------------------------------------------------------


def test_a_clear_winner_is_found_and_where_both_sides_agree_overall():
    """A full-rank move of the layer, no shift: full FT at any size, on both distributions."""
    net = network()
    rng = np.random.default_rng(4)
    task = moved_task(net, full_rank())
    result = compare(net, task.sample(2000, rng=rng), task.sample(1000, rng=rng), LAYER, RANK)
    for distribution in ("in", "out"):
        assert answer(result, distribution, "any size").method == "full FT"
        assert answer(result, distribution, "any size").tuning_helps is True
    assert answer(result, "overall", "any size").method == "full FT"


def test_the_budget_is_a_scope_of_its_own():
    """A rank-one move of the layer: within the budget LoRA alone reaches it."""
    net = network(biases=False)
    rng = np.random.default_rng(5)
    task = moved_task(net, 3 * np.outer(rng.normal(size=WIDTHS[LAYER + 1]), rng.normal(size=WIDTHS[LAYER])))
    result = compare(net, task.sample(2000, rng=rng), own_task(net).sample(1000, rng=rng), LAYER, RANK)
    assert answer(result, "in", "within budget").method == "LoRA"
    assert answer(result, "out", "within budget").method != "LoRA"
    assert answer(result, "overall", "within budget").method is None
    for row in result.methods:
        if row.name == "LoRA":
            assert row.forgetting.value > 5 * row.forgetting.se
    assert answer(result, "out", "any size").tuning_helps is False


def test_no_winner_where_nothing_is_left_to_learn():
    """Data that the network fits exactly: every method does nothing, and none is better."""
    net = network()
    x = np.random.default_rng(6).normal(size=(60, WIDTHS[0]))
    result = compare(net, (x[:40], net(x[:40])), (x[40:], net(x[40:])), LAYER, RANK)
    for scope in ("any size", "within budget"):
        for distribution in ("in", "out"):
            found = answer(result, distribution, scope)
            assert found.method is None
            assert found.tuning_helps is None
            assert len(found.not_separated) > 5
        assert answer(result, "overall", scope).method is None
    assert len(result.same_predictions) == 1
    assert len(result.same_predictions[0]) == len(result.methods)


def test_equal_predictions_are_one_however_rounded():
    """One output: a rank-one update of the layer does all that full FT does."""
    rng = np.random.default_rng(7)
    net = ln.DeepLinearNetwork.random([5, 4, 4, 1], rng=rng)
    x = rng.normal(size=(80, 5))
    y = x @ rng.normal(size=(5, 1)) + rng.normal(size=(80, 1))
    result = compare(net, (x[:50], y[:50]), (x[50:], y[50:]), 1, 1)
    (group,) = [g for g in result.same_predictions if "LoRA" in g]
    assert {"LoRA", "full FT", "S2FT rows, random", "S2FT rows, gradient", "LoRA, U frozen"} <= set(group)
    found = answer(result, "in", "any size")
    assert found.method not in group


def test_the_rule_names_a_wrong_winner_no_more_often_than_it_says():
    """Six equal methods with independent noise: at most 5 % of the draws may have a winner."""
    rng = np.random.default_rng(8)
    names, n, draws, wrong = list("abcdef"), 100, 600, 0
    for _ in range(draws):
        values = {name: rng.normal(size=n) ** 2 for name in (*names, None)}
        found = recommend(
            "out",
            "any size",
            names,
            lambda name, v=values: v[name].mean(),
            lambda a, b, v=values: estimate(difference(v[a], v[b], 1.0)),
            n - 1,
        )
        wrong += found.method is not None
    assert wrong / draws <= 0.05
    assert critical(1, 10**6) == pytest.approx(1.96, abs=1e-3)
    assert critical(10, 10**6) == pytest.approx(2.807, abs=1e-3)


def test_standard_errors_are_calibrated(monkeypatch):
    """Estimate less truth, over the standard error, has unit variance: 200 fixed draws of both sets."""
    monkeypatch.setattr(crossfit, "METHODS", {k: METHODS[k] for k in ("LoRA", "FullFT", "BitFit")})
    net = network()
    task, old = moved_task(net, 0.5 * full_rank()), own_task(net)
    scores: dict[str, list[float]] = {}
    for draw in range(200):
        rng = np.random.default_rng([9, draw])
        train, test = task.sample(100, rng=rng), old.sample(60, rng=rng)
        fold = split(100, draw, "training folds")
        fits = fit_methods(net, LAYER, train, fold, RANK * 9, draw)
        kept = {None: [net] * FOLDS, **{k: fits[k].networks for k in ("LoRA", "full FT", "BitFit")}}
        table = _Table(
            {name: losses(nets, train, fold, test) for name, nets in kept.items()},
            Losses(np.zeros(100), np.zeros(60)),
            fold,
            split(60, draw, "test folds"),
            (1.0, 1.0),
        )
        truth = {
            (name, where): np.mean([expected_risk(f, t) for f in nets])
            for name, nets in kept.items()
            for where, t in (("in", task), ("out", old))
        }
        for where in ("in", "out"):
            for name in ("LoRA", "full FT", "BitFit"):
                for key, found, right in (
                    (f"risk of {name}", table.risk(where, name), truth[name, where]),
                    (
                        f"{name} over pre-trained",
                        table.paired(where, name, None),
                        truth[name, where] - truth[None, where],
                    ),
                ):
                    scores.setdefault(f"{where}: {key}", []).append((found.value - right) / found.se)
            gap = table.paired(where, "LoRA", "full FT")
            right = truth["LoRA", where] - truth["full FT", where]
            scores.setdefault(f"{where}: LoRA over full FT", []).append((gap.value - right) / gap.se)
    for key, z in scores.items():
        assert abs(np.mean(z)) <= 5 / np.sqrt(200), key
        assert 0.75 <= np.std(z) <= 1.25, key


def test_same_seed_same_numbers_and_a_new_seed_new_folds():
    net = network()
    rng = np.random.default_rng(10)
    train, test = (own_task(net).sample(30, rng=rng) for _ in range(2))
    first, again, other = (compare(net, train, test, LAYER, RANK, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.methods != other.methods


def test_scale_and_offset_of_the_data_do_not_matter():
    """Units of y cancel: rescaled targets and a rescaled network give the same comparison."""
    net = network()
    rng = np.random.default_rng(11)
    train, test = moved_task(net, full_rank()).sample(50, rng=rng), own_task(net).sample(50, rng=rng)
    scaled = ln.DeepLinearNetwork((*net.weights[:-1], 7 * net.weights[-1]), (*net.biases[:-1], 7 * net.biases[-1]))
    one = compare(net, train, test, LAYER, RANK)
    two = compare(scaled, (train[0], 7 * train[1]), (test[0], 7 * test[1]), LAYER, RANK)
    for a, b in zip(one.methods, two.methods, strict=True):
        assert a.name == b.name
        assert a.in_distribution.risk.value == pytest.approx(b.in_distribution.risk.value, rel=1e-9)
        assert a.forgetting.value == pytest.approx(b.forgetting.value, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (0.41234, 0.0129, "0.412 ± 0.013"),
        (-0.00004, 0.013, "0.000 ± 0.013"),
        (12345.6, 123.4, "12350 ± 120"),
        (0.0, 0.0, "0 ± 0"),
        (1.5e9, 2e7, "1.50e+09 ± 2e+07"),
        (3.2e-9, 1e-10, "3.20e-09 ± 1e-10"),
    ],
)
def test_numbers_are_printed_to_the_place_of_their_error(value, se, text):
    assert pretty(Estimate(value=value, se=se)) == text


# --- the command line -------------------------------------------------------------------------------


def run(monkeypatch, capsys, *args) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["linnet", *map(str, args)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def arrays() -> dict[str, dict[str, np.ndarray]]:
    net = network()
    rng = np.random.default_rng(12)
    x, y = moved_task(net, full_rank()).sample(40, rng=rng)
    u, v = own_task(net).sample(30, rng=rng)
    weights = {f"W{i}": w for i, w in enumerate(net.weights)}
    return {
        "net": {**weights, **{f"b{i}": b for i, b in enumerate(net.biases)}},
        "train": {"x": x, "y": y},
        "test": {"x": u, "y": v},
    }


def files(folder: Path, **changes) -> list[str]:
    """Write the three files and return the arguments; ``changes`` are by file: arrays to set, or None to remove."""
    for name, held in arrays().items():
        kept = {**held, **changes.get(name, {})}
        np.savez(folder / f"{name}.npz", **{k: v for k, v in kept.items() if v is not None})
    return arguments(folder)


def arguments(folder: Path, layer: object = LAYER, rank: object = RANK) -> list[str]:
    return [
        "compare",
        str(folder / "net.npz"),
        *("--train", str(folder / "train.npz")),
        *("--test", str(folder / "test.npz")),
        *("--layer", str(layer)),
        *("--rank", str(rank)),
    ]


def refused(monkeypatch, capsys, folder: Path, args, *fragments: str) -> None:
    before = sorted(folder.iterdir())
    code, out, err = run(monkeypatch, capsys, *args)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("linnet: ")
    for fragment in fragments:
        assert fragment in err
    assert sorted(folder.iterdir()) == before, "something was left behind"


def test_files_in_tables_json_and_figure_out(tmp_path, monkeypatch, capsys):
    args = files(tmp_path)
    target, figure = tmp_path / "out.json", tmp_path / "out.png"
    code, out, err = run(monkeypatch, capsys, *args, "--json", target, "--figure", figure, "--seed", 2)
    assert (code, err) == (0, "")
    held = json.loads(target.read_text())
    data = arrays()
    net = ln.DeepLinearNetwork(
        tuple(data["net"][f"W{i}"] for i in range(3)), tuple(data["net"][f"b{i}"] for i in range(3))
    )
    pairs = [(data[k]["x"], data[k]["y"]) for k in ("train", "test")]
    expected = json.loads(compare(net, *pairs, LAYER, RANK, seed=2).model_dump_json())
    assert held["source"]["train"] == str(tmp_path / "train.npz")
    assert {**held, "source": None} == expected
    assert (held["seed"], held["folds"], held["widths"]) == (2, FOLDS, WIDTHS)
    assert (held["linnet"], held["numpy"]) == (ln.__version__, np.__version__)
    assert held["bounds"]
    for bound in held["bounds"]:
        assert bound["id"] in out
        assert bound["slack"] == pytest.approx(bound["stated"] - bound["observed"])
    assert "Bonferroni" in held["rule"]
    assert "training variances of y" in held["units"]
    for row in held["methods"]:
        assert row["name"] in out
        assert pretty(Estimate(**row["in_distribution"]["risk"])) in out
        assert pretty(Estimate(**row["forgetting"])) in out
    assert max(map(len, out.splitlines())) <= 100
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.npz", "out.json", "out.png", "test.npz", "train.npz"]


@pytest.mark.parametrize(("suffix", "head"), [(".pdf", b"%PDF"), (".SVG", b"<?xml")])
def test_figures_in_other_formats_repeat_byte_by_byte(tmp_path, monkeypatch, capsys, suffix, head):
    args = files(tmp_path)
    drawn = []
    for name in ("a", "b"):
        assert run(monkeypatch, capsys, *args, "--figure", tmp_path / (name + suffix))[0] == 0
        drawn.append((tmp_path / (name + suffix)).read_bytes())
    assert drawn[0].startswith(head)
    assert drawn[0] == drawn[1]


def test_without_bounds_there_is_no_section_for_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("linnet.compare.core.bounds_that_apply", lambda *_: [])
    _, out, _ = run(monkeypatch, capsys, *files(tmp_path))
    assert "Which method" in out
    assert "Bounds" not in out


def test_biases_are_optional_one_by_one(tmp_path, monkeypatch, capsys):
    bare = files(tmp_path, net={"b0": None, "b1": None, "b2": None})
    assert run(monkeypatch, capsys, *bare)[0] == 0
    some = files(tmp_path, net={"b0": None, "b2": None})
    assert run(monkeypatch, capsys, *some, "--json", tmp_path / "some.json")[0] == 0
    zeros = files(tmp_path, net={"b0": np.zeros(5), "b2": np.zeros(3)})
    assert run(monkeypatch, capsys, *zeros, "--json", tmp_path / "zeros.json")[0] == 0
    assert (tmp_path / "some.json").read_text() == (tmp_path / "zeros.json").read_text()


@pytest.mark.parametrize(
    ("example", "shift"), [("digits", "digits 5-9"), ("diabetes", "patients under 50")], ids=["digits", "diabetes"]
)
def test_examples(tmp_path, example, shift):
    """In a process of its own, piped: the console must not cut numbers off."""
    target, figure = tmp_path / "out.json", tmp_path / "out.png"
    done = subprocess.run(
        [sys.executable, "-m", "linnet.cli", "compare", "--example", example, "--json", target, "--figure", figure],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "40", "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shift in done.stdout
    assert "…" not in done.stdout
    held = json.loads(target.read_text())
    for row in held["methods"]:
        assert pretty(Estimate(**row["out_of_distribution"]["risk"])) in done.stdout
    before = held["pretrained"]
    tuned = next(row for row in held["methods"] if row["name"] == "full FT")
    gain = before["in_distribution"]["to_best"]
    assert gain["value"] > 5 * gain["se"], "fine-tuning on a real shift must help where it was done"
    if example == "digits":
        assert tuned["forgetting"]["value"] > 5 * tuned["forgetting"]["se"], "other digits must be forgotten"
    assert figure.stat().st_size > 10_000


def test_output_without_unicode(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "linnet.cli", *files(tmp_path)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"+-" in done.stdout


def test_examples_take_layer_and_rank(tmp_path, monkeypatch, capsys):
    args = ("compare", "--example", "diabetes", "--layer", 0, "--rank", 2, "--json", tmp_path / "a.json")
    assert run(monkeypatch, capsys, *args)[0] == 0
    held = json.loads((tmp_path / "a.json").read_text())
    assert (held["layer"], held["rank"], held["budget"]) == (0, 2, 36)


X, Y = arrays()["train"].values()
NAN = np.where(np.arange(X.size).reshape(X.shape) == 8, np.nan, X)

BAD_FILES = {
    "no W0": ({"net": {"W0": None}}, ["net.npz", "no W0", "b0"]),
    "gap": ({"net": {"W1": None}}, ["net.npz", "W2 but no W1", "renumber"]),
    "no x": ({"train": {"x": None, "inputs": X}}, ["train.npz", "no x", "inputs", "np.savez"]),
    "no y": ({"test": {"y": None}}, ["test.npz", "no y"]),
    "weights do not chain": ({"net": {"W1": np.ones((4, 7))}}, ["W1 has shape (4, 7)", "W0 has 5", "transpose"]),
    "weight not a matrix": ({"net": {"W1": np.ones(4)}}, ["W1 has shape (4,)", "(outputs, inputs)"]),
    "batch of weights": ({"net": {"W0": np.ones((2, 5, 6))}}, ["W0 has shape (2, 5, 6)"]),
    "bias too long": ({"net": {"b1": np.ones(9)}}, ["b1 has shape (9,)", "(4,)"]),
    "bias without weight": ({"net": {"b3": np.ones(3)}}, ["b3", "no W3"]),
    "weight not finite": ({"net": {"W0": np.full((5, 6), np.inf)}}, ["net.npz: W0", "30 non-finite"]),
    "x not finite": ({"train": {"x": NAN}}, ["train.npz: x", "non-finite", "(1, 2)"]),
    "y not finite": ({"test": {"y": np.full((30, 3), np.nan)}}, ["test.npz: y", "non-finite"]),
    "x one-dimensional": ({"train": {"x": X[:, 0]}}, ["x has shape (40,)", "x[:, None]"]),
    "other rows": ({"train": {"y": Y[:-1]}}, ["train.npz", "40 rows", "39", "same samples"]),
    "other columns of x": ({"test": {"x": np.ones((30, 7))}}, ["test.npz", "7 columns", "6 inputs"]),
    "other columns of y": ({"train": {"y": np.ones((40, 2))}}, ["train.npz", "2 columns", "3 outputs"]),
    "too few rows": ({"train": {"x": X[:9], "y": Y[:9]}}, ["train.npz", "9 rows", "10 or more"]),
    "too few test rows": ({"test": {"x": X[:4], "y": Y[:4]}}, ["test.npz", "4 rows", "10 or more"]),
    "no rows": ({"train": {"x": X[:0], "y": Y[:0]}}, ["train.npz", "0 rows"]),
    "pickled array": ({"train": {"x": np.array([[{}] * 6] * 40)}}, ["train.npz: x", "pickle"]),
    "text": ({"train": {"x": np.full((40, 6), "a")}}, ["train.npz: x", "real numbers"]),
    "complex": ({"net": {"W0": np.ones((5, 6)) * 1j}}, ["net.npz: W0", "real numbers"]),
    "too large": ({"net": {"W0": np.full((5, 6), 1e200)}}, ["too large", "rescale"]),
    "squares too large": ({"net": {"W0": np.full((5, 6), 1e80)}}, ["too large", "rescale"]),
    "varies in the test only": ({"test": {"x": np.full((30, 6), 1e200)}}, ["too large"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_arrays_are_refused(tmp_path, monkeypatch, capsys, case):
    changes, fragments = BAD_FILES[case]
    args = files(tmp_path, **changes)
    refused(monkeypatch, capsys, tmp_path, [*args, "--json", tmp_path / "out.json"], *fragments)


@pytest.mark.parametrize("name", ["net", "train", "test"])
@pytest.mark.parametrize("kind", ["missing", "folder", "garbage", "empty", "pickle", "npy", "cut short", "not arrays"])
def test_bad_files_are_refused(tmp_path, monkeypatch, capsys, name, kind):
    args = files(tmp_path)
    path = tmp_path / f"{name}.npz"
    whole = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pickle":
        np.asarray([{}]).dump(path)
    elif kind == "npy":
        with path.open("wb") as f:
            np.save(f, np.ones(3))
    elif kind == "cut short":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "not arrays":
        with zipfile.ZipFile(path, "w") as z:
            for key in ("W0", "x", "y"):
                z.writestr(key, "text")
    target = tmp_path / "out.json"
    refused(monkeypatch, capsys, tmp_path, [*args, "--json", target], f"{name}.npz")


def test_a_damaged_member_is_refused(tmp_path, monkeypatch, capsys):
    args = files(tmp_path)
    path = tmp_path / "train.npz"
    raw = bytearray(path.read_bytes())
    at = raw.find(b"NUMPY") + 400
    raw[at : at + 50] = bytes(50)
    path.write_bytes(bytes(raw))
    refused(monkeypatch, capsys, tmp_path, args, "train.npz: x", "cannot be read")


USAGE = {
    "nothing": (["compare"], ["NETWORK.npz", "--example digits"]),
    "only a network": (["compare", "net.npz"], ["--train, --test, --layer, --rank missing"]),
    "only data": (["compare", "--train", "a.npz", "--layer", "1"], ["NETWORK.npz, --test, --rank missing"]),
    "both": (["compare", "net.npz", "--example", "digits"], ["--example digits and NETWORK.npz", "one or the other"]),
    "example seed": (["compare", "--example", "diabetes", "--seed", "-1"], ["seed -1", ">= 0"]),
    "example layer": (["compare", "--example", "diabetes", "--layer", "9"], ["layer 9", "0 to 2"]),
    "example rank": (["compare", "--example", "diabetes", "--rank", "7"], ["rank 7", "1 to 6"]),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_refused(tmp_path, monkeypatch, capsys, case):
    args, fragments = USAGE[case]
    refused(monkeypatch, capsys, tmp_path, args, *fragments)


@pytest.mark.parametrize("args", [["--layer", "one"], ["--example", "iris"], ["--nonsense"]])
def test_what_the_parser_refuses_exits_2(monkeypatch, capsys, args):
    code, out, err = run(monkeypatch, capsys, "compare", *args)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("layer", "rank", "fragments"),
    [
        (3, 1, ["layer 3", "0 to 2"]),
        (-1, 1, ["layer -1", "0 to 2"]),
        (1, 0, ["rank 0", "1 to 4"]),
        (1, 5, ["rank 5", "4 x 5", "1 to 4"]),
    ],
)
def test_layer_and_rank_out_of_range(tmp_path, monkeypatch, capsys, layer, rank, fragments):
    files(tmp_path)
    refused(monkeypatch, capsys, tmp_path, arguments(tmp_path, layer, rank), *fragments)


@pytest.mark.parametrize("option", ["--json", "--figure"])
def test_outputs_that_cannot_be_written(tmp_path, monkeypatch, capsys, option):
    args = files(tmp_path)
    refused(monkeypatch, capsys, tmp_path, [*args, option, tmp_path / "no" / "out.png"], "cannot be written", "folder")
    (tmp_path / "taken.png").mkdir()
    refused(monkeypatch, capsys, tmp_path, [*args, option, tmp_path / "taken.png"], "not a regular file")


def test_a_device_is_not_replaced_by_a_file(tmp_path, monkeypatch, capsys):
    refused(monkeypatch, capsys, tmp_path, [*files(tmp_path), "--json", os.devnull], "not a regular file")


def test_outputs_do_not_collide(tmp_path, monkeypatch, capsys):
    args = files(tmp_path)
    same = tmp_path / "out.png"
    refused(monkeypatch, capsys, tmp_path, [*args, "--json", same, "--figure", same], "two outputs")
    refused(monkeypatch, capsys, tmp_path, [*args, "--json", tmp_path / "train.npz"], "one of the inputs")
    assert np.load(tmp_path / "train.npz")["x"].shape == (40, 6)


@pytest.mark.parametrize(("name", "fragment"), [("out.jpg", "suffix .jpg"), ("out", "no suffix")])
def test_unknown_figure_formats(tmp_path, monkeypatch, capsys, name, fragment):
    args = files(tmp_path)
    refused(monkeypatch, capsys, tmp_path, [*args, "--figure", tmp_path / name], fragment, ".png, .pdf, .svg")


def test_a_failure_while_drawing_leaves_old_files_as_they_were(tmp_path, monkeypatch, capsys):
    args = files(tmp_path)
    target, figure = tmp_path / "out.json", tmp_path / "out.png"
    target.write_text("old")
    figure.write_text("old")

    def fail(*_):
        raise DataError("the pen broke; sharpen it")

    monkeypatch.setattr("linnet.compare.run.save", fail)
    refused(monkeypatch, capsys, tmp_path, [*args, "--json", target, "--figure", figure], "the pen broke")
    assert (target.read_text(), figure.read_text()) == ("old", "old")


def test_what_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    args = files(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(monkeypatch, capsys, tmp_path, [*args, "--figure", tmp_path / "a.png"], "pip install matplotlib")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    refused(monkeypatch, capsys, tmp_path, ["compare", "--example", "digits"], "pip install scikit-learn")


def test_the_library_refuses_with_the_same_text(tmp_path, monkeypatch, capsys):
    net = network()
    good = X, Y
    for error, fragment, call in (
        (DataError, "10 or more", lambda: compare(net, (X[:9], Y[:9]), good, LAYER, RANK)),
        (ShapeError, "test y has 2 columns, the network has 3", lambda: compare(net, good, (X, Y[:, :2]), 1, 1)),
        (ShapeError, "give 0 to 2", lambda: compare(net, good, good, 3, RANK)),
        (RankError, "rank 5 for layer 1, 4 x 5; give 1 to 4", lambda: compare(net, good, good, 1, 5)),
        (NonFiniteError, "train x has 1 non-finite", lambda: compare(net, (NAN, Y), good, 1, 1)),
        (DataError, "seed -1", lambda: compare(net, good, good, 1, 1, seed=-1)),
        (ShapeError, "x has shape (40,)", lambda: compare(net, (X[:, 0], Y), good, 1, 1)),
        (ShapeError, "equal rows", lambda: compare(net, ([[1.0], [1.0, 2.0]], Y), good, 1, 1)),
    ):
        with pytest.raises(error) as caught:
            call()
        assert issubclass(error, LinnetError)
        assert fragment in str(caught.value)
    files(tmp_path)
    with pytest.raises(RankError) as caught:
        compare(net, good, good, 1, 5)
    assert run(monkeypatch, capsys, *arguments(tmp_path, 1, 5))[2] == f"linnet: {caught.value}\n"
    batch = ln.DeepLinearNetwork.random(WIDTHS, rng=np.random.default_rng(0), batch=(2,))
    with pytest.raises(ShapeError, match="loop over the batch"):
        compare(batch, good, good, 1, 1)


def test_only_upper_bounds_are_listed_and_true_ones_hold(rng):
    """``linnet/lora-out-of-distribution`` states a lower bound beside its upper one."""
    net = ln.DeepLinearNetwork.random([6, 5, 4, 3], rng=rng)
    x, y = rng.normal(size=(80, 6)), rng.normal(size=(80, 3))
    train, test = ln.Moments.from_data(x, y), ln.Moments.from_data(2 * x, y + x[:, :3])
    found = bounds_that_apply(net, 1, train, test, np.array([0, 1]), 2)
    assert "linnet/lora-out-of-distribution" in {bound.id for bound in found}
    assert all(bound.slack >= 0 for bound in found), [b for b in found if b.slack < 0]
