"""A layer problem with its shift, in the symbols of yang2024."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from linnet import _linalg as la
from linnet.errors import MaskedWarning
from linnet.trials.algebra import (
    CLEAR,
    FloatMatrix,
    Instance,
    Matrix,
    clear,
    cond_sq,
    constant,
    ratio,
    sq,
    sqrt,
    svd_r,
    tail_sq,
    trace,
)


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
        of_sample: whether the moments are the sample's.
    """

    def __init__(self, view: LayerView, gram: Matrix, cross: Matrix, of_sample: bool = False) -> None:
        self.view, self.gram, self.cross, self.of_sample = view, gram, cross, of_sample

    @cached_property
    def problem(self) -> Any:
        """The same least squares as the library's ``LayerProblem``, in float64."""
        import linnet as ln

        v = self.view
        net = ln.DeepLinearNetwork(tuple(_values(w) for w in v.weights))
        coef = _values(v.B_i)
        if not self.of_sample:
            return ln.LayerProblem(net, v.layer, ln.Regression(coef=coef, signal_cov=_values(v.cov_i)).moments())
        x = _values(v.x)
        y = coef @ x + _values(v.noise)
        return ln.LayerProblem(net, v.layer, ln.Moments.from_data(np.swapaxes(x, -1, -2), np.swapaxes(y, -1, -2)))

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
        return chain(self.weights[: self.layer], self.cov_i.eye())

    @cached_property
    def upper(self) -> Matrix:
        """Product of the layers above, (q, d_l)."""
        return chain(self.weights[self.layer + 1 :], self.weight.eye())

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
        return Fit(self, self.lower @ second @ self.lower.T, (self.D @ second + noise) @ self.lower.T, of_sample=True)

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
        problem = fit.problem
        with warnings.catch_warnings():
            # Ties are masked by status: such instances do not count here, and are visited exactly.
            warnings.simplefilter("ignore", MaskedWarning)
            delta = rule.solve(problem).delta
        above = la.decompose(problem.upper, scale=problem.upper_scale).s
        plain = clear(above) & clear(la.decompose(problem.inputs, scale=problem.reach_scale).s)
        return FloatMatrix(np.where(plain[..., None, None], delta, np.nan))

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


def chain(weights: list[Matrix], out: Matrix) -> Matrix:
    """Return the product of layers, the last one to the left, times ``out``."""
    for w in weights:
        out = w @ out
    return out


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


def _values(m: Matrix) -> np.ndarray:
    """Entries of a batch in float64."""
    assert isinstance(m, FloatMatrix)
    return m.values
