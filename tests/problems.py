"""Strategies that draw structure (ranks, multiplicities, spectra, means), never raw floats."""

import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import linnet as ln
from linnet.reference.dense import whiten

HALVES = st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.5, 2.0])
POSITIVE = st.sampled_from([0.5, 1.0, 1.0, 1.5, 2.0])


@dataclass(frozen=True)
class Case:
    """One drawn problem and what it was made from."""

    problem: ln.LayerProblem
    task: ln.Regression
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed + 1)

    @property
    def power(self) -> float:
        """E|y|^2 plus the network's E|f(x)|^2: what rounding errors of a risk are relative to."""
        m, net = self.problem.moments, self.problem.net
        constant = 0.0 if net.offset is None else float(np.sum(net.offset**2))
        return float(np.trace(m.yy) + np.trace(net.product @ m.xx @ net.product.T) + constant)


def bases(rng: np.random.Generator, size: int, aligned: bool) -> np.ndarray:
    """Haar basis, or a permutation of the axes: products of layers then cancel exactly."""
    return np.eye(size)[rng.permutation(size)] if aligned else ln.haar(size, rng)


@st.composite
def networks(draw, depth=st.integers(1, 6), width=st.integers(1, 8), biases=st.booleans()):
    widths = [draw(width) for _ in range(draw(depth) + 1)]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    aligned = draw(st.booleans())
    values = draw(st.sampled_from([HALVES, POSITIVE]))
    weights = []
    for n, m in itertools.pairwise(widths):
        k = min(m, n)
        s = np.array(draw(st.lists(values, min_size=k, max_size=k)))
        weights.append((bases(rng, m, aligned)[:, :k] * s) @ bases(rng, n, aligned)[:, :k].T)
    offsets = tuple(rng.normal(size=m) for m in widths[1:]) if draw(biases) else None
    return ln.DeepLinearNetwork(tuple(weights), offsets)


@st.composite
def cases(draw, nets=None, sample=st.booleans()):
    net = draw(networks() if nets is None else nets)
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    p, q = net.widths[0], net.widths[-1]
    aligned = draw(st.booleans())
    spread = np.array(draw(st.lists(HALVES, min_size=p, max_size=p)))
    frame = bases(rng, p, aligned)
    cov = (frame * spread) @ frame.T
    layer = draw(st.integers(0, net.depth - 1))
    kind = draw(st.sampled_from(["any", "reachable", "spectrum", "same"]))
    coef = rng.normal(size=(q, p))
    if kind == "reachable":
        shape = (net.widths[layer + 1], net.widths[layer])
        coef = net.product + net.upper(layer) @ rng.normal(size=shape) @ net.lower(layer)
    elif kind == "spectrum":  # singular values of the residual tie
        k = min(p, q)
        values = np.array(draw(st.lists(HALVES, min_size=k, max_size=k)))
        coef = net.product + (bases(rng, q, aligned)[:, :k] * values) @ bases(rng, p, aligned)[:, :k].T
    elif kind == "same":
        coef = net.product
    noise = draw(st.sampled_from([0.0, 0.5])) * np.eye(q)
    centred = draw(st.booleans())
    mean = None if centred else rng.normal(size=p)
    intercept = None if centred or draw(st.booleans()) else rng.normal(size=q)
    task = ln.Regression(coef, (cov + cov.T) / 2, noise, mean, intercept)
    n = draw(st.integers(1, 12)) if draw(sample) else None
    moments = task.moments() if n is None else ln.Moments.from_data(*task.sample(n, rng=rng))
    return Case(ln.LayerProblem(net, layer, moments), task, seed)


def clear(a: np.ndarray, size: float, condition: float = 100.0) -> bool:
    """Whether all singular values are clearly zero or within ``condition`` of the largest."""
    s = np.linalg.svd(a, compute_uv=False)
    kept = s[s > 1e-11 * size]
    return bool(np.all(s[len(kept) :] <= 1e-13 * size) and (len(kept) == 0 or kept[-1] * condition >= kept[0]))


def assume_well_conditioned(case: Case) -> None:
    """Discard a case whose ranks are in doubt or whose condition numbers exceed 100."""
    w = whiten(case.problem)
    assume(clear(w.upper, max(w.size[0], 1e-300)))
    assume(clear(w.reach[:-1], max(w.size[1], 1e-300)))
    xx = case.problem.moments.xx
    assume(clear(xx, float(np.linalg.norm(xx)), 1e4))


def replace_lapack(monkeypatch, name, function):
    """Put ``function`` in the place of one of NumPy's decompositions, wherever linnet finds it."""
    import array_api_compat.numpy.linalg as compat

    own = getattr(np.linalg, name)
    if getattr(compat, name, None) is own:
        monkeypatch.setattr(compat, name, function)
    monkeypatch.setattr(np.linalg, name, function)
