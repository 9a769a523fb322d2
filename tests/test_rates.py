"""Claims about growing samples and widths: what is drawn, what is fitted, and what contradicts."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.errors import ClaimError, DataError
from linnet.trials import Estimator, Hypothesis, Quadratic, Sampled, Wide, claim, sq, trace
from linnet.trials.certificate import check
from linnet.trials.claim import installed_claims
from linnet.trials.rates import Course, Measured, Point, _grows, slope
from linnet.trials.settings.estimator import EstimatorShape
from linnet.trials.settings.quadratic import of_layer
from linnet.trials.settings.sampled import LAWS, SampledShape, second_moments
from linnet.trials.trial import Budget, run

SMALL = Budget(groups=8, count=8, climbs=1, steps=4, lineages=2, offspring=8, exact=8, per_shape=16, ladders=6)


def make(function, relation, setting=Sampled, hypotheses=(), **more):
    def stated(v):
        """Mine."""
        return function(v)

    return claim("mine/rate", setting=setting, relation=relation, source="mine", hypotheses=hypotheses, **more)(stated)


# --- what is drawn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [1, 3, 7, 40, 10**6])
def test_second_moments_have_the_mean_and_the_spread_of_samples(law, n):
    k, w, count = 2, 2, 40_000
    roots = second_moments(law, k, w, n, count, np.random.default_rng(0))
    moments = roots @ roots.swapaxes(-1, -2)
    error = moments.std(axis=0) / np.sqrt(count)
    assert (np.abs(moments.mean(axis=0) - np.eye(4)) <= 5 * error + 1e-12).all()
    # Variances of single entries, from the law's fourth moments: n times over, so that they fit every n.
    fourth = {"gaussian": (3.0, 3.0), "mixture": (3 * (0.5**4 + 1.75**2) / 2,) * 2, "bounded": (3.25, 1.0)}[law]
    for i, expected in ((0, fourth[0]), (3, fourth[1])):
        found = n * moments[:, i, i].var()
        assert found == pytest.approx(expected - 1, rel=0.12, abs=1e-9), i
    between = fourth[0] / 3 if law == "mixture" else 1.0
    assert n * moments[:, 0, 3].var() == pytest.approx(between, rel=0.12)


def test_few_samples_have_few_directions():
    ranks = np.linalg.matrix_rank(second_moments("gaussian", 3, 2, 2, 50, np.random.default_rng(0)))
    assert set(ranks) == {2}


def test_one_more_sample_is_one_more():
    shape = SampledShape((2, 2), 0, 1, (0,), 2, 2, 1, "bounded")
    rng = np.random.default_rng(1)
    raw = Sampled.draw(shape, "gaussian", 1, rng)
    view = Sampled.at(shape, raw, (), 20, 30, rng)
    grown = view.more.sample.gram.values * 21 - view.sample.gram.values * 20
    assert np.linalg.matrix_rank(grown, tol=1e-8).tolist() == [1] * 30


# --- what is fitted --------------------------------------------------------------------------------


@given(st.sampled_from([-2.0, -1.0, -0.5, 0.25, 0.5, 1.0]), st.floats(0.1, 10))
def test_a_slope_is_the_exponent(exponent, constant):
    sizes = np.geomspace(10, 1000, 13)
    assert slope(sizes, constant * sizes**exponent) == pytest.approx((exponent, 0.0), abs=1e-6)


def courses(ratios):
    one = np.ones(1)
    return [Course(Point(None, {}), 0, one, r * one, 0 * one, one, one, "<~") for r in ratios]


@pytest.mark.parametrize(
    ("ratios", "grows"),
    [
        ([1, 10, 100, 1000, 10_000], True),
        ([1, 3.2, 10, 32, 100], True),
        ([1, 10, 50, 100, 120], False),  # slows down towards a bound
        ([1e-9, 1e-7, 1e-5, 1e-3, 1e-3], False),
        ([1, 1.2, 1.44, 1.7, 2], False),
    ],
)
def test_a_ratio_that_rises_to_a_bound_does_not_grow_without_one(ratios, grows):
    assert _grows(courses(ratios)) == grows


def test_an_order_is_fitted_and_a_wrong_one_refuted():
    noisy = (Sampled.noisy, Sampled.learnable)
    right = run(make(lambda v: (v.variance("s2ft"), 1 / v.n), "~", hypotheses=noisy), SMALL, 0)
    assert right.verdict == "rate"
    assert right.fit["interval"][0] <= -1 <= right.fit["interval"][1] + 0.02
    wrong = make(lambda v: (v.variance("s2ft"), v.n**-0.75), "~", hypotheses=noisy)
    verdict = run(wrong, SMALL, 0)
    assert verdict.verdict == "refuted"
    assert "fitted exponent" in check(json.loads(json.dumps(verdict.certificate)), {wrong.id: wrong})


def test_a_rescue_is_tried():
    shaped = make(lambda v: (v.s2ft(1.0), v.n), "~", Wide)
    assert run(shaped, SMALL, 0).verdict == "rate"
    rates = make(lambda v: (v.lora(1.0, 1 / v.n)[1], 1.0), "~", Wide, rescue=(Wide.signs,))
    verdict = run(rates, SMALL, 0)
    assert (verdict.verdict, len(verdict.holds_if)) == ("holds-if", 1)


def test_an_expectation_off_by_one_is_refuted_and_the_record_is_checked_again():
    def risk(taken):
        def sides(v):
            level = trace(v.P_C @ (v.noise_cov + v.Omega)) / (v.n - v.m - taken)
            return v.sample.s2ft.train_risk, v.s2ft.train_risk + v.m * level

        return make(sides, "==", hypotheses=[Sampled.gaussian])

    longer = dataclasses.replace(SMALL, ladders=16)
    assert run(risk(1), longer, 3).verdict == "holds"
    wrong = risk(0)
    record = run(wrong, longer, 3).certificate
    assert "standard errors" in check(record, {wrong.id: wrong})
    with pytest.raises(ClaimError, match="does not contradict"):
        check(record, {wrong.id: risk(1)})
    forged = copy.deepcopy(record)
    forged["courses"][0]["parameters"]["shift"].append([1.0])
    with pytest.raises(DataError, match="record"):
        check(forged, {wrong.id: wrong})
    with pytest.raises(ClaimError, match="speaks of"):
        check(record, {wrong.id: dataclasses.replace(wrong, setting=Quadratic)})


def test_an_order_needs_something_that_grows():
    with pytest.raises(ClaimError, match="nothing grows"):
        run(make(lambda v: (sq(v.eps), 1), "<~", Quadratic), SMALL, 0)


# --- finite laws -----------------------------------------------------------------------------------


def test_sums_over_a_finite_law_are_what_simulation_finds():
    shape = EstimatorShape(2, 1, 3, 2)
    rng = np.random.default_rng(4)
    raw = Estimator.draw(shape, "gaussian", 1, rng)
    view = Estimator.float_view(shape, raw, ())
    x, y = raw["x"][0], raw["y"][0, 0]
    draws = 40_000
    for peft in (False, True):
        used = x[:1] if peft else x
        losses, trained = np.empty(draws), np.empty(draws)
        for i, pick in enumerate(rng.integers(0, 3, size=(draws, 2))):
            theta = y[pick] @ np.linalg.pinv(used[:, pick])
            losses[i] = np.mean((y - theta @ used) ** 2)
            trained[i] = np.mean((y[pick] - theta @ used[:, pick]) ** 2)
        for found, expected in (
            (losses, view.expected_loss(0, peft)),
            (trained, view.expected_training_loss(peft)),
        ):
            assert abs(found.mean() - expected[0]) <= 5 * found.std() / np.sqrt(draws) + 1e-12
        exact = Estimator.view(Estimator.exact_instance(shape, raw, 0, ()))
        assert float(exact.expected_loss(0, peft)) == pytest.approx(view.expected_loss(0, peft)[0])


# --- quadratics of layers --------------------------------------------------------------------------


def test_any_subspace_of_a_layer_is_a_subspace_of_its_parameters():
    shape = of_layer(3, 2, 4, "subspace")
    raw = Quadratic.draw(shape, "gaussian", 5, np.random.default_rng(0))
    view = Quadratic.float_view(shape, raw, ())
    p = view.P.values
    assert (view.H.shape, p.shape) == ((6, 6), (5, 6, 4))
    assert np.swapaxes(p, 1, 2) @ p == pytest.approx(np.tile(np.eye(4), (5, 1, 1)))
    exact = Quadratic.exact_instance(shape, raw, 0, ())
    assert Quadratic.defects(exact) == []
    assert "P^T P is not the identity" in Quadratic.defects(exact | {"P": 2 * exact["P"]})


@pytest.mark.parametrize("method", ["s2ft", "lora"])
def test_the_quadratic_of_a_layer_has_its_hessian_and_its_tangent_space(method):
    import linnet as ln

    rng = np.random.default_rng(2)
    shape = of_layer(3, 2, 1, method)
    raw = Quadratic.draw(shape, "gaussian", 1, rng)
    view = Quadratic.float_view(shape, raw, ())
    # With white inputs the factor of root^2 is the layer below.
    net = ln.DeepLinearNetwork((raw["root"][0], rng.normal(size=(3, 2)), raw["upper"][0]))
    task = ln.Regression(coef=rng.normal(size=(3, 2)), signal_cov=np.eye(2))
    step = rng.normal(size=(3, 2))

    def risk(t):
        weights = (net.weights[0], net.weights[1] + t * step, net.weights[2])
        return float(ln.excess_risk(ln.DeepLinearNetwork(weights), task))

    second = (risk(1.0) - 2 * risk(0.0) + risk(-1.0)) / 2
    u = step.reshape(-1, 1)
    assert second == pytest.approx(float((u.T @ view.H.formed().values[0] @ u)[0, 0]))
    p = view.P.values[0]
    assert p.T @ p == pytest.approx(np.eye(shape.k))
    assert shape.k == {"s2ft": 2, "lora": 4}[method]
    directions = p.T.reshape(-1, 3, 2)
    if method == "s2ft":  # one row, turned: all of rank one with one column space
        spaces = np.concatenate(list(directions), axis=1)
        assert np.linalg.matrix_rank(spaces) == 1
    else:  # X with (I - P_U) X (I - P_V) = 0: its complement is of rank one
        left = np.eye(6) - p @ p.T
        assert np.linalg.matrix_rank(left, tol=1e-9) == 2
        space = np.linalg.svd(left)[0][:, :2].T.reshape(-1, 3, 2)
        assert np.linalg.matrix_rank(np.concatenate(list(space), axis=0), tol=1e-9) == 1


def test_every_order_has_its_words():
    for c in installed_claims().values():
        if c.relation in ("<~", "~"):
            assert c.setting in (Sampled, Wide), c.id


GAUSSIAN = Hypothesis("the law is Gaussian", shape=lambda s: s.law == "gaussian")

# --- records that no trial wrote, and what looks like growth -------------------------------------


def test_a_ratio_that_rises_to_a_bound_in_the_dimension_is_not_refuted():
    def bounded(v):
        q, p = v.B_i.shape
        return (p + q) / (p + q + 64) / v.n, 1 / v.n

    assert run(make(bounded, "<~"), SMALL, 0).verdict == "rate"


def test_a_ratio_that_grows_with_the_dimension_is_refuted_and_the_record_is_checked():
    mine = make(lambda v: (sum(v.B_i.shape) / v.n, 1 / v.n), "<~")
    verdict = run(mine, SMALL, 0)
    assert verdict.verdict == "refuted"
    assert "grows with the dimension" in check(json.loads(json.dumps(verdict.certificate)), {mine.id: mine})
    forged = copy.deepcopy(verdict.certificate)
    forged["courses"] = forged["courses"][:-1]
    with pytest.raises(ClaimError, match="does not grow with these dimensions"):
        check(forged, {mine.id: mine})


def test_an_order_lost_in_noise_has_no_verdict():
    """The gap of one realisation is of order n^(-1/2), its mean of order 1/n: 64 of them do not show it."""

    def noisy(v):
        return v.test_loss(v.sample.full_ft) - v.train_loss(v.sample.full_ft), v.n**-4.0

    claim = make(noisy, "<~", hypotheses=[Sampled.noisy, Sampled.per_problem])
    assert run(claim, SMALL, 0).verdict == "undecided"


def record_of(claim, seed=0):
    verdict = run(claim, SMALL, seed)
    assert verdict.verdict == "refuted"
    return json.loads(json.dumps(verdict.certificate))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["courses"][0].update(sizes=r["courses"][0]["sizes"][:3]), "an exponent is fitted over more sizes"),
        (lambda r: r["courses"][0].update(sizes=[4] * 13), "fewer than a trial takes"),
        (lambda r: r.update(replicates=2), "fewer than a trial takes"),
        (lambda r: r["courses"].append(r["courses"][0]), "its constant may depend on the problem"),
        (lambda r: r["courses"][0]["shape"].update(law="bounded"), "the shape does not meet the hypotheses"),
        (lambda r: r.update(along="dimension"), "an exponent is fitted over more sizes"),
    ],
)
def test_a_record_that_no_trial_wrote_is_refused(change, said):
    mine = make(lambda v: (v.variance("s2ft"), v.n**-1.5), "~", hypotheses=[Sampled.noisy, Sampled.learnable, GAUSSIAN])
    record = record_of(mine)
    change(record)
    with pytest.raises(ClaimError, match=said):
        check(record, {mine.id: mine})


def test_unrelated_instances_are_no_ray():
    mine = make(lambda v: (trace(v.cov_i) / v.n, 1 / v.n), "<~")
    record = record_of(mine)
    assert len(record["courses"]) == 6
    assert "grows without bound" in check(record, {mine.id: mine})
    record["courses"][2]["parameters"]["shift"][0][0] += 1.0
    with pytest.raises(ClaimError, match="do not lie on a ray"):
        check(record, {mine.id: mine})


def test_a_sample_is_no_counterexample_to_an_expectation():
    claim = installed_claims()["linnet/generalisation-gap"]
    one = [["1"]]
    instance = {"weights": [one], "layer": 0, "rank": 1, "channels": [0], "coef_train": one, "coef_test": one}
    instance |= {"cov_train": one, "cov_test": one, "x": one, "noise": one, "noise_factor": one, "size": 3}
    record = {"claim": claim.id, "setting": "sampled", "instance": instance}
    with pytest.raises(ClaimError, match="the sample is random"):
        check(record | {"observed": "1", "relation": "==", "stated": "2"}, {claim.id: claim})


def test_means_without_spread_are_held_to_their_own_digits():
    assert Measured(0.1 + 0.2, 0.0, 0.3, 0.0, "==").distance < 1
    assert Measured(0.3001, 0.0, 0.3, 0.0, "==").distance > 1e6


def test_another_sample_has_its_own_moments():
    rng = np.random.default_rng(0)
    shape = SampledShape((2, 2), 0, 1, (0,), 2, 2, 1, "gaussian")
    view = Sampled.at(shape, Sampled.draw(shape, "gaussian", 1, rng), (), 20, 4, rng)
    gram = view.sample.gram.values
    other = view.with_sample(2 * view.x, view.noise, view.n)
    assert other.sample.gram.values == pytest.approx(4 * gram)
    assert other.population is view.population
