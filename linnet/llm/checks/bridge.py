"""What the core's closed forms predict of a network's own layers, and what training them reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor, nn

import linnet as ln
from linnet.errors import StructureError
from linnet.llm import structure
from linnet.llm.bridge import Activations, BridgeRow, Training, bridge, collect
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.workbench import SEEDS, Workbench
from linnet.llm.data.base import Example
from linnet.llm.data.learner import Batch, Learner
from linnet.methods.base import Method

EXAMPLES = 16
"""Of each set; tokens of padding do not count."""
RANK = 8
"""Of LoRA; S2FT trains as many parameters of the layer, to the nearest channel."""
DESCENT = Training(steps=50)
"""How a layer is trained: L-BFGS, fifty directions."""
BEAT = 1e-6
"""Training cannot do better than the least risk, but for rounding: as a share of the frozen layer's."""
CLOSE = 0.05
"""How much of the frozen layer's risk training may leave above the least, and count as having reached it."""


class Bridge(Check):
    """Every linear map of the model on its own inputs, as a least-squares problem of one layer.

    A map sees the tokens of 16 training examples, and is asked for its own outputs less a multiple of the loss'
    gradient in them: to first order that is what fine-tuning asks of it, and the multiple changes no ratio of risks.
    The core solves this for full fine-tuning, LoRA and S2FT; L-BFGS trains the same from the usual start. Out of
    distribution the same solutions are judged on other examples, against what the loss there asks for.

    All maps of the model are dealt out to the five seeds, so that each is measured once; the number of a seed is the
    mean, or the largest, over its share. All is computed in double precision. Risks are shares of the frozen layer's
    excess risk on the same tokens.

    That training leaves less risk than the closed form would be an error of ours. That it comes close is no theorem:
    it needs many steps where inputs are ill-conditioned, as activations are. ``gradient`` beside says how near to
    standing still it ended.
    """

    id = "llm/bridge"
    source = "yang2024, Lemma F.12, and liu2025, eq. (33), solved by linnet's core"
    finding = (
        "Training one linear layer reaches the risks that the closed forms predict, and the closed forms tell which of "
        "LoRA and S2FT does better out of distribution."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return two promises a method, and one of the order of LoRA and S2FT."""
        unit = "share of the frozen layer's risk"
        out = {}
        for label in ("full FT", "LoRA", "S2FT"):
            out[f"{label}: not below"] = Promise(
                f"least risk predicted less that reached by {label}, the largest over the layers", unit, "at_most", BEAT
            )
            out[f"{label}: reached"] = Promise(
                f"risk reached less that predicted by {label}, mean over the layers", unit, "within", CLOSE
            )
        out["order"] = Promise(
            f"layers on which LoRA and S2FT are in the predicted order out of distribution ({bench.away}), above those "
            "that are right if the commoner order is always guessed",
            "share of the layers",
        )
        return out

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return risks of one seed's layers."""
        task = bench.task(bench.main_task, seed)
        # In single precision activations have directions that are rounding, and the closed forms would follow them.
        model, ask = bench.fresh(task, seed).eval().double(), bench.learner(task)
        layers = dealt(model, seed)
        away = next(s for s in task.evaluation.values() if s.distance == bench.away)
        seen = _collected(bench, model, ask, task.train[:EXAMPLES], layers)
        beyond = _collected(bench, model, ask, away.examples[:EXAMPLES], layers)
        rows: list[BridgeRow] = []
        for layer in layers:
            module = cast(nn.Linear, model.get_submodule(layer.name))
            here, there = seen[layer.name], beyond[layer.name]
            unit = _unit(here)
            rows += bridge(
                module.weight,
                module.bias,
                (here.inputs, _asked(here, unit)),
                layer.methods(seed),
                others={"away": (there.inputs, _asked(there, unit))},
                training=DESCENT,
            )
        return _numbers(rows) | {"layers": float(len(layers))}


@dataclass(frozen=True)
class Layer:
    """A linear map of a network.

    Attributes:
        name: of its module.
        columns: whether S2FT trains columns of it, as of output and down; rows otherwise.
        shape: (out, in).
    """

    name: str
    columns: bool
    shape: tuple[int, int]

    def methods(self, seed: int) -> dict[str, Method]:
        """Return what is compared, by name; S2FT's channels are drawn."""
        rank = min(RANK, *self.shape)
        units, other = (self.shape[1], self.shape[0]) if self.columns else self.shape
        count = min(units, max(1, round(rank * sum(self.shape) / other)))
        channels = np.random.default_rng(seed).choice(units, count, replace=False)
        return {
            "full FT": ln.FullFT(),
            "LoRA": ln.LoRA(rank),
            "S2FT": ln.S2FT(np.sort(channels), "columns" if self.columns else "rows"),
        }


def dealt(model: nn.Module, seed: int) -> list[Layer]:
    """Return the linear maps that fall to a seed: every fifth, of those of all blocks in one random order.

    Raises:
        StructureError: the model keeps its maps in another form than nn.Linear, or has too few.
    """
    every = {}
    for part in structure.find(model):
        for role, projection in part.projections.items():
            module = model.get_submodule(projection.module)
            if not isinstance(module, nn.Linear):
                raise StructureError(f"{projection.module} is a {type(module).__name__}; the bridge reads nn.Linear")
            columns = role in structure.OUTWARD.values()
            every[projection.module] = Layer(projection.module, columns, (module.out_features, module.in_features))
    order = np.random.default_rng(0).permutation(len(every))
    share = SEEDS.index(seed) if seed in SEEDS else seed % len(SEEDS)
    chosen = sorted(order[share :: len(SEEDS)])
    if not chosen:
        raise StructureError(f"{len(every)} linear maps are too few to be dealt out to {len(SEEDS)} seeds")
    return [list(every.values())[i] for i in chosen]


def _collected(
    bench: Workbench, model: nn.Module, ask: Learner, examples: Sequence[Example], layers: Sequence[Layer]
) -> dict[str, Activations]:
    batches = [ask.batch(examples[i : i + 8], bench.device) for i in range(0, len(examples), 8)]

    def loss(batch: Batch) -> Callable[[nn.Module], Tensor]:
        return lambda model: ask.outcome(model, batch).losses.mean()

    masks = [batch.inputs["attention_mask"] for batch in batches]
    return collect(model, [layer.name for layer in layers], [loss(b) for b in batches], masks=masks, gradient=True)


def _unit(seen: Activations) -> float:
    """Return the step in which the gradients are as long as the outputs."""
    assert seen.gradient is not None
    return float(seen.outputs.double().norm() / seen.gradient.double().norm())


def _asked(seen: Activations, step: float) -> Tensor:
    assert seen.gradient is not None
    return seen.outputs.double() - step * seen.gradient.double()


def _numbers(rows: Sequence[BridgeRow]) -> dict[str, float]:
    out: dict[str, float] = {}
    away: dict[str, list[BridgeRow]] = {}
    for label in dict.fromkeys(row.method for row in rows):
        here = [row for row in rows if row.method == label and row.data == "train"]
        away[label] = [row for row in rows if row.method == label and row.data == "away"]
        short = [(row.reached - row.predicted) / row.before for row in here]
        out |= {
            f"{label}: not below": -min(short),
            f"{label}: reached": float(np.mean(short)),
            f"{label}: gradient": float(np.mean([row.gradient for row in here])),
            f"{label}: predicted": float(np.mean([row.predicted / row.before for row in here])),
            f"{label}: predicted away": float(np.mean([row.predicted / row.before for row in away[label]])),
            f"{label}: reached away": float(np.mean([row.reached / row.before for row in away[label]])),
        }
    pairs = list(zip(away["LoRA"], away["S2FT"], strict=True))
    right = sum((lora.predicted < s2ft.predicted) == (lora.reached < s2ft.reached) for lora, s2ft in pairs)
    better, n = sum(lora.reached < s2ft.reached for lora, s2ft in pairs), len(pairs)
    # Counted before anything is divided: of seeds that all have 0 none is to be a rounding error above or below.
    out["order"] = (right - max(better, n - better)) / n
    return out | {"in the predicted order": right / n, "LoRA better away": better / n}
