"""Every refusal is a ValueError that says what was given, what is needed and what to do."""

import numpy as np
import pytest

import linnet as ln
from linnet.errors import (
    ArgumentError,
    ChannelError,
    ConvergenceError,
    LinnetError,
    NonFiniteError,
    NotPSDError,
    RankError,
    ShapeError,
)

EYE = np.eye(3)
NET = ln.DeepLinearNetwork((np.ones((2, 3)), np.eye(2)))
TASK = ln.Regression(np.ones((2, 3)), EYE)
PROBLEM = ln.LayerProblem(NET, 0, TASK.moments())
RNG = np.random.default_rng(0)
NAN = np.where(EYE > 0, np.nan, 0.0)
LEAN = np.diag([1.0, 1.0, -1.0])
SKEW = EYE + np.triu(np.ones((3, 3)), 1)

CASES = {
    # networks
    "no layers": (lambda: ln.DeepLinearNetwork(()), ShapeError, ["none", "at least one"]),
    "one array": (lambda: ln.DeepLinearNetwork(EYE), ShapeError, ["ndarray", "list"]),
    "widths that do not fit": (lambda: ln.DeepLinearNetwork((EYE, np.eye(2))), ShapeError, ["(2, 2)", "(..., d_2, 3)"]),
    "a vector for a weight": (lambda: ln.DeepLinearNetwork((np.ones(3),)), ShapeError, ["(3,)", "(..., d_1, d_0)"]),
    "ragged lists": (lambda: ln.DeepLinearNetwork(([[1.0, 2.0], [3.0]],)), ShapeError, ["weights[0]", "equal rows"]),
    "complex weights": (lambda: ln.DeepLinearNetwork((1j * EYE,)), ShapeError, ["complex128", "real"]),
    "words for weights": (lambda: ln.DeepLinearNetwork(([["a"]],)), ShapeError, ["weights[0]", "numbers"]),
    "a width of zero": (lambda: ln.DeepLinearNetwork((np.ones((0, 3)),)), ShapeError, ["(0, 3)", "at least 1"]),
    "NaN weights": (lambda: ln.DeepLinearNetwork((NAN,)), NonFiniteError, ["weights[0]", "3 non-finite", "drop"]),
    "infinite bias": (lambda: ln.DeepLinearNetwork((EYE,), (np.array([1, np.inf, 0]),)), NonFiniteError, ["biases[0]"]),
    "biases missing": (lambda: ln.DeepLinearNetwork((EYE, EYE), (np.ones(3),)), ShapeError, ["1 biases", "zeros"]),
    "bias of another length": (lambda: ln.DeepLinearNetwork((EYE,), (np.ones(2),)), ShapeError, ["(2,)", "(..., 3)"]),
    "batches that do not fit": (
        lambda: ln.DeepLinearNetwork((np.ones((2, 3, 3)), np.ones((4, 3, 3)))),
        ShapeError,
        ["(2,)", "(4,)", "broadcast"],
    ),
    "no widths": (lambda: ln.DeepLinearNetwork.random([3], rng=RNG), ShapeError, ["[3]", "two"]),
    "fractional widths": (lambda: ln.DeepLinearNetwork.random([3, 1.5], rng=RNG), ShapeError, ["1.5", "whole"]),
    "rank above a layer": (
        lambda: ln.DeepLinearNetwork.random([3, 2], rng=RNG, ranks=[3]),
        RankError,
        ["rank 3", "0 to 2"],
    ),
    "too few ranks": (lambda: ln.DeepLinearNetwork.random([3, 2, 2], rng=RNG, ranks=[1]), ShapeError, ["1 ranks", "2"]),
    "too many singular values": (
        lambda: ln.DeepLinearNetwork.with_spectra([3, 2], [[1, 1, 1]], rng=RNG),
        RankError,
        ["2 x 3", "at most 2"],
    ),
    "negative singular value": (
        lambda: ln.DeepLinearNetwork.with_spectra([2, 2], [[1, -1]], rng=RNG),
        RankError,
        ["-1.0", "none negative"],
    ),
    "infinite singular value": (
        lambda: ln.DeepLinearNetwork.with_spectra([2, 2], [[1, np.inf]], rng=RNG),
        LinnetError,
        ["inf", "finite"],
    ),
    "too few spectra": (
        lambda: ln.DeepLinearNetwork.with_spectra([2, 2, 2], [[1]], rng=RNG),
        ShapeError,
        ["1 spectra"],
    ),
    "product too wide for its layers": (
        lambda: ln.DeepLinearNetwork.balanced([3, 1, 3], EYE),
        RankError,
        ["above 1", "widen"],
    ),
    "product of another shape": (lambda: ln.DeepLinearNetwork.balanced([3, 2], EYE), ShapeError, ["(3, 3)", "2, 3"]),
    "NaN product": (lambda: ln.DeepLinearNetwork.balanced([3, 3, 3], NAN), NonFiniteError, ["product", "drop"]),
    "no such layer": (lambda: ln.LayerProblem(NET, 2, TASK.moments()), ShapeError, ["layer 2", "0 to 1"]),
    "negative layer": (lambda: NET.upper(-1), ShapeError, ["layer -1", "0 to 1"]),
    "inputs of another width": (lambda: NET(np.ones((5, 2))), ShapeError, ["(5, 2)", "(..., n, 3)"]),
    # tasks and moments
    "coefficients of one axis": (lambda: ln.Regression(np.ones(3), EYE), ShapeError, ["(3,)", "(..., q, p)"]),
    "covariance of another size": (lambda: ln.Regression(EYE, np.eye(2)), ShapeError, ["signal_cov", "(..., 3, 3)"]),
    "indefinite covariance": (lambda: ln.Regression(EYE, LEAN), NotPSDError, ["eigenvalue -1", "nearest_psd"]),
    "asymmetric covariance": (lambda: ln.Regression(EYE, SKEW), NotPSDError, ["signal_cov", "asymmetric by 1"]),
    "indefinite noise": (lambda: ln.Regression(EYE, EYE, LEAN), NotPSDError, ["noise_cov", "-1"]),
    "noise of another size": (lambda: ln.Regression(EYE, EYE, np.eye(2)), ShapeError, ["noise_cov", "(..., 3, 3)"]),
    "NaN covariance": (lambda: ln.Regression(EYE, NAN), NonFiniteError, ["signal_cov", "3 non-finite", "(0, 0)"]),
    "NaN coefficients": (lambda: ln.Regression(NAN, EYE), NonFiniteError, ["coef", "finite"]),
    "mean of another length": (lambda: ln.Regression(EYE, EYE, None, np.ones(2)), ShapeError, ["mean", "(2,)"]),
    "infinite intercept": (
        lambda: ln.Regression(EYE, EYE, None, None, np.array([0, np.inf, 0])),
        NonFiniteError,
        ["intercept", "(1,)"],
    ),
    "moments of different sizes": (lambda: ln.Moments(EYE, np.ones((2, 2)), np.eye(2)), ShapeError, ["xx", "(3, 3)"]),
    "indefinite moments": (lambda: ln.Moments(LEAN, np.zeros((2, 3)), np.eye(2)), NotPSDError, ["xx", "-1"]),
    "impossible cross moment": (
        lambda: ln.Moments(EYE, 5 * np.ones((2, 3)), np.eye(2)),
        NotPSDError,
        ["x and y together", "same samples"],
    ),
    "impossible mean": (
        lambda: ln.Moments(EYE, np.zeros((2, 3)), np.eye(2), 5 * np.ones(3), np.zeros(2)),
        NotPSDError,
        ["x and y together", "means"],
    ),
    "one mean of two": (lambda: ln.Moments(EYE, EYE, EYE, x_mean=np.ones(3)), ShapeError, ["one mean", "y_mean"]),
    "rows that do not match": (
        lambda: ln.Moments.from_data(np.ones((4, 3)), np.ones((5, 2))),
        ShapeError,
        ["4 rows", "5", "same samples"],
    ),
    "no rows": (
        lambda: ln.Moments.from_data(np.ones((0, 3)), np.ones((0, 2))),
        ShapeError,
        ["no rows", "at least one"],
    ),
    "a vector for y": (lambda: ln.Moments.from_data(np.ones((4, 3)), np.ones(4)), ShapeError, ["y", "(4,)", "n, q"]),
    "NaN data": (lambda: ln.Regression.from_data(NAN, EYE), NonFiniteError, ["x has 3", "impute"]),
    "no samples": (lambda: TASK.sample(0, rng=RNG), ShapeError, ["n = 0", "at least 1"]),
    "task of another size": (
        lambda: ln.LayerProblem(NET, 0, ln.Regression(EYE, EYE).moments()),
        ShapeError,
        ["3 to 2", "same p and q"],
    ),
    "risk on a task of another size": (
        lambda: ln.excess_risk(NET, ln.Regression(EYE, EYE)),
        ShapeError,
        ["3 to 2", "3 to 3"],
    ),
    "shift between sizes": (lambda: ln.Shift(TASK, ln.Regression(EYE, EYE)), ShapeError, ["train", "same p and q"]),
    "batches of nets and tasks that do not fit": (
        lambda: ln.LayerProblem(
            ln.DeepLinearNetwork((np.ones((2, 3, 3)),)), 0, ln.Regression(np.ones((5, 3, 3)), EYE).moments()
        ),
        ShapeError,
        ["(2,)", "(5,)", "broadcast"],
    ),
    # methods
    "rank above the layer's": (lambda: ln.LoRA(3).solve(PROBLEM), RankError, ["rank 3", "2 x 3", "0 to 2"]),
    "negative rank": (lambda: ln.LoRA(-1), RankError, ["-1", ">= 0"]),
    "fractional rank": (lambda: ln.LoRA(1.5), RankError, ["1.5", "whole"]),
    "a truth value for a rank": (lambda: ln.LoRA(True), RankError, ["True", "whole"]),
    "unknown treatment of ties": (lambda: ln.LoRA(1, ties="last"), RankError, ["last", "refuse"]),
    "a tie": (
        lambda: ln.LoRA(1).solve(
            ln.LayerProblem(ln.DeepLinearNetwork((0 * EYE,)), 0, ln.Regression(EYE, EYE).moments())
        ),
        RankError,
        ["tie", "another rank", 'ties="first"'],
    ),
    "no channels": (lambda: ln.S2FT([]).solve(PROBLEM), ChannelError, ["no channels", "0 to 1"]),
    "channel out of range": (lambda: ln.S2FT([0, 2]).solve(PROBLEM), ChannelError, ["channel 2", "0 to 1"]),
    "negative channel": (lambda: ln.S2FT([-1]).solve(PROBLEM), ChannelError, ["channel -1", "0 to 1"]),
    "channel named twice": (lambda: ln.S2FT([0, 0]).solve(PROBLEM), ChannelError, ["twice", "once"]),
    "fractional channel": (lambda: ln.S2FT([0.5]).solve(PROBLEM), ChannelError, ["float64", "whole"]),
    "one number for channels": (lambda: ln.S2FT(1).solve(PROBLEM), ChannelError, ["channels=1", "list", "0 to 1"]),
    "a word for channels": (lambda: ln.S2FT("12").solve(PROBLEM), ChannelError, ["channels='12'", "list"]),
    "nothing for channels": (lambda: ln.S2FT(None).solve(PROBLEM), ChannelError, ["channels=None", "list"]),
    "fractional count": (lambda: ln.select_channels(PROBLEM, 1.5, by="weight"), ChannelError, ["1.5", "1 to 2"]),
    "unknown form": (lambda: ln.S2FT([0], form="diagonal"), ChannelError, ["diagonal", "rows"]),
    "too many channels": (lambda: ln.select_channels(PROBLEM, 3, by="weight"), ChannelError, ["3 channels", "1 to 2"]),
    "zero channels": (lambda: ln.select_channels(PROBLEM, 0, by="weight"), ChannelError, ["0 channels", "1 to 2"]),
    "unknown criterion": (lambda: ln.select_channels(PROBLEM, 1, by="taste"), ChannelError, ["taste", "gradient"]),
    "random without rng": (lambda: ln.select_channels(PROBLEM, 1), ChannelError, ["rng="]),
    "empty mask": (lambda: ln.SparseFT(np.zeros((2, 3), bool)), ChannelError, ["no entry", "at least one"]),
    "mask of numbers": (lambda: ln.SparseFT(np.ones((2, 3))), ShapeError, ["float64", "booleans"]),
    "mask of another shape": (lambda: ln.SparseFT(EYE > 0).solve(PROBLEM), ShapeError, ["(3, 3)", "(..., 2, 3)"]),
    "two frozen factors": (lambda: ln.FrozenFactorLoRA(EYE, EYE), ShapeError, ["one frozen factor"]),
    "no frozen factor": (lambda: ln.FrozenFactorLoRA(), ShapeError, ["left=U", "right=V"]),
    "factor of another size": (
        lambda: ln.FrozenFactorLoRA(left=EYE).solve(PROBLEM),
        ShapeError,
        ["left", "(3, 3)", "(..., 2, r)"],
    ),
    "NaN factor": (lambda: ln.FrozenFactorLoRA(left=NAN), NonFiniteError, ["left", "finite"]),
    "basis of another size": (lambda: ln.Subspace(EYE).solve(PROBLEM), ShapeError, ["(3, 3)", "(..., 6, k)"]),
    "empty basis": (lambda: ln.Subspace(np.ones((6, 0))), ShapeError, ["no columns", "at least one"]),
    "NaN basis": (lambda: ln.Subspace(NAN), NonFiniteError, ["basis", "finite"]),
    "unknown side": (lambda: ln.IA3("top"), ChannelError, ["top", "output"]),
    "update for another layer": (
        lambda: NET.updated(ln.Update(np.ones((3, 3)), 0)),
        ShapeError,
        ["update.delta", "(3, 3)", "(..., 2, 3)"],
    ),
    # arguments of another kind
    "network and task swapped": (lambda: ln.excess_risk(TASK, NET), ArgumentError, ["net is a Regression", "first"]),
    "a problem for a task": (lambda: ln.expected_risk(NET, PROBLEM), ArgumentError, ["task is a LayerProblem"]),
    "a task for a shift": (lambda: ln.forgetting(NET, NET, TASK), ArgumentError, ["shift is a Regression"]),
    "moments for a shift": (lambda: ln.Shift(TASK, TASK.moments()), ArgumentError, ["test is a Population"]),
    "a task for moments": (lambda: ln.LayerProblem(NET, 0, TASK), ArgumentError, ["Regression", "task.moments()"]),
    "a truth value for a layer": (lambda: NET.lower(True), ShapeError, ["layer True", "0 to 1"]),
    "a word for a layer": (lambda: NET.lower("1"), ShapeError, ["layer '1'", "0 to 1"]),
    "a seed for a generator": (
        lambda: ln.DeepLinearNetwork.random([2, 2], rng=0),
        ArgumentError,
        ["rng is a int", "default_rng(seed)"],
    ),
    "half a sample": (lambda: TASK.sample(2.5, rng=RNG), ShapeError, ["n = 2.5", "at least 1"]),
    "a rotation of nothing": (lambda: ln.haar(0, RNG), ShapeError, ["n = 0", ">= 1"]),
    "the name of a library": (lambda: PROBLEM.to("jax"), ArgumentError, ["'jax'", "jax.numpy"]),
    "whole numbers for a dtype": (lambda: PROBLEM.to(np, dtype=np.int32), ArgumentError, ["int32", "floating"]),
    "no inputs": (lambda: ln.Moments.from_data(np.ones((4, 0)), np.ones((4, 1))), ShapeError, ["0 inputs", "at least"]),
    "no outputs": (lambda: ln.Regression(np.ones((0, 3)), EYE), ShapeError, ["0 outputs", "at least"]),
    "infinite covariate shift": (
        lambda: ln.Shift.covariate(TASK, np.inf, rng=RNG),
        ArgumentError,
        ["strength inf", "finite"],
    ),
    "shift that another network reaches": (
        lambda: ln.Shift.reachable(TASK, ln.DeepLinearNetwork.random([4, 2], rng=RNG), 0, 1.0, rng=RNG),
        ShapeError,
        ["4 to 2", "3 to 2"],
    ),
    "a task for its moments": (lambda: ln.Regression.from_moments(TASK), ArgumentError, ["moments is a Regression"]),
    "an array for an update": (lambda: NET.updated(EYE), ArgumentError, ["update is a ndarray", "solve"]),
    "a network for a problem": (lambda: ln.LoRA(1).solve(NET), ArgumentError, ["DeepLinearNetwork", "LayerProblem"]),
    "scores of a network": (lambda: ln.channel_scores(NET, by="weight"), ArgumentError, ["problem", "LayerProblem"]),
    "a word for a shift's size": (lambda: ln.Shift.label(TASK, "a", rng=RNG), ArgumentError, ["size is a str"]),
    "moments to shift": (
        lambda: ln.Shift.label(TASK.moments(), 1.0, rng=RNG),
        ArgumentError,
        ["train is a Population"],
    ),
    "a word for a tolerance": (
        lambda: ln.LayerProblem(NET, 0, TASK.moments(), rtol="1e-9"),
        RankError,
        ["rtol='1e-9'", "below 1"],
    ),
    "a number for biases": (lambda: ln.DeepLinearNetwork((EYE,), 1.5), ArgumentError, ["biases is a float", "list"]),
    "a number for widths": (lambda: ln.DeepLinearNetwork.random(5, rng=RNG), ArgumentError, ["widths is a int"]),
    "a number for batch axes": (
        lambda: ln.DeepLinearNetwork.random([2, 2], rng=RNG, batch=3),
        ArgumentError,
        ["batch is a int", "tuple"],
    ),
    "ragged mask": (lambda: ln.SparseFT([[True], [True, False]]), ShapeError, ["different lengths"]),
    "ragged channels": (lambda: ln.S2FT([[0, 1], [1]]).solve(PROBLEM), ChannelError, ["list of whole numbers"]),
    "an array for a side": (lambda: ln.IA3(np.array([True, False])), ChannelError, ["side", "output"]),
    "a number for a dtype": (lambda: PROBLEM.to(np, dtype=1.5), ArgumentError, ["dtype=1.5"]),
    # sizes that floating point does not hold
    "data whose squares overflow": (
        lambda: ln.Moments.from_data(1e200 * np.ones((4, 3)), np.ones((4, 2))),
        NonFiniteError,
        ["squares", "larger units"],
    ),
    "layers whose product overflows": (
        lambda: ln.LayerProblem(ln.DeepLinearNetwork((1e200 * EYE, 1e200 * EYE)), 1, ln.Regression(EYE, EYE).moments()),
        NonFiniteError,
        ["overflow", "rescale"],
    ),
    "a risk that overflows": (
        lambda: ln.excess_risk(ln.DeepLinearNetwork((1e200 * EYE,)), ln.Regression(EYE, EYE)),
        NonFiniteError,
        ["risk", "too large"],
    ),
    # pre-training
    "gradient flow stuck at a saddle": (
        lambda: ln.DeepLinearNetwork.pretrained([3, 2, 2], TASK, rng=RNG, init_scale=0.0, max_evaluations=500),
        ConvergenceError,
        ["init_scale 0.0", "above 0", "saddle"],
    ),
    "too few gradients": (
        lambda: ln.DeepLinearNetwork.pretrained([3, 2, 2], TASK, rng=RNG, max_evaluations=3),
        ConvergenceError,
        ["within", "gradients", "max_evaluations"],
    ),
    "pre-training for another task": (
        lambda: ln.DeepLinearNetwork.pretrained([2, 2], TASK, rng=RNG),
        ShapeError,
        ["[2, 2]", "3 inputs"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refusals(name):
    act, kind, words = CASES[name]
    with pytest.raises(kind) as caught:
        act()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LinnetError)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_lists_and_integers_are_numbers():
    net = ln.DeepLinearNetwork([[[1, 2, 3], [4, 5, 6]]], [[1, 0]])
    assert net.weights[0].dtype == np.float64
    task = ln.Regression([[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 2, 0], [0, 0, 3]], mean=[1, 2, 3])
    problem = ln.LayerProblem(net, 0, task.moments())
    exact = ln.FrozenFactorLoRA(left=[[1, 0], [0, 1]]).solve(problem)
    np.testing.assert_allclose(exact.delta, ln.FullFT().solve(problem).delta)
    assert np.isfinite(ln.S2FT((1,)).solve(problem).delta).all()
    moments = ln.Moments.from_data([[1, 2, 3], [0, 1, 1]], [[1, 2], [0, 1]])
    assert moments.n == 2
    assert moments.xx.dtype == np.float64
