"""A layer under shift and samples of growing size: the setting of the claims about estimates."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from linnet.trials.algebra import (
    FloatMatrix,
    Instance,
    Matrix,
    condition,
    constant,
    effective_rank,
    gap_after,
    op_norm,
    rank,
    ratio,
    sq,
    trace,
)
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import Ladder, Raw
from linnet.trials.settings.layer import LayerSetting, LayerShape
from linnet.trials.views.layer import LayerView, Solution

LAWS = ("gaussian", "bounded", "mixture")
"""Laws of the whitened input and noise; see ``second_moments``."""

MANY = 4.0
"""What "sufficiently many" observations (>>) means: this many times the right-hand side."""

DOUBLINGS = 5
"""Dimensions grow from 2 to 32."""

SCALES = (0.5, 1.75**0.5)
"""Of the mixture: each sample is Gaussian of one of these standard deviations; their mean square is 1."""


@dataclasses.dataclass(frozen=True)
class SampledShape(LayerShape):
    """A layer's shape, and the law of the data by name."""

    law: str = "gaussian"


OF_SAMPLE = ("sample", "least_squares_fit", "_first_sample", "one_input", "one_gradient")
"""What a view computes, once, from its sample."""


class SampledView(LayerView):
    """A layer problem and a batch of samples of size ``n``; the sample's moments are ``sample``.

    Attributes:
        n: sample size.
        more: the same samples, each with one more.
        noise_cov: covariance of the noise, (q, q).

    Source: yang2024, Sec. F.1-F.2.
    """

    more: SampledView

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance)
        self.n: int = instance["size"]
        self.factor: Matrix = instance["factor"]
        self.noise_factor: Matrix = instance["noise_factor"]
        self.noise_cov = self.noise_factor @ self.noise_factor.T

    def with_sample(self, x: Matrix, noise: Matrix, n: int) -> SampledView:
        """Return the same problem facing another sample; what is known of the population already stays known."""
        _ = self.population  # which keeps its own solutions: computed once, for all samples
        out = copy.copy(self)
        for name in OF_SAMPLE:
            out.__dict__.pop(name, None)
        out.x, out.noise, out.n = x, noise, n
        return out

    @staticmethod
    def log(x: float) -> float:
        """Natural logarithm of a number, a dimension say."""
        return float(np.log(x))

    @property
    def log_sq(self) -> float:
        """log^2(n + p + q)."""
        q, p = self.B_i.shape
        return float(np.log(self.n + p + q) ** 2)

    @cached_property
    def Sigma_f(self) -> Matrix:
        """Z Z^T, covariance of the prediction residual, (q, q)."""
        return self.Z @ self.Z.T

    @cached_property
    def Omega(self) -> Matrix:
        """Z (I - Pi) Z^T: covariance of what the frozen layers below do not see, (q, q)."""
        unseen = self.Z - self.Z @ self.Pi
        return unseen @ unseen.T

    @cached_property
    def m(self) -> Any:
        """Rank of root."""
        return rank(self.carried_i)

    @cached_property
    def least_squares_fit(self) -> Solution:
        """Least squares on the sample over all linear maps, nothing frozen."""
        share = 1.0 / self.x.shape[1]
        off = (share * (self.noise @ self.x.T)) @ (share * (self.x @ self.x.T)).pinv()
        return Solution(self.D @ self.root_i @ self.root_i.pinv() + off, None, self)

    def variance(self, method: str) -> Any:
        """T_var^2: how far the sample's solution lies from the population's, |(F_n - F) Sigma_i^(1/2)|_F^2."""
        off = getattr(self.sample, method).change - getattr(self.population, method).change
        return sq(off @ self.root_i)

    def train_loss(self, solution: Solution) -> Any:
        """Mean squared error on the sample, noise included."""
        left = (self.D - solution.change) @ self.x + self.noise
        return sq(left) * (1.0 / self.x.shape[1])

    def test_loss(self, solution: Solution) -> Any:
        """Expected squared error in distribution, noise included."""
        return solution.train_risk + trace(self.noise_cov)

    def gap(self, solution: Solution, beside: Solution) -> Any:
        """Loss minus training loss, less the same of a solution that does not depend on the sample.

        The latter has mean zero: in expectation nothing changes, but most of the noise, which would hide means of
        order 1/n behind fluctuations of order n^(-1/2), is gone.
        """
        gaps = [self.test_loss(s) - self.train_loss(s) for s in (solution, beside)]
        return gaps[0] - gaps[1]

    @cached_property
    def enough(self) -> Any:
        """The sample size that Assumption F.2 asks for, log^2(n + p + q) left out, its first two displays."""
        root = self.population.root
        design, residual = effective_rank(self.population.gram), effective_rank(self.Sigma_f)
        first = condition(root) ** 4 * design + effective_rank(self.cov_i) + residual
        noise = effective_rank(self.noise_cov)
        second = ratio(op_norm(self.noise_cov), op_norm(self.Sigma_f)) * (noise + design)
        return first + second


class SampledSetting(LayerSetting, Ladder):
    """Layer problems with x = F z and noise = N w; samples of sizes over two decades.

    (z, w) is Gaussian; bounded, each coordinate one of two points, skewed or not; or a Gaussian whose
    standard deviation is itself drawn, so that the noise depends on the input. All are sub-Gaussian, with
    mean zero, covariance the identity, and E[w | z] = 0.
    """

    name = "sampled"
    kinds = ("gaussian", "spectrum", "gaussian", "scaled", "orthogonal", "rank")

    likely = Hypothesis("with probability 0.95 over the sample")
    per_problem = Hypothesis("the constant may depend on the problem, but not on $n$")
    many = Hypothesis(
        r"F.2, the first two displays without $\kappa_*(\Sigma_x)$: $n$ is at least 4 times their right-hand sides",
        impose="many",
    )
    from_the_dimension = Hypothesis(r"$n \ge 8(p + q)$; $x$ and noise Gaussian, bounded or a mixture")
    gaussian = Hypothesis(
        "$x$ Gaussian, the noise Gaussian and independent of it", shape=lambda s: s.law == "gaussian", impose="small"
    )
    one_target = Hypothesis("one target", shape=lambda s: s.widths[-1] == 1)
    noisy = Hypothesis("there is noise", lambda v: [(trace(v.noise_cov), ">", 0)])
    rank_reached = Hypothesis(
        r"$r \le \operatorname{rank} M$: $\sigma_r(M)$ is positive", lambda v: [(rank(v.population.M), ">=", v.r)]
    )
    gap = Hypothesis(
        "F.3 with its least $C_F$", lambda v: [(here, ">", after) for here, after in [gap_after(v.population.M, v.r)]]
    )
    tied = Hypothesis(
        r"one layer, $x$ white, $B_i - W$ the identity (of $q$ rows and $p$ columns), $r$ below $\min(p, q)$",
        impose="tied",
        shape=lambda s: len(s.widths) == 2 and s.rank < min(s.widths),
    )
    learnable = Hypothesis("the layer reaches some of the residual", lambda v: [(sq(v.population.M), ">", 0)])

    def random_shape(self, rng: np.random.Generator) -> SampledShape:
        depth = int(rng.choice([1, 2, 3], p=[0.25, 0.4, 0.35]))
        widths = [int(d) for d in rng.integers(1, 5, size=depth + 1)]
        layer = int(rng.integers(0, depth))
        if layer and rng.random() < 0.5:  # the layers below hide some of the input, which acts like noise
            widths[0], widths[layer] = int(rng.integers(2, 5)), int(rng.integers(1, 3))
        shape = self._shape(tuple(widths), layer, rng)
        law = str(rng.choice(LAWS))
        return SampledShape(**dataclasses.asdict(shape) | {"n": 1}, law=law)

    def small_shapes(self) -> Iterator[SampledShape]:
        for shape in super().small_shapes():
            for law in LAWS if shape.n == 1 else ():
                yield SampledShape(**dataclasses.asdict(shape), law=law)

    def growing(self) -> Iterator[list[SampledShape]]:
        rows = [
            (sum(grown), depth, layer, grown, share)
            for depth, layer in ((1, 0), (2, 0), (2, 1))
            for grown in product((False, True), repeat=depth + 1)  # which widths double; the others stay at 2
            for share in (False, True)  # ranks and channels: one, or half of what there is
            if any(grown)
        ]
        # Where everything grows every factor of a dimension shows, unless two of them cancel.
        for _, depth, layer, grown, share in sorted(rows, key=lambda row: (row[1] + 1 - row[0], row[1])):
            yield [self._wide(depth, layer, grown, share, 2**k) for k in range(1, DOUBLINGS + 1)]

    def even(self, shape: SampledShape, rng: np.random.Generator) -> Raw:
        raw = super().even(shape, rng)
        u, s, vt = np.linalg.svd(raw["residual"][0], full_matrices=False)
        s[: shape.rank] += 1.0  # a clear gap after the rank of LoRA, of the same width at every dimension
        return raw | {"residual": ((u * s) @ vt)[None], "latent": 0 * raw["latent"]}

    @staticmethod
    def _wide(depth: int, layer: int, grown: tuple[bool, ...], share: bool, width: int) -> SampledShape:
        widths = tuple(width if grows else 2 for grows in grown)
        d_in, d_out = widths[layer], widths[layer + 1]
        rank = max(1, min(d_in, d_out) // 2) if share else 1
        channels = tuple(range(max(1, d_out // 2) if share else 1))
        return SampledShape(widths, layer, rank, channels, widths[0], widths[0], 1, "gaussian")

    def parameters(self, shape: LayerShape) -> dict[str, tuple[int, int]]:
        q = shape.widths[-1]
        sizes = super().parameters(shape)
        del sizes["x"], sizes["noise"]
        return sizes | {"noise_factor": (q, q)}

    def compose(self, shape: LayerShape, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        # The factors, and a sample of nothing: samples are put in place by ``at``.
        empty = {"x": raw["factor_train"], "noise": raw["noise_factor"]}
        white = "white" in imposed
        if "tied" in imposed:
            q, p = raw["residual"].shape
            empty["residual"] = constant(raw["residual"], [[float(i == j) for j in range(p)] for i in range(q)])
            white = True
        out = super().compose(shape, raw | empty, {*imposed, "white"} if white else imposed)
        factor = raw["factor_train"].eye() if white else raw["factor_train"]
        return out | {"factor": factor, "noise_factor": raw["noise_factor"], "size": 0}

    def view(self, instance: Instance) -> SampledView:
        return SampledView(instance)

    def sizes(self, view: SampledView, count: int, imposed: Collection[str]) -> np.ndarray:
        q, p = view.B_i.shape
        start = 8.0 * (p + q)
        if "small" in imposed:
            start = p + 6.0  # inverse moments of a Gaussian sample have a variance from rank + 4 on
        if "many" in imposed:
            need = MANY * float(np.ravel(view.enough)[0])
            for _ in range(50):
                start = max(start, need * np.log(start + p + q) ** 2)
        return np.unique(np.round(np.geomspace(start, 100 * start, count)))

    def at(
        self,
        shape: SampledShape,
        raw: Raw,
        imposed: Collection[str],
        n: int,
        replicates: int,
        rng: np.random.Generator,
        known: Any = None,
    ) -> SampledView:
        base: SampledView = self.float_view(shape, raw, imposed) if known is None else known
        factor, noise = base.factor, base.noise_factor
        k, w = factor.shape[1], noise.shape[1]
        # Least squares sees a sample through its second moments alone: k + w columns with the same ones stand for it.
        roots = second_moments(shape.law, k, w, n, replicates, rng)
        one = second_moments(shape.law, k, w, 1, replicates, rng)
        joined = np.concatenate([np.sqrt(n) * roots, one], axis=-1) / np.sqrt(n + 1)

        def view(columns: np.ndarray, size: int) -> SampledView:
            scaled = np.sqrt(columns.shape[-1]) * columns
            return base.with_sample(factor @ FloatMatrix(scaled[:, :k]), noise @ FloatMatrix(scaled[:, k:]), size)

        out = view(roots, n)
        out.more = view(joined, n + 1)
        return out

    def defects(self, instance: Instance) -> list[str]:
        return ["an exact instance of it does not exist: the sample is random"]

    def shape_from(self, fields: dict[str, Any]) -> SampledShape:
        return SampledShape(**fields)


def eigengap(v: LayerView) -> Any:
    """C_F = sigma_r(M) / (sigma_r(M) - sigma_(r+1)(M)) of Assumption F.3; 0 where sigma_r = 0."""
    here, after = gap_after(v.population.M, v.r)
    return ratio(here, here - after)


def second_moments(law: str, k: int, w: int, n: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Return square roots R of samples' second moments, (replicates, k + w, .): R R^T = (1/n) sum of zeta zeta^T.

    ``zeta`` = (z, w) has mean zero and covariance the identity, and n may be huge: what is drawn is the
    moments themselves, by Bartlett's decomposition or by counts of the points of a finite law.
    """
    d = k + w
    if law == "gaussian":
        return _bartlett(n, d, replicates, rng) / np.sqrt(n)
    if law == "mixture":  # one scale for input and noise: the noise depends on the input, and has mean zero given it
        counts = rng.binomial(n, 0.5, size=replicates)
        parts = [s * _bartlett(c, d, replicates, rng) for s, c in zip(SCALES, (counts, n - counts), strict=True)]
        return _root(sum(a @ a.swapaxes(-1, -2) for a in parts) / n)
    # Input coordinates are skewed, two points apart by 5/2; noise coordinates are signs.
    low, high = -0.5, 2.0
    points = np.array(list(product(*([(low, high)] * k + [(-1.0, 1.0)] * w)))).T
    chance = np.prod(np.where(points[:k] == low, 0.8, 0.2), axis=0) * 0.5**w
    counts = rng.multinomial(n, chance / chance.sum(), size=replicates)
    moments = (points * (counts / n)[:, None, :]) @ points.T
    return _root(moments)


def _root(moments: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(moments)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]


def _bartlett(n: Any, d: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Roots of sums of n products g g^T of d standard normal coordinates, (replicates, d, .); n may vary."""
    n = np.broadcast_to(n, (replicates,))
    out = np.tril(rng.normal(size=(replicates, d, d)), -1)
    if n.min() < d:  # fewer samples than coordinates: no triangle of chi's has their moments
        most = int(n.max())
        return rng.normal(size=(replicates, d, most)) * (np.arange(most) < n[:, None])[:, None, :]
    i = np.arange(d)
    out[:, i, i] = np.sqrt(rng.chisquare(n[:, None] - i))
    return out


Sampled = SampledSetting()
"""The setting of a layer and samples of it; its attributes are hypotheses to choose from."""
