"""The study of one layer: what it measures is what the library says of the same samples."""

import math

import numpy as np
import pytest

import linnet as ln
from linnet.errors import DataError
from linnet.sweep import sweep_of
from linnet.sweep.choices import S2FTChoice, SparseChoice
from linnet.sweep.studies.data import DataStudy, pretrained
from linnet.sweep.studies.layer import LayerStudy

BASE = {
    "network": {"widths": [7, 6, 5, 4], "layer": 1},
    "task": {"size": 1.0, "beyond": 0.3, "noise": 0.2},
    "shift": {"kind": "label", "size": 0.5, "strength": 0.3},
    "methods": [{"method": "FullFT"}, {"method": "S2FT", "channels": [2], "by": "first"}],
}


def cell(**changed):
    return LayerStudy.model_validate({**BASE, **changed})


def test_one_replicate_is_what_the_library_says_of_that_sample():
    study = cell(n=9, replicates=1)
    net, shift = study.problem()
    sample = shift.train.sample_moments(9, rng=study.stream("sample", study.network, study.task, study.n), batch=(1,))
    truth = ln.LayerProblem(net, 1, shift.train.moments())
    for row, method in zip(study.run(), (ln.FullFT(), ln.S2FT([0, 1])), strict=True):
        update = method.solve(ln.LayerProblem(net, 1, sample))
        tuned = net.updated(update)
        both = ln.bias_variance(method, truth, sample, shift.train)
        expected = {
            "risk_in": ln.excess_risk(tuned, shift.train),
            "risk_out": ln.excess_risk(tuned, shift.test),
            "forgetting": ln.forgetting(net, tuned, shift),
            "training": ln.expected_risk(tuned, sample),
            "bias": both.bias,
            "variance": both.variance,
            "norm": np.linalg.norm(update.delta),
            "nuclear": np.linalg.norm(update.delta[0], "nuc"),
            "pretrained_in": ln.excess_risk(net, shift.train),
            "pretrained_out": ln.excess_risk(net, shift.test),
        }
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(float(np.squeeze(value)), rel=1e-9), name
        assert row.parameters == method.n_parameters(truth)
        assert row.solved == 1


def test_the_population_has_no_variance_and_no_error():
    for row in cell(n=math.inf, replicates=3).run():
        assert row.variance == pytest.approx(0, abs=1e-20)
        assert row.risk_in == pytest.approx(row.bias)
        assert row.risk_in_se == pytest.approx(0, abs=1e-15)
        assert row.predicted_in == pytest.approx(row.risk_in)
        assert row.predicted_out == pytest.approx(row.risk_out)


@pytest.mark.parametrize("n", [12, 60])
def test_the_means_are_those_that_theory_expects(n):
    for row in cell(n=n, replicates=4000).run():
        for said, name in (
            ("predicted_in", "risk_in"),
            ("predicted_out", "risk_out"),
            ("predicted_variance", "variance"),
        ):
            error = getattr(row, f"{name}_se")
            assert error < 0.05 * getattr(row, said)
            assert abs(getattr(row, name) - getattr(row, said)) < 5 * error, (row.method, name)


def test_the_residual_is_where_the_task_puts_it():
    net, shift = cell(task={"size": 0.7, "channels": 2, "rank": 1}).problem()
    residual = shift.train.coef - net.product
    assert np.sqrt(np.trace(residual @ shift.train.signal_cov @ residual.T)) == pytest.approx(0.7)
    inner = np.linalg.pinv(net.upper(1)) @ residual @ np.linalg.pinv(net.lower(1))
    assert np.linalg.matrix_rank(residual, tol=1e-9) == 1
    projected = net.upper(1)[:, :2] @ np.linalg.pinv(net.upper(1)[:, :2]) @ residual
    assert np.allclose(projected, residual)
    assert inner.shape == net.weights[1].shape


def test_the_old_task_is_what_the_network_knew():
    net, shift = cell(shift={"kind": "old"}).problem()
    assert ln.excess_risk(net, shift.test) == pytest.approx(0, abs=1e-20)
    _, half = cell(shift={"kind": "old", "share": 0.5}).problem()
    assert np.allclose(half.test.coef, (half.train.coef + net.product) / 2)


def test_methods_do_not_disturb_each_other():
    """Samples do not depend on who is compared, nor random choices on who else is."""
    both = [{"method": "SparseFT", "entries": [4]}, {"method": "S2FT", "channels": [1, 2], "by": "random"}]
    together = {(r.method, r.size): r for r in cell(n=8, replicates=5, methods=both).run()}
    alone = {(r.method, r.size): r for r in cell(n=8, replicates=5, methods=both[1:]).run()}
    assert alone.items() <= together.items()


def test_blocks_make_up_all_replicates(monkeypatch):
    monkeypatch.setattr("linnet.sweep.studies.layer.BLOCK", 3 * 49)
    study = cell(n=20, replicates=2000)
    assert sum(study._blocks()) == 2000
    assert max(study._blocks()) == 3
    for row in study.run():
        assert row.solved == 2000
        assert abs(row.risk_in - row.predicted_in) < 5 * row.risk_in_se


def test_random_choices_are_of_the_size_asked_for_and_differ(rng):
    net = ln.DeepLinearNetwork.random([6, 5, 4], rng=rng, batch=(40,))
    task = ln.Regression(np.zeros((4, 6)), np.eye(6))
    problem = ln.LayerProblem(net, 0, task.moments())
    sparse = SparseChoice(method="SparseFT", entries=[7]).of_size(7, problem, rng)
    assert set(sparse.mask.sum(axis=(-2, -1))) == {7}
    assert len({mask.tobytes() for mask in sparse.mask}) > 30
    chosen = S2FTChoice(method="S2FT", channels=[2], by="random").of_size(2, problem, rng).channels
    assert len({tuple(c) for c in np.asarray(chosen)}) > 5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"methods": [{"method": "LoRA", "ranks": [1, 6]}]}, "base.methods[0].ranks[1]: rank 6 for a 5 x 6 layer"),
        ({"methods": [{"method": "S2FT", "channels": [6]}]}, "base.methods[0].channels[0]: channels 6"),
        (
            {"methods": [{"method": "S2FT", "channels": [6], "form": "columns", "rank": 1}]},
            "base.methods[0].rank: unknown",
        ),
        ({"methods": [{"method": "LORA", "ranks": [1]}]}, "base.methods[0]"),
        ({"methods": []}, "base.methods"),
        ({"n": 0.5}, "base.n: give a whole number"),
        ({"n": 0}, "base.n: give a whole number"),
        ({"replicates": 0}, "base.replicates"),
        ({"task": {"rank": 9}}, "base.task.rank: rank 9 in a 5 x 6 layer"),
        ({"task": {"noise": -1}}, "base.task.noise"),
        ({"task": {"noise": math.inf}}, "base.task.noise"),
        ({"shift": {"kind": "channels", "size": 1.0, "channels": 6}}, "base.shift.channels: 6 channels"),
        ({"shift": {"kind": "old", "size": 1.0}}, "base.shift.size"),
        ({"shift": {"kind": "label", "share": 0.5}}, "base.shift.share"),
        ({"network": {"widths": [7, 6], "layer": 1}}, "base.network.layer: layer 1 of a network with 1"),
        ({"network": {"widths": [7, 0], "layer": 0}}, "base.network.widths[1]"),
        ({"seed": -1}, "base.seed"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(changed, said):
    with pytest.raises(DataError) as err:
        sweep_of({"title": "t", "study": "layer", "base": {**BASE, **changed}})
    assert said in str(err.value)


DATA = {
    "data": "diabetes",
    "layer": 1,
    "n": 40,
    "replicates": 6,
    "methods": [{"method": "FullFT"}, {"method": "SparseFT", "entries": [3]}],
}


def test_real_data_are_judged_on_rows_that_were_not_trained_on():
    pytest.importorskip("sklearn", reason="the extra examples is not installed")
    full, sparse = DataStudy.model_validate(DATA).run()
    assert full.training < full.risk_in
    assert full.gain == pytest.approx(full.pretrained_in - full.risk_in)
    assert full.forgetting == pytest.approx(full.risk_out - full.pretrained_out)
    assert full.training <= sparse.training
    assert full.solved == sparse.solved == 6
    again, _ = DataStudy.model_validate(DATA).run()
    assert again == full


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data": "iris"}, "base.data: no data set 'iris'"),
        ({"n": 10_000}, "base.n: diabetes has 114 rows to train on, half of the target's, not 10000; give 1 to 114"),
        ({"widths": [3, 1]}, "base.widths: diabetes has 10 inputs"),
        ({"layer": 7}, "base.layer: layer 7 of a network with 3; layers count from 0; give 0 to 2"),
        ({"methods": [{"method": "LoRA", "ranks": [40]}]}, "base.methods[0].ranks[0]: rank 40"),
    ],
)
def test_what_the_data_do_not_have_is_named(changed, said):
    pytest.importorskip("sklearn", reason="the extra examples is not installed")
    with pytest.raises(DataError) as err:
        sweep_of({"title": "t", "study": "data", "base": {**DATA, **changed}})
    assert said in str(err.value)


def test_another_size_does_not_change_what_is_drawn_for_the_first():
    def rows(entries):
        found = cell(n=8, replicates=5, methods=[{"method": "SparseFT", "entries": entries}]).run()
        return {row.size: row for row in found}

    assert rows([3])[3] == rows([9, 3])[3]


def test_noise_levels_share_their_problem():
    quiet, loud = (cell(task={"size": 1.0, "noise": noise}).problem() for noise in (0.1, 2.0))
    for a, b in ((quiet[0].product, loud[0].product), (quiet[1].train.coef, loud[1].train.coef)):
        assert np.array_equal(a, b)
    assert np.array_equal(quiet[1].test.coef, loud[1].test.coef)
    assert loud[1].train.noise_cov[0, 0] == pytest.approx(4.0)


def test_the_rows_that_judge_are_those_that_were_not_trained_on():
    """By hand: each split trains on one half and is judged on the other."""
    pytest.importorskip("sklearn", reason="the extra examples is not installed")
    study = DataStudy.model_validate({**DATA, "n": 114, "replicates": 2, "methods": DATA["methods"][:1]})
    net, _, (x, y) = pretrained("diabetes", study.layers(), study.seed)
    orders = np.argsort(study.stream("split", study.data, study.n).random((2, len(x))), axis=1)
    errors = []
    for order in orders:
        train, rest = order[:114], np.setdiff1d(np.arange(len(x)), order[:114])
        problem = ln.LayerProblem(net, 1, ln.Moments.from_data(x[train], y[train]))
        tuned = net.updated(ln.FullFT().solve(problem))
        errors.append(np.mean(np.sum((y[rest] - tuned(x[rest])) ** 2, axis=1)))
    (row,) = study.run()
    assert row.risk_in == pytest.approx(np.mean(errors))
