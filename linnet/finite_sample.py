"""Expected risks of what a method finds on a sample, without sampling.

The setting: inputs x ~ N(0, Sigma) and Gaussian noise, no means and no biases. On whitened inputs z the residual is
T z + noise, and a method that trains Phi in delta = U Phi V^T sees the m features g = Q z, where Q has orthonormal
rows and V^T A = L Q. With P the projector on the range of upper U,

    P (T z + noise) = Theta g + eta,   Theta = P T Q^T,   cov(eta) = P K P,   K = noise_cov + T (1 - Q^T Q) T^T,

and eta is independent of g: what the features miss acts as noise. On n samples, G (m, n) of features and N (q, n) of
noise, the method finds Theta G G^+ + P N G^+ in place of Theta.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import ArgumentError, RankError, ShapeError
from linnet.methods.base import Method
from linnet.methods.full import FullFT
from linnet.methods.lora import LoRA
from linnet.problem import LayerProblem, Update
from linnet.risk import excess_risk
from linnet.task import Shift

EVEN = 1e-9
"""Relative spread of singular values up to which the features count as isotropic."""


@dataclass(frozen=True)
class Expectation:
    """Means over samples, (...), in squared units of y; each None where it is not known.

    Attributes:
        train: of the in-distribution excess risk; infinite where the sample only just fits.
        test: of the out-of-distribution excess risk.
        variance: of the mean square distance on training inputs between the sample's solution and the
            population's, as in ``bias_variance``.
        order: "exact", or "first": then n times the mean tends to n times this as n grows.
    """

    train: Any
    test: Any
    variance: Any
    order: Literal["exact", "first"] = "exact"


def expectation(method: Method, problem: LayerProblem, shift: Shift, n: int) -> Expectation | None:
    """Return the expected risks of ``method`` on the moments about zero of ``n`` samples of ``shift.train``.

    The sample's solution is that of ``Regression.sample_moments``. With m the rank of the features that the method
    sees, v = tr(P K) / (n - m - 1), E_i and E_o the risks of the population's solution:

    - n >= m + 2, exact: variance = m v, E_i + m v, and E_o + v tr[V^T lower Sigma_o lower^T V (V^T gram V)^+].
    - n <= m - 2, exact where the singular values of V^T A are all equal, so that the n directions that are seen are
      any n of the m alike. Known also at n = m - 1 without noise.
    - n from m - 1 to m + 1 with tr(P K) > 0: infinite, for a feature may be seen arbitrarily little.
    - LoRA whose rank cuts nothing off is full fine-tuning. Where it cuts, n >= m + 2 and the r-th singular value
      is positive: its variance alone, to first order in 1/n.

    Args:
        method: one whose updates have two ``ends``, or LoRA.
        problem: the layer on ``shift.train.moments()``.
        shift: the task that is sampled, and the one that is tested.
        n: number of samples.

    Returns:
        None where no closed form is known: methods of another form (SpFT, IA3, BitFit, LoRA of a rank above that of
        what the layer could learn, or between tied singular values), uneven features below interpolation, biases,
        means and intercepts, whose mean square adds a constant feature that is no Gaussian. In a batch all
        elements must be known, and LoRA's of one kind.

    Raises:
        ShapeError: n below 1.
        ArgumentError: an argument is something else, or the problem's moments are not those of ``shift.train``.
        RankError: as ``LoRA.solve``.

    Source: our own. docs/proofs/finite-sample.md for n >= m + 2; the others are derived where they are computed.
    """
    la.require_kind(method, Method, "method", "give a method such as FullFT() or S2FT([0])")
    la.require_kind(problem, LayerProblem, "problem", "give LayerProblem(net, layer, shift.train.moments())")
    la.require_kind(shift, Shift, "shift", "give a Shift(train, test)")
    if not la.is_whole(n) or n < 1:
        raise ShapeError(f"n = {n!r} samples; give a whole number, at least 1")
    if not _through_the_origin(problem, shift):
        return None
    _require_population(problem, shift)
    if isinstance(method, LoRA):
        return _lora(method, problem, shift, n)
    ends = method.ends(problem)
    return None if ends is None else _two_ended(method, _Features.of(problem, shift, *ends), problem, shift, n)


def frozen_expectation(
    frozen: Literal["U", "V"], rank: int, problem: LayerProblem, shift: Shift, n: float
) -> Expectation | None:
    """Return the expected risk of LoRA with one factor frozen at a Gaussian draw, over the draws and over samples.

    Where the layers above have equal positive singular values, the outputs that a frozen U of rank r reaches are any
    r of the k directions that the layer reaches, all alike; of a frozen V the same goes for the m features, where these
    are even. With M the reachable residual and t = r/k (r/m for V), the population's solution leaves |M|^2 (1 - t) more
    than full fine-tuning does. On n samples tr(P K) becomes t tr(P_U K) for U; for V, whose r features miss the others,
    it grows by (1 - t) |M|^2.

    Args:
        frozen: which factor.
        rank: its number of columns, at least 1.
        problem: the layer on ``shift.train.moments()``, without a batch.
        shift: the task that is sampled, and the one that is tested.
        n: number of samples; ``inf`` for the population.

    Returns:
        ``train`` and ``variance``, the latter about the population's solution with the same frozen factor; ``test`` is
        None. None where singular values differ, where there are fewer samples than features and two, for biases, means
        and intercepts.

    Raises:
        RankError: a rank below 1.
        ArgumentError: as ``expectation``.

    Source: docs/proofs/finite-sample.md for a fixed factor; the mean over draws is that of a Haar projector, a multiple
        of the identity.
    """
    if not la.is_whole(rank) or rank < 1:
        raise RankError(f"rank {rank!r}; give a whole number, at least 1")
    if not _through_the_origin(problem, shift):
        return None
    _require_population(problem, shift)
    f = _Features.of(problem, shift, *FullFT().ends(problem))
    above = la.decompose(problem.upper, rtol=problem.rtol, scale=problem.upper_scale)
    size = above.s[above.s > 0]
    even = bool(f.even) if frozen == "V" else len(size) > 0 and float(size[0] - size[-1]) <= EVEN * float(size[0])
    m, whole = int(f.rank), int(f.rank if frozen == "V" else above.rank)
    if not even or whole == 0:
        return None
    kept = min(rank, whole)
    share, explained = kept / whole, float(la.sq(problem.residual))
    noise = float(f.noise) * (share if frozen == "U" else 1.0) + (explained * (1 - share) if frozen == "V" else 0.0)
    seen = m if frozen == "U" else kept
    if n < seen + 2:
        return None
    variance = 0.0 if n == float("inf") else seen * noise / (n - seen - 1)
    left = float(excess_risk(problem.net, shift.train)) - share * explained
    return Expectation(left + variance, None, variance)


def _through_the_origin(problem: LayerProblem, shift: Shift) -> bool:
    tasks = (shift.train, shift.test)
    return not problem.has_biases and all(t.mean is None and t.intercept is None for t in tasks)


def _require_population(problem: LayerProblem, shift: Shift) -> None:
    given, own = problem.moments, shift.train.moments()
    if not la.is_concrete(given.xx, given.yx, own.xx, own.yx, *problem.net.weights, shift.test.coef):
        raise ArgumentError("which closed form holds depends on the ranks; call expectation outside jit and vmap")
    same = given.n is None and given.x_mean is None
    if same:
        power = la.trace(own.xx), la.trace(own.yy)
        xp = la.namespace(given.xx)
        for a, b, size in ((given.xx, own.xx, power[0] ** 2), (given.yy, own.yy, power[1] ** 2)):
            a, b, size = la.together(a, b, size)
            same = same and not bool(xp.any(la.sq(a - b) > 1e-10 * size))
        a, b, size = la.together(given.yx, own.yx, power[0] * power[1])
        same = same and not bool(xp.any(la.sq(a - b) > 1e-10 * size))
    if not same:
        raise ArgumentError(
            "the problem's moments are not the population moments of shift.train; "
            "build it as LayerProblem(net, layer, shift.train.moments())"
        )


@dataclass(frozen=True)
class _Features:
    """What a method with two ends sees of the inputs, and what acts as noise on the outputs that it reaches.

    Attributes:
        rank: m, (...), floating.
        reach: rank of upper U, (...), floating.
        even: whether the positive singular values of V^T A are equal, (...).
        noise: tr(P K), (...), exactly zero where it is rounding or there is no feature.
        missed: T (1 - Q^T Q), (..., q, k).
        noise_cov: of the task, beside the problem's arrays.
        seen: tr[V^T lower Sigma_o lower^T V (V^T gram V)^+], (...), exactly zero where it is rounding.
    """

    rank: Array
    reach: Array
    even: Array
    noise: Array
    missed: Array
    noise_cov: Array
    seen: Array

    @classmethod
    def of(cls, problem: LayerProblem, shift: Shift, left: Array, right: Array) -> _Features:
        scales = problem.upper_scale * la.size(left), problem.reach_scale * la.size(right)
        outputs = la.decompose(problem.upper @ left, rtol=problem.rtol, scale=scales[0])
        features = la.decompose(la.mT(right) @ problem.inputs, rtol=problem.rtol, scale=scales[1])
        target, noise_cov, cov = la.together(problem.target, shift.train.noise_cov, shift.test.signal_cov)
        xp = la.namespace(target)
        positive = features.s > 0
        rows = features.vt * xp.astype(positive, target.dtype)[..., :, None]
        missed = target - (target @ la.mT(rows)) @ rows
        reached = la.mT(outputs.basis)
        eps = la.rank_rtol(target)
        rank = xp.astype(features.rank, target.dtype)
        noise = _above(la.energy(reached, noise_cov), eps * la.trace(noise_cov))
        noise = noise + _above(la.sq(reached @ missed), problem.residual_floor**2)
        ahead = features.inverse[..., :, None] * (la.mT(features.u) @ (la.mT(right) @ problem.lower))
        return cls(
            rank=rank,
            reach=xp.astype(outputs.rank, target.dtype),
            even=xp.all(~positive | (features.s >= (1 - EVEN) * features.s[..., :1]), axis=-1),
            noise=xp.where(rank > 0, noise, 0.0),
            missed=missed,
            noise_cov=noise_cov,
            seen=_above(la.energy(ahead, cov), eps * la.sq(ahead) * la.trace(cov)),
        )


def _above(value: Array, floor: Array) -> Array:
    """Return ``value`` (...) with an exact zero for what is rounding: it is multiplied by what may be infinite."""
    return la.namespace(value, floor).where(value > floor, value, 0.0)


def _two_ended(method: Method, f: _Features, problem: LayerProblem, shift: Shift, n: int) -> Expectation | None:
    xp = la.namespace(f.rank)
    m, noise = f.rank, f.noise
    update = method.solve(problem)
    known = (n >= m) | f.even & ((n <= m - 2) | (noise == 0)) | (n == m - 1) & (noise > 0)
    if not bool(xp.all(known | (update.status != la.OK))):
        return None
    # G G^+ projects on n of the m directions, if n < m, all alike: its mean is n/m, and for symmetric S that of
    # G G^+ S G G^+ is (n/m)^2 S + spread ((m - 2)/m S + tr(S)). The mean of (G G^T)^+ is a multiple of 1, of trace
    # m/(n - m - 1), or n/(m - n - 1).
    one = xp.where(m > 0, m, 1.0)
    rows = xp.where(n < m, n, m)
    share = xp.where(m > 0, rows / one, 1.0)
    spread = rows * (m - rows) / (one * xp.where(m > 1, m - 1, 1.0) * (m + 2))
    spare = xp.where(n >= m + 2, n - m - 1, xp.where(n <= m - 2, one * (m - n - 1) / n, 0.0))
    level = xp.where(noise > 0, xp.where(spare > 0, noise / xp.where(spare > 0, spare, 1.0), float("inf")), 0.0)
    moved = problem.upper @ update.delta @ problem.lower
    explained = la.sq(problem.upper @ update.delta @ problem.inputs)
    variance = explained * (1 - share) + m * level
    shrunk = Update(share[..., None, None] * update.delta, update.layer)
    moved, cov, seen, level = la.together(moved, shift.test.signal_cov, f.seen, level)
    strays = spread * ((m - 2) / one * la.energy(moved, cov) + seen * explained)
    noisy = xp.where(seen > 0, xp.where(seen > 0, seen, 1.0) * level, 0.0)
    return Expectation(
        train=la.as_result(excess_risk(problem.net.updated(update), shift.train) + variance),
        test=la.as_result(excess_risk(problem.net.updated(shrunk), shift.test) + strays + noisy),
        variance=la.as_result(variance),
    )


def _lora(method: LoRA, problem: LayerProblem, shift: Shift, n: int) -> Expectation | None:
    """LoRA on a sample, X_n = SVD_r(M_n) S_n^(-1/2), S_n the features' second moment.

    With S_n = 1 + D and N the noise's moment with the features, both of order n^(-1/2), M_n = M + M D / 2 + N. In the
    singular bases of M, i <= r < j, the derivative of SVD_r has the entries

        (s_i^2 E_ij + s_i s_j E_ji) / (s_i^2 - s_j^2)   and   (s_i^2 E_ji + s_i s_j E_ij) / (s_i^2 - s_j^2),

    E_ij for i, j <= r, and zero beyond. The entries of N and those of D above its diagonal are uncorrelated, of
    variances K_ii / n and 1 / n. Summed up, n times the variance is

        m sum_i K_ii + r (tr K - sum_i K_ii)
        + sum_(i <= r < j) [(K_ii + K_jj) s_j^2 (3 s_i^2 - s_j^2) + s_i^2 s_j^2 (s_i^2 + s_j^2)] / (s_i^2 - s_j^2)^2:

    that of least squares along the matrices of rank r, and what the truncated part adds.
    """
    r = int(method.rank)
    update = method.solve(problem)  # refuses an impossible rank, and a tie
    f = _Features.of(problem, shift, *FullFT().ends(problem))
    xp = la.namespace(f.rank)
    use = update.status == la.OK
    if r == 0:
        still = excess_risk(problem.net.updated(update), shift.train)
        variance = la.sq(problem.upper @ update.delta @ problem.inputs)
        return Expectation(still, excess_risk(problem.net.updated(update), shift.test), la.as_result(variance))
    whole = r >= xp.where(f.rank < f.reach, f.rank, f.reach)
    if bool(xp.all(whole | ~use)):
        return _two_ended(FullFT(), f, problem, shift, n)
    if n <= r:  # the sample's moment has no higher rank, but the population's has
        full = _two_ended(FullFT(), f, problem, shift, n)
        return None if full is None else replace(full, variance=None)
    left, s, _ = problem.residual_svd
    s = xp.where(s > problem.residual_floor[..., None], s, 0.0)
    cut = (s[..., r - 1] > 0) & ~la.has_tie(s, r, problem.residual_floor) & (n >= f.rank + 2)
    if not bool(xp.all(cut & ~whole | ~use)):
        return None
    left = la.mT(left)
    each = xp.sum((left @ f.noise_cov) * left, axis=-1) + xp.sum((left @ f.missed) ** 2, axis=-1)
    head, tail = s[..., :r, None] ** 2, s[..., None, r:] ** 2
    kept, other = each[..., :r, None], each[..., None, r:]
    gap = xp.where(head > tail, head - tail, 1.0)
    turning = ((kept + other) * tail * (3 * head - tail) + head * tail * (head + tail)) / gap**2
    reached = xp.sum(kept, axis=(-2, -1))
    total = f.rank * reached + r * (f.noise - reached) + xp.sum(turning, axis=(-2, -1))
    return Expectation(None, None, la.as_result(la.mask_failed(total / n, update.status)), "first")
