"""What it costs to change adapters, and to serve many at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy import stats

from linnet.llm import layer_work
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.workbench import Workbench
from linnet.llm.cost import in_turn, ratio
from linnet.llm.layer_work import LORA

CHANNELS, RANK = 32, 16
"""Of an adapter of S2FT, of one of LoRA: yang2024's."""
WIDTHS = (512, 1024, 2048, 4096)
"""Of the layer that changes adapters; the last is LLaMA2-7B's, and that of the layer that serves many."""
ADAPTERS = (4, 16, 64)
"""Served at once, one token each; the verdict is on the most, of which the paper expects the most."""
ROUNDS = 10
"""At most; no more than the budget has steps."""
SWITCHED = {"columns": "S2FT, neighbouring columns", "rows": "S2FT, neighbouring rows"}
SERVED = {"columns": "S2FT, columns", "rows": "S2FT, rows"}
"""What is judged of each axis: channels that were brought together, as S2FT does it to train them."""


class Serving(Check):
    """One linear layer that changes adapters, and one that serves a batch in which each example has its own.

    The layers are random, with as many inputs as outputs, in the precision of the model at hand and on its device;
    nothing else of the model matters to them. The paper's figure is of single layers, too.

    Switching takes one adapter out of the weight and puts another in. LoRA's product reaches all of the weight's
    entries, S2FT's increment a few columns or rows. The paper finds LoRA's time quadratic in the width, and S2FT's
    nearly constant. That is judged by the exponent, the slope of the median time against the width on logarithmic axes:
    LoRA's is promised within 1/2 of 2, and S2FT's below 1/2, nearer to constant than to linear. (S2FT touches as many
    entries as the width times its channels. Where they, and not the calls, take the time, it is linear.) And S2FT is
    promised to be the faster one at the largest width. All of it is promised of columns and of rows, which differ by
    how they lie in memory.

    Serving adds to the base product, example by example, that of its adapter: two thin products for LoRA, for S2FT one
    and a gather or a scatter. The paper finds S2FT up to 22 % faster, on a GPU, the more the more adapters there are;
    promised is that it is faster with the most of them.

    Columns are neighbours, as S2FT's reordering leaves them; scattered ones, as they lie in a base model that is left
    in its own order, cost many times as much. Beside stand all seconds, theirs and those of fewer adapters among them.
    Seconds are those of a machine that does nothing else: where others keep its processors busy, waiting for them
    outweighs the work, and hides how it grows.
    """

    id = "llm/serving"
    source = "yang2024, Figure 6"
    alone = True
    finding = (
        "On a single layer LoRA's switching time scales quadratically with the width, while that of S2FT remains "
        "nearly constant; many adapters in parallel are served up to 22 % faster by S2FT."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return how switching grows, and who is faster."""
        widest, most = max(WIDTHS), max(ADAPTERS)
        power, times = "power of the width", "times the time of S2FT"
        out = {"LoRA quadratic": Promise("exponent of LoRA's switching time, less 2", power, "within", 0.5)}
        for axis in SWITCHED:
            out |= {
                f"nearly constant ({axis})": Promise(f"1/2 less the exponent of switching {axis}", power),
                f"switching ({axis})": Promise(
                    f"LoRA's switching time over that of {axis} at width {widest}, less 1", times
                ),
                f"parallel ({axis})": Promise(
                    f"LoRA's time over that of {axis} for {most} adapters in a batch at width {widest}, less 1 "
                    "(the paper: up to 0.28, which is 22 % less time)",
                    times,
                ),
            }
        return out

    @torch.no_grad()
    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return exponents and ratios of one seed, less what is promised."""
        rounds, dtype, device = min(ROUNDS, bench.budget.steps), bench.language.model.dtype, bench.device
        out: dict[str, float] = {"rounds": rounds}
        median: dict[str, list[float]] = {}
        for width in WIDTHS:  # the last one stays, to be compared
            switched = in_turn(layer_work.switching(width, CHANNELS, RANK, dtype, device), rounds, device, seed)
            for name, values in switched.items():
                median.setdefault(name, []).append(float(np.median(values)))
                out[f"switching, width {width}, {name}: seconds"] = median[name][-1]
        for n in ADAPTERS:
            work = layer_work.serving(WIDTHS[-1], n, 1, CHANNELS, RANK, dtype, device)
            served = in_turn(work, rounds, device, seed)
            for name, values in served.items():
                out[f"{n} adapters, {name}: seconds"] = float(np.median(values))
        slopes = {name: float(stats.linregress(np.log(WIDTHS), np.log(v)).slope) for name, v in median.items()}
        out |= {f"switching, {name}: exponent": slope for name, slope in slopes.items()}
        out["LoRA quadratic"] = slopes[LORA] - 2
        for axis, name in SWITCHED.items():
            out |= {
                f"nearly constant ({axis})": 0.5 - slopes[name],
                f"switching ({axis})": ratio(switched, LORA, name) - 1,
                f"parallel ({axis})": ratio(served, LORA, SERVED[axis]) - 1,
            }
        return out
