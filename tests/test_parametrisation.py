"""Maps of parameters: against autodiff, brute force, and themselves in the other arithmetic."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.errors import ClaimError
from linnet.trials import Parametrisation, UndefinedError, rank
from linnet.trials.algebra import FloatMatrix
from linnet.trials.certificate import certificate, check
from linnet.trials.claim import installed_claims
from linnet.trials.exact import Exact, ExactMatrix, InexactError, compare
from linnet.trials.judge import judge
from linnet.trials.settings.parametrisation import FORMULAS, ParametrisationShape, lora_shape
from linnet.trials.trial import BUDGETS, run

ALL = ("loss", "meeting")


@st.composite
def shapes(draw, kinds=("linear", "curve", "lora")):
    kind = draw(st.sampled_from(kinds))
    if kind == "lora":
        m, n = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        return lora_shape(m, n, draw(st.integers(1, min(m, n))))
    return ParametrisationShape(kind, draw(st.integers(1, 6)), draw(st.integers(1, 4)))


seeds = st.integers(0, 10**6)


def drawn(shape, seed, kind="gaussian", imposed=("loss",), count=1):
    raw = Parametrisation.draw(shape, kind, count, np.random.default_rng(seed))
    return raw, Parametrisation.float_view(shape, raw, imposed)


def values(matrix, index=0):
    v = matrix.values
    return v if v.ndim == 2 else v[index]


def written_out(shape, raw):
    """g and the point Phi, in plain JAX: nothing of the library."""
    one = {name: jnp.asarray(x[0]) for name, x in raw.items()}
    if shape.kind == "linear":
        return (lambda phi: one["P"] @ phi), one["at"][:, 0], one["direction"][:, 0]
    if shape.kind == "curve":

        def curve(phi):
            out = (phi[0] ** 2 - one["s"][0, 0]) * (one["alpha"] + phi[0] * one["beta"])[:, 0]
            for j in range(1, shape.k):
                out = out + phi[j] * one[f"N_{j - 1}"][:, 0]
            return out

        return curve, one["at"][:, 0], one["direction"][:, 0]
    m, n, r = shape.sides

    def lora(phi):
        return (phi[: m * r].reshape(m, r) @ phi[m * r :].reshape(n, r).T).ravel()

    together = [jnp.concatenate([one[f"{w}U"].ravel(), one[f"{w}V"].ravel()]) for w in ("", "direction_")]
    return lora, *together


# --- against autodiff and differences ------------------------------------------------------------------

SOME = [
    ParametrisationShape("linear", 3, 2), ParametrisationShape("curve", 1, 1), ParametrisationShape("curve", 4, 3),
    lora_shape(1, 1, 1), lora_shape(3, 2, 1), lora_shape(2, 3, 2), lora_shape(3, 3, 2),
]  # fmt: skip


@pytest.mark.parametrize("shape", SOME, ids=str)
def test_values_jacobians_and_curvatures_are_those_of_autodiff(shape):
    raw, view = drawn(shape, 0)
    g, phi, _ = written_out(shape, raw)
    weight = np.random.default_rng(0).normal(size=(shape.d, 1))

    def all_of(x):
        return g(x), jax.jacobian(g)(x), jax.hessian(lambda y: jnp.dot(g(y), weight[:, 0]))(x)

    value, jacobian, curvature = jax.jit(all_of)(phi)
    np.testing.assert_allclose(values(view.value)[:, 0], value, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(values(view.J), jacobian, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(values(view.g.curvature(view.at, FloatMatrix(weight))), curvature, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", SOME, ids=str)
def test_the_second_derivative_of_the_loss_is_that_of_autodiff(shape):
    raw, view = drawn(shape, 0)
    g, phi, direction = written_out(shape, raw)
    h, grad = raw["factor"][0] @ raw["factor"][0].T, raw["grad"][0, :, 0]

    def loss(x):
        return jnp.dot(grad, g(x)) + g(x) @ h @ g(x) / 2

    hessian = jax.jit(jax.hessian(loss))(phi)
    scale = float(view.second_derivative_scale[0])
    assert float(view.second_derivative[0]) == pytest.approx(float(direction @ hessian @ direction), abs=1e-11 * scale)
    np.testing.assert_allclose(
        values(view.projected_hessian + view.curvature), hessian, rtol=1e-8, atol=1e-9 * (1 + abs(hessian).max())
    )
    np.testing.assert_allclose(values(view.psi)[:, 0], direction)


@given(shapes(), seeds)
def test_jacobians_and_curvatures_are_differences(shape, seed):
    """Central differences of width 2 have no error for cubics."""
    _, view = drawn(shape, seed)
    weight = np.random.default_rng(seed).normal(size=(shape.d, 1))
    g = [values(view.g.value(view.g.moved(view.at, view.direction, h)))[:, 0] for h in range(-2, 3)]
    psi = values(view.psi)
    first = (8 * (g[3] - g[1]) - (g[4] - g[0])) / 12
    second = (16 * (g[1] + g[3]) - (g[0] + g[4]) - 30 * g[2]) / 12
    size = 1 + np.abs(g).max()
    np.testing.assert_allclose((values(view.J) @ psi)[:, 0], first, atol=1e-11 * size)
    found = psi.T @ values(view.g.curvature(view.at, FloatMatrix(weight))) @ psi
    np.testing.assert_allclose(found[0, 0], weight[:, 0] @ second, atol=1e-10 * size)


# --- the two arithmetics -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["integer", "signs", "orthogonal"])
@given(shape=shapes(), seed=seeds)
def test_both_arithmetics_agree(kind, shape, seed):
    raw, rounded = drawn(shape, seed, kind, ALL)
    exact = Parametrisation.view(Parametrisation.exact_instance(shape, raw, 0, ALL))
    for name in ("value", "other_value", "J", "both_tangents", "slope", "psi", "projected_hessian", "curvature"):
        a, b = values(getattr(rounded, name)), getattr(exact, name)
        assert a.shape == b.shape, name
        if np.isnan(a).any():
            continue  # a rank in doubt, on which a pseudo-inverse depends
        dense = [[float(Exact(b.core[i, j])) for j in range(b.shape[1])] for i in range(b.shape[0])]
        np.testing.assert_allclose(a, np.reshape(dense, a.shape), rtol=1e-9, atol=1e-9, err_msg=name)
    for name in ("second_derivative", "unreached"):
        a, b = np.ravel(getattr(rounded, name))[0], float(Exact.of(getattr(exact, name)))
        assert np.isnan(a) or a == pytest.approx(b, rel=1e-7, abs=1e-7), name
    for matrix in (rounded.J, rounded.both_tangents):
        found = np.ravel(rank(matrix))[0]
        name = "J" if matrix is rounded.J else "both_tangents"
        assert np.isnan(found) or found == float(rank(getattr(exact, name)))


@given(shape=shapes(), seed=seeds, kind=st.sampled_from(["gaussian", "rank", "integer", "signs", "spectrum"]))
def test_points_that_should_meet_do(shape, seed, kind):
    raw, view = drawn(shape, seed, kind, ("meeting",), 8)
    gap = np.abs((view.value - view.other_value).values)
    assert (np.isnan(gap) | (gap <= 1e-9 * (1 + np.abs(view.value.values).max()))).all()
    instance = Parametrisation.exact_instance(shape, raw, 3, ("meeting",))
    exact = Parametrisation.view(instance)
    assert compare((exact.value - exact.other_value).sq(), 0) == 0
    assert Parametrisation.defects(instance) == []


@pytest.mark.parametrize(("s", "b", "full"), [(-1, 0.6, True), (-1, 0.5, False), (-0.5, 0.75, False), (1, 2, False)])
def test_a_cubic_on_a_line_has_full_rank_if_it_is_monotone(s, b, full):
    """(t^2 - s)(1 + b t): the derivative 3 b t^2 + 2 t - s b has no real root iff 1 + 3 s b^2 < 0."""
    rows = {"alpha": [[1]], "beta": [[b]], "s": [[s]], "at": [[0]]}
    view = Parametrisation.view({"g": FORMULAS["curve"]} | {k: ExactMatrix.of(v) for k, v in rows.items()})
    roots = np.roots([3 * b, 2, -s * b])
    assert holds(view.g.full_rank()) == full == bool((np.abs(roots.imag) > 1e-9).all())


def test_repeated_straight_directions_have_no_full_rank():
    rows = {"alpha": [[0], [0], [0]], "beta": [[0], [1], [0]], "s": [[-1]], "at": [[0], [0], [0]]}
    instance = {"g": FORMULAS["curve"], "N": [ExactMatrix.of([[1], [0], [0]])] * 2}
    view = Parametrisation.view(instance | {k: ExactMatrix.of(v) for k, v in rows.items()})
    assert compare(rank(view.J), 2) == 0
    assert not holds(view.g.full_rank())


@pytest.mark.parametrize("s", [-2, -1, 0, 1])
def test_a_plane_cubic_misses_an_explicit_point(s):
    """At x = -(s^2 + s + 1), w = 0 the cubic is x^2 (s^2 + 1)."""
    x = s * s + s + 1
    assert compare(plane(s).unreached, (x * x * (s * s + 1)) ** 2) == 0


def test_factors_of_a_singular_mix_meet():
    shape = lora_shape(2, 2, 2)
    raw = Parametrisation.draw(shape, "integer", 1, np.random.default_rng(3))
    raw |= {"U": np.array([[[1.0, 2], [0, 1]]]), "mix": np.array([[[0.0, 1], [0, 0]]])}
    raw |= {"V": np.array([[[1.0, 0], [1, 3]]]), "other_V": np.array([[[1.0, 2], [3, 5]]])}
    exact = Parametrisation.view(Parametrisation.exact_instance(shape, raw, 0, ("meeting",)))
    assert compare((exact.value - exact.other_value).sq(), 0) == 0
    assert compare(exact.value.sq(), 0) == 1
    assert compare(rank(exact.both_tangents), 4) == 0


def test_points_that_meet_are_often_apart():
    for shape in (ParametrisationShape("curve", 3, 2), lora_shape(3, 2, 1), ParametrisationShape("linear", 1, 2)):
        _, view = drawn(shape, 0, imposed=("meeting",), count=20)
        moved = np.abs((view.g.column(view.at) - view.g.column(view.other)).values).max(axis=(-2, -1))
        assert (moved > 1e-3).mean() > 0.8, shape


# --- LoRA against brute force --------------------------------------------------------------------------


def basis(rows, columns):
    for i, j in itertools.product(range(rows), range(columns)):
        e = np.zeros((rows, columns))
        e[i, j] = 1.0
        yield e


@given(shapes(("lora",)), st.integers(0, 4), st.integers(0, 4), seeds)
def test_range_of_the_differential_of_lora(shape, a, b, seed):
    """Against the span of all dU V^T + U dV^T, and the null space of X -> (I - P_U) X (I - P_V)."""
    m, n, r = shape.sides
    a, b = min(a, r), min(b, r)
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(m, a)) @ rng.normal(size=(a, r))
    v = rng.normal(size=(n, b)) @ rng.normal(size=(b, r))
    raw = Parametrisation.draw(shape, "gaussian", 1, rng) | {"U": u[None], "V": v[None]}
    view = Parametrisation.float_view(shape, raw, ())
    moves = [(e @ v.T).ravel() for e in basis(m, r)] + [(u @ e.T).ravel() for e in basis(n, r)]
    span = np.linalg.matrix_rank(np.array(moves), tol=1e-9)
    p_u, p_v = u @ np.linalg.pinv(u, rcond=1e-10), v @ np.linalg.pinv(v, rcond=1e-10)
    across = np.array([((np.eye(m) - p_u) @ e @ (np.eye(n) - p_v)).ravel() for e in basis(m, n)]).T
    assert np.abs(across @ values(view.J)).max() < 1e-9
    assert span == m * n - np.linalg.matrix_rank(across, tol=1e-9) == m * b + n * a - a * b
    found = float(np.ravel(rank(view.J))[0])
    assert np.isnan(found) or found == span


def test_what_lora_misses_is_the_distance_to_its_image():
    """Alternating least squares comes as near as the tail of the singular values says, and no nearer."""
    rng = np.random.default_rng(1)
    for m, n, r in [(3, 2, 1), (3, 3, 2), (4, 2, 1)]:
        _, view = drawn(lora_shape(m, n, r), 0)
        theta = rng.normal(size=(m * n, 1))
        stated = float(np.ravel(view.g.misses(FloatMatrix(theta))[0])[0])
        goal, v = theta.reshape(m, n), rng.normal(size=(n, r))
        for _ in range(3000):
            u = goal @ np.linalg.pinv(v).T
            v = goal.T @ np.linalg.pinv(u).T
        assert np.sum((goal - u @ v.T) ** 2) == pytest.approx(stated, rel=1e-6)


# --- the cubic -----------------------------------------------------------------------------------------


def holds(comparisons):
    relations = {"==": lambda s: s == 0, "<": lambda s: s < 0, ">": lambda s: s > 0}
    return all(relations[r](compare(a, b)) for a, r, b in comparisons)


def least_gram_determinant(view, shape):
    """The least of det J(t)^T J(t) over all real t, a polynomial of degree 4, and the t where it is attained."""

    def at(t):
        point = FloatMatrix(np.array([[t]] + [[0.0]] * (shape.k - 1)))
        j = values(view.g.jacobian(point))
        return np.linalg.det(j.T @ j)

    nodes = np.linspace(-2, 2, 9)
    poly = np.polynomial.Polynomial.fit(nodes, [at(t) for t in nodes], 4)
    places = [z.real for z in poly.deriv().roots() if abs(z.imag) < 1e-6] if poly.degree() > 0 else []
    return min([*(at(t) for t in places), *(at(t) for t in nodes)])


@given(shapes(("curve", "linear")), seeds, st.sampled_from([None, 0, 0.5, 0.6, 2]), st.booleans(), st.booleans())
def test_the_criterion_of_full_rank_is_full_rank_at_every_point(shape, seed, parallel, cusp, repeated):
    raw, _ = drawn(shape, seed, "integer")
    if shape.kind == "curve":
        raw["beta"] = raw["beta"] if parallel is None else raw["alpha"] * parallel
        raw["s"] = 0 * raw["s"] if cusp else raw["s"]
        if repeated and shape.k > 2:
            raw["N_1"] = raw["N_0"]
    view = Parametrisation.float_view(shape, raw, ())
    exact = Parametrisation.view(Parametrisation.exact_instance(shape, raw, 0, ()))
    least = least_gram_determinant(view, shape)
    assert holds(exact.g.full_rank()) == (least > 1e-7), least


def plane(s, t=0):
    one = {"alpha": [[1], [0]], "beta": [[0], [1]], "s": [[s]], "at": [[t]]}
    return Parametrisation.view({"g": FORMULAS["curve"]} | {k: ExactMatrix.of(v) for k, v in one.items()})


def test_node_cusp_and_embedding():
    """(t^2 - s)(1, t): s = 1 meets itself with two tangents, s = 0 has a cusp, s = -1 has a left inverse."""
    node, crossing = plane(1, -1), plane(1, 1)
    assert compare((node.value - crossing.value).sq(), 0) == 0
    assert [compare(rank(x), y) for x, y in ((node.J, 1), (node.J.beside(crossing.J), 2))] == [0, 0]
    assert holds(node.g.full_rank())
    assert not holds(node.g.embedded())
    assert compare(rank(plane(0).J), 0) == 0
    assert not holds(plane(0).g.full_rank())
    assert holds(plane(-1).g.embedded())
    for t in (-3, 0, 2):
        assert compare((plane(-1, t).g.recovered(plane(-1, t).value)[0] - plane(-1, t).at).sq(), 0) == 0
    with pytest.raises(UndefinedError):
        node.g.recovered(node.value)


@given(shapes(), seeds)
def test_a_polynomial_vanishes_on_the_image_and_not_beside_it(shape, seed):
    _, view = drawn(shape, seed, count=4)
    miss, unit = view.g.misses(view.value)
    assert (miss <= 1e-9 * unit).all()
    beside = FloatMatrix(view.value.values + np.random.default_rng(seed + 1).normal(size=(4, shape.d, 1)))
    onto = (
        shape.k >= shape.d
        and shape.kind != "curve"
        and (shape.kind != "lora" or shape.sides[2] == min(shape.sides[:2]))
    )
    if shape.k < shape.d:
        assert (view.g.misses(beside)[0] > 1e-12).all()
        assert (np.ravel(view.unreached) > 0).all()
    elif onto:
        assert (np.abs(view.g.misses(beside)[0]) < 1e-9 * view.g.misses(beside)[1]).all()
        assert (np.ravel(view.unreached) == 0).all()


# --- instances from files --------------------------------------------------------------------------------


def instances():
    for shape in (ParametrisationShape("linear", 3, 2), ParametrisationShape("curve", 3, 2), lora_shape(2, 2, 1)):
        raw = Parametrisation.draw(shape, "integer", 1, np.random.default_rng(5))
        yield Parametrisation.exact_instance(shape, raw, 0, ALL)


@pytest.mark.parametrize("instance", list(instances()), ids=lambda i: i["g"])
def test_defects_of_an_instance_are_seen(instance):
    assert Parametrisation.defects(instance) == []
    for name, value in instance.items():
        if name in ("g", "N"):
            continue
        rows, columns = value.shape
        for size in ((rows + 1, columns), (rows, columns + 1)):
            bad = ExactMatrix.of([[1] * size[1] for _ in range(size[0])])
            if name == "P" or (name in ("U", "V") and size[0] == rows + 1):
                continue  # another map: what else is there does not fit, or it is an instance of its own
            assert Parametrisation.defects(instance | {name: bad}), (name, size)
    below = ExactMatrix.of(instance["H"].core.tolist()) - 100 * instance["H"].eye()
    assert Parametrisation.defects(instance | {"H": below})
    assert Parametrisation.defects(instance | {"g": "a spline"})
    if "N" in instance:
        assert Parametrisation.defects(instance | {"N": [instance["s"]]})


def test_what_was_not_imposed_is_asked_for():
    shape = lora_shape(1, 1, 1)
    _, view = drawn(shape, 0, imposed=())
    for name, said in (("other", "meeting"), ("direction", "loss"), ("H", "loss"), ("grad", "loss")):
        with pytest.raises(ClaimError, match=said):
            getattr(view, name)
    with pytest.raises(ClaimError, match="embedded"):
        view.g.recovered(view.value)


# --- the smallest counterexamples --------------------------------------------------------------------------

SMALLEST = {
    "liu2025/theorem-1-submanifold": {"alpha": [["1"], ["0"]], "beta": [["0"], ["1"]], "s": [["1"]]},
    "liu2025/theorem-1-submanifold-lora": {"U": [["1"]], "V": [["1"]]},
    "liu2025/eq-50-lora": {"U": [["0"]], "V": [["0"]], "H": [["1"]], "grad": [["1"]]},
}


@pytest.mark.parametrize("id", SMALLEST)
def test_the_smallest_counterexample_is_found(id):
    claims = installed_claims()
    record = run(claims[id], BUDGETS["quick"], 0).certificate
    assert id in check(record, claims)
    for name, rows in SMALLEST[id].items():
        if name in ("alpha", "beta"):
            rows = [[x[0].lstrip("-")] for x in record["instance"][name]]
            assert sorted(x for (x,) in rows) == ["0", "1"]
        else:
            assert record["instance"][name] == rows, name


def test_a_curve_that_is_embedded_is_no_counterexample():
    claims = installed_claims()
    found = claims["liu2025/theorem-1-submanifold"]
    one = {"alpha": [[1], [0]], "beta": [[0], [1]], "s": [[-1]], "at": [[1]], "other": [[1]]}
    instance = {"g": FORMULAS["curve"]} | {k: ExactMatrix.of(v) for k, v in one.items()}
    assert judge(found, Parametrisation.view(instance), found.hypotheses).finding == "met"
    with pytest.raises(ClaimError, match="not a counterexample"):
        certificate(found, instance)
    cusp = instance | {"s": ExactMatrix.of([[0]])}
    assert judge(found, Parametrisation.view(cusp), found.hypotheses).finding == "outside"
    apart = instance | {"other": ExactMatrix.of([[-1]])}
    assert judge(found, Parametrisation.view(apart), found.hypotheses).finding == "outside"


# --- matrices beside each other ------------------------------------------------------------------------------


def test_matrices_beside_each_other():
    a, b = np.arange(6.0).reshape(2, 3), np.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(values(FloatMatrix(a).beside(FloatMatrix(b))), np.hstack([a, b]))
    batch = FloatMatrix(np.stack([a, -a])).beside(FloatMatrix(b))
    np.testing.assert_array_equal(batch.values, [np.hstack([a, b]), np.hstack([-a, b])])
    exact = ExactMatrix.of(a.tolist()).beside(ExactMatrix.of(b.tolist()))
    assert exact.core == ExactMatrix.of(np.hstack([a, b]).tolist()).core
    for matrix in (FloatMatrix(a), ExactMatrix.of(a.tolist())):
        with pytest.raises(ClaimError):
            matrix.beside(matrix.T)
        with pytest.raises(ClaimError):
            matrix.beside(1)
    with pytest.raises(InexactError):
        ExactMatrix.of([[2, 0], [0, 2]]).root().beside(ExactMatrix.of([[1], [1]]))


def test_what_has_no_value_has_none_beside_others():
    doubt = FloatMatrix(np.array([[[np.nan]], [[1.0]]]))
    assert np.isnan(doubt.beside(FloatMatrix(np.ones((1, 1)))).rank()).tolist() == [True, False]


def test_what_cancelled_is_zero_in_any_arrangement():
    row, column = FloatMatrix(np.array([[[0.1, 0.2, -0.3]]])), FloatMatrix(np.ones((1, 3, 1)))
    left = row @ column  # rounding, where 0 is meant
    assert left.values.any()
    one = FloatMatrix(np.ones((1, 1, 1)))
    for found in (left, left.kron(one), left.reshape(1, 1), left.beside(left)):
        assert found.rank()[0] == 0
