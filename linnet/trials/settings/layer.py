"""A layer of a deep linear network under a shift: the setting of the risk claims."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from typing import Any

import numpy as np

from linnet import _linalg as la
from linnet.errors import MaskedWarning
from linnet.trials.algebra import (
    CLEAR,
    FloatMatrix,
    Matrix,
    clear,
    cond_sq,
    gap_after,
    rank,
    ratio,
    sq,
    sqrt,
    svd_r,
    tail_sq,
    trace,
)
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import KINDS, Instance, Raw, Setting, constant, draw_matrices


@dataclass(frozen=True)
class LayerShape:
    """Everything about an instance that is not a matrix entry; ``rank`` is LoRA's r, ``n`` the sample size."""

    widths: tuple[int, ...]
    layer: int
    rank: int
    channels: tuple[int, ...]
    k_train: int
    k_test: int
    n: int


@dataclass
class Solution:
    """What one method does to the network.

    Attributes:
        change: added to the end-to-end map, (q, p): upper delta lower.
        delta: added to the layer, (d_l, d_{l-1}).
        train_risk: excess risk in distribution, E_i.
        test_risk: excess risk out of distribution, E_o.
    """

    change: Matrix
    delta: Matrix | None
    view: LayerView = field(repr=False)

    @cached_property
    def train_risk(self) -> Any:
        """E_i after the update."""
        return self.view.excess_train(self.view.W + self.change)

    @cached_property
    def test_risk(self) -> Any:
        """E_o after the update."""
        return self.view.excess_test(self.view.W + self.change)


class Fit:
    """Least squares of one layer on population or sample moments, in the paper's symbols.

    Attributes:
        gram: lower Sigma lower^T, of the sample or the population.
        cross: D Sigma lower^T, with D-hat and Sigma-hat in the sample.
    """

    def __init__(self, view: LayerView, gram: Matrix, cross: Matrix) -> None:
        self.view, self.gram, self.cross = view, gram, cross

    @cached_property
    def root(self) -> Matrix:
        """gram^(1/2), symmetric (the paper's A)."""
        return self.gram.root()

    @cached_property
    def M(self) -> Matrix:
        """P_U cross root^+."""
        return self.view.P_U @ self.cross @ self.root.pinv()

    @cached_property
    def lora(self) -> Solution:
        """Minimum-norm LoRA of rank r."""
        return self.view.solve(self, "lora")

    @cached_property
    def s2ft(self) -> Solution:
        """Minimum-norm S2FT on the channels C."""
        return self.view.solve(self, "s2ft")

    @cached_property
    def full_ft(self) -> Solution:
        """Minimum-norm full fine-tuning of the layer."""
        return self.view.solve(self, "full_ft")

    @cached_property
    def energy(self) -> Any:
        """Size of what the risks on these moments are differences of, noise included (float64 margins)."""
        v = self.view
        if v.is_exact:
            return 0
        return (sqrt(sq(v.B_i)) + _norm_product(v.weights)) ** 2 * (v.cov_i.trace() + sq(v.x)) + sq(v.noise)

    @cached_property
    def step(self) -> Any:
        """Size of the updates that the moments could ask for: |upper^+|_F |root^+|_F |y| (float64 margins)."""
        return 0 if self.view.is_exact else sqrt(sq(self.view.upper.pinv()) * sq(self.root.pinv()) * self.energy)

    @cached_property
    def spread(self) -> Any:
        """Size of the excess risks that an update of size ``step`` could cause (float64 margins)."""
        v = self.view
        reach = sq(v.upper) * sq(v.lower) * (v.cov_i.trace() + v.cov_o.trace())
        return 0 if v.is_exact else self.step**2 * reach + v.scale

    def loss_drop(self, delta: Matrix) -> Any:
        """How far an update lowers the risk on these moments: 2 <cross, upper delta> - |upper delta root|^2."""
        moved = self.view.upper @ delta
        return (moved @ self.cross.T).trace() * 2 - (moved @ self.gram @ moved.T).trace()

    def greatest_loss_drop(self, r: int) -> Any:
        """The most that an update of rank at most r can lower the risk: the r largest eigenvalues of M M^T.

        Computed from (P_U cross) gram^+ (P_U cross)^T, without a root or a truncation.
        """
        reach = self.view.P_U @ self.cross
        whole = (reach @ self.gram.pinv() @ reach.T).trace()
        return whole - tail_sq(reach @ self.root.pinv(), r)

    def least_squares(self, left: Matrix) -> Matrix:
        """Least-norm minimiser over V of the risk with U = ``left`` fixed, as U V^T.

        Dense least squares over vec(V), knowing nothing of closed forms.
        """
        v = self.view
        moved = v.upper @ left
        rows, columns = left.shape[1], self.gram.shape[0]
        if v.is_exact:
            normal = (moved.T @ moved).kron(self.gram)
            solved = normal.pinv() @ (moved.T @ self.cross).reshape(rows * columns, 1)
        else:
            target = self.cross @ self.root.pinv()
            solved = moved.kron(self.root).pinv() @ target.reshape(moved.shape[0] * columns, 1)
        return left @ solved.reshape(rows, columns)


class LayerView:
    """A layer problem with its shift, in the symbols of yang2024.

    Attributes:
        W, B_i, B_o: pre-trained map and the two regression maps, (q, p).
        cov_i, cov_o: covariances of x in and out of distribution, (p, p).
        lower, upper, weight: frozen layers below and above, and the layer.
        r: LoRA's rank. s: number of S2FT's channels. C: those channels, from 0.
        x, noise: a sample, (p, n) and (q, n), for what is said of estimates.

    Source: yang2024, Sec. F.1-F.2.
    """

    def __init__(self, instance: Instance) -> None:
        self.weights: list[Matrix] = instance["weights"]
        self.layer: int = instance["layer"]
        self.r: int = instance["rank"]
        self.C: tuple[int, ...] = tuple(instance["channels"])
        self.B_i: Matrix = instance["coef_train"]
        self.B_o: Matrix = instance["coef_test"]
        self.cov_i: Matrix = instance["cov_train"]
        self.cov_o: Matrix = instance["cov_test"]
        self.x: Matrix = instance["x"]
        self.noise: Matrix = instance["noise"]
        self.is_exact = not isinstance(self.B_i, FloatMatrix)

    @property
    def s(self) -> int:
        """Number of channels, |C|."""
        return len(self.C)

    @cached_property
    def lower(self) -> Matrix:
        """Product of the layers below, (d_{l-1}, p)."""
        return _chain(self.weights[: self.layer], self.cov_i.eye())

    @cached_property
    def upper(self) -> Matrix:
        """Product of the layers above, (q, d_l)."""
        return _chain(self.weights[self.layer + 1 :], self.weight.eye())

    @property
    def weight(self) -> Matrix:
        """The layer, (d_l, d_{l-1})."""
        return self.weights[self.layer]

    @cached_property
    def W(self) -> Matrix:
        """Pre-trained map, (q, p)."""
        return self.upper @ self.weight @ self.lower

    @cached_property
    def D(self) -> Matrix:
        """B_i - W."""
        return self.B_i - self.W

    @cached_property
    def root_i(self) -> Matrix:
        """Sigma_i^(1/2)."""
        return self.cov_i.root()

    @cached_property
    def root_o(self) -> Matrix:
        """Sigma_o^(1/2)."""
        return self.cov_o.root()

    @cached_property
    def Z(self) -> Matrix:
        """D Sigma_i^(1/2)."""
        return self.D @ self.root_i

    @cached_property
    def I_p(self) -> Matrix:
        """Identity on inputs."""
        return self.cov_i.eye()

    @cached_property
    def I_q(self) -> Matrix:
        """Identity on outputs."""
        return self.B_i.eye()

    @cached_property
    def P_U(self) -> Matrix:
        """Projector on the range of upper."""
        return self.upper @ self.upper.pinv()

    @cached_property
    def U_C(self) -> Matrix:
        """[e_a : a in C], (d_l, s)."""
        rows = [[float(a == c) for c in self.C] for a in range(self.weight.shape[0])]
        return constant(self.weight, rows)

    @cached_property
    def P_C(self) -> Matrix:
        """Projector on the range of upper U_C."""
        chosen = self.upper @ self.U_C
        return chosen @ chosen.pinv()

    @cached_property
    def V_C(self) -> Matrix:
        """[e_b : b < min(s, d_{l-1})], the columns that column S2FT trains, (d_{l-1}, .).

        The first ones: which columns are chosen is which basis the layer below has, and that is drawn.
        """
        d = self.weight.shape[1]
        return constant(self.weight, [[float(a == b) for b in range(min(self.s, d))] for a in range(d)])

    @cached_property
    def carried_i(self) -> Matrix:
        """lower Sigma_i^(1/2)."""
        return self.lower @ self.root_i

    @cached_property
    def Pi(self) -> Matrix:
        """Projector on the row space of lower Sigma_i^(1/2)."""
        return self.carried_i.pinv() @ self.carried_i

    @cached_property
    def G(self) -> Matrix:
        """(lower Sigma_i^(1/2))^+ (lower Sigma_o^(1/2)): how the layer carries inputs across the shift."""
        return self.carried_i.pinv() @ (self.lower @ self.root_o)

    @cached_property
    def population(self) -> Fit:
        """The layer's least squares on the population."""
        return Fit(self, self.lower @ self.cov_i @ self.lower.T, self.D @ self.cov_i @ self.lower.T)

    @cached_property
    def sample(self) -> Fit:
        """The layer's least squares on the sample."""
        n = self.x.shape[1]
        second = (self.x @ self.x.T) * _one_over(n, self.is_exact)
        noise = (self.noise @ self.x.T) * _one_over(n, self.is_exact)
        return Fit(self, self.lower @ second @ self.lower.T, (self.D @ second + noise) @ self.lower.T)

    @cached_property
    def _first_sample(self) -> Matrix:
        """e_1, (n, 1)."""
        return constant(self.x, [[float(j == 0)] for j in range(self.x.shape[1])])

    @cached_property
    def one_input(self) -> Matrix:
        """What the first sample brings to the layer, (d_{l-1}, 1)."""
        return self.lower @ (self.x @ self._first_sample)

    @cached_property
    def one_gradient(self) -> Matrix:
        """Gradient of half the squared loss of the first sample by the layer's output, (d_l, 1)."""
        return -(self.upper.T @ (self.D @ (self.x @ self._first_sample) + self.noise @ self._first_sample))

    # --- solutions and risks ---------------------------------------------------------------------

    @cached_property
    def pretrained(self) -> Solution:
        """The network as it is."""
        return Solution(self.W - self.W, self.weight - self.weight, self)

    @property
    def lora(self) -> Solution:
        """Population solution of LoRA of rank r."""
        return self.population.lora

    @property
    def s2ft(self) -> Solution:
        """Population solution of S2FT on C."""
        return self.population.s2ft

    @property
    def full_ft(self) -> Solution:
        """Population solution of full fine-tuning of the layer."""
        return self.population.full_ft

    def excess_train(self, end_to_end: Matrix) -> Any:
        """E_i of a linear map (q, p)."""
        return sq((self.B_i - end_to_end) @ self.root_i)

    def excess_test(self, end_to_end: Matrix) -> Any:
        """E_o of a linear map (q, p)."""
        return sq((self.B_o - end_to_end) @ self.root_o)

    def solve(self, fit: Fit, method: str) -> Solution:
        """Return a method's solution: in float64 the library's own, exactly by its closed form in Q."""
        delta = self._exact_delta(fit, method) if self.is_exact else self._library_delta(fit, method)
        return Solution(self.upper @ delta @ self.lower, delta, self)

    def _exact_delta(self, fit: Fit, method: str) -> Matrix:
        reach = fit.cross @ fit.root.pinv()
        if method == "lora":
            return self.upper.pinv() @ svd_r(self.P_U @ reach, self.r) @ fit.root.pinv()
        if method == "s2ft":
            return self.U_C @ (self.upper @ self.U_C).pinv() @ fit.cross @ fit.gram.pinv()
        return self.upper.pinv() @ fit.cross @ fit.gram.pinv()

    def _library_delta(self, fit: Fit, method: str) -> Matrix:
        import linnet as ln

        rule = {"lora": ln.LoRA(self.r), "s2ft": ln.S2FT(self.C), "full_ft": ln.FullFT()}[method]
        problem = self._library_problem(fit)
        with warnings.catch_warnings():
            # Ties are masked by status: such instances do not count here, and are visited exactly.
            warnings.simplefilter("ignore", MaskedWarning)
            delta = rule.solve(problem).delta
        above = la.decompose(problem.upper, scale=problem.upper_scale).s
        plain = clear(above) & clear(la.decompose(problem.inputs, scale=problem.reach_scale).s)
        return FloatMatrix(np.where(plain[..., None, None], delta, np.nan))

    def _library_problem(self, fit: Fit) -> Any:
        """The same least squares as the library's ``LayerProblem``."""
        cached = getattr(fit, "_problem", None)
        if cached is not None:
            return cached
        import linnet as ln

        net = ln.DeepLinearNetwork(tuple(w.values for w in self.weights))  # type: ignore[attr-defined]
        coef, cov = self.B_i.values, self.cov_i.values  # type: ignore[attr-defined]
        if fit is self.__dict__.get("sample"):
            x, e = self.x.values, self.noise.values  # type: ignore[attr-defined]
            y = coef @ x + e
            moments = ln.Moments.from_data(np.swapaxes(x, -1, -2), np.swapaxes(y, -1, -2))
        else:
            moments = ln.Regression(coef=coef, signal_cov=cov).moments()
        problem = ln.LayerProblem(net, self.layer, moments)
        fit._problem = problem  # type: ignore[attr-defined]
        return problem

    @cached_property
    def start(self) -> Matrix:
        """A start of V for S2FT, (d_{l-1}, s): the layer's own rows on the channels, which can be anything."""
        return self.weight.T @ self.U_C

    def gradient_limit(self, start: Matrix) -> Matrix:
        """Where gradient flow of the population risk on V, U = U_C fixed, ends from ``start``, as U_C V^T.

        Half the risk is a quadratic with the Hessian K = (upper U_C)^T (upper U_C) kron gram: the flow moves V in the
        range of K alone, and there to the minimiser, V + K^+ (right-hand side - K V).
        """
        fit, moved = self.population, self.upper @ self.U_C
        rows, columns = start.shape[1], start.shape[0]
        now = start.T.reshape(rows * columns, 1)
        if self.is_exact:
            hessian = (moved.T @ moved).kron(fit.gram)
            slope = (moved.T @ fit.cross).reshape(rows * columns, 1) - hessian @ now
            return self.U_C @ (now + hessian.pinv() @ slope).reshape(rows, columns)
        # The same by the Hessian's root, so that condition numbers are not squared.
        left = fit.cross @ fit.root.pinv() - moved @ start.T @ fit.root
        step = moved.kron(fit.root).pinv() @ left.reshape(moved.shape[0] * columns, 1)
        return self.U_C @ (now + step).reshape(rows, columns)

    def lora_change(self, r: int) -> Matrix:
        """What population LoRA of rank ``r`` adds to the end-to-end map, (q, p)."""
        fit = self.population
        return svd_r(fit.M, r) @ fit.root.pinv() @ self.lower

    @cached_property
    def columns_change(self) -> Matrix:
        """What population S2FT on the columns V_C adds to the end-to-end map, (q, p)."""
        seen = self.V_C.T @ self.carried_i
        trained = self.population.cross @ self.V_C @ (seen @ seen.T).pinv()
        return self.P_U @ trained @ self.V_C.T @ self.lower

    # --- quantities of the assumptions -----------------------------------------------------------

    @cached_property
    def delta_sq(self) -> Any:
        """Least delta^2 of Assumption F.4 with C_0 = C: the share of upper^+ D Sigma_i^(1/2) off the channels."""
        pulled = self.upper.pinv() @ self.Z
        return ratio(sq(pulled - self.U_C @ (self.U_C.T @ pulled)), sq(pulled))

    @cached_property
    def eps_sq(self) -> Any:
        """Least epsilon^2 of Assumption F.5: |P_C (B_o - B_i) Sigma^(1/2)|^2 / E_o(pre)."""
        return ratio(sq(self.P_C @ (self.B_o - self.B_i) @ self.root_o), self.pretrained.test_risk)

    @cached_property
    def kappa_upper_sq(self) -> Any:
        """kappa_*(upper)^2."""
        return cond_sq(self.upper)

    @cached_property
    def scale(self) -> Any:
        """Size of what the risks are differences of, the unit of margins; NaN where products cancel.

        Rounding enters the risks relative to this, not to the risks: (|B_k|_F + prod |W_l|_F)^2 tr Sigma_k.
        Where the frozen layers' product nearly cancels, float64 cannot tell its rank.
        """
        below, above = self.weights[: self.layer], self.weights[self.layer + 1 :]
        size = _norm_product(self.weights)
        total = (sqrt(sq(self.B_i)) + size) ** 2 * trace(self.cov_i)
        total = total + (sqrt(sq(self.B_o)) + size) ** 2 * trace(self.cov_o)
        cancels = _cancels(self.lower, below) | _cancels(self.upper, above)
        return np.where(cancels, np.nan, total)


class LayerSetting(Setting):
    """Networks, two regressions and a sample: B_i = W + residual, B_o = B_i + shift, Sigma = F F^T."""

    name = "layer"
    kinds: tuple[str, ...] = KINDS

    no_covariate_shift = Hypothesis(
        r"no covariate shift: $\Sigma_i = \Sigma_o$",
        lambda v: [(v.cov_o, "==", v.cov_i)],
        impose="no_covariate_shift",
    )
    realisable = Hypothesis(
        r"realisable: $B_i = \overline W B \underline W$ for some $B$",
        lambda v: [(v.upper @ v.upper.pinv() @ v.B_i @ v.lower.pinv() @ v.lower, "==", v.B_i)],
        impose="realisable",
    )
    white = Hypothesis(r"$\Sigma_i = I$", lambda v: [(v.cov_i, "==", v.I_p)], impose="white")
    one_layer = Hypothesis(
        "the network has one layer",
        lambda v: [(len(v.weights), "==", 1)],
        shape=lambda z: len(z.widths) == 2,
    )
    residual = Hypothesis("the pre-trained risk in distribution is positive", lambda v: [(sq(v.Z), ">", 0)])
    test_residual = Hypothesis(
        r"F.5 with its least $\epsilon$, which exists where $\mathcal E_o(\text{pre}) > 0$",
        lambda v: [(v.pretrained.test_risk, ">", 0)],
    )
    budgets_within_rank = Hypothesis(
        r"$s \le \operatorname{rank}\Sigma_f$ and $r \le \operatorname{rank}\Sigma_f$",
        lambda v: [(rank(v.Z), ">=", v.s), (rank(v.Z), ">=", v.r)],
    )
    sparse_channels = Hypothesis(r"F.4 with its least $\delta$: $C_0 = C$")  # no restriction: it defines delta
    apart = Hypothesis(
        r"$\sigma_s(A) > \sigma_{s+1}(A)$, with $A = B_i$, $B = B_o$, $s = r$",
        lambda v: [(here, ">", after) for here, after in [gap_after(v.B_i, v.r)]],
    )
    budget_matched = Hypothesis(
        r"budget-matched sparsity: $s = \lfloor r(d_\ell + d_{\ell-1})/d_{\ell-1}\rfloor$, at most $d_\ell$",
        lambda v: [(v.s, "==", _matched(v.r, *v.weight.shape))],
        shape=lambda z: len(z.channels) == _matched(z.rank, z.widths[z.layer + 1], z.widths[z.layer]),
    )
    equal_rank = Hypothesis(
        "equal rank: $s = r$", lambda v: [(v.s, "==", v.r)], shape=lambda z: len(z.channels) == z.rank
    )

    def random_shape(self, rng: np.random.Generator) -> LayerShape:
        # Small ones often: a violation that asks for a coincidence is likeliest where there is little to fit.
        depth = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.35, 0.3, 0.25, 0.04, 0.03, 0.03]))
        most = int(rng.choice([3, 5, 8], p=[0.45, 0.45, 0.1]))
        widths = tuple(int(d) for d in rng.integers(1, most + 1, size=depth + 1))
        layer = int(rng.integers(0, depth))
        return self._shape(widths, layer, rng)

    def _shape(self, widths: tuple[int, ...], layer: int, rng: np.random.Generator) -> LayerShape:
        p, d_in, d_out = widths[0], widths[layer], widths[layer + 1]
        # Below full rank more often than not: at full rank LoRA reaches what full fine-tuning does.
        full = min(d_in, d_out)
        r = int(rng.integers(1, (max(1, full - 1) if rng.random() < 0.6 else full) + 1))
        matched = _matched(r, d_out, d_in)
        s = matched if rng.random() < 0.5 else int(rng.integers(1, d_out + 1))
        channels = tuple(sorted(int(c) for c in rng.permutation(d_out)[:s]))
        k_train, k_test = (p if p == 1 or rng.random() < 0.5 else int(rng.integers(1, p)) for _ in range(2))
        return LayerShape(widths, layer, r, channels, k_train, k_test, int(rng.integers(1, 2 * p + 2)))

    def small_shapes(self) -> Iterator[LayerShape]:
        shapes = []
        for depth in (1, 2, 3):
            for widths in product(range(1, 4), repeat=depth + 1):
                if sum(widths) > 8:
                    continue
                for layer in range(depth):
                    d_in, d_out = widths[layer], widths[layer + 1]
                    for r in range(1, min(d_in, d_out) + 1):
                        for s in range(1, d_out + 1):
                            shapes += [
                                LayerShape(widths, layer, r, c, widths[0], widths[0], n)
                                for c in list(combinations(range(d_out), s))[:1]
                                for n in (1, 2)
                            ]
        yield from sorted(shapes, key=self.size)

    def size(self, shape: LayerShape) -> tuple[int, ...]:
        return (sum(shape.widths), len(shape.widths), shape.n, shape.rank, len(shape.channels))

    def parameters(self, shape: LayerShape) -> dict[str, tuple[int, int]]:
        w, p, q = shape.widths, shape.widths[0], shape.widths[-1]
        sizes = {f"weight_{i}": (w[i + 1], w[i]) for i in range(len(w) - 1)}
        return sizes | {
            "residual": (q, p),
            "latent": (w[shape.layer + 1], w[shape.layer]),
            "shift": (q, p),
            "factor_train": (p, shape.k_train),
            "factor_test": (p, shape.k_test),
            "x": (p, shape.n),
            "noise": (q, shape.n),
        }

    def draw(self, shape: LayerShape, kind: str, count: int, rng: np.random.Generator) -> Raw:
        raw = draw_matrices(self.parameters(shape), kind, count, rng)
        # The degenerate cases that every claim should meet: nothing to learn, nothing shifted, and the
        # plain cases where only one thing differs from the identity.
        if rng.random() < 0.15:
            raw["shift"] = 0.0 * raw["shift"]
        if rng.random() < 0.05:
            raw["residual"] = 0.0 * raw["residual"]
            raw["latent"] = 0.0 * raw["latent"]
        if rng.random() < 0.2:
            for k in ("factor_train", "factor_test"):
                raw[k] = np.broadcast_to(np.eye(*raw[k].shape[-2:]), raw[k].shape).copy()
        if rng.random() < 0.15:
            for i in range(len(shape.widths) - 1):
                raw[f"weight_{i}"] = np.broadcast_to(np.eye(*raw[f"weight_{i}"].shape[-2:]), raw[f"weight_{i}"].shape)
                raw[f"weight_{i}"] = raw[f"weight_{i}"].copy()
        return raw

    def compose(self, shape: LayerShape, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        weights = [raw[f"weight_{i}"] for i in range(len(shape.widths) - 1)]
        cov_train = raw["factor_train"] @ raw["factor_train"].T
        if "white" in imposed:
            cov_train = cov_train.eye()
        cov_test = raw["factor_test"] @ raw["factor_test"].T
        lower = _chain(weights[: shape.layer], cov_train.eye())
        upper = _chain(weights[shape.layer + 1 :], weights[shape.layer].eye())
        residual = upper @ raw["latent"] @ lower if "realisable" in imposed else raw["residual"]
        coef_train = upper @ weights[shape.layer] @ lower + residual
        return {
            "weights": weights,
            "layer": shape.layer,
            "rank": shape.rank,
            "channels": list(shape.channels),
            "coef_train": coef_train,
            "coef_test": coef_train + raw["shift"],
            "cov_train": cov_train,
            "cov_test": cov_train if "no_covariate_shift" in imposed else cov_test,
            "x": raw["x"],
            "noise": raw["noise"],
        }

    def view(self, instance: Instance) -> LayerView:
        return LayerView(instance)

    def defects(self, instance: Instance) -> list[str]:
        from linnet.trials.exact import ExactMatrix, is_psd

        out = []
        weights: list[Matrix] = instance["weights"]
        widths = [weights[0].shape[1]] + [w.shape[0] for w in weights]
        if any(w.shape[1] != widths[i] for i, w in enumerate(weights)):
            out.append("neighbouring widths do not fit")
        layer, r, channels = instance["layer"], instance["rank"], instance["channels"]
        if not all(type(whole) is int for whole in (layer, r, *channels)):
            return [*out, "layer, rank and channels are not whole numbers"]
        if not 0 <= layer < len(weights):
            return [*out, f"there is no layer {layer}"]
        p, q, d_in, d_out = widths[0], widths[-1], widths[layer], widths[layer + 1]
        if not 1 <= r <= min(d_in, d_out):
            out.append(f"rank {r} is outside 1 to {min(d_in, d_out)}")
        if not channels or len(set(channels)) != len(channels) or not all(0 <= c < d_out for c in channels):
            out.append(f"channels {channels} are not a set of 0 to {d_out - 1}")
        if instance["coef_train"].shape != (q, p) or instance["coef_test"].shape != (q, p):
            out.append("the regression maps do not fit the network")
        for name in ("cov_train", "cov_test"):
            m = instance[name]
            if not (isinstance(m, ExactMatrix) and m.shape == (p, p) and is_psd(m.core)):
                out.append(f"{name} is not a symmetric positive semi-definite {p} x {p} matrix")
        n = instance["x"].shape[1]
        if n < 1 or instance["x"].shape[0] != p or instance["noise"].shape != (q, n):
            out.append("the sample does not fit the network")
        return out


def _chain(weights: list[Matrix], out: Matrix) -> Matrix:
    for w in weights:
        out = w @ out
    return out


def _matched(r: int, d_out: int, d_in: int) -> int:
    """Channels that cost what LoRA of rank r costs."""
    return min(d_out, r * (d_out + d_in) // d_in)


def _norm_product(weights: list[Matrix]) -> Any:
    size: Any = 1.0
    for w in weights:
        size = sqrt(sq(w)) * size
    return size


def _cancels(end: Matrix, weights: list[Matrix]) -> Any:
    """Whether a product is small against its factors without being zero."""
    if not weights:
        return False
    norm = sqrt(sq(end))
    return (norm != 0) & (norm < CLEAR * _norm_product(weights))


def _one_over(n: int, exact: bool) -> Any:
    from fractions import Fraction

    return Fraction(1, n) if exact else 1.0 / n


Layer = LayerSetting()
"""The setting of a layer under shift; its attributes are hypotheses to choose from."""
