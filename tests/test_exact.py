"""Exact arithmetic against identities that define what it computes, and against float64."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from flint import arb, arb_mat, fmpq, fmpq_mat
from hypothesis import given
from hypothesis import strategies as st

from linnet.errors import ClaimError, IllPosedError
from linnet.trials import UndefinedError
from linnet.trials.algebra import (
    ACTIVATIONS,
    FloatMatrix,
    activate,
    cond_sq,
    hadamard,
    op_norm_sq,
    positive_part,
    rank,
    ratio,
    softmax,
    sq,
    tail_sq,
)
from linnet.trials.exact import (
    Base,
    Exact,
    ExactMatrix,
    InexactError,
    compare,
    is_psd,
    rational,
    rational_pinv,
    rational_sqrt,
    spectrum,
)
from linnet.trials.kronecker import Kronecker

HALVES = st.sampled_from([0, 0, 1, 1, 2, 3, 4]).map(lambda x: Fraction(x, 2))
PYTHAGOREAN = [(3, 4, 5), (5, 12, 13), (8, 15, 17)]


def rotation(draw, n):
    """A rational orthogonal matrix: a product of turns by Pythagorean angles."""
    out = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]
    for _ in range(draw(st.integers(0, 3)) if n > 1 else 0):
        i, j = draw(st.sampled_from([(a, b) for a in range(n) for b in range(a + 1, n)]))
        a, b, c = draw(st.sampled_from(PYTHAGOREAN))
        out[i], out[j] = (
            [Fraction(a, c) * x - Fraction(b, c) * y for x, y in zip(out[i], out[j], strict=True)],
            [Fraction(b, c) * x + Fraction(a, c) * y for x, y in zip(out[i], out[j], strict=True)],
        )
    return ExactMatrix.of(out)


def diagonal(values, m, n):
    return ExactMatrix.of([[values[i] if i == j else 0 for j in range(n)] for i in range(m)])


@st.composite
def matrices(draw, m=None, n=None):
    """U diag(s) V^T with half-integer s, ties and zeros among them."""
    m, n = m or draw(st.integers(1, 4)), n or draw(st.integers(1, 4))
    s = draw(st.lists(HALVES, min_size=min(m, n), max_size=min(m, n)))
    return rotation(draw, m) @ diagonal(s, m, n) @ rotation(draw, n), sorted(s, reverse=True)


@st.composite
def integer_matrices(draw, m=None, n=None):
    m, n = m or draw(st.integers(1, 4)), n or draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(st.integers(-2, 2), min_size=n, max_size=n), min_size=m, max_size=m))
    return ExactMatrix.of(rows)


def dense(x):
    core = x._dense
    rows, columns = core.nrows(), core.ncols()
    return np.array([[float(Exact(core[i, j])) for j in range(columns)] for i in range(rows)])


def same(a, b):
    """Equal, exactly or to all digits of the balls."""
    gap = (a - b).sq()
    return gap.sign() == 0 or bool(abs(gap.value) < arb("1e-60"))


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "meant"),
    [
        (0.99, "99/100"), (1e-6, "1/1000000"), (1 + 1e-9, "1000000001/1000000000"), (1 / 3, "1/3"), (2.97, "297/100"),
        (np.float64(0.99), "99/100"), (np.float32(0.5), "1/2"), (np.int64(4), "4"), (Fraction(2, 7), "2/7"),
        (Decimal("0.1"), "1/10"), ("-3/4", "-3/4"), (True, "1"), (0.0, "0"),
    ],
)  # fmt: skip
def test_a_constant_is_what_its_writer_meant(given_, meant):
    assert str(Exact.of(given_)) == meant


def test_a_float_with_all_its_digits_is_known_to_its_rounding():
    root = Exact.of(2**0.5)
    assert not root.is_rational
    assert compare(root * root, 2) is None
    assert compare(root * root, 2 + 1e-9) == -1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1j, None, np.ones(2), object()])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(InexactError):
        Exact.of(bad)


def test_rational_takes_a_float_at_its_exact_value():
    assert rational(0.1) == fmpq(3602879701896397, 36028797018963968)


def test_arithmetic_of_numbers():
    x, half = Exact.of(4), Fraction(1, 2)
    assert [str(v) for v in (x**half, x**1.5, x**-0.5, x**-2, x**0, 1 / x, 2 - x, -x, abs(-x))] == [
        "2", "8", "1/2", "1/16", "1", "1/4", "-2", "-4", "4",
    ]  # fmt: skip
    assert str(np.float64(0.5) * x) == str(x * np.float64(0.5)) == "2"
    assert str(Exact.of(Fraction(9, 4)).sqrt()) == "3/2"
    assert not Exact.of(2).sqrt().is_rational
    assert compare(Exact.of(2).sqrt() * Exact.of(2).sqrt(), 2) is None
    assert str(ratio(Exact.of(0), Exact.of(0))) == "0"
    assert str(positive_part(Exact.of(-3))) == "0"


def test_what_has_no_value_says_so():
    zero, ball = Exact.of(0), Exact.of(2).sqrt() - Exact.of(2).sqrt()
    with pytest.raises(UndefinedError):
        Exact.of(1) / zero
    with pytest.raises(UndefinedError):
        zero**-1
    with pytest.raises(InexactError):
        Exact.of(1) / ball
    with pytest.raises(InexactError):
        ball.where_positive(1, 2)
    with pytest.raises(InexactError):
        Exact.of(2) ** 0.3
    with pytest.raises(UndefinedError):
        rational_sqrt(fmpq(-1))


# --- matrices ------------------------------------------------------------------------------------


@given(matrices())
def test_singular_values_are_those_it_was_built_from(drawn):
    a, s = drawn
    assert [str(v) for v in a.squared_singular_values()] == [str(Exact.of(x * x)) for x in s]
    assert str(a.rank()) == str(sum(x > 0 for x in s))
    assert compare(a.sq(), sum(x * x for x in s)) == 0
    assert compare(op_norm_sq(a), max(s) ** 2) == 0
    positive = [x for x in s if x]
    assert compare(cond_sq(a), (positive[0] / positive[-1]) ** 2 if positive else 0) == 0


@given(integer_matrices())
def test_penrose_equations(a):
    p = a.pinv()
    for left, right in [(a @ p @ a, a), (p @ a @ p, p), ((a @ p).T, a @ p), ((p @ a).T, p @ a)]:
        assert compare((left - right).sq(), 0) == 0
    assert rational_pinv(p.core) == a.core


@given(matrices(), st.integers(0, 4))
def test_truncation_leaves_the_tail_or_ties(drawn, r):
    a, s = drawn
    tail = tail_sq(a, r)
    assert compare(tail, sum(x * x for x in s[r:])) == 0
    tied = 0 < r < len(s) and s[r - 1] == s[r] > 0
    if tied:
        with pytest.raises(UndefinedError, match="tie"):
            a.truncated(r)
        return
    cut = a.truncated(r)
    assert compare((a - cut).sq(), tail) == 0
    assert compare(cut.rank(), min(r, sum(x > 0 for x in s))) == 0
    assert compare((cut @ (a - cut).T).sq(), 0) == 0


@given(integer_matrices(), st.integers(1, 3))
def test_truncation_with_irrational_singular_values(a, r):
    tail = tail_sq(a, r)
    try:
        cut = a.truncated(r)
    except UndefinedError:
        return
    gap = (a - cut).sq() - tail
    assert abs(float(gap)) < 1e-60
    s = np.linalg.svd(dense(a), compute_uv=False)
    assert float(tail) == pytest.approx(np.sum(s[r:] ** 2), abs=1e-9)


@given(integer_matrices())
def test_root_squares_to_the_matrix_and_stays_in_its_range(a):
    gram = a @ a.T
    root = gram.root()
    assert compare((root @ root - gram).sq(), 0) == 0
    assert same(root.T, root)
    assert same(root @ root.pinv(), gram @ gram.pinv())
    assert compare(root.sq(), gram.trace()) == 0
    values, vectors = np.linalg.eigh(dense(gram))
    truth = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    np.testing.assert_allclose(dense(root), truth, atol=1e-7)


@given(st.data())
def test_projectors_are_idempotent_and_symmetric(data):
    a = data.draw(integer_matrices())
    cov = data.draw(integer_matrices(m=a.shape[1], n=a.shape[1]))
    carried = a @ (cov @ cov.T).root()
    onto = carried.pinv() @ carried
    assert same(onto @ onto, onto)
    assert same(onto.T, onto)
    assert same(carried @ onto, carried)
    assert compare(onto.trace(), carried.rank()) == 0


@given(st.data())
def test_every_order_of_multiplication_gives_the_same(data):
    """Flanks that match, flanks that do not, powers of a flank: associativity, against float64."""
    n = data.draw(st.integers(1, 3))
    grams = []
    for _ in range(2):
        g = data.draw(integer_matrices(m=n, n=n))
        grams.append(g @ g.T)
    pool = [data.draw(integer_matrices(m=n, n=n)), *grams, *(g.root() for g in grams), grams[0].root().pinv()]
    chosen = [pool[data.draw(st.integers(0, len(pool) - 1))] for _ in range(4)]
    a, b, c, d = chosen
    truth = dense(a) @ dense(b) @ dense(c) @ dense(d)
    for product in (((a @ b) @ c) @ d, (a @ (b @ c)) @ d, a @ ((b @ c) @ d), a @ (b @ (c @ d)), (a @ b) @ (c @ d)):
        np.testing.assert_allclose(dense(product), truth, atol=1e-8 * (1 + np.abs(truth).max()))
        assert float(product.sq()) == pytest.approx(np.sum(truth**2), rel=1e-8, abs=1e-8)
        assert float(product.trace()) == pytest.approx(np.trace(truth), rel=1e-8, abs=1e-8)
    total = a @ b + c @ d - (c @ d).T
    summed = dense(a) @ dense(b) + dense(c) @ dense(d) - (dense(c) @ dense(d)).T
    np.testing.assert_allclose(dense(total), summed, atol=1e-8 * (1 + np.abs(summed).max()))


@given(st.data())
def test_exact_and_float_matrices_agree(data):
    a = data.draw(integer_matrices())
    b = data.draw(integer_matrices(m=a.shape[0], n=a.shape[1]))
    fa, fb = FloatMatrix(dense(a)), FloatMatrix(dense(b))
    for exact, rounded in [
        (a + b, fa + fb), (a - b, fa - fb), (a @ b.T, fa @ fb.T), (a * 3, fa * 3), (-a, -fa), (a.kron(b), fa.kron(fb)),
        (a.reshape(a.shape[0] * a.shape[1], 1), fa.reshape(a.shape[0] * a.shape[1], 1)), (a.eye(), fa.eye()),
    ]:  # fmt: skip
        np.testing.assert_allclose(dense(exact), rounded.values, atol=1e-12)
    assert float(a.sq()) == pytest.approx(float(fa.sq()))
    pinv = fa.pinv().values
    if np.isfinite(pinv).all():
        np.testing.assert_allclose(dense(a.pinv()), pinv, atol=1e-8)


@given(integer_matrices(m=3, n=3))
def test_is_psd_is_what_eigenvalues_say(a):
    sym = a + a.T
    least = np.linalg.eigvalsh(dense(sym)).min()
    if abs(least) > 1e-9:
        assert is_psd(sym.core) == (least > 0)
    assert is_psd((a @ a.T).core)
    assert not is_psd((a @ a.T - (a.eye() * Fraction(1, 10**9) + a @ a.T * 2)).core)


def test_is_psd_refuses_what_is_not_symmetric_or_square():
    assert not is_psd(fmpq_mat(2, 2, [1, 1, 0, 1]))
    assert not is_psd(fmpq_mat(1, 2, [1, 1]))
    assert is_psd(fmpq_mat(2, 2, [0, 0, 0, 0]))
    assert not is_psd(fmpq_mat(2, 2, [1, 2, 2, 1]))


@given(integer_matrices(m=3, n=3))
def test_spectrum_is_ordered_and_complete(a):
    gram = (a @ a.T).core
    found = spectrum(gram)
    assert sum(k for _, k in found) == 3
    values = [float(v) for v, k in found for _ in range(k)]
    np.testing.assert_allclose(values, np.linalg.eigvalsh(dense(a @ a.T))[::-1], atol=1e-8)
    assert all(compare(found[i][0], found[i + 1][0]) == 1 for i in range(len(found) - 1))


def test_spectrum_refuses_what_is_not_psd():
    with pytest.raises(UndefinedError, match="negative"):
        spectrum(fmpq_mat(2, 2, [1, 0, 0, -1]))
    with pytest.raises(UndefinedError, match="complex"):
        spectrum(fmpq_mat(2, 2, [0, 1, -1, 0]))


def test_root_balls_enclose_the_root():
    balls = Base(fmpq_mat(2, 2, [2, 1, 1, 2])).root_balls
    square = balls * balls
    assert all(square[i, j].contains(2 if i == j else 1) for i in range(2) for j in range(2))


def test_what_stays_irrational_says_so():
    root = ExactMatrix.of([[2, 1], [1, 2]]).root()
    both = ExactMatrix(root.core, root.right, Base(fmpq_mat(2, 2, [1, 0, 0, 3])))
    for act in (root.root, lambda: root.kron(root), both.pinv, lambda: both.truncated(1)):
        with pytest.raises(InexactError):
            act()


# --- entry by entry ------------------------------------------------------------------------------


@given(st.data())
def test_entrywise_functions_agree_in_both_arithmetics(data):
    a = data.draw(integer_matrices()) * Fraction(1, data.draw(st.sampled_from([1, 2, 3])))
    b = data.draw(integer_matrices(m=a.shape[0], n=a.shape[1]))
    fa, fb = FloatMatrix(dense(a)), FloatMatrix(dense(b))
    for x, y, fx, fy in [(a, b, fa, fb), (activate(a, "tanh"), b, activate(fa, "tanh"), fb)]:  # rational, and balls
        np.testing.assert_allclose(dense(hadamard(x, y)), hadamard(fx, fy).values, atol=1e-12)
        np.testing.assert_allclose(hadamard(fx, fy).values, fx.values * fy.values)
        for causal in (False, True):
            np.testing.assert_allclose(dense(softmax(x, causal)), softmax(fx, causal).values, atol=1e-12)
        for name in ACTIVATIONS:
            np.testing.assert_allclose(dense(activate(x, name)), activate(fx, name).values, atol=1e-12)


def test_entrywise_functions_are_what_their_names_say():
    v = np.array([[-3.0, 0.0, 2.0], [1.0, 1.0, 40.0]])
    powers = np.exp(v)
    np.testing.assert_allclose(softmax(FloatMatrix(v)).values, powers / powers.sum(axis=1, keepdims=True))
    lower = powers * np.tri(2, 3)
    np.testing.assert_allclose(softmax(FloatMatrix(v), True).values, lower / lower.sum(axis=1, keepdims=True))
    for name, f in [("silu", lambda x: x / (1 + np.exp(-x))), ("cos", np.cos), ("sin", np.sin)]:
        np.testing.assert_allclose(activate(FloatMatrix(v), name).values, f(v), atol=1e-15)


def test_what_is_rational_stays_rational():
    a = ExactMatrix.of([[Fraction(1, 3), 2, 5]])
    assert [str(x) for x in softmax(ExactMatrix.of([[2, 2, 2]])).core.entries()] == ["1/3"] * 3
    assert [str(x) for x in softmax(ExactMatrix.of([[5, 7], [0, 0]]), causal=True).core.entries()] == [
        "1",
        "0",
        "1/2",
        "1/2",
    ]
    assert [str(x) for x in hadamard(a, a).core.entries()][-3:] == ["1/9", "4", "25"]
    zero = ExactMatrix.of([[0]])
    assert [str(activate(zero, name).core[0, 0]) for name in ("silu", "sin", "cos")] == ["0", "0", "1"]


def test_softmax_stands_large_scores():
    exact = softmax(ExactMatrix.of([[10**6, 0], [-(10**6), 0]]))
    np.testing.assert_allclose(dense(exact), [[1, 0], [0, 1]])
    assert all(Exact(exact.core[i, 1 - (i == 1)]).sign() == 1 for i in range(2)), "small, but certainly positive"
    np.testing.assert_allclose(softmax(FloatMatrix(np.array([[1e6, 0.0], [-1e6, 0.0]]))).values, [[1, 0], [0, 1]])


def test_entrywise_functions_of_what_has_no_value_have_none():
    v = np.array([[[1.0, np.nan], [0.0, 1.0]], [[1.0, 2.0], [0.0, 1.0]]])
    for causal in (False, True):
        out = softmax(FloatMatrix(v), causal).values
        assert np.isnan(out[0]).all()
        assert np.isfinite(out[1]).all()
    assert np.isnan(hadamard(FloatMatrix(v), FloatMatrix(np.zeros((2, 2, 2)))).values[0, 0, 1])
    for name in ACTIVATIONS:
        assert np.isnan(activate(FloatMatrix(v), name).values[0, 0, 1])


def test_entrywise_products_do_not_stretch():
    with pytest.raises(ClaimError, match="fit"):
        hadamard(ExactMatrix.of([[1, 2]]), ExactMatrix.of([[1], [2]]))
    with pytest.raises(ClaimError, match="fit"):
        hadamard(FloatMatrix(np.ones((1, 2))), FloatMatrix(np.ones((2, 1))))


# --- Kronecker products that are never formed ------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
def test_a_kronecker_product_agrees_with_the_matrix_it_stands_for(exact):
    rng = np.random.default_rng(3)

    def some(m, n):
        entries = rng.integers(-3, 4, size=(m, n))
        return ExactMatrix.of(entries.tolist()) if exact else FloatMatrix(entries[None] * 1.0)

    def same(a, b):
        a, b = (x.formed() if isinstance(x, Kronecker) else x for x in (a, b))
        assert a.shape == b.shape
        assert float(np.ravel(Exact.of((a - b).sq()) if exact else (a - b).sq())[0]) < 1e-18

    a, b = Kronecker(some(2, 3), some(3, 2)), Kronecker(some(3, 2), some(2, 2))
    tall, wide = some(6, 4), some(5, 6)
    formed = a.formed()
    same(a @ b, formed @ b.formed())
    same(a @ tall, formed @ tall)
    same(wide @ a, wide @ formed)
    same(a.T, formed.T)
    same(a.pinv(), formed.pinv())
    other = some(6, 6)
    same(2 * a + other, 2 * formed + other)
    same(other + a, other + formed)
    same(formed - a, 0 * formed)
    same(a - formed, 0 * formed)
    gram = Kronecker(a.left @ a.left.T, a.right @ a.right.T)
    same(gram.root() @ gram.root(), gram.formed())
    for f in (sq, rank):
        assert float(np.ravel(f(a))[0]) == pytest.approx(float(np.ravel(f(formed))[0]), rel=1e-12)
    assert float(np.ravel(gram.trace())[0]) == pytest.approx(float(np.ravel(gram.formed().trace())[0]), rel=1e-12)
    for x, y in zip(a.squared_singular_values(), formed.squared_singular_values(), strict=True):
        assert float(np.ravel(x)[0]) == pytest.approx(float(np.ravel(y)[0]), rel=1e-10, abs=1e-12)
    with pytest.raises(IllPosedError, match="shapes do not fit"):
        a @ some(5, 1)


def test_singular_values_of_balls_enclose_those_of_mpmath():
    import mpmath

    a, b = ExactMatrix.of([[2, 1], [1, 2]]).root(), ExactMatrix.of([[3, 1], [1, 1]]).root()
    mpmath.mp.dps = 50
    gap = mpmath.sqrtm(mpmath.matrix([[2, 1], [1, 2]])) - mpmath.sqrtm(mpmath.matrix([[3, 1], [1, 1]]))
    expected = sorted((float(s) ** 2 for s in mpmath.svd_r(gap, compute_uv=False)), reverse=True)
    found = (a - b).squared_singular_values()
    assert [float(v) for v in found] == pytest.approx(expected, rel=1e-14)
    assert all(v.value.rad() < 1e-80 for v in found)
    # A tie is two balls of one number, whichever way the matrix lies.
    root2 = arb(2).sqrt()
    flat = ExactMatrix(arb_mat(2, 3, [root2, 0, 0, 0, root2, 0]))
    for m in (flat, flat.T):
        assert [v.value.contains(2) for v in m.squared_singular_values()] == [True, True]
