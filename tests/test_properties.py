"""Claims that hold, and what closed forms are invariant to, on instances of drawn structure.

Hypothesis draws shapes, kinds of matrices, spectra and seeds; a test sees a batch of instances of each structure.
"""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from verdicts import EXPECTED

import linnet as ln
from linnet.errors import MaskedWarning, RankError
from linnet.trials import Layer
from linnet.trials.algebra import FloatMatrix
from linnet.trials.claim import installed_claims
from linnet.trials.evaluate import evaluate
from linnet.trials.judge import judge
from linnet.trials.search import Tally, admitted_shape
from linnet.trials.settings.base import Ladder
from linnet.trials.settings.layer import LayerShape

few = settings(max_examples=settings.default.max_examples * 5 // 12)
"""Each example is a batch, and each claim meets it: fewer do."""

COUNT = 4
"""Instances of one structure."""

HALVES = (0.0, 0.5, 1.0, 1.5, 2.0)
SEEDS = st.integers(0, 2**16)

# --- drawing structure -----------------------------------------------------------------------------


@st.composite
def layer_shapes(draw, admits=lambda shape: True):
    """Draw a shape that ``admits`` allows: budgets free, equal or matched, the network whole or one layer of it."""
    least = draw(
        st.sampled_from([1, 1, 2, 4])
    )  # a layer of one channel leaves little to fit: it is there half the time
    depth = draw(st.integers(1, 6))
    widths = tuple(draw(st.integers(least, 8)) for _ in range(depth + 1))
    layer = draw(st.sampled_from([0, depth - 1, draw(st.integers(0, depth - 1))]))
    p = widths[0]
    k_train, k_test = (draw(st.sampled_from([p, p, draw(st.integers(1, p))])) for _ in range(2))
    n = draw(st.integers(1, 2 * p + 1))

    def fill(widths, layer):
        d_in, d_out = widths[layer : layer + 2]
        r = draw(st.integers(1, min(d_in, d_out)))
        chosen = draw(st.sets(st.integers(0, d_out - 1), min_size=1))
        for channels in (chosen, range(r), range(min(d_out, r * (d_out + d_in) // d_in))):
            yield LayerShape(widths, layer, r, tuple(sorted(channels)), k_train, k_test, n)

    allowed = [s for s in (*fill(widths, layer), *fill((p, widths[-1]), 0)) if admits(s)]
    assume(allowed)
    return allowed[0]


@st.composite
def structured(draw, rows, columns, kind, most, seed):
    """Draw COUNT matrices of one kind: their singular values are of one palette of at most ``most``, so that they tie.

    ``haar``: between random bases; ``aligned``, ``signs``: between axes, so that products are free of rounding;
    ``singular``: as ``haar``, with zeros too.
    """
    rng = np.random.default_rng(seed)
    k = min(rows, columns)
    out = np.zeros((COUNT, rows, columns))
    if kind == "identity":
        out += np.eye(rows, columns)
    elif kind != "zero":
        palette = [-1.0, 1.0]
        if kind != "signs":
            palette = draw(st.lists(st.sampled_from(HALVES[1:]), min_size=1, max_size=most, unique=True))
        values = rng.choice(palette + [0.0] * (kind == "singular"), size=(COUNT, k))
        if kind in ("aligned", "signs"):
            for b in range(COUNT):
                out[b, rng.permutation(rows)[:k], rng.permutation(columns)[:k]] = values[b]
        else:
            left, right = ln.haar(rows, rng, (COUNT,)), ln.haar(columns, rng, (COUNT,))
            out += (left[..., :k] * values[:, None, :]) @ right[..., :k].swapaxes(-1, -2)
    return out


@st.composite
def layers(draw, admits=lambda shape: True):
    """Draw a shape of the setting ``Layer``, and free parameters of COUNT instances.

    Few matrices lose rank: were each free to, hardly anything would reach the outputs. Where each is a multiple of an
    isometry, the residual's singular values tie.
    """
    shape, seed = draw(layer_shapes(admits)), draw(SEEDS)
    sizes = Layer.parameters(shape)
    most = draw(st.sampled_from([3, 3, 1]))
    kinds = {name: draw(st.sampled_from(["haar", "haar", "haar", "aligned", "signs", "identity"])) for name in sizes}
    for name in draw(st.lists(st.sampled_from(sorted(sizes)), max_size=2)):
        kinds[name] = draw(st.sampled_from(["singular", "singular", "zero"]))
    raw = {n: draw(structured(*size, kinds[n], most, (seed, i))) for i, (n, size) in enumerate(sizes.items())}
    return shape, raw


# --- claims ----------------------------------------------------------------------------------------

HOLDING = {
    id: replace(found, hypotheses=(*found.hypotheses, *found.rescue), rescue=())
    for id, found in installed_claims().items()
    if EXPECTED.get(id, "holds") in ("holds", "holds-if") and not isinstance(found.setting, Ladder)
}
OF_LAYERS = [id for id, found in HOLDING.items() if found.setting is Layer]
OF_OTHERS = [id for id, found in HOLDING.items() if found.setting is not Layer]


def margins(found, shape, raw):
    """Return the margins of the claim, -inf at instances that do not count; some must."""
    setting, imposed = found.setting, frozenset(h.impose for h in found.hypotheses if h.impose)
    batch = evaluate(found, setting.float_view(shape, raw, imposed), found.hypotheses, COUNT)
    assume(batch.valid.any())
    return np.where(batch.valid, batch.margin, -np.inf)


@pytest.mark.parametrize("id", OF_LAYERS)
@few
@given(data=st.data())
def test_claims_about_layers_hold_on_drawn_structure(id, data):
    """Exact arithmetic may clear none: it knows closed forms, not the library's solutions, which are on trial here."""
    found = HOLDING[id]
    margin = margins(found, *data.draw(layers(Tally(found, found.hypotheses).admits)))
    assert np.all(margin <= 1e-7), margin


@pytest.mark.parametrize("id", OF_OTHERS)
@few
@given(data=st.data())
def test_claims_of_other_settings_hold_on_drawn_kinds(id, data):
    """Their kinds are ill-conditioned too: where float64 is in doubt, exact arithmetic decides."""
    found = HOLDING[id]
    rng = np.random.default_rng(data.draw(SEEDS))
    tally = Tally(found, found.hypotheses)
    shape = admitted_shape(tally, rng)
    assume(tally.admits(shape))
    raw = found.setting.draw(shape, data.draw(st.sampled_from(found.setting.kinds)), COUNT, rng)
    margin = margins(found, shape, raw)
    for i in np.flatnonzero(margin > 1e-7):
        instance = found.setting.exact_instance(shape, raw, i, tally.imposed)
        exact = judge(found, found.setting.view(instance), found.hypotheses)
        assert exact.finding in ("met", "outside"), (margin[i], exact)


# --- problems and the methods that solve them --------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """COUNT layer problems of one structure, with their shift.

    Attributes:
        x, y: samples of the training task, (COUNT, n, p) and (COUNT, n, q); None where the population is solved.
    """

    net: ln.DeepLinearNetwork
    layer: int
    train: ln.Regression
    test: ln.Regression
    x: np.ndarray | None
    y: np.ndarray | None

    @cached_property
    def problem(self):
        moments = self.train.moments() if self.x is None else ln.Moments.from_data(self.x, self.y)
        return ln.LayerProblem(self.net, self.layer, moments)

    @property
    def sizes(self):
        return self.problem.d_out, self.problem.d_in

    @cached_property
    def size(self):
        """What rounding errors of residuals are relative to, (COUNT,): |y| + the product of the layers' sizes |x|."""
        m = self.problem.moments
        carried = np.prod([norm(w) for w in self.net.weights], axis=0)
        x, y = (np.trace(a, axis1=-2, axis2=-1) for a in (m.xx, m.yy))
        return np.sqrt(y) + carried * np.sqrt(x)

    def shift_size(self, update):
        """What rounding errors of excess risks after an update are relative to, (COUNT,)."""
        carried = np.prod([norm(w) for w in self.net.weights], axis=0)
        added = np.prod([norm(w) for i, w in enumerate(self.net.weights) if i != self.layer], axis=0) * norm(update)
        covs = norm(self.train.signal_cov) + norm(self.test.signal_cov)
        return (norm(self.train.coef) + norm(self.test.coef) + carried + added) ** 2 * covs

    def risks(self, update):
        """Objective, and excess risks in and out of distribution, (3, COUNT)."""
        tuned = self.net.updated(update)
        return np.stack(
            [self.problem.risk(update), ln.excess_risk(tuned, self.train), ln.excess_risk(tuned, self.test)]
        )


def norm(a):
    return np.linalg.norm(a, axis=(-2, -1))


def transposed(a):
    return np.swapaxes(a, -1, -2)


@st.composite
def drawn(draw, sample=st.booleans()):
    shape, raw = draw(layers())
    found = Layer.compose(shape, {k: FloatMatrix(v) for k, v in raw.items()}, ())
    train, test = (
        ln.Regression(found[f"coef_{k}"].values, (found[f"cov_{k}"].values + found[f"cov_{k}"].T.values) / 2)
        for k in ("train", "test")
    )
    x = y = None
    if draw(sample):
        x = transposed(found["x"].values)
        y = x @ transposed(train.coef) + transposed(found["noise"].values)
    net = ln.DeepLinearNetwork(tuple(w.values for w in found["weights"]))
    return Drawn(net, shape.layer, train, test, x, y)


LINEAR = ("full", "rows", "columns", "left", "right", "sparse", "subspace")


@st.composite
def methods(draw, m, n, kinds=("lora", "lora", "lora", *LINEAR)):
    """Draw one method for a layer (m, n): LoRA of any rank, others on any channels, entries or directions."""
    kind = draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(SEEDS))
    k = draw(st.integers(1, {"left": m, "right": n}.get(kind, min(m * n, 8))))
    if kind == "full":
        return ln.FullFT()
    if kind == "lora":
        return ln.LoRA(draw(st.integers(0, min(m, n)) | st.integers(1, min(m, n))))
    if kind == "rows":
        return ln.S2FT(sorted(draw(st.sets(st.integers(0, m - 1), min_size=1))))
    if kind == "columns":
        return ln.S2FT(sorted(draw(st.sets(st.integers(0, n - 1), min_size=1))), form="columns")
    if kind == "left":
        return ln.FrozenFactorLoRA(left=ln.haar(m, rng)[:, :k] * rng.choice(HALVES, size=k))
    if kind == "right":
        return ln.FrozenFactorLoRA(right=ln.haar(n, rng)[:, :k] * rng.choice(HALVES, size=k))
    if kind == "sparse":
        mask = np.zeros(m * n, dtype=bool)
        mask[rng.permutation(m * n)[:k]] = True
        return ln.SparseFT(mask.reshape(m, n))
    return ln.Subspace(ln.haar(m * n, rng)[:, :k] * rng.choice(HALVES, size=k))


def solved(method, problem):
    """Solve all of a batch; where singular values tie, ``status`` says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskedWarning)
        return method.solve(problem)


def sound(case, method):
    """Return which elements float64 can solve, and what rounding errors of their updates are relative to.

    Left out are those whose design is neither well-conditioned nor clearly singular, and, for LoRA, those whose r-th
    and next singular values are neither clearly apart nor tied: few, since spectra are of half-integers.
    """
    p = case.problem
    trained = ln.FullFT() if isinstance(method, ln.LoRA) else method
    directions = trained.directions(p)
    design = kron(p.upper, transposed(p.inputs)) @ directions
    length = norm(directions)
    s = np.linalg.svd(design, compute_uv=False)
    top = s[..., :1]
    unit = (p.upper_scale * p.reach_scale * length)[..., None]
    clear = ((s >= 1e-3 * np.maximum(top, 1e-2 * unit)) | (s <= 1e-13 * unit)).all(axis=-1)
    least = np.where(s > 1e-13 * unit, s, np.inf).min(axis=-1)
    natural = length / least * case.size
    if isinstance(method, ln.LoRA):
        clear &= ~doubtful(case, method.rank)
    return clear, natural


def gap(case, r):
    """Return the r-th singular value of the residual, the gap to the next, and the first, each (COUNT,)."""
    s = case.problem.residual_svd[1]
    s = np.concatenate([s, np.zeros((COUNT, 9))], axis=-1)
    return s[:, r - 1], s[:, r - 1] - s[:, r], s[:, 0]


def doubtful(case, r):
    """Whether rounding may decide what the best approximation of rank r is."""
    if r == 0:
        return np.zeros(COUNT, dtype=bool)
    value, apart, first = gap(case, r)
    nothing = value <= 1e-12 * case.size
    something = (value >= 1e-5 * case.size) & ((apart >= 1e-3 * first) | (apart <= 1e-13 * first))
    return ~(nothing | something)


def kron(a, b):
    out = a[..., :, None, :, None] * b[..., None, :, None, :]
    return out.reshape(*out.shape[:-4], a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1])


def same(found, wanted, unit, where):
    """Assert that matrices (COUNT, m, n) agree to rounding in the elements named by ``where``."""
    off = norm(found - wanted)[where]
    assert np.all(off <= 1e-9 * norm(wanted)[where] + 1e-11 * unit[where]), (off, unit[where])


def equivalent(case, method, moved_case, moved, left=None, right=None, output=1.0, energy=1.0):
    """Assert that ``moved`` does on ``moved_case`` what ``method`` does on ``case``.

    That is: delta becomes left (output delta) right^T, risks are ``energy`` times as large, and ties stay ties.
    """
    clear, natural = sound(case, method)
    assume(clear.any())
    here, there = solved(method, case.problem), solved(moved, moved_case.problem)
    np.testing.assert_array_equal(here.status[clear], there.status[clear])
    where = clear & (here.status == 0)
    wanted = output * here.delta
    wanted = wanted if left is None else left @ wanted
    wanted = wanted if right is None else wanted @ transposed(right)
    same(there.delta, wanted, output * natural, where)
    wanted, found = energy * case.risks(here)[:, where], moved_case.risks(there)[:, where]
    unit = energy * (case.size**2 + case.shift_size(here.delta))[where]
    assert np.all(np.abs(found - wanted) <= 1e-9 * wanted + 1e-11 * unit), (found, wanted, unit)
    if isinstance(method, ln.LoRA) and np.any(clear & (here.status != 0)):
        # Tied: the update is any of several, but what is minimised has one minimum.
        wanted = energy * case.problem.risk(ln.LoRA(method.rank, ties="first").solve(case.problem))
        found = moved_case.problem.risk(ln.LoRA(method.rank, ties="first").solve(moved_case.problem))
        assert np.all(np.abs(found - wanted)[clear] <= 1e-9 * wanted[clear] + 1e-11 * (energy * case.size**2)[clear])


def turned(method, problem, left=None, right=None):
    """Return the method that trains, after orthogonal changes of the layer's output and input basis, the same."""
    u, v = (np.eye(d) if a is None else a for a, d in ((left, problem.d_out), (right, problem.d_in)))
    if isinstance(method, ln.LoRA | ln.FullFT):
        return method
    if isinstance(method, ln.S2FT) and method.form == "rows":
        return method if left is None else ln.FrozenFactorLoRA(left=u[:, method.channels])
    if isinstance(method, ln.S2FT):
        return method if right is None else ln.FrozenFactorLoRA(right=v[:, method.channels])
    if isinstance(method, ln.FrozenFactorLoRA) and method.left is not None:
        return ln.FrozenFactorLoRA(left=u @ method.left)
    if isinstance(method, ln.FrozenFactorLoRA):
        return ln.FrozenFactorLoRA(right=v @ method.right)
    if isinstance(method, ln.SparseFT) and left is None and right is None:
        return method
    return ln.Subspace(np.kron(u, v) @ method.directions(problem))


# --- invariances -----------------------------------------------------------------------------------


@given(case=drawn(), data=st.data())
def test_orthogonal_bases_of_inputs_and_outputs_do_not_matter(case, data):
    method = data.draw(methods(*case.sizes))
    rng = np.random.default_rng(data.draw(SEEDS))
    a, b = ln.haar(case.net.widths[0], rng), ln.haar(case.net.widths[-1], rng)
    weights = list(case.net.weights)
    weights[0] = weights[0] @ a.T
    weights[-1] = b @ weights[-1]

    def seen(task):
        cov = a @ task.signal_cov @ a.T
        return ln.Regression(b @ task.coef @ a.T, (cov + transposed(cov)) / 2)

    x, y = (None, None) if case.x is None else (case.x @ a.T, case.y @ b.T)
    moved = Drawn(ln.DeepLinearNetwork(tuple(weights)), case.layer, seen(case.train), seen(case.test), x, y)
    left = b if case.layer == case.net.depth - 1 else None
    right = a if case.layer == 0 else None
    equivalent(case, method, moved, turned(method, case.problem, left, right), left, right)


@given(case=drawn(), data=st.data(), c=st.sampled_from([1e-3, 0.5, 3.0, 1e3]))
def test_units_of_the_outputs_scale_risks_by_their_square(case, data, c):
    method = data.draw(methods(*case.sizes))
    net = ln.DeepLinearNetwork((*case.net.weights[:-1], c * case.net.weights[-1]))
    train, test = (ln.Regression(c * task.coef, task.signal_cov) for task in (case.train, case.test))
    moved = Drawn(net, case.layer, train, test, case.x, None if case.y is None else c * case.y)
    last = case.layer == case.net.depth - 1
    equivalent(case, method, moved, method, output=c if last else 1.0, energy=c**2)


@given(case=drawn(), data=st.data(), c=st.sampled_from([1e-3, 0.5, 3.0, 1e3]))
def test_the_size_of_the_covariance_scales_risks_and_leaves_updates(case, data, c):
    method = data.draw(methods(*case.sizes))
    train, test = (ln.Regression(task.coef, c * task.signal_cov) for task in (case.train, case.test))
    x, y = (None, None) if case.x is None else (np.sqrt(c) * case.x, np.sqrt(c) * case.y)
    equivalent(case, method, Drawn(case.net, case.layer, train, test, x, y), method, energy=c)


@given(case=drawn(), data=st.data())
def test_permuting_channels_permutes_updates(case, data):
    """Channels that the layer emits (unless it is the last) and receives (unless it is the first)."""
    method = data.draw(methods(*case.sizes))
    (m, n), layer = case.sizes, case.layer
    rng = np.random.default_rng(data.draw(SEEDS))
    rows = rng.permutation(m) if layer < case.net.depth - 1 else np.arange(m)
    columns = rng.permutation(n) if layer > 0 else np.arange(n)
    weights = list(case.net.weights)
    weights[layer] = weights[layer][:, rows][:, :, columns]
    if layer < case.net.depth - 1:
        weights[layer + 1] = weights[layer + 1][:, :, rows]
    if layer > 0:
        weights[layer - 1] = weights[layer - 1][:, columns]
    moved = replace(case, net=ln.DeepLinearNetwork(tuple(weights)))
    left, right = np.eye(m)[rows], np.eye(n)[columns]
    if isinstance(method, ln.S2FT):
        order = rows if method.form == "rows" else columns
        other = ln.S2FT([int(np.flatnonzero(order == c)[0]) for c in method.channels], form=method.form)
    elif isinstance(method, ln.SparseFT):
        other = ln.SparseFT(method.mask[rows][:, columns])
    else:
        other = turned(method, case.problem, left, right)
    equivalent(case, method, moved, other, left, right)


@given(case=drawn(), data=st.data(), kind=st.sampled_from(["haar", "signs", "identity"]))
def test_an_orthogonal_layer_put_between_two_changes_nothing(case, data, kind):
    """Anywhere: below or above the tuned layer, next to it too, at the inputs and at the outputs."""
    method = data.draw(methods(*case.sizes))
    rng = np.random.default_rng(data.draw(SEEDS))
    depth, layer = case.net.depth, case.layer
    at = data.draw(st.integers(0, depth))
    width = case.net.widths[at]
    between = {
        "haar": ln.haar(width, rng),
        "signs": np.eye(width)[rng.permutation(width)] * rng.choice([-1.0, 1.0], size=width),
        "identity": np.eye(width),
    }[kind]
    weights = [*case.net.weights[:at], np.broadcast_to(between, (COUNT, width, width)), *case.net.weights[at:]]
    left = right = None
    if at < depth:  # undone by the layer above; at the outputs by the one below
        weights[at + 1] = weights[at + 1] @ between.T
        right = between if at == layer else None
    else:
        weights[at - 1] = between.T @ weights[at - 1]
        left = between.T if at - 1 == layer else None
    moved = replace(case, net=ln.DeepLinearNetwork(tuple(weights)), layer=layer + (at <= layer))
    equivalent(case, method, moved, turned(method, case.problem, left, right), left, right)


@given(case=drawn(), data=st.data())
def test_order_within_a_batch_and_solving_one_by_one(case, data):
    """Elements differ in their ranks and ties; each is solved as if it were alone."""
    method = data.draw(methods(*case.sizes))

    def pick(which):
        tasks = [ln.Regression(task.coef[which], task.signal_cov[which]) for task in (case.train, case.test)]
        data = (None, None) if case.x is None else (case.x[which], case.y[which])
        return Drawn(ln.DeepLinearNetwork(tuple(w[which] for w in case.net.weights)), case.layer, *tasks, *data)

    clear, natural = sound(case, method)
    here = solved(method, case.problem)
    order = np.array(data.draw(st.permutations(range(COUNT))))
    there = solved(method, pick(order).problem)
    np.testing.assert_array_equal(here.status[order][clear[order]], there.status[clear[order]])
    same(there.delta, here.delta[order], natural[order], (clear & (here.status == 0))[order])
    for i in np.flatnonzero(clear):
        if here.status[i] != 0:
            with pytest.raises(RankError, match="tie"):
                method.solve(pick(i).problem)
        else:
            alone = method.solve(pick(i).problem)
            same(alone.delta[None], here.delta[i : i + 1], natural[i : i + 1], [True])


@given(case=drawn(sample=st.just(True)), data=st.data())
def test_the_order_of_samples_does_not_matter(case, data):
    method = data.draw(methods(*case.sizes))
    order = np.random.default_rng(data.draw(SEEDS)).permutation(case.x.shape[1])
    equivalent(case, method, replace(case, x=case.x[:, order], y=case.y[:, order]), method)


# --- what methods have in common -------------------------------------------------------------------


@given(case=drawn())
def test_methods_that_train_everything_are_full_fine_tuning(case):
    m, n = case.sizes
    clear, natural = sound(case, ln.FullFT())
    full = ln.FullFT().solve(case.problem)
    everything = [
        ln.S2FT(range(m)),
        ln.S2FT(range(n), form="columns"),
        ln.FrozenFactorLoRA(left=np.eye(m)),
        ln.FrozenFactorLoRA(right=np.eye(n)),
        ln.SparseFT(np.ones((m, n), dtype=bool)),
        ln.Subspace(np.eye(m * n)),
    ]
    for method in everything:
        same(method.solve(case.problem).delta, full.delta, natural, clear)


@given(case=drawn(), data=st.data())
def test_a_linear_method_is_the_subspace_that_it_trains(case, data):
    """Its structure gives what the general closed form gives from its directions alone."""
    method = data.draw(methods(*case.sizes, kinds=LINEAR))
    clear, natural = sound(case, method)
    delta = method.solve(case.problem).delta
    same(ln.Subspace(method.directions(case.problem)).solve(case.problem).delta, delta, natural, clear)
    if isinstance(method, ln.S2FT):
        mask = np.zeros(case.sizes, dtype=bool)
        mask[(method.channels, slice(None)) if method.form == "rows" else (slice(None), method.channels)] = True
        assert np.all(delta[:, ~mask] == 0)
        same(ln.SparseFT(mask).solve(case.problem).delta, delta, natural, clear)


@given(case=drawn(), data=st.data())
def test_nothing_that_is_trained_could_lower_the_risk_further(case, data):
    """The gradient vanishes along trained directions; for LoRA along both factors."""
    method = data.draw(methods(*case.sizes))
    clear, natural = sound(case, method)
    p, update = case.problem, solved(method, case.problem)
    delta = np.nan_to_num(update.delta)
    above, below = norm(p.upper), norm(p.inputs)
    gradient = transposed(p.upper) @ (p.cross - p.upper @ delta @ p.gram)
    unit = above * below * (case.size + above * below * natural)
    if isinstance(method, ln.LoRA):
        u, s, vt = np.linalg.svd(delta)
        kept = s[:, None, :] > 1e-9 * natural[:, None, None]
        k = s.shape[-1]
        along = [transposed(u[..., :k] * kept) @ gradient, gradient @ (transposed(vt)[..., :k] * kept)]
    else:
        directions = method.directions(p)
        along = [transposed(directions) @ gradient.reshape(COUNT, -1, 1)]
        unit = unit * norm(directions)
    for slope in along:
        assert np.all(norm(slope)[clear] <= 1e-11 * unit[clear]), (norm(slope), unit)


@given(case=drawn())
def test_each_rank_of_lora_gains_one_singular_value(case):
    """From rank 0, which does nothing, to the residual's rank, from where LoRA is full fine-tuning."""
    clear, natural = sound(case, ln.FullFT())
    s = np.concatenate([case.problem.residual_svd[1], np.zeros((COUNT, 9))], axis=-1)
    initial, full = case.problem.initial_risk, ln.FullFT().solve(case.problem)
    for r in range(min(case.sizes) + 1):
        update = solved(ln.LoRA(r), case.problem)
        found = case.problem.risk(ln.LoRA(r, ties="first").solve(case.problem))
        gained = initial - found - np.sum(s[:, :r] ** 2, axis=-1)
        assert np.all(np.abs(gained)[clear] <= 1e-10 * case.size[clear] ** 2)
        done = clear & (s[:, r] <= 1e-12 * case.size)
        same(update.delta, full.delta, natural, done)
        if r == 0:
            assert np.all(update.delta == 0)
            continue
        value, apart, first = gap(case, r)
        tied = (value >= 1e-5 * case.size) & (apart <= 1e-13 * first) & (r < case.problem.residual_svd[1].shape[-1])
        decided = clear & ~doubtful(case, r)
        np.testing.assert_array_equal((update.status != 0)[decided], tied[decided])
    assert np.all(s[:, min(case.sizes)] <= 1e-12 * case.size)
