"""Maps from few parameters to many: the setting of the claims about PEFT as a set, and about its Hessian."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from linnet.trials.algebra import Instance, Matrix, rank, sq
from linnet.trials.claim import Hypothesis
from linnet.trials.settings.base import KINDS, Raw, Setting, draw_matrices
from linnet.trials.views.parametrisation import FORMULAS, MAPS, ParametrisationView, kind_of, unit


@dataclass(frozen=True)
class ParametrisationShape:
    """``k`` parameters of PEFT, ``d`` of the network; of LoRA also (m, n, r) with d = mn and k = r(m + n)."""

    kind: str
    d: int
    k: int
    sides: tuple[int, ...] = ()


def lora_shape(m: int, n: int, r: int) -> ParametrisationShape:
    """Return the shape of (U, V) -> U V^T with U (m, r) and V (n, r)."""
    return ParametrisationShape("lora", m * n, r * (m + n), (m, n, r))


def _full(s: ParametrisationShape) -> bool:
    """Whether the Jacobian can have rank k at every point."""
    return s.kind != "lora" and s.k <= s.d


class ParametrisationSetting(Setting):
    """Linear maps, plane cubics with straight directions, and LoRA's U V^T."""

    name = "parametrisation"
    kinds = KINDS

    fewer = Hypothesis("$k < d$", lambda v: [(v.k, "<", v.d)], shape=lambda s: s.k < s.d)
    full_rank = Hypothesis(
        r"$g$ has full rank: its Jacobian has rank $k$ at every point of $\mathbb R^k$",
        lambda v: v.g.full_rank(),
        shape=_full,
    )
    embedded = Hypothesis(
        r"$g$ is $P\Phi$, $\operatorname{rank} P = k$, or the cubic with independent $\alpha, \beta, N$ and $s < 0$",
        lambda v: v.g.embedded(),
        shape=lambda s: _full(s) and s.k + (s.kind == "curve") <= s.d,
    )
    meeting = Hypothesis(r"$g(\Phi) = g(\Phi')$", lambda v: [(v.value, "==", v.other_value)], impose="meeting")
    lora = Hypothesis(
        r"$g(U, V) = U V^\top$", lambda v: [(v.kind == "lora", "==", 1)], shape=lambda s: s.kind == "lora"
    )
    full_factors = Hypothesis(
        "$U$ and $V$ have full column rank $r$",
        lambda v: [(rank(v.U), "==", v.g.r), (rank(v.V), "==", v.g.r)],
        shape=lambda s: s.kind == "lora",
    )
    loss = Hypothesis(r"the loss is $\nabla^\top\theta + \tfrac12\theta^\top H\theta$", impose="loss")
    positive_definite = Hypothesis("$H$ is positive definite", lambda v: [(rank(v.H), "==", v.d)])
    stationary = Hypothesis(
        r"the gradient of the loss at $\theta_0 + g(\Phi)$ is zero",
        lambda v: [(sq(v.slope), "==", 0)],
        impose="stationary",
    )

    def random_shape(self, rng: np.random.Generator) -> ParametrisationShape:
        kind = str(rng.choice(list(FORMULAS), p=[0.2, 0.4, 0.4]))
        if kind == "lora":
            m, n = 9, 9
            while m * n > 9:
                m, n = (int(x) for x in rng.integers(1, 5, size=2))
            return lora_shape(m, n, int(rng.integers(1, min(m, n) + 1)))
        k = int(rng.integers(1, 5))
        return ParametrisationShape(kind, max(1, k + int(rng.integers(-1, 4))), k)

    def small_shapes(self) -> Iterator[ParametrisationShape]:
        plain = [ParametrisationShape(kind, d, k) for kind in ("linear", "curve") for d in range(1, 6) for k in (1, 2)]
        sides = [(m, n, r) for m in range(1, 4) for n in range(1, 4) for r in range(1, min(m, n) + 1)]
        yield from sorted([*plain, *(lora_shape(*mnr) for mnr in sides)], key=self.size)

    def size(self, shape: ParametrisationShape) -> tuple[int, ...]:
        return (shape.d, shape.k, list(FORMULAS).index(shape.kind), *shape.sides)

    def parameters(self, shape: ParametrisationShape) -> dict[str, tuple[int, int]]:
        d, k = shape.d, shape.k
        if shape.kind == "lora":
            m, n, r = shape.sides
            sizes = {"U": (m, r), "V": (n, r), "other_V": (n, r), "mix": (r, r)}
            sizes |= {"direction_U": (m, r), "direction_V": (n, r)}
        else:
            sizes = {"at": (k, 1), "other": (k, 1), "direction": (k, 1)}
            if shape.kind == "linear":
                sizes["P"] = (d, k)
            else:
                sizes |= {"alpha": (d, 1), "beta": (d, 1), "s": (1, 1)} | {f"N_{j}": (d, 1) for j in range(k - 1)}
        return sizes | {"factor": (d, d), "grad": (d, 1)}

    def draw(self, shape: ParametrisationShape, kind: str, count: int, rng: np.random.Generator) -> Raw:
        raw = draw_matrices(self.parameters(shape), kind, count, rng)
        # The places where something happens: where LoRA starts, factors of zero, a cusp.
        for name, often in (("V", 0.1), ("mix", 0.3), ("s", 0.1)):
            if name in raw:
                raw[name] = np.where(rng.random((count, 1, 1)) < often, 0.0, raw[name])
        return raw

    def compose(self, shape: ParametrisationShape, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        build = {"linear": self._linear, "curve": self._curve, "lora": self._lora}[shape.kind]
        instance = {"g": FORMULAS[shape.kind]} | build(shape, raw, "meeting" in imposed)
        if "loss" in imposed:
            g = MAPS[shape.kind](instance)
            hessian = raw["factor"] @ raw["factor"].T
            still = -(hessian @ g.value(g.point(instance, ""))) if "stationary" in imposed else raw["grad"]
            instance |= {"H": hessian, "grad": still}
            instance |= {name: x for name, x in raw.items() if name.startswith("direction")}
        return instance

    def _linear(self, shape: ParametrisationShape, raw: dict[str, Matrix], meeting: bool) -> Instance:
        p, at = raw["P"], raw["at"]
        out = {"P": p, "at": at}
        return out | {"other": at + raw["other"] - p.pinv() @ (p @ raw["other"])} if meeting else out

    def _curve(self, shape: ParametrisationShape, raw: dict[str, Matrix], meeting: bool) -> Instance:
        out: Instance = {name: raw[name] for name in ("alpha", "beta")}
        if shape.k > 1:
            out["N"] = [raw[f"N_{j}"] for j in range(shape.k - 1)]
        if not meeting:
            return out | {"s": raw["s"], "at": raw["at"]}
        a, first = raw["s"], unit(raw["at"], 0)
        rest = raw["at"] - first @ (first.T @ raw["at"])  # the points are (a, y) and (-a, y), and s = a^2
        return out | {"s": a @ a, "at": rest + first @ a, "other": rest - first @ a}

    def _lora(self, shape: ParametrisationShape, raw: dict[str, Matrix], meeting: bool) -> Instance:
        u, v, a = raw["U"], raw["V"], raw["mix"]
        if not meeting:
            return {"U": u, "V": v}
        # (U A A^+) V^T = (U A) (V A^+^T + V' (I - A^+ A))^T: all pairs of factors, with A = 0 those of zero.
        back = a.pinv()
        kept = a @ back
        return {
            "U": u @ kept,
            "V": v,
            "other_U": u @ a,
            "other_V": v @ back.T + raw["other_V"] @ (a.eye() - back @ a),
        }

    def view(self, instance: Instance) -> ParametrisationView:
        return ParametrisationView(instance)

    def defects(self, instance: Instance) -> list[str]:
        from linnet.trials.exact import ExactMatrix, is_psd

        if instance["g"] not in FORMULAS.values():
            return [f"g {instance['g']!r} is none of {', '.join(FORMULAS.values())}"]
        kind = kind_of(instance)
        out = []
        if kind == "lora":
            (m, r), (n, other) = instance["U"].shape, instance["V"].shape
            if r != other or r > min(m, n):
                return ["U and V are not of one rank r, at most the smaller of their rows"]
            fits = {"U": (m, r), "V": (n, r)}
            d = m * n
        else:
            if kind == "linear":
                d, k = instance["P"].shape
            else:
                d, k = instance["alpha"].shape[0], len(instance.get("N", [])) + 1
                if any(x.shape != (d, 1) for x in (instance["alpha"], instance["beta"], *instance.get("N", []))):
                    out.append("alpha, beta and the columns of N are not columns of one length")
                if instance["s"].shape != (1, 1):
                    out.append("s is not a number")
            fits = {"at": (k, 1)}
        for name, size in fits.items():
            for which in (name, *(f"{w}_{name}" if kind == "lora" else w for w in ("other", "direction"))):
                if (which == name or which in instance) and instance[which].shape != size:
                    out.append(f"{which} is not {size[0]} x {size[1]}")
        if "H" in instance:
            h = instance["H"]
            if not (isinstance(h, ExactMatrix) and h.shape == (d, d) and is_psd(h.core)):
                out.append(f"H is not a symmetric positive semi-definite {d} x {d} matrix")
            if instance["grad"].shape != (d, 1):
                out.append("the length of grad does not fit")
        return out


Parametrisation = ParametrisationSetting()
"""The setting of a map of parameters; its attributes are hypotheses to choose from."""
