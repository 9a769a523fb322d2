"""One implementation, three array libraries: eager, compiled and vectorised."""

import subprocess
import sys

import array_api_compat
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from test_batches import every_method, network, task

import linnet as ln
from linnet._linalg import to_numpy
from linnet.errors import PrecisionError

LIBRARIES = {"jax": jnp, "torch": torch}
BATCHES = [(), (3,)]


def setting(rng, batch, affine=True):
    net, train = network(rng, batch, affine), task(rng, batch, affine)
    return net, train, ln.LayerProblem(net, 1, train.moments())


def results(net, train, problem, method):
    """All that a caller would compute, as a tuple of arrays."""
    update = method.solve(problem)
    tuned = net.updated(update)
    factors = () if update.left is None else (update.left @ update.right.mT,)
    bias = () if update.bias is None else (update.bias,)
    return (update.delta, problem.risk(update), ln.excess_risk(tuned, train), *factors, *bias)


def agree(found, wanted, rtol=1e-10):
    for a, b in zip(found, wanted, strict=True):
        host = to_numpy(a)
        assert np.linalg.norm(host - b) <= rtol * max(np.linalg.norm(b), 1e-3), np.max(np.abs(host - b))


# JAX compiles every operation of an eager call: one setting of it has to do, jit and vmap see the others.
@pytest.mark.parametrize(
    ("library", "batch", "affine"),
    [("jax", (3,), True), ("torch", (), True), ("torch", (3,), False), ("torch", (3,), True)],
)
def test_eager_results_agree_and_stay_in_their_library(library, batch, affine, rng):
    xp = LIBRARIES[library]
    net, train, problem = setting(rng, batch, affine)
    there = net.to(xp), train.to(xp), problem.to(xp)
    kind = {"jax": jax.Array, "torch": torch.Tensor}[library]
    for method in every_method(rng, 3, 5):
        found = results(*there, method)
        assert all(isinstance(a, kind) for a in found), type(method)
        assert all(to_numpy(a).dtype == np.float64 for a in found)
        agree(found, results(net, train, problem, method))


@pytest.mark.parametrize("batch", BATCHES)
def test_jit_agrees(batch, rng):
    net, train, problem = setting(rng, batch)
    methods = every_method(rng, 3, 5)
    compiled = jax.jit(lambda n, t, p: [results(n, t, p, m) for m in methods])
    for found, method in zip(compiled(net.to(jnp), train.to(jnp), problem.to(jnp)), methods, strict=True):
        agree(found, results(net, train, problem, method))


def test_jit_builds_problems_inside(rng):
    net, train, problem = setting(rng, ())

    @jax.jit
    def solve(net, train):
        inner = ln.LayerProblem(net, 1, train.moments())
        return ln.LoRA(2).solve(inner).delta

    agree((solve(net.to(jnp), train.to(jnp)),), (ln.LoRA(2).solve(problem).delta,))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("affine", [False, True])
def test_vmap_agrees(library, affine, rng):
    xp, vmap = LIBRARIES[library], {"jax": jax.vmap, "torch": torch.vmap}[library]
    net, train, problem = setting(rng, (3,), affine)
    methods = every_method(rng, 3, 5)
    mapped = vmap(lambda n, t, p: [results(n, t, p, m) for m in methods])
    for found, method in zip(mapped(net.to(xp), train.to(xp), problem.to(xp)), methods, strict=True):
        agree(found, results(net, train, problem, method))


def test_failures_under_vmap_are_masked_by_status(rng):
    net, train, problem = setting(rng, (3,), affine=False)
    weights = [w.copy() for w in net.weights]
    weights[0][1, 0, 0] = np.nan
    bad = ln.DeepLinearNetwork(tuple(weights))
    problem = ln.LayerProblem(bad, 1, train.moments())
    for xp, vmap in ((jnp, jax.vmap), (torch, torch.vmap)):
        update = vmap(lambda p: ln.LoRA(2).solve(p))(problem.to(xp))
        assert to_numpy(update.status).tolist() == [0, 1, 0]
        assert np.isnan(to_numpy(update.delta)[1]).all()
        assert np.isfinite(to_numpy(update.delta)[[0, 2]]).all()


@pytest.mark.parametrize(
    ("library", "affine"), [("numpy", False), ("numpy", True), ("torch", False), ("torch", True), ("jax", True)]
)
def test_float32_stays_float32(library, affine, rng):
    xp = {"numpy": np, **LIBRARIES}[library]
    net, train, problem = setting(rng, (), affine)
    there = tuple(r.to(xp, dtype=xp.float32) for r in (net, train, problem))
    methods = every_method(rng, 3, 5)
    for method in methods[::3] if library == "jax" else methods:
        found = results(*there, method)
        for a in found:
            dtype = to_numpy(a).dtype if array_api_compat.is_array_api_obj(a) else np.dtype(np.float32)
            assert dtype == np.float32, type(method)
        agree([np.asarray(to_numpy(a)) for a in found], results(net, train, problem, method), rtol=5e-2)


@pytest.mark.parametrize("library", LIBRARIES)
def test_numpy_follows_a_guest(library, rng):
    xp = LIBRARIES[library]
    net, train, problem = setting(rng, ())
    kind = {"jax": jax.Array, "torch": torch.Tensor}[library]
    mixed = ln.LayerProblem(net.to(xp), 1, train.moments())
    other = ln.LayerProblem(net, 1, train.moments().to(xp))
    for method in every_method(rng, 3, 5)[1:8:3]:
        expected = method.solve(problem)
        for p in (mixed, other):
            update = method.solve(p)
            assert isinstance(update.delta, kind)
            agree((update.delta,), (expected.delta,))
        agree((ln.excess_risk(net.to(xp).updated(update), train),), (ln.excess_risk(net.updated(expected), train),))
        agree(
            (ln.excess_risk(net.to(xp).updated(update), train.moments()),),
            (ln.excess_risk(net.updated(expected), train.moments()),),
        )


@pytest.mark.parametrize("library", LIBRARIES)
def test_builders_and_choices_take_a_guest(library, rng):
    xp = LIBRARIES[library]
    net, train, problem = setting(rng, ())
    there = problem.to(xp)
    for by in ("weight", "product", "gradient"):
        for form in ("rows", "columns"):
            chosen = ln.select_channels(there, 2, by=by, form=form)
            np.testing.assert_array_equal(chosen, ln.select_channels(problem, 2, by=by, form=form))
    for build in (
        lambda t, g: ln.Shift.both(t, 0.5, 0.3, rng=g),
        lambda t, g: ln.Shift.reachable(t, net, 1, 0.5, rng=g),
        lambda t, g: ln.Shift.in_channels(t, net, 1, [0], 0.5, rng=g),
    ):
        here = build(train, np.random.default_rng(3)).test
        moved = build(train.to(xp), np.random.default_rng(3)).test
        agree((moved.coef, moved.signal_cov), (here.coef, here.signal_cov))
    x, y = train.to(xp).sample(7, rng=np.random.default_rng(1))
    assert isinstance(x, np.ndarray)
    moments = ln.Moments.from_data(xp.asarray(x), xp.asarray(y))
    agree((ln.Regression.from_moments(moments).coef,), (ln.Regression.from_data(x, y).coef,))


def test_the_way_there_and_back(rng):
    _, _, problem = setting(rng, (2,))
    for xp in LIBRARIES.values():
        back = problem.to(xp).to(np)
        assert isinstance(back.net.weights[0], np.ndarray)
        np.testing.assert_array_equal(back.moments.xx, problem.moments.xx)
        assert back.layer == problem.layer


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_importing_linnet_flips_no_flag_and_imports_no_guest():
    done = run(
        "import sys, linnet, linnet.methods, linnet.problem, linnet.risk\n"
        "assert 'torch' not in sys.modules and 'jax' not in sys.modules, 'a guest was imported'\n"
        "import jax, numpy as np, jax.numpy as jnp\n"
        "net = linnet.DeepLinearNetwork.random([3, 2], rng=np.random.default_rng(0))\n"
        "net.to(jnp, dtype=jnp.float32)\n"
        "assert not jax.config.jax_enable_x64\n"
    )
    assert done.returncode == 0, done.stderr


def test_jax_without_x64_is_said_aloud():
    done = run(
        "import warnings, numpy as np, jax.numpy as jnp, linnet as ln\n"
        "from linnet.errors import PrecisionError\n"
        "net = ln.DeepLinearNetwork.random([3, 2], rng=np.random.default_rng(0))\n"
        "try:\n"
        "    net.to(jnp, dtype=jnp.float64)\n"
        "    raise SystemExit('float64 was not refused')\n"
        "except PrecisionError as err:\n"
        "    assert 'jax_enable_x64' in str(err), err\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    moved = net.to(jnp)\n"
        "assert any('jax_enable_x64' in str(w.message) for w in caught), [str(w.message) for w in caught]\n"
        "assert moved.weights[0].dtype == jnp.float32\n"
        "with warnings.catch_warnings():\n"
        "    warnings.simplefilter('error')\n"
        "    net.to(jnp, dtype=jnp.float32)\n"
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_precision_error_is_a_value_error():
    assert issubclass(PrecisionError, ValueError)


def test_torch_refuses_no_singular_matrix_that_numpy_decomposes():
    """Torch's determinant and its inverse differ on which pivots are zero."""
    from linnet._linalg import factored

    rng = np.random.default_rng(0)
    a = rng.integers(-3, 4, size=(500, 3, 2)) @ rng.integers(-3, 4, size=(500, 2, 3)).astype(float)
    for batch in (a[:, None], a[None]):
        for one in batch:
            found = factored(torch.asarray(one)).pinv.numpy()
            np.testing.assert_allclose(found, np.linalg.pinv(one, rcond=1e-12), atol=1e-9)


def test_torch_vmap_gives_a_status_to_what_is_not_finite():
    rng = np.random.default_rng(0)
    cov = np.stack([np.cov(rng.normal(size=(5, 20)))] * 2)
    cov[1, 0, 0] = np.nan
    coef = torch.asarray(rng.normal(size=(3, 5)))
    status = torch.func.vmap(lambda s: ln.Regression(coef, s).moments().status)(torch.asarray(cov))
    assert status.tolist() == [0, 1]
