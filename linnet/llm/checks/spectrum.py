"""What the rank of full fine-tuning's increment is worth."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linnet.llm import spectrum
from linnet.llm.capacity import ROUNDING
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.scores import LOSS
from linnet.llm.checks.workbench import Workbench
from linnet.llm.data.base import Example
from linnet.llm.data.learner import Learner
from linnet.llm.objective import Objective, model_loss
from linnet.llm.structure import ROLES
from linnet.llm.systems import places
from linnet.llm.systems.full import FullFT
from linnet.llm.training import evaluate

SHARES = {"10 %": 0.1, "1 %": 0.01}
"""Epsilon, as a share of the energy of all increments together; fixed before anything was measured."""
RANKS = (1, 4, 16, 64)
"""Besides the critical ones."""
BLOCKS = 6
"""The last blocks, in whose maps the bound is measured: all of MiniLM's, a fifth of SmolLM2's."""
POINTS = 3
"""Gradients on the way from a cut increment to the whole one, ends included."""
EXAMPLES = 8
"""Training examples that the bound is measured on."""
EVALUATED = 32
"""Examples in distribution, at most, that losses of cut increments are measured on."""


class Spectrum(Check):
    """Loss of a model whose increments of full fine-tuning are cut to a rank, all maps of all blocks to the same one.

    Everything else that was trained - embeddings, normalisation, biases, an encoder's head - stays as training left it,
    so that the whole increment is the trained model itself.

    - Eq. (36): cutting costs at most L times the root of the energy that is cut off. The paper's L, one for all
      weights, does not exist (``liu2025/eq-35``); here it is the largest gradient at three points of the way from the
      cut increment to the whole one. With the largest of the whole way the inequality is the mean value theorem; with
      that of the points it holds up to what the points miss, the distance between the cost and Simpson's sum. That is
      allowed for, so that the promise holds by arithmetic, and a ratio above 1 would be a fault of linnet's. What is to
      be learned is how far below 1 it is, and that L changes with the rank, beside. It is measured on a few training
      examples, with the maps of the last six blocks cut, which bounds what it takes on larger models.
    - Eq. (34) and (38): from the critical rank on, where the energy beyond is below epsilon, performance reaches a
      plateau or declines: the whole increment gains little over the one cut there, on examples that it was not trained
      on, all maps cut. The paper leaves epsilon open; it is a tenth, and a hundredth, of the energy. A gain is little
      up to the number of nats by which ``llm/rank`` calls a change little. A loss that rises again is the decline.

    Where training gains less than that as a whole, there is a plateau everywhere: the loss at rank 0 stands beside.
    """

    id = "llm/spectrum"
    source = "liu2025, Theorem 3"
    finding = (
        "Cutting the increment of full fine-tuning to rank r costs at most L times the root of the discarded energy; "
        "beyond a critical rank performance reaches a plateau or declines."
    )

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return the bound, and a plateau for every epsilon."""
        out = {
            "bound": Promise(
                "cost of a cut over L times the root of the discarded energy, the largest",
                "ratio",
                "at_most",
                1 + ROUNDING,
            )
        }
        return out | {
            f"plateau ({share})": Promise(
                f"{LOSS.little} nats less what the whole increment gains, in distribution, over the one cut to the "
                f"critical rank for {share} of the energy",
                "nats an example",
            )
            for share in SHARES
        }

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the worst ratio and the gains beyond the critical ranks, of one seed."""
        name = bench.main_task
        task = bench.task(name, seed)
        inside = next(s for s in task.evaluation.values() if s.distance == "in").examples[:EVALUATED]
        base = bench.fresh(task, seed)
        names = [f"{module}.weight" for module in places.maps(base, ROLES)]
        frozen = {n: base.get_parameter(n).detach() for n in names}
        del base  # of which the maps' weights alone are needed
        with bench.trained(FullFT(), name, seed) as (prepared, ask):
            model = prepared.model
            found = [decomposed(n, model.get_parameter(n).detach() - frozen[n]) for n in names]
            spectra = [one.spectrum for one in found]
            energy = sum(float(one.tails[0]) for one in spectra)
            ranks = {f"rank {rank}": rank for rank in RANKS if rank < max(len(one.values) for one in spectra)}
            critical = {share: spectrum.critical_rank(spectra, part * energy) for share, part in SHARES.items()}
            ranks |= {f"critical rank ({share})": rank for share, rank in critical.items()}
            out = _of_spectra(spectra, critical)
            cuts = bounded(model, frozen, ask, task.train[:EXAMPLES], ranks.values())
            losses = lost(model, frozen, found, ask, (task.train[:EXAMPLES], inside), ranks.values())
        whole = losses[None]
        ratios = {rank: _ratio(one) for rank, one in cuts.items()}
        for label, rank in {"whole": None, "rank 0": 0, **ranks}.items():
            out[f"{label}: training loss"], out[f"{label}: loss in"] = losses[rank]
            if rank:
                at = cuts[rank]
                out |= {
                    f"{label}: cost over bound": ratios[rank],
                    f"{label}: cost": at.cost,
                    f"{label}: slope": at.slope,
                    f"{label}: root of the energy": at.energy**0.5,
                    f"{label}: gap": at.gap,
                }
        gains = {f"plateau ({share})": LOSS.little - (losses[rank][1] - whole[1]) for share, rank in critical.items()}
        return {"bound": max(ratios.values()), **gains, **out}


@dataclass(frozen=True)
class Decomposed:
    """The increment of a map: its spectrum, left singular vectors times singular values, and right ones (k, d_in)."""

    spectrum: spectrum.Spectrum
    left: Tensor
    right: Tensor


def decomposed(name: str, increment: Tensor) -> Decomposed:
    """Return an increment's singular values and vectors, which are computed once for all ranks."""
    u, s, vt = torch.linalg.svd(increment.double(), full_matrices=False)
    return Decomposed(spectrum.Spectrum(name, s.cpu().numpy()), (u * s).to(increment), vt.to(increment))


def bounded(
    model: nn.Module, frozen: Mapping[str, Tensor], ask: Learner, examples: Sequence[Example], ranks: Iterable[int]
) -> dict[int, spectrum.Cut]:
    """Return what cutting the maps of the last blocks costs, by rank; the others stay as they were trained."""
    last = tuple(f"{name}." for name, _ in places.blocks(model)[-BLOCKS:])
    names = [name for name in frozen if name.startswith(last)]
    batch = ask.batch(examples, next(model.parameters()).device)
    loss = model_loss(model, names, lambda call: ask.outcome(call, batch).losses.mean())
    objective = Objective([loss], [frozen[name] for name in names])
    increments = [model.get_parameter(name).detach() - frozen[name] for name in names]
    different = sorted(set(ranks))
    return dict(zip(different, spectrum.cuts(objective, increments, different, points=POINTS), strict=True))


@torch.no_grad()
def lost(
    model: nn.Module,
    frozen: Mapping[str, Tensor],
    increments: Sequence[Decomposed],
    ask: Learner,
    sets: Sequence[Sequence[Example]],
    ranks: Iterable[int],
) -> dict[int | None, list[float]]:
    """Return the losses on sets of examples with all maps cut, by rank, 0 included; None is the trained model.

    The model is left with its maps cut.
    """
    out: dict[int | None, list[float]] = {None: [evaluate(model, ask, examples).loss for examples in sets]}
    for rank in sorted({0, *ranks}):
        for one in increments:
            name = one.spectrum.name
            model.get_parameter(name).copy_(frozen[name] + one.left[:, :rank] @ one.right[:rank])
        out[rank] = [evaluate(model, ask, examples).loss for examples in sets]
    return out


def _ratio(cut: spectrum.Cut) -> float:
    return abs(cut.cost) / (cut.bound + cut.gap) if cut.cost else 0.0


def _of_spectra(spectra: Sequence[spectrum.Spectrum], critical: Mapping[str, int]) -> dict[str, float]:
    """Return how fast the singular values fall: medians over the maps are of shares of the full rank."""
    full = max(len(one.values) for one in spectra)
    out = {
        "effective rank, median share of the full one": statistics.median(
            one.effective_rank / len(one.values) for one in spectra
        ),
        "full rank": full,
    }
    return out | {f"critical rank ({share}): rank": rank for share, rank in critical.items()}
