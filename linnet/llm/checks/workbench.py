"""Where checks are made: one model, one budget, and trainings that several checks look at."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar, get_args

import numpy as np
import torch
from torch import nn

from linnet.errors import ArgumentError, NonFiniteError
from linnet.llm.data.base import Distance, Example, Task
from linnet.llm.data.learner import Learner, learner
from linnet.llm.data.reasoning import PUZZLES, reasoning
from linnet.llm.data.reviews import reviews
from linnet.llm.models import LanguageModel
from linnet.llm.own import digest_of
from linnet.llm.systems.base import Prepared, System
from linnet.llm.training import Score, evaluate, train

Made = TypeVar("Made")
Recipe = System | Callable[[int], System]
"""A system; or what makes it of a seed, where what it trains depends on the seed's data or draws."""

SEEDS = (0, 42, 421, 520, 1228)
TUNING_SEED = 7
"""Learning rates are chosen on it; results never are."""
RATES: Mapping[str, float] = {
    "FullFT": 3e-4,
    "TopLayers": 3e-4,
    "LISA": 3e-4,
    "GaLore": 1e-3,
    "S2FT": 3e-3,
    "SpFT": 3e-3,
    "BitFit": 1e-2,
    "LoRA": 3e-3,
    "DoRA": 3e-3,
    "AdaLoRA": 3e-3,
    "IA3": 1e-2,
    "PrefixTuning": 1e-2,
    "SeriesAdapter": 1e-3,
    "ParallelAdapter": 1e-3,
    "LoReFT": 1e-3,
}
"""Where the search for a system's learning rate begins, by the name of its class."""


@dataclass(frozen=True)
class Budget:
    """How much a run may cost.

    Attributes:
        steps: of a training.
        batch_size: examples a step.
        train: training examples; of reviews, half of them of each class.
        evaluated: examples in distribution that a trained model is asked.
        beyond: examples at each distance out of it, shared by the sets of that distance, rounded up; as many of the
            training set.
        tokens: of a review; it is cut behind so many.
        rates: factors on a system's learning rate that are tried on the tuning seed.
        attacked: examples that are attacked, on each level.
        queries: texts that an attack may ask about, for an example.
    """

    steps: int
    batch_size: int
    train: int
    evaluated: int
    beyond: int
    tokens: int
    rates: tuple[float, ...]
    attacked: int
    queries: int


HEAD_RATE = 3e-3
"""Learning rate of an encoder's new head, under every system: what differs is then what the systems do to the model."""
BUDGETS: Mapping[str, Budget] = {
    "quick": Budget(6, 4, 24, evaluated=16, beyond=12, tokens=24, rates=(1.0,), attacked=2, queries=12),
    "small": Budget(20, 8, 160, evaluated=100, beyond=36, tokens=32, rates=(1 / 3, 1.0), attacked=10, queries=20),
    "full": Budget(50, 8, 200, evaluated=200, beyond=100, tokens=40, rates=(1 / 3, 1.0, 3.0), attacked=20, queries=40),
}


@dataclass(frozen=True)
class Run:
    """A training and what it led to.

    Attributes:
        n_parameters: trained, without the head.
        rate: learning rate.
        train: score on training examples, after training; on as many as the budget asks out of distribution, at most.
        scores: scores on the task's evaluation sets, by name; on those that were asked for.
    """

    n_parameters: int
    rate: float
    train: Score
    scores: Mapping[str, Score]

    def row(self) -> dict[str, Any]:
        """Return what an archive keeps."""
        scores = {name: _plain(score) for name, score in self.scores.items()}
        return {"n_parameters": self.n_parameters, "rate": self.rate, "train": _plain(self.train), "scores": scores}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the run that an archive kept."""
        scores = {name: _score(kept) for name, kept in row["scores"].items()}
        return cls(row["n_parameters"], row["rate"], _score(row["train"]), scores)


def _plain(score: Score) -> dict[str, list[float]]:
    return {"losses": score.losses.tolist(), "correct": score.correct.tolist()}


def _score(kept: Mapping[str, list[float]]) -> Score:
    return Score(np.array(kept["losses"]), np.array(kept["correct"], dtype=bool))


class Archive(Protocol):
    """What outlives the process: a journal."""

    def add(self, key: str, rows: str | None, error: str | None) -> None:
        """Keep rows, as JSON, under a key."""

    def done(self, key: str) -> bool:
        """Return whether something is kept under a key."""

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Return the rows that were kept under a key; none if nothing was."""


@dataclass
class Workbench:
    """One model under one budget. Equal trainings are done once.

    Attributes:
        language: the model.
        budget: what a training may cost.
        device: where it is computed.
        archive: keeps learning rates and scores of trainings, so that a run that was stopped does not train again.
    """

    language: LanguageModel
    budget: Budget
    device: str = "cpu"
    archive: Archive | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """Return what was made under a key before; make it if nothing was."""
        if key not in self._kept:
            self._kept[key] = make()
        made: Made = self._kept[key]
        return made

    def _for_good(self, key: tuple[Any, ...], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what was made under a key before, in this process or another of the same archive."""

        def kept() -> dict[str, Any]:
            written = json.dumps([*key, repr(self.budget)])
            found = self.archive.rows(written) if self.archive else []
            if found:
                return found[0]
            try:
                made = make()
            except Exception as error:
                if self.archive:  # whoever waits for it need not wait any longer
                    self.archive.add(written, None, str(error))
                raise
            if self.archive:
                self.archive.add(written, json.dumps([made]), None)
            return made

        return self.once(key, kept)

    # --- tasks ------------------------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model can be taught: an encoder classifies reviews, others write answers too."""
        return ("reviews",) if self.language.kind == "encoder" else (*PUZZLES, "reviews")

    @property
    def main_task(self) -> str:
        """Name of the task that a finding is measured on, where one is enough."""
        return self.tasks[0]

    @property
    def away(self) -> Distance:
        """The farthest distance at which the model can be asked: an encoder's head answers one question alone."""
        return "near" if self.language.kind == "encoder" else "far"

    def task(self, name: str, seed: int, *, train: int | None = None) -> Task:
        """Return a task as the budget has it, or with so many training examples.

        Raises:
            ArgumentError: no such task for this model.
        """
        if name not in self.tasks:
            raise ArgumentError(f"no task {name!r} for {self.language.name}; give one of {', '.join(self.tasks)}")
        count = self.budget.train if train is None else train
        return self.once(("task", name, seed, count), lambda: self._drawn(name, seed, count))

    def _drawn(self, name: str, seed: int, count: int) -> Task:
        most = max(self.budget.evaluated, self.budget.beyond)
        if name == "reviews":
            options = {"per_class": count // 2, "evaluated_per_class": (most + 1) // 2, "tokens": self.budget.tokens}
            return self._trimmed(reviews(seed, self.language.tokenizer, **options))
        return self._trimmed(reasoning(name, seed, train=count, evaluated=most))

    def _trimmed(self, task: Task) -> Task:
        """Return a task with as many examples at each distance as the budget evaluates."""
        sets = Counter(s.distance for s in task.evaluation.values())
        allowed = {d: self.budget.evaluated if d == "in" else -(-self.budget.beyond // n) for d, n in sets.items()}
        evaluation = {
            name: dataclasses.replace(s, examples=_first(s.examples, allowed[s.distance], len(task.classes)))
            for name, s in task.evaluation.items()
        }
        return dataclasses.replace(task, evaluation=evaluation)

    def learner(self, task: Task) -> Learner:
        """Return how the model is asked."""
        return learner(self.language, task)

    # --- models -----------------------------------------------------------------------------------

    def fresh(self, task: Task, seed: int) -> nn.Module:
        """Return a copy of the model that may be changed, on its device; an encoder with a head of the seed."""
        if self.language.kind == "encoder":
            return self.language.classifier(len(task.classes), seed).to(self.device)
        model: nn.Module = self.language.fresh()
        return model.to(self.device)

    def specimen(self, name: str) -> nn.Module:
        """Return the model as a task finds it, to be looked at and counted; it must not be changed."""
        if self.language.kind == "causal":
            return self.language.model
        task = self.task(name, TUNING_SEED)
        return self.once(("specimen", len(task.classes)), lambda: self.fresh(task, TUNING_SEED))

    @property
    def heads(self) -> tuple[str, ...]:
        """Modules that every system trains."""
        return ("head",) if self.language.kind == "encoder" else ()

    # --- trainings --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def prepared(self, system: System, task: Task, seed: int) -> Iterator[Prepared]:
        """Give a fresh model that a system is about to train; what the system adds depends on seed and task alone."""
        model = self.fresh(task, seed)
        with torch.random.fork_rng(devices=[self.device] if torch.device(self.device).type == "cuda" else []):
            # Of two tasks two draws: adapters that were trained apart share no random factor.
            torch.manual_seed(int(np.random.default_rng([seed, *task.name.encode()]).integers(2**62)))
            prepared = system.prepare(model, self.heads)
        with prepared:
            yield prepared

    @contextlib.contextmanager
    def trained(
        self, recipe: Recipe, name: str, seed: int, *, train: int | None = None
    ) -> Iterator[tuple[Prepared, Learner]]:
        """Give a freshly trained model, and how it is asked.

        Args:
            recipe: how it is trained.
            name: of the task.
            seed: of the task, the head, the order of the examples, and all else.
            train: number of training examples; the budget's by default.
        """
        rate = self.rate(recipe, name, train=train)
        with self._trained(_made(recipe, seed), self.task(name, seed, train=train), seed, rate) as both:
            yield both

    @contextlib.contextmanager
    def _trained(self, system: System, task: Task, seed: int, rate: float) -> Iterator[tuple[Prepared, Learner]]:
        ask = self.learner(task)
        with self.prepared(system, task, seed) as prepared:
            train(
                prepared,
                ask,
                task.train,
                steps=self.budget.steps,
                batch_size=min(self.budget.batch_size, len(task.train)),
                lr=rate,
                seed=seed,
                head_lr=HEAD_RATE,
            )
            yield prepared, ask

    def run(
        self,
        recipe: Recipe,
        name: str,
        seed: int,
        *,
        train: int | None = None,
        tuned: Recipe | None = None,
        distances: Sequence[Distance] = get_args(Distance),
    ) -> Run:
        """Return what training on a task leads to; the same training, asked at the same distances, is done once.

        Args:
            recipe: how the model is trained.
            name: of the task.
            seed: of the task, the head, the order of the examples, and all else.
            train: number of training examples; the budget's by default.
            tuned: what the learning rate is chosen for, where several recipes share one; the recipe by default.
            distances: at which the trained model is asked; all by default.
        """
        task = self.task(name, seed, train=train)
        rate = self.rate(recipe if tuned is None else tuned, name, train=train)

        def made() -> dict[str, Any]:
            with self._trained(system, task, seed, rate) as (prepared, ask):
                asked = {n: s for n, s in task.evaluation.items() if s.distance in distances}
                scores = {n: evaluate(prepared.model, ask, s.examples) for n, s in asked.items()}
                learned = evaluate(prepared.model, ask, task.train[: self.budget.beyond])
                return Run(prepared.n_parameters, rate, learned, scores).row()

        system = _made(recipe, seed)
        key = (repr(system), *digest_of(system), name, seed, len(task.train), rate, *distances)
        return self.once(("read", *key), lambda: Run.of(self._for_good(("run", *key), made)))

    def untrained(self, name: str, seed: int) -> Mapping[str, Score]:
        """Return the scores of the model as it came, on a task's evaluation sets."""

        def made() -> Mapping[str, Score]:
            task = self.task(name, seed)
            model, ask = self.fresh(task, seed).eval(), self.learner(task)
            return {n: evaluate(model, ask, s.examples) for n, s in task.evaluation.items()}

        return self.once(("untrained", name, seed), made)

    def rate(self, recipe: Recipe, name: str, *, train: int | None = None) -> float:
        """Return a system's learning rate on a task: of a few, the best in distribution on the tuning seed.

        The best is the most accurate, as in the papers; of several, that of the least loss. It is sought with the
        random choices of the tuning seed, whichever seed it is for.

        Raises:
            NonFiniteError: training diverges at every rate that is tried.
        """
        system = _made(recipe, TUNING_SEED)
        if "seed" in {f.name for f in dataclasses.fields(system)}:
            system = dataclasses.replace(system, seed=TUNING_SEED)  # type: ignore[call-arg]  # some systems have one
        tried = [RATES.get(type(system).__name__, 1e-3) * factor for factor in self.budget.rates]
        if len(tried) == 1:
            return tried[0]
        task = self.task(name, TUNING_SEED, train=train)
        key = ("rate", repr(system), *digest_of(system), name, len(task.train), *tried)
        best: float = self._for_good(key, lambda: {"rate": self._best(system, task, tried)})["rate"]
        return best

    def _best(self, system: System, task: Task, tried: list[float]) -> float:
        inside = next(s for s in task.evaluation.values() if s.distance == "in")
        found: dict[float, tuple[float, float]] = {}
        for rate in tried:
            # A rate at which training diverges is none to choose.
            with contextlib.suppress(NonFiniteError), self._trained(system, task, TUNING_SEED, rate) as (prepared, ask):
                score = evaluate(prepared.model, ask, inside.examples)
                found[rate] = (score.accuracy, -score.loss)
        if not found:
            raise NonFiniteError(
                f"{system.name} diverges on {task.name} at every learning rate that was tried, "
                f"{', '.join(f'{rate:.2g}' for rate in tried)}; lower RATES of {type(system).__name__}"
            )
        return max(found, key=found.__getitem__)


def _first(examples: Sequence[Example], count: int, n_classes: int) -> tuple[Example, ...]:
    """Return the first examples; of classes, equally many of each, as nearly as the count allows."""
    if not n_classes:
        return tuple(examples[:count])
    left = {label: (count + label) // n_classes for label in range(n_classes)}
    kept = []
    for example in examples:
        assert example.label is not None, "a task of classes has labels"
        if left[example.label]:
            left[example.label] -= 1
            kept.append(example)
    return tuple(kept)


def _made(recipe: Recipe, seed: int) -> System:
    return recipe if isinstance(recipe, System) else recipe(seed)


def by_distance(scores: Mapping[str, Score], task: Task, distance: str, measure: str = "loss") -> float:
    """Return the mean loss or accuracy of an example over a task's evaluation sets of a distance.

    Args:
        scores: by the name of the evaluation set.
        task: that they are of.
        distance: in, near or far.
        measure: of a score: loss or accuracy.

    Raises:
        ArgumentError: the task has no set there, or it was not asked.
    """
    asked = {n: s.distance for n, s in task.evaluation.items() if n in scores}
    found = [getattr(scores[n], measure) for n, there in asked.items() if there == distance]
    if not found:
        raise ArgumentError(f"{task.name} has no scores {distance} from its training examples")
    return float(sum(found) / len(found))


def beside(runs: Mapping[str, Run], task: Task) -> dict[str, float]:
    """Return what is kept of runs beside the numbers that are promised, by the label of the run.

    Parameters, learning rate, training loss; loss and accuracy at every distance.
    """
    out: dict[str, float] = {}
    for label, run in runs.items():
        out |= {
            f"{label}: parameters": run.n_parameters,
            f"{label}: learning rate": run.rate,
            f"{label}: training loss": run.train.loss,
        }
        for distance in dict.fromkeys(s.distance for n, s in task.evaluation.items() if n in run.scores):
            for measure in ("loss", "accuracy"):
                out[f"{label}: {measure} {distance}"] = by_distance(run.scores, task, distance, measure)
    return out
