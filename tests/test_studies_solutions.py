"""The studies of solutions: where descent ends, what updates are made of, and what fusion leaves of them.

Means must agree with theory within 5 standard errors, and each standard error is bounded, so that agreement says
something.
"""

import dataclasses
import math

import numpy as np
import pytest
from pydantic import ValidationError

import linnet as ln
from linnet.errors import ConvergenceError, DataError
from linnet.sweep.spec import sweep_of
from linnet.sweep.studies import descent, fusion, increments
from linnet.sweep.studies.descent import DescentStudy
from linnet.sweep.studies.fusion import FusionStudy
from linnet.sweep.studies.increments import IncrementStudy

NARROW = {"widths": [6, 4, 6, 6, 4, 6], "layer": 2, "kind": "orthogonal"}
WIDE = {"widths": [6, 6, 6, 6], "layer": 1, "kind": "orthogonal"}
TASK = {"size": 1.0, "spectrum": 1.0, "inputs": 0.5}


def agree(mean, error, truth, *, cap):
    """A mean and its standard error agree with ``truth``; the error is at most ``cap``."""
    assert 0 < error <= cap, f"the standard error {error:.3g} says nothing, or too much"
    assert abs(mean - truth) <= 5 * error, f"{mean:.6g} +- {error:.2g}, expected {truth:.6g}"


def descend(**parameters):
    return DescentStudy.model_validate({"network": NARROW, "task": TASK, "scale": 0.3} | parameters)


def grow(**parameters):
    network = {"widths": [12, 8, 8, 10], "layer": 1}
    problem = {"kind": "gaussian", "network": network, "task": {"spectrum": 0.7, "noise": 0.3}}
    problem |= parameters.pop("problem", {})
    methods = [{"method": "FullFT"}, {"method": "LoRA", "ranks": [1, 3]}, {"method": "S2FT", "channels": [2]}]
    return IncrementStudy.model_validate({"problem": problem, "methods": methods, "bins": 5} | parameters)


def fuse(**parameters):
    network = {"widths": [10, 8, 8, 9], "layer": 1}
    task = {"spectrum": 1.0, "noise": 0.3} | parameters.pop("task", {})
    return FusionStudy.model_validate({"network": network, "task": task, "channels": 2, "inputs": "same"} | parameters)


CELLS = {
    "descent": (lambda **p: descend(channels=[3], ranks=[1], replicates=4, **p), "distance"),
    "increments": (lambda **p: grow(replicates=3, **p), "kurtosis"),
    "fusion": (lambda **p: fuse(n=40, replicates=3, **p), "fused"),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_a_function_of_its_parameters(name):
    cell, measured = CELLS[name]
    once, again, other = (cell(seed=seed).run() for seed in (5, 5, 6))
    assert repr(once) == repr(again)  # NaN, of the error of a single value, is no number to compare
    assert all(getattr(a, measured) != getattr(b, measured) for a, b in zip(once, other, strict=True))


# --- descent -----------------------------------------------------------------------------------------


def test_descent_of_s2ft_ends_at_the_nearest_minimiser():
    """Against a projector on the null space of the dense Hessian, start by start."""
    problem, rows = descend(channels=[5]).problem(), [0, 1, 2, 3, 4]
    rng = np.random.default_rng(1)
    start = rng.normal(size=(7, len(rows), problem.d_in))
    design = np.kron(problem.upper[:, rows], problem.inputs.T)
    u, s, vt = np.linalg.svd(design)
    kept = s > 1e-9 * s[0]
    assert kept.sum() == 16, "4 of 6 dimensions are left below and above"
    row_space = vt[: len(s)][kept]
    least = row_space.T @ ((u.T @ problem.target.ravel())[: len(s)][kept] / s[kept])
    assert np.allclose(least.reshape(5, -1), ln.S2FT(rows).solve(problem).delta[rows])
    ends = least + start.reshape(7, -1) @ (np.eye(design.shape[1]) - row_space.T @ row_space)

    def gradient(v):
        moved = (v.reshape(len(v), -1) @ design.T - problem.target.ravel()) @ design
        return (2 * moved.reshape(v.shape),)

    step = np.full(7, 0.5 / s[0] ** 2)
    (found,), steps = descent.descend((start,), gradient, step, 1e-10, 100_000)
    assert np.all(steps > 0)
    assert np.allclose(found.reshape(7, -1), ends, atol=1e-7)


def test_distance_of_s2ft_is_exact():
    (row,) = descend(channels=[5], replicates=1500).run()
    assert row.prediction == "exact"
    assert (row.seen, row.reached, row.unseen) == (4, 4, 5 * 6 - 4 * 4)
    assert row.converged == 1
    agree(row.distance, row.distance_se, row.predicted_distance, cap=0.01 * row.distance)
    agree(row.norm_excess, row.norm_excess_se, row.predicted_norm_excess, cap=0.02 * row.norm_excess)
    assert abs(row.excess) < 1e-12


def test_steps_are_in_units_of_the_curvature():
    """Where all of it is alike, a full step arrives at once, and half a step goes half the way."""
    (full,) = descend(network=WIDE, task={"size": 1.0}, channels=[3], step=1.0).run()
    assert full.steps == 1
    (half,) = descend(network=WIDE, task={"size": 1.0}, channels=[3], step=0.5, scale=0.0, most=3).run()
    assert half.distance == pytest.approx(1 / 8)
    (lora,) = descend(ranks=[2], step=1.0).run()
    assert lora.converged == 1


def test_nothing_is_left_of_the_start_where_no_rank_is_lost():
    s2ft, lora, balanced = descend(network=WIDE, channels=[3], ranks=[2], starts=["usual", "balanced"]).run()
    for row in (s2ft, lora, balanced):
        assert row.unseen == 0
        assert row.predicted_distance == 0
        assert row.distance < 1e-7
        assert abs(row.excess) < 1e-12
    assert lora.predicted_norm_excess is None
    assert lora.norm_excess > 100 * abs(balanced.norm_excess)  # the start's U^T U - V^T V stays
    assert balanced.predicted_norm_excess == 0


@pytest.mark.parametrize("network", [NARROW, WIDE])
def test_norm_of_lora_is_exact_at_rank_one(network):
    (row,) = descend(network=network, ranks=[1], scale=1.0, step=0.1, replicates=600).run()
    assert row.prediction == "flow"
    agree(row.norm_excess, row.norm_excess_se, row.predicted_norm_excess, cap=0.1 * row.norm_excess)
    if network is NARROW:
        agree(row.distance, row.distance_se, row.predicted_distance, cap=0.05 * row.distance)


def test_what_flow_keeps_descent_loses_with_its_steps():
    (coarse,), (fine,) = (descend(ranks=[1], step=step, replicates=10).run() for step in (0.5, 0.05))
    assert coarse.converged == fine.converged == 1
    assert 8 < coarse.drift / fine.drift < 12
    assert fine.steps > 8 * coarse.steps


def test_small_starts_at_higher_rank():
    (row,) = descend(ranks=[2], scale=0.01, replicates=500).run()
    assert row.prediction == "first"
    agree(row.distance, row.distance_se, row.predicted_distance, cap=0.03 * row.distance)
    agree(row.norm_excess, row.norm_excess_se, row.predicted_norm_excess, cap=0.06 * row.norm_excess)


def test_prediction_at_rank_one_against_drawn_starts():
    """The rule of quadrature, and what small excesses lose to rounding."""
    rng = np.random.default_rng(4)
    for scale in (0.05, 1.5):
        said = descent.predicted(np.array([0.7]), scale, 9, 5, "usual", 8)
        w, hidden = (scale**2 / 9 * rng.chisquare(k, size=400_000) for k in (5, 4))
        pair = np.sqrt(w**2 + 1.4**2)
        for value, name, power in (
            ((pair - w) / 2 * hidden / 0.49, "predicted_distance", 2),
            ((pair + hidden) / 1.4 - 1, "predicted_norm_excess", 1),
        ):
            agree(value.mean(), value.std() / math.sqrt(len(value)), said[name] ** power, cap=0.01 * value.mean())


def test_from_zero_s2ft_arrives_and_lora_stays():
    s2ft, lora = descend(channels=[3], ranks=[2], scale=0.0).run()
    assert s2ft.distance < 1e-7
    assert s2ft.predicted_distance == 0
    assert (lora.distance, lora.excess, lora.norm_excess, lora.steps) == (1, 1, -1, 0)
    assert (lora.predicted_distance, lora.predicted_norm_excess) == (1, -1)


def test_descent_that_is_cut_short_says_so():
    s2ft, lora = descend(channels=[3], ranks=[1], most=2).run()
    assert s2ft.converged == lora.converged == 0
    assert s2ft.steps == lora.steps == 2
    assert s2ft.excess > 1e-3


def test_elements_stop_one_by_one():
    """The same ends and counts as each element descended alone."""
    start, step = np.array([[[1.0]], [[1e-3]], [[5.0]]]), np.array([0.1, 0.2, 0.05])

    def gradient(x):
        return (x * (1 + 0.1 * x**2),)

    (found,), steps = descent.descend((start,), gradient, step, 1e-6, 500)
    for i in range(3):
        (alone,), count = descent.descend((start[i : i + 1],), gradient, step[i : i + 1], 1e-6, 500)
        assert steps[i] == count[0] > 0
        assert found[i] == alone[0]
    assert len(set(steps)) == 3


def test_divergence_is_refused():
    with pytest.raises(ConvergenceError, match="smaller step"), np.errstate(over="ignore"):
        descent.descend((np.ones((1, 1, 1)),), lambda x: (x**3,), np.array([10.0]), 1e-9, 1000)


# --- increments --------------------------------------------------------------------------------------


def methods_of(rows):
    """One row a method and size: what does not depend on view and bin."""
    return {(row.method, row.size): row for row in rows}


def test_kurtosis_of_random_directions_is_exact():
    cell = grow(replicates=500, bins=1, problem={"n": 60})
    for row in methods_of(cell.run()).values():
        assert row.predicted_kurtosis_trained == pytest.approx(row.kurtosis_trained - row.kurtosis_gap)
        agree(row.kurtosis_gap, row.kurtosis_gap_se, 0.0, cap=0.04 * row.kurtosis_trained)


def test_kurtosis_against_haar_bases():
    rng = np.random.default_rng(2)
    s = np.array([1.0, 0.8, 0.3])
    u, v = ln.haar(5, rng, (20_000,))[..., :3], ln.haar(7, rng, (20_000,))[..., :3]
    entries = (u * s) @ v.mT
    kurtosis = np.mean(entries**4, axis=(1, 2)) / np.mean(entries**2, axis=(1, 2)) ** 2
    truth = increments.turned(np.sum(s**2) ** 2 / np.sum(s**4), 5, 7)
    agree(kurtosis.mean(), kurtosis.std() / math.sqrt(len(kurtosis)), truth, cap=0.01)


def test_zeros_and_what_they_do_to_the_kurtosis():
    methods = [
        {"method": "FullFT"},
        {"method": "LoRA", "ranks": [2]},
        {"method": "FrozenFactorLoRA", "ranks": [2], "frozen": "U"},
        {"method": "S2FT", "channels": [2]},
        {"method": "S2FT", "channels": [2], "form": "columns"},
        {"method": "S2FT", "channels": [2], "by": "gradient"},
        {"method": "SparseFT", "entries": [16]},
    ]
    rows = methods_of(grow(methods=methods, replicates=5).run())
    assert len(rows) == len(methods)
    for (name, _), row in rows.items():
        sparse = name.startswith(("S2FT", "SpFT"))
        assert row.zeros == row.untrained == (0.75 if sparse else 0)
        share = 0.25 if sparse else 1
        assert row.kurtosis == pytest.approx(row.kurtosis_trained / share)
        assert row.rms == pytest.approx(row.rms_trained * math.sqrt(share), rel=0.2)  # a root of means, replicate-wise
        assert row.near == pytest.approx(1 - share + share * row.near_trained)
    assert rows["SpFT", 16].rank is None
    for name in ("SpFT", "S2FT, gradient, largest"):  # neither is random in its directions
        assert next(row for row in rows.values() if row.method == name).predicted_kurtosis_trained is None
    full = rows["full FT", 0]
    assert full.rms == pytest.approx(1)
    assert full.parameters == 64


def test_histograms():
    """Every view holds all of its entries; zeros stand in the middle bin."""
    rows = grow(replicates=4, bins=301, reach=60.0, methods=[{"method": "SparseFT", "entries": [16]}]).run()
    assert len(rows) == len(increments.VIEWS) * 301
    for view in increments.VIEWS:
        mine = [row for row in rows if row.view == view]
        width = mine[0].right - mine[0].left
        assert sum(row.density for row in mine) * width == pytest.approx(1)
        middle = mine[150]
        assert middle.left < 0 < middle.right
        assert (middle.density * width >= 0.75) == (view in ("all", "own"))
        centres = [(row.left + row.right) / 2 for row in mine]
        spread = sum(c**2 * row.density for c, row in zip(centres, mine, strict=True)) * width
        unit = {"all": None, "trained": None, "own": 1.0, "shape": 1.0}[view]
        if unit is not None:  # each replicate in units of its own
            assert spread == pytest.approx(unit, rel=0.1)


def test_increments_on_digits():
    rows = IncrementStudy.model_validate(
        {
            "problem": {"kind": "real", "data": "digits", "layer": 1, "n": 300},
            "methods": [{"method": "FullFT"}, {"method": "LoRA", "ranks": [1]}, {"method": "S2FT", "channels": [4]}],
            "bins": 3,
            "replicates": 3,
        }
    ).run()
    full, lora, s2ft = methods_of(rows).values()
    assert full.parameters == 32 * 16
    assert lora.rank == pytest.approx(1)
    assert s2ft.zeros == 0.75
    assert full.predicted_kurtosis_trained is lora.predicted_kurtosis_trained is None


# --- fusion ------------------------------------------------------------------------------------------


def named(rows, chosen="given"):
    return {(row.method, row.weight): row for row in rows if row.chosen == chosen}


@pytest.mark.parametrize(("inputs", "power", "where"), [("own", 1.0, "anywhere"), ("same", 0.0, "disjoint")])
def test_fusion_on_samples_is_exact(inputs, power, where):
    cell = fuse(n=30, replicates=4000, inputs=inputs, where=where, alike=0.5, task={"inputs": power})
    rows = named(cell.run())
    assert len(rows) == 8
    for (method, weight), row in rows.items():
        if method == "LoRA":
            assert row.predicted_fused is row.predicted_alone is None
            continue
        limit = named(fuse(inputs=inputs, where=where, alike=0.5, task={"inputs": power}).run())[method, weight]
        added = row.predicted_fused - limit.fused  # what the sample's size has to do with it
        agree(row.fused, row.fused_se, row.predicted_fused, cap=0.03 * added)
        agree(row.alone, row.alone_se, row.predicted_alone, cap=0.03 * (row.predicted_alone - limit.alone))


def test_no_expectation_near_interpolation():
    assert all(row.predicted_fused is None for row in fuse(n=9, replicates=2).run())


def test_fused_on_the_same_weights_nothing_is_left_at_weight_one():
    weights = [0.25, 0.5, 0.75, 1.0]
    for alike in (-0.5, 0.0, 0.8):
        rows = fuse(weights=weights, alike=alike, task={"inputs": 0.7}).run()
        for method in ("full FT", "S2FT, overlap"):
            mine = named(rows)
            off = [
                (row.pretrained - row.fused) / (w * (1 - w)) for (m, w), row in mine.items() if m == method and w < 1
            ]
            assert off == pytest.approx([off[0]] * 3)
            assert mine[method, 1.0].fused == pytest.approx(1.0, rel=1e-9)
            best = next(row for row in rows if row.method == method and row.chosen == "best")
            assert best.weight == pytest.approx(0.5)
            assert best.kept == pytest.approx(mine[method, 0.5].kept)
        assert abs(named(rows)["S2FT, disjoint", 1.0].fused - 1.0) > 1e-3


def test_fused_risk_against_dense_arithmetic():
    cell = fuse(alike=0.3, inputs="own", task={"inputs": 0.5})
    net, first, second = cell.tasks()
    for method, size, (a, b) in cell.methods():
        updates = [m.solve(ln.LayerProblem(net, 1, t.moments())).delta for m, t in ((a, first), (b, second))]
        for weight in (0.5, 1.0):
            total = net.weights[2] @ (net.weights[1] + weight * (updates[0] + updates[1])) @ net.weights[0]
            gaps = [t.coef - total for t in (first, second)]
            risk = np.mean([np.trace(g @ t.signal_cov @ g.T) for g, t in zip(gaps, (first, second), strict=True)])
            row = named(cell.run())[method, weight]
            assert row.size == size
            assert row.fused == pytest.approx(risk)
            assert row.fused == row.predicted_fused
            assert row.loss == pytest.approx(row.fused - row.alone)


def test_the_best_weight_is_best():
    weights = list(np.linspace(0, 1.5, 301))
    rows = fuse(weights=weights, alike=0.6, inputs="own", task={"inputs": 1.0}).run()
    for best in (row for row in rows if row.chosen == "best"):
        given = {w: row.fused for (m, w), row in named(rows).items() if m == best.method}
        least = min(given, key=given.get)
        assert best.weight == pytest.approx(least, abs=0.005)
        assert best.fused <= given[least] + 1e-12


def test_nothing_is_fused_where_two_adapters_cancel():
    rows = fuse(alike=-1.0).run()
    for row in rows:
        if row.method in ("full FT", "S2FT, overlap", "LoRA"):
            assert row.fused == pytest.approx(row.pretrained)


def test_where_tasks_live():
    """Rows of the update that full fine-tuning finds: the upper product has full column rank."""
    for where, own in (("disjoint", ([0, 1, 2], [3, 4, 5])), ("same", ([0, 1, 2],) * 2), ("anywhere", (range(8),) * 2)):
        net, *tasks = fuse(where=where, task={"channels": None if where == "anywhere" else 3}).tasks()
        for task, rows in zip(tasks, own, strict=True):
            delta = ln.FullFT().solve(ln.LayerProblem(net, 1, task.moments())).delta
            moved = np.flatnonzero(np.abs(delta).max(axis=1) > 1e-9)
            assert list(moved) == list(rows)
            assert ln.excess_risk(net, task) == pytest.approx(1.0)


def test_how_alike_tasks_are():
    for alike in (-0.4, 0.0, 1.0):
        found = []
        for seed in range(100):
            net, *tasks = fuse(alike=alike, seed=seed, task={"spectrum": 0.0}).tasks()
            a, b = (task.coef - net.product for task in tasks)
            found.append(np.sum(a * b) / math.sqrt(np.sum(a**2) * np.sum(b**2)))
        if alike == 1:
            assert np.allclose(found, 1)
        else:
            agree(np.mean(found), np.std(found) / math.sqrt(100), alike, cap=0.03)


# --- refusals ----------------------------------------------------------------------------------------

LAYER = {"widths": [10, 8, 8, 9], "layer": 1}
DIGITS = {"kind": "real", "data": "digits", "layer": 1, "n": 300}
GAUSSIAN = {"kind": "gaussian", "network": LAYER}
FULL = [{"method": "FullFT"}]


@pytest.mark.parametrize(
    ("study", "base", "place", "said"),
    [
        ("descent", {"network": LAYER, "scale": 1.0}, "base.channels", "nothing to train"),
        ("descent", {"network": LAYER, "scale": 1.0, "channels": [2, 9]}, "base.channels[1]", "give 1 to 8"),
        ("descent", {"network": LAYER, "scale": 1.0, "ranks": [9]}, "base.ranks[0]", "give 1 to 8"),
        ("descent", {"network": LAYER, "scale": -1.0, "ranks": [1]}, "base.scale", "greater than or equal to 0"),
        ("descent", {"network": LAYER, "scale": 1.0, "ranks": [1], "step": 1.5}, "base.step", "less than or equal"),
        ("descent", {"network": LAYER, "scale": 1.0, "ranks": [1], "task": {"size": 0}}, "base.task.size", "nothing"),
        ("descent", {"network": LAYER, "scale": 1.0, "ranks": [1], "task": {"rank": 9}}, "base.task.rank", "1 to 8"),
        ("increments", {"problem": GAUSSIAN | {"n": 2.5}, "methods": FULL}, "base.problem.n", "whole number"),
        ("increments", {"problem": DIGITS | {"layer": 3}, "methods": FULL}, "base.problem.layer", "layers count"),
        ("increments", {"problem": DIGITS | {"n": 900}, "methods": FULL}, "base.problem.n", "896"),
        ("increments", {"problem": DIGITS | {"data": "fish"}, "methods": FULL}, "base.problem.data", "no data set"),
        ("increments", {"problem": DIGITS | {"widths": [9, 10]}, "methods": FULL}, "base.problem.widths", "64 inputs"),
        (
            "increments",
            {"problem": GAUSSIAN, "methods": [{"method": "LoRA", "ranks": [2, 9]}]},
            "base.methods[0].ranks[1]",
            "give 1 to 8",
        ),
        ("fusion", {"network": LAYER, "channels": 5}, "base.channels", "the layer has 8"),
        ("fusion", {"network": LAYER, "channels": 2, "n": 0.5}, "base.n", "whole number"),
        ("fusion", {"network": LAYER, "channels": 2, "alike": 2}, "base.alike", "less than or equal to 1"),
        ("fusion", {"network": LAYER, "channels": 2, "task": {"channels": 2}}, "base.task.channels", '"anywhere"'),
        (
            "fusion",
            {"network": LAYER, "channels": 2, "where": "disjoint", "task": {"channels": 5}},
            "base.task.channels",
            "the layer has 8",
        ),
        (
            "fusion",
            {"network": LAYER | {"layer": 2}, "channels": 2, "where": "disjoint"},
            "base.network.layer",
            "one above it",
        ),
        ("fusion", {"network": LAYER, "channels": 2, "task": {"size": 0}}, "base.task.size", "nothing to learn"),
        ("fusion", {"network": LAYER, "channels": 2, "task": {"rank": 9}}, "base.task.rank", "1 to 8"),
        ("fusion", {"network": LAYER, "channels": 2, "weights": [-1.0]}, "base.weights[0]", "greater than or equal"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(study, base, place, said):
    with pytest.raises(DataError) as caught:
        sweep_of({"title": "x", "study": study, "base": base})
    assert str(caught.value).startswith(f"{place}:")
    assert said in str(caught.value)


def test_rows_are_documented():
    for module in (descent, increments, fusion):
        for row in (
            v for v in vars(module).values() if dataclasses.is_dataclass(v) and v.__module__ == module.__name__
        ):
            for field in dataclasses.fields(row):
                assert field.name.removesuffix("_se") in (row.__doc__ or ""), field.name


def test_unknown_parameters_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        fuse(weigths=[1.0])
