"""What is lost far from the training data, for what is gained on them."""

from __future__ import annotations

from collections.abc import Mapping

from linnet.llm.checks import matched
from linnet.llm.checks.base import Check, Promise
from linnet.llm.checks.workbench import Recipe, Workbench, beside, by_distance
from linnet.llm.systems.full import FullFT


class Forgetting(Check):
    """Losses on other tasks than the trained one: S2FT and LoRA of equally many parameters, and full fine-tuning.

    Theorem 4.2 speaks of excess risks E of a linear network. Without covariate shift, and for a task that can be
    learned whole, its label shift |(B_o - B_i) Sigma^(1/2)|^2 is E_o(full): full fine-tuning answers by the training
    task, whatever it is asked. So the shift is measured here by the far loss of full fine-tuning; on S2FT's channels it
    is no larger. The theorem's two halves then say

    - E_o(S2FT) <= (1 + 3 epsilon^2) E_o(pre), with epsilon^2 E_o(pre) the shift on its channels, at most E_o(full):
      E_o(S2FT) <= E_o(pre) + 3 E_o(full). Of losses, which are excess risks and the same constant, the inequality
      follows. It is generous.
    - E_o(LoRA) >= the shift = E_o(full): LoRA forgets no less than full fine-tuning. (For linear networks this half is
      false as printed: `yang2024/theorem-f8-lora`, replaced by `linnet/lora-label-shift`.)

    and the paper concludes that S2FT is expected to outperform LoRA out of distribution, which is the third promise.

    Beside stand each system's gain in distribution, and what it forgets: far loss less the base model's. By
    `linnet/forgetting` one over the other is the same for all methods where the shift leads straight back: whoever
    gains as much forgets as much.

    An encoder's head answers no other question, and is new: only causal models have something to forget.
    """

    id = "llm/forgetting"
    source = "yang2024, Theorem 4.2 and Section 4.1"
    finding = (
        "The out-of-distribution risk of S2FT stays bounded by that of the pre-trained model times a factor, that of "
        "LoRA is at least the label shift, so that S2FT outperforms LoRA far from the training data."
    )
    kinds = ("causal",)

    def promises(self, bench: Workbench) -> Mapping[str, Promise]:
        """Return the theorem's two halves and its consequence."""
        unit = "nats an example"
        return {
            "S2FT bounded": Promise(
                "far loss of the base model, and three times that of full fine-tuning, above that of S2FT", unit
            ),
            "LoRA at least the shift": Promise("far loss of LoRA above that of full fine-tuning", unit),
            "S2FT over LoRA": Promise("far loss of LoRA above that of S2FT", unit),
        }

    def measure(self, bench: Workbench, seed: int) -> Mapping[str, float]:
        """Return the differences of losses of one seed."""
        name = bench.main_task
        task = bench.task(name, seed)
        systems: dict[str, Recipe] = {
            "full FT": FullFT(),
            "LoRA": matched.lora(bench, name),
            "S2FT": matched.s2ft(bench, name),
        }
        runs = {label: bench.run(recipe, name, seed) for label, recipe in systems.items()}
        base = bench.untrained(name, seed)
        far = {label: by_distance(run.scores, task, "far") for label, run in runs.items()}
        before = {distance: by_distance(base, task, distance) for distance in ("in", "far")}
        out = {
            "S2FT bounded": before["far"] + 3 * far["full FT"] - far["S2FT"],
            "LoRA at least the shift": far["LoRA"] - far["full FT"],
            "S2FT over LoRA": far["LoRA"] - far["S2FT"],
        }
        for label, run in runs.items():
            gained = before["in"] - by_distance(run.scores, task, "in")
            forgotten = far[label] - before["far"]
            out |= {f"{label}: gained": gained, f"{label}: forgotten": forgotten}
        return out | {f"base: loss {distance}": loss for distance, loss in before.items()} | beside(runs, task)
