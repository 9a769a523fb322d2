"""A layer of a deep linear network under a shift: the setting of the risk claims."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from linnet.trials.algebra import Instance, Matrix, gap_after, rank, sq
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import KINDS, Raw, Setting, draw_matrices
from linnet.trials.views.layer import LayerView, chain


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
    sample_inside = Hypothesis(
        r"the sample lies where the population does: the range of $\mathrm{root}_n$ within that of $\mathrm{root}$",
        lambda v: [(v.population.gram.projector() @ v.sample.gram, "==", v.sample.gram)],
        impose="sample_inside",
    )
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
        lower = chain(weights[: shape.layer], cov_train.eye())
        upper = chain(weights[shape.layer + 1 :], weights[shape.layer].eye())
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
            "x": cov_train @ raw["x"] if "sample_inside" in imposed else raw["x"],
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


def _matched(r: int, d_out: int, d_in: int) -> int:
    """Channels that cost what LoRA of rank r costs."""
    return min(d_out, r * (d_out + d_in) // d_in)


Layer = LayerSetting()
"""The setting of a layer under shift; its attributes are hypotheses to choose from."""
