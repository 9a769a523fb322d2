"""The studies of capacity, sensitivity and width: the searches find what is there, and means agree with theory.

Means must agree with expectations within 5 standard errors, and each standard error is bounded.
"""

import itertools
import math

import numpy as np
import pytest

import linnet as ln
from linnet.errors import DataError
from linnet.sweep import sweep_of
from linnet.sweep.studies import capacity, sensitivity, width
from linnet.sweep.studies.capacity import CapacityStudy
from linnet.sweep.studies.sensitivity import SensitivityStudy
from linnet.sweep.studies.width import FROM_U, FROM_V, FULL, PARTS, S2FT, SHARE, WidthStudy

# --- capacity ------------------------------------------------------------------------------------

QUICK = {"width": 8, "replicates": 6, "draws": 64, "starts": 8, "steps": 150}


def capacity_row(**fields):
    return CapacityStudy(**{"activation": "identity", "depth": 3, **QUICK, **fields}).run()[0]


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("increments", ["random", "rank one"])
@pytest.mark.parametrize("depth", [1, 5, 12])
def test_the_search_reaches_the_exact_displacement_of_linear_networks(weights, increments, depth):
    row = capacity_row(depth=depth, weights=weights, increments=increments, norm=1.5, strength=0.3)
    assert row.exact is not None
    assert row.exact * (1 - 1e-9) <= row.displacement <= row.exact * (1 + 1e-12)


def test_without_steps_the_search_has_not_reached_it():
    row = capacity_row(depth=4, steps=0)
    assert row.displacement < 0.95 * row.exact


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
def test_the_slope_of_the_search_is_the_gradient(activation, rng):
    both = rng.normal(size=(4, 2, 3, 5, 5)) / 2
    x = rng.normal(size=(3, 5, 2))
    slope = capacity._ascent(both, activation, x)[1]
    h, numeric = 1e-6, np.zeros_like(x)
    for i in range(5):
        away = h * np.eye(5)[i][:, None]
        up, down = (np.log(capacity._ascent(both, activation, x + s * away)[0]) for s in (1, -1))
        numeric[:, i] = (up - down) / (2 * h) * np.sum(x**2, axis=1)
    np.testing.assert_allclose(slope, numeric, atol=1e-7, rtol=1e-6)
    assert np.abs(slope).min() > 0


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
def test_aligned_increments_of_permutations_attain_the_true_bound(activation):
    depth, norm, a = 5, 1.2, 0.3
    row = capacity_row(
        activation=activation, depth=depth, norm=norm, strength=a, weights="permutation", increments="aligned"
    )
    truth = norm**depth * ((1 + a) ** depth - 1)
    assert row.bound == pytest.approx(truth, rel=1e-12)
    assert row.bound_norms == pytest.approx(truth, rel=1e-12)
    assert row.displacement == pytest.approx(truth, rel=1e-4)
    assert row.printed == pytest.approx(a * norm * (norm**depth - 1) / (norm - 1), rel=1e-12)
    assert row.violated == row.violated_product == 1.0
    assert row.violated_bound == 0.0


def test_one_tuned_layer_of_a_linear_isometry_counts_the_same_wherever_it_is():
    for layer in range(4):
        row = capacity_row(depth=4, layer=layer, weights="orthogonal", norm=1.4, strength=0.3, tilt=0.5)
        assert row.displacement == pytest.approx(0.3 * 1.4**4, rel=1e-9)
        assert row.bound == pytest.approx(row.displacement, rel=1e-9)


def test_the_tanh_network_moves_at_least_as_far_as_the_linear_one_which_it_is_at_small_inputs():
    about = {"depth": 6, "weights": "orthogonal", "norm": 2.0, "strength": 0.3}
    linear, tanh = (capacity_row(activation=activation, **about) for activation in ("identity", "tanh"))
    assert tanh.displacement >= linear.exact * (1 - 1e-4)
    assert tanh.bound == linear.bound  # the same matrices


def test_relu_scales_with_the_norm_and_longer_searches_find_no_less():
    about = {"activation": "relu", "depth": 4, "strength": 0.3, "steps": 80}
    short, long = (capacity_row(**about, norm=m, starts=k, draws=256) for m, k in ((1.0, 8), (1.0, 64)))
    assert short.displacement <= long.displacement <= 1.25 * short.displacement
    weights = [CapacityStudy(**about, norm=m).networks()[0] for m in (1.0, 2.0)]
    np.testing.assert_allclose(2 * weights[0], weights[1])


def test_bounds_are_those_of_the_claims():
    one = np.ones(2)
    # docs/proofs/capacity.md: |W| = (2, 0), |Phi| = (0, 1) moves by 2 against (29)'s 1; all ones by 3 against 2.
    wrong = capacity.bounds(np.array([2.0, 0.0]), np.array([0.0, 1.0]), np.array([2.0, 1.0]))
    assert (wrong["product"], wrong["bound"], wrong["bound_norms"]) == (1.0, 2.0, 2.0)
    grown = capacity.bounds(one, one, 2 * one)
    assert (grown["printed"], grown["product"], grown["bound"], grown["bound_norms"]) == (2.0, 2.0, 3.0, 3.0)


def test_bounds_against_the_textbook(rng):
    w, phi, tuned = rng.uniform(0.5, 2.0, size=(3, 4))
    stated = capacity.bounds(w, phi, tuned)
    layers = range(4)
    assert stated["printed"] == pytest.approx(sum(max(w) ** (3 - k) * phi[k] for k in layers))
    assert stated["product"] == pytest.approx(sum(math.prod(w[k + 1 :]) * phi[k] for k in layers))
    assert stated["bound"] == pytest.approx(sum(math.prod(tuned[k + 1 :]) * phi[k] * math.prod(w[:k]) for k in layers))
    assert stated["bound_norms"] == pytest.approx(math.prod(w + phi) - math.prod(w))


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal", "permutation"])
@pytest.mark.parametrize("increments", ["random", "rank one", "aligned"])
def test_norms_are_those_asked_for_and_the_true_bound_holds(weights, increments):
    study = CapacityStudy(
        **QUICK | {"steps": 20},
        activation="relu",
        depth=5,
        norm=1.5,
        tilt=0.25,
        strength=0.4,
        weights=weights,
        increments=increments,
    )
    w, phi = (np.linalg.norm(a, 2, axis=(-2, -1)) for a in study.networks())
    assert w[-1] / w[0] == pytest.approx(0.25, rel=1e-9)
    np.testing.assert_allclose(np.prod(w, axis=0), 1.5**5)
    np.testing.assert_allclose(phi, 0.4 * w)
    if increments == "rank one":
        assert np.all(np.linalg.matrix_rank(study.networks()[1]) == 1)
    row = study.run()[0]
    assert row.violated_bound == 0.0
    assert 0 < row.ratio_bound <= 1 + 1e-9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("about", [{"norm": 1e6, "depth": 12}, {"norm": 1e-6, "depth": 12}, {"tilt": 1e-9}])
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
def test_large_and_small_norms_are_searched_without_a_warning(activation, about):
    row = capacity_row(activation=activation, **about | QUICK | {"width": 2, "steps": 30})
    assert row.violated_bound == 0.0
    assert 0 < row.displacement < math.inf
    if row.exact is not None:
        assert row.displacement == pytest.approx(row.exact, rel=1e-6)


# --- sensitivity ---------------------------------------------------------------------------------

LAYER = {"network": {"widths": [9, 5, 4, 7], "layer": 1}, "task": {"beyond": 0.5, "inputs": 0.5}}
WAYS = [
    {"method": "S2FT", "channels": [1, 3]},
    {"method": "S2FT", "channels": [2], "form": "columns"},
    {"method": "SparseFT", "entries": [6]},
    {"method": "FrozenFactorLoRA", "ranks": [2], "frozen": "U"},
    {"method": "Subspace", "dimensions": [7, 20]},
    {"method": "LoRATangents", "ranks": [1, 2]},
]


def sensitivity_study(**fields):
    return SensitivityStudy(**{**LAYER, "methods": WAYS, "strength": 0.5, "replicates": 4000, **fields})


def test_the_quadratic_is_the_risk_of_an_update(rng):
    problem = sensitivity_study().problem()
    hessian, gradient = sensitivity.quadratic(problem)
    for _ in range(3):
        delta = rng.normal(size=(problem.d_out, problem.d_in))
        u = delta.reshape(-1)
        change = problem.risk(ln.Update(delta, problem.layer)) - problem.initial_risk
        assert gradient @ u + u @ hessian @ u / 2 == pytest.approx(change, rel=1e-9)
    assert np.linalg.eigvalsh(hessian).min() > 0


def test_readings_agree_with_their_expectations():
    rows = sensitivity_study().run()
    assert [(r.method, r.size) for r in rows[:2]] == [("S2FT", 1), ("S2FT", 3)]
    for row in rows:
        whole = row.share == 1.0
        scale = row.predicted_extra_full
        for name in ("extra", "left", "clean", "printed", "extra_peft", "extra_full"):
            mean, error, truth = (getattr(row, n) for n in (name, f"{name}_se", f"predicted_{name}"))
            assert error <= 0.03 * scale
            assert abs(mean - truth) <= 5 * error + 1e-9 * scale, (row.method, row.size, name)
        if whole:
            assert abs(row.extra) < 1e-9 * scale
            assert abs(row.left) < 1e-9 * scale
        else:
            # (a) is PEFT's gain, and (b) its loss, under every perturbation.
            assert (row.share_extra, row.share_left) == (0.0, 1.0)
            assert row.predicted_extra < -0.01 * scale
            assert row.predicted_printed == row.predicted_extra


@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_readings_are_the_identities_for_each_perturbation(strength, rng):
    problem = sensitivity_study().problem()
    hessian, gradient = sensitivity.quadratic(problem)
    d = len(gradient)
    basis = np.linalg.qr(rng.normal(size=(d, 6)))[0]
    eps = strength * rng.normal(size=(d, 50))
    found = sensitivity.readings(hessian, gradient, basis, eps)
    inverse = np.linalg.inv(hessian)
    lifted = basis @ np.linalg.inv(basis.T @ hessian @ basis) @ basis.T
    k = inverse - lifted

    def half(v):
        return np.sum(v * (k @ v), axis=0) / 2

    inside = basis @ (basis.T @ eps)
    printed = (
        np.sum(inside * (lifted @ inside), axis=0) / 2
        + (eps - inside).T @ gradient
        - np.sum(eps * (inverse @ eps), axis=0) / 2
    )
    start = half(gradient[:, None])
    for name, truth in (
        ("extra", -half(eps)),
        ("left", half(gradient[:, None] + eps)),
        ("clean", start - half(eps)),
        ("printed", printed),
    ):
        np.testing.assert_allclose(found[name], truth, rtol=1e-7, atol=1e-9 * np.abs(truth).max())


def test_the_trace_of_s2ft_by_the_factors_of_its_hessian():
    study = sensitivity_study(methods=[{"method": "S2FT", "channels": [2], "by": "first"}], strength=2.0)
    problem = study.problem()
    g = problem.upper.T @ problem.upper
    of_rows = np.trace(np.linalg.inv(g)) - np.trace(np.linalg.inv(g[:2, :2]))
    trace = np.trace(np.linalg.inv(problem.gram)) * of_rows / 2
    assert study.run()[0].predicted_extra == pytest.approx(-(2.0**2) / 2 * trace, rel=1e-9)


def test_without_a_perturbation_nothing_is_lost_but_what_peft_cannot_fit():
    for row in sensitivity_study(strength=0.0, replicates=2).run():
        assert row.extra == pytest.approx(0, abs=1e-12)
        assert row.left == pytest.approx(row.clean, abs=1e-12)
        assert row.left == pytest.approx(row.predicted_left, abs=1e-9)


def test_tangents_of_lora_hold_its_solution_and_have_its_dimension():
    study = sensitivity_study(methods=[{"method": "LoRATangents", "ranks": [1, 2, 4]}])
    problem = study.problem()
    for about, basis in study._spaces(problem):
        r = about["size"]
        assert about["parameters"] == r * (problem.d_out + problem.d_in - r)
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
        u = np.asarray(ln.LoRA(r).solve(problem).delta).reshape(-1)
        np.testing.assert_allclose(basis @ (basis.T @ u), u, atol=1e-10 * np.linalg.norm(u))


def test_smaller_random_subspaces_lie_in_larger_ones_and_lose_less_by_reading_a():
    study = sensitivity_study(methods=[{"method": "Subspace", "dimensions": [3, 9, 15]}])
    spaces = [basis for _, basis in study._spaces(study.problem())]
    for small, large in itertools.pairwise(spaces):
        np.testing.assert_allclose(large @ (large.T @ small), small, atol=1e-10)
    harm = [row.extra_peft for row in study.run()]
    assert harm == sorted(harm)


# --- width ---------------------------------------------------------------------------------------


def dense_change(part, x, g, u, v, rates, optimiser):
    """The slow twin: f = (W + U V^T) x with matrices, gradients by the chain rule, one factor moved at a time."""
    step = np.sign if optimiser == "sign" else lambda a: a
    for _ in range(part.step - 1):
        full = np.outer(g, x)
        u, v = u - rates[0] * step(full @ v), v - rates[1] * step(full.T @ u)
    full = np.outer(g, x)
    if part.moves == "U":
        return (u - rates[0] * step(full @ v)) @ v.T @ x - u @ v.T @ x
    if part.moves == "V":
        return u @ (v - rates[1] * step(full.T @ u)).T @ x - u @ v.T @ x
    return -rates[0] * step(full) @ x


@pytest.mark.parametrize("optimiser", ["gradient", "sign"])
@pytest.mark.parametrize("rates", ["one", "yang2024", "linnet"])
def test_changes_are_those_of_dense_matrices(optimiser, rates):
    study = WidthStudy(n=7, rank=3, channels=2, share=0.5, optimiser=optimiser, rates=rates, replicates=3)
    x, g, factor = next(study._draws(study.stream("draws", 7, 3, 3)))
    for part in PARTS:
        moved = study._moved(part, x, g, factor)
        powers = [7.0**p for p in study.rate_powers(part.method)]
        u, v = width.lora_start(part.method, factor)
        assert np.any(moved)
        for i in range(3):
            dense = dense_change(part, x[i], g[i], u[i], v[i], powers, optimiser)[: study.trained(part.method)]
            np.testing.assert_allclose(moved[i], dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [FROM_U, FROM_V])
def test_in_the_first_step_the_other_factor_stands_still_and_in_the_second_it_adds_as_much_again(method, rng):
    x, g = rng.normal(size=(2, 9))
    u, v = width.lora_start(method, rng.normal(size=(9, 2)))
    first, second = (p for p in PARTS if p.method == method)
    first_other = width.Move(method, 1, second.moves, second.powers)
    assert not np.any(dense_change(first_other, x, g, u, v, (0.1, 0.1), "gradient"))
    again = width.Move(method, 2, first.moves, first.powers)
    np.testing.assert_allclose(
        dense_change(again, x, g, u, v, (0.1, 0.1), "gradient"),
        dense_change(first, x, g, u, v, (0.1, 0.1), "gradient"),
    )


@pytest.mark.parametrize("optimiser", ["gradient", "sign"])
@pytest.mark.parametrize(("n", "rank"), [(24, 3), (300, 4)])
def test_sizes_agree_with_their_expectations(optimiser, n, rank):
    study = WidthStudy(n=n, rank=rank, optimiser=optimiser, rates="linnet", replicates=6_000 if n < 100 else 1_500)
    for row in study.run():
        assert row.square_se <= 0.1 * row.predicted_square, row
        assert abs(row.square - row.predicted_square) <= 5 * row.square_se, row
        assert row.overall == pytest.approx(row.size * math.sqrt(row.trained / n))


@pytest.mark.parametrize(("n", "rank", "nodes"), [(1, 1, 9), (2, 1, 6), (2, 2, 5)])
def test_sizes_of_plain_steps_are_integrals_of_polynomials(n, rank, nodes):
    """Gauss-Hermite quadrature is exact: no noise, where tails of so few entries are too heavy for a mean to tell."""
    study = WidthStudy(n=n, rank=rank, channels=1, rates="one", replicates=2)
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    count = 2 * n + n * rank
    grid = np.stack(np.meshgrid(*[points] * count, indexing="ij")).reshape(count, -1).T
    mass = np.ones(1)
    for _ in range(count):
        mass = np.outer(mass, weights / weights.sum()).reshape(-1)
    x, g, factor = grid[:, :n], grid[:, n : 2 * n], grid[:, 2 * n :].reshape(-1, n, rank)
    for part in PARTS:
        square = np.mean(study._moved(part, x, g, factor) ** 2, axis=-1)
        assert mass @ square == pytest.approx(study.expected_square(part), rel=1e-9), part


@pytest.mark.parametrize("optimiser", ["gradient", "sign"])
@pytest.mark.parametrize("rates", ["one", "yang2024", "linnet"])
def test_derived_exponents_are_those_of_the_exact_sizes_in_the_limit(optimiser, rates):
    sizes = [WidthStudy(n=n, optimiser=optimiser, rates=rates) for n in (1 << 19, 1 << 20)]
    derived = {(r.method, r.step): r.predicted_exponent for r in sizes[0].model_copy(update={"n": 8}).run()}
    for part in PARTS:
        small, large = (study.expected_square(part) for study in sizes)
        assert math.log2(large / small) / 2 == pytest.approx(derived[part.method, part.step], abs=1e-4)
        if rates == "linnet" or (rates == "yang2024" and optimiser == "sign"):
            assert derived[part.method, part.step] == 0.0
    if rates == "yang2024" and optimiser == "gradient":
        assert [derived[key] for key in ((FULL, 1), (S2FT, 1), (SHARE, 1))] == [0.0, 0.0, 0.0]
        assert [derived[key] for key in ((FROM_U, 1), (FROM_U, 2), (FROM_V, 1), (FROM_V, 2))] == [0.0, 1.0, 0.5, 1.0]


def test_rates_and_sizes_of_what_is_trained_are_in_the_table():
    rows = {(r.method, r.step): r for r in WidthStudy(n=100, rates="linnet", share=0.3, replicates=2).run()}
    stated = {key: (r.part, r.rate, r.rate_other, r.trained, r.parameters) for key, r in rows.items()}
    assert stated == {
        (FULL, 1): ("layer", 0.01, None, 100, 10_000),
        (S2FT, 1): ("layer", 0.01, None, 4, 400),
        (SHARE, 1): ("layer", 0.01, None, 30, 3_000),
        (FROM_U, 1): ("U", 1.0, pytest.approx(1e-4), 100, 800),
        (FROM_U, 2): ("V", pytest.approx(1e-4), 1.0, 100, 800),
        (FROM_V, 1): ("V", pytest.approx(1e-3), 1.0, 100, 800),
        (FROM_V, 2): ("U", 1.0, pytest.approx(1e-3), 100, 800),
    }


def test_fitted_exponents_are_the_derived_ones():
    widths = [256, 512, 1024, 2048]
    for optimiser in ("gradient", "sign"):
        cells = [WidthStudy(n=n, optimiser=optimiser, replicates=150).run() for n in widths]
        for rows in zip(*cells, strict=True):
            n, size = np.log(widths), np.array([r.size for r in rows])
            weight = np.array([(r.size / r.size_se) ** 2 for r in rows])
            away = n - np.average(n, weights=weight)
            spread = np.sum(weight * away**2)
            fitted, error = np.sum(weight * away * np.log(size)) / spread, spread**-0.5
            assert error <= 0.07
            assert abs(fitted - rows[0].predicted_exponent) <= 0.02 + 5 * error, (optimiser, rows[0])


# --- all three -----------------------------------------------------------------------------------

CELLS = [
    CapacityStudy(activation="tanh", depth=3, **QUICK | {"steps": 10}),
    SensitivityStudy(**LAYER, methods=WAYS, replicates=30),
    WidthStudy(n=16, optimiser="sign", replicates=20),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name())
def test_a_cell_is_a_function_of_its_parameters(cell):
    again = type(cell).model_validate(cell.model_dump())
    assert again.run() == cell.run()
    assert cell.model_copy(update={"seed": 1}).run() != cell.run()
    assert all(not (isinstance(v, float) and math.isnan(v)) for row in cell.run() for v in vars(row).values())


GOOD = {
    "capacity": {"activation": "relu", "depth": 4},
    "sensitivity": {**LAYER, "methods": WAYS},
    "width": {"n": 8},
}


@pytest.mark.parametrize(
    ("study", "change", "said"),
    [
        ("capacity", {"layer": 4}, "base.layer: layer 4 of a network with 4"),
        ("capacity", {"starts": 500}, "base.starts: 500 starts out of 128 draws"),
        ("capacity", {"norm": 1e30}, "base.norm: the layers together span 120 powers of ten"),
        ("capacity", {"norm": 0.0}, "base.norm: input should be greater than 0"),
        ("capacity", {"norm": float("inf")}, "base.norm"),
        ("capacity", {"depth": 0}, "base.depth"),
        ("capacity", {"activation": "sine"}, "base.activation"),
        ("sensitivity", {"network": {"widths": [4, 5, 4, 7], "layer": 1}}, "base.network.widths: the Hessian"),
        ("sensitivity", {"network": {"widths": [9, 5, 4, 3], "layer": 1}}, "base.network.widths: the Hessian"),
        ("sensitivity", {"network": {"widths": [40, 40], "layer": 0}}, "keep it to 1024 weights"),
        ("sensitivity", {"task": {"channels": 9}}, "base.task.channels: channels 9"),
        ("sensitivity", {"methods": [{"method": "Subspace", "dimensions": [3, 21]}]}, "methods[0].dimensions[1]"),
        ("sensitivity", {"methods": [{"method": "LoRATangents", "ranks": [5]}]}, "base.methods[0].ranks[0]: rank 5"),
        ("sensitivity", {"methods": [{"method": "FullFT"}]}, "base.methods[0]"),
        ("sensitivity", {"replicates": 1}, "base.replicates"),
        ("width", {"rank": 9}, "base.rank: rank 9 in a layer of width 8"),
        ("width", {"channels": 9}, "base.channels: channels 9 in a layer of width 8"),
        ("width", {"share": 0.0}, "base.share"),
        ("width", {"optimiser": "adam"}, "base.optimiser"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_at_their_place(study, change, said):
    raw = {"title": "t", "study": study, "base": GOOD[study]}
    assert len(sweep_of(raw)) == 1
    with pytest.raises(DataError) as caught:
        sweep_of(raw | {"base": GOOD[study] | change})
    assert said in str(caught.value)
