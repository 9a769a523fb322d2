"""What a fine-tuning system is: a rule that says what of a model is trained, and how a step is taken."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import nn

from linnet.errors import ArgumentError, BudgetError, StructureError
from linnet.llm.structure import ROLES, Layout
from linnet.llm.systems import places

_MARK = "_linnet_system"


def adamw(parameters: Any, **settings: Any) -> torch.optim.AdamW:
    """Return AdamW that goes through memory once a step: several times as fast on a CPU, where a whole model trains."""
    return torch.optim.AdamW(parameters, fused=True, **settings)


@dataclass(frozen=True)
class Attached:
    """What a system made of a model.

    Attributes:
        groups: parameter groups of the optimiser, as torch has them; a group's own settings win.
        model: what to call from now on; the model itself if None.
        optimizer: makes the optimiser, called with the groups, ``lr=`` and ``weight_decay=``.
    """

    groups: Sequence[dict[str, Any]]
    model: nn.Module | None = None
    optimizer: Callable[..., torch.optim.Optimizer] = adamw


class Prepared:
    """A model that a system is about to train, or has trained.

    The optimiser does all that belongs to a step: a training loop calls ``backward``, ``step`` and ``zero_grad``, and
    nothing of the system's. As a context, it gives the base model back at the end.

    Attributes:
        system: what prepared it.
        model: what to call.
        parameters: all that is trained, heads included, each once.
        heads: those of them that belong to the heads.
        n_parameters: number of elements that the system can change, in the model or beside it; the heads, which every
            system trains alike, do not count.
        n_moments: number of elements whose moments the optimiser holds at one time, without the heads: the measure of
            a budget. It is less than ``n_parameters`` where a system trains in turns, or in a projection.
    """

    def __init__(
        self,
        system: System,
        base: nn.Module,
        attached: Attached,
        counts: tuple[int, int],
        heads: Sequence[nn.Parameter],
        undo: ExitStack,
    ) -> None:
        self.system = system
        self.model = base if attached.model is None else attached.model
        self.heads = list(heads)
        # A head that the system trains in any case goes to the heads' group, and is counted there.
        known = {id(p) for p in heads}
        shared = sum(p.numel() for group in attached.groups for p in group["params"] if id(p) in known)
        self.n_parameters, self.n_moments = (count - shared for count in counts)
        groups = [{**group, "params": [p for p in group["params"] if id(p) not in known]} for group in attached.groups]
        self._groups = [group for group in (*groups, {"params": self.heads}) if group["params"]]
        self.parameters: list[nn.Parameter] = [p for group in self._groups for p in group["params"]]
        self._optimizer, self._base, self._undo = attached.optimizer, base, undo

    def optimizer(self, lr: float, weight_decay: float = 0.0, *, head_lr: float | None = None) -> torch.optim.Optimizer:
        """Return the system's optimiser: AdamW, unless it has its own.

        Args:
            lr: learning rate.
            head_lr: that of the heads, which are trained alike under every system; ``lr`` if None.
            weight_decay: decoupled, as AdamW has it, of what is trained: a weight decays to zero, and so does what a
                system adds to it.

        Raises:
            ArgumentError: the model was restored.
        """
        if _MARK not in vars(self._base):
            raise ArgumentError(f"the model was restored; prepare it again for {self.system.name}")
        groups = [dict(group) for group in self._groups]
        if self.heads and head_lr is not None:
            groups[-1]["lr"] = head_lr  # they come last
        return self._optimizer(groups, lr=lr, weight_decay=weight_decay)

    def restore(self) -> None:
        """Give the base model back as it was: weights to the bit, ``requires_grad``, modules, hooks.

        What was trained beside the model stays in ``parameters``; what was trained within it is gone. A second call
        does nothing.
        """
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


@dataclass(frozen=True, kw_only=True)
class System(ABC):
    """A fine-tuning system. Subclasses are frozen dataclasses, one a file; all their fields have defaults.

    Attributes:
        layout: where a model of a type that linnet does not know keeps its matrices.
    """

    name: ClassVar[str]
    """As the field writes it."""
    source: ClassVar[str]
    """The paper that it is from."""
    origin: ClassVar[Literal["torch", "peft", "linnet"]] = "linnet"
    """Whose code trains."""
    merges: ClassVar[bool]
    """Whether what was trained can be written into the base model's weights, so that it costs nothing at inference."""
    batches: ClassVar[bool]
    """Whether one base can serve a batch whose rows have different adapters, at the price of small dense products."""
    dense: ClassVar[bool] = False
    """Whether every weight of the matrices that it trains can change freely in the course of training."""
    size: ClassVar[str | None] = None
    """The field that a budget decides; None if the system comes in one size."""

    layout: Layout | None = None

    def n_parameters(self, model: nn.Module) -> int:
        """Return the number of elements that the system can change, in the model or beside it."""
        return self._count(_a_module(model))

    def n_moments(self, model: nn.Module) -> int:
        """Return the number of elements whose moments the optimiser holds at one time: the measure of a budget."""
        return self._count_moments(_a_module(model))

    def prepare(self, model: nn.Module, heads: Sequence[str] = ()) -> Prepared:
        """Freeze a model but for what the system trains, and add to it what the system adds.

        Args:
            model: a transformer, or a module that holds one; changed in place until it is restored.
            heads: names of modules that are trained besides, in full and under every system alike, such as a new
                classifier's.

        Raises:
            ArgumentError: the model is already prepared, or a head is not there, has no weights, or lies in a block.
            StructureError: the model lacks what the system trains.
        """
        if _MARK in vars(_a_module(model)):
            raise ArgumentError(
                f"the model is already prepared for {vars(model)[_MARK]}; restore it before it is prepared for "
                f"{self.name}"
            )
        trained_besides = _heads(model, heads)
        counts = self.n_parameters(model), self.n_moments(model)
        with ExitStack() as undo:  # what goes wrong half-way is undone
            setattr(model, _MARK, self.name)
            undo.callback(delattr, model, _MARK)
            _freeze(model, undo)
            attached = self._attach(model, undo)
            release(trained_besides, undo)
            return Prepared(self, model, attached, counts, trained_besides, undo.pop_all())

    @abstractmethod
    def _count(self, model: nn.Module) -> int:
        """Return the number of elements that the system can change."""

    def _count_moments(self, model: nn.Module) -> int:
        """Return the number of elements whose moments are held at one time."""
        return self._count(model)

    @abstractmethod
    def _attach(self, model: nn.Module, undo: ExitStack) -> Attached:
        """Make of a frozen model what is trained; put on ``undo`` what takes it back."""

    def _most(self, model: nn.Module) -> int:
        """Return the largest useful value of ``size``."""
        raise NotImplementedError(f"{type(self).__name__} has a size, and so needs _most")

    @classmethod
    def at_budget(cls, model: nn.Module, n_parameters: int, **fields: Any) -> Self:
        """Return the largest instance that trains at most ``n_parameters`` at one time (see ``n_moments``).

        Args:
            model: what is to be trained, not yet prepared.
            n_parameters: the budget.
            fields: the other fields of the system.

        Raises:
            ArgumentError: the budget is no whole number above 0, or the size is given besides.
            BudgetError: even the smallest instance trains more.
        """
        whole(n_parameters, "n_parameters")
        if cls.size in fields:
            raise ArgumentError(f"{cls.size}={fields[cls.size]!r} and a budget: the budget decides {cls.size}")
        smallest = cls(**fields) if cls.size is None else cls(**{**fields, cls.size: 1})
        if (least := smallest.n_moments(model)) > n_parameters:
            raise BudgetError(
                f"{cls.name} trains {least:,} parameters of this model at the least; the budget is {n_parameters:,}"
            )
        if cls.size is None:
            return smallest
        low, high = 1, max(1, smallest._most(model))
        while low < high:  # what fits is known of low, and unknown up to high
            middle = (low + high + 1) // 2
            if cls(**{**fields, cls.size: middle}).n_moments(model) <= n_parameters:
                low = middle
            else:
                high = middle - 1
        return cls(**{**fields, cls.size: low})


def _a_module(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"a model is a torch module; given is {model!r}")
    return model


def whole(value: object, name: str, least: int = 1) -> None:
    """Refuse what is no whole number from ``least`` on.

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{name}={value!r}; give a whole number, {least} or more")


def positive(value: object, name: str) -> None:
    """Refuse what is no number above 0.

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ArgumentError(f"{name}={value!r}; give a number above 0")


def among_roles(roles: object) -> None:
    """Refuse what is no tuple of roles.

    Raises:
        ArgumentError: it is none, it is empty, or a role is unknown.
    """
    if not isinstance(roles, tuple) or not roles or any(role not in ROLES for role in roles):
        raise ArgumentError(f"roles={roles!r}; give a tuple of some of {', '.join(ROLES)}")


def elements(parameters: Iterable[torch.Tensor]) -> int:
    """Return how many elements tensors have together."""
    return sum(p.numel() for p in parameters)


def release(parameters: Iterable[nn.Parameter], undo: ExitStack) -> list[nn.Parameter]:
    """Let parameters of the base model be trained, and keep a copy of them to restore."""
    released = list(parameters)
    copies = [p.detach().clone() for p in released]

    def write_back() -> None:
        with torch.no_grad():
            for p, copy in zip(released, copies, strict=True):
                p.copy_(copy)
                p.grad = None

    undo.callback(write_back)
    for p in released:
        p.requires_grad_(True)
    return released


def add(parent: nn.Module, name: str, child: nn.Module, undo: ExitStack) -> None:
    """Make a module the child of one of the model's, on the device and in the precision that fit it.

    Half precision is trained in float32.
    """
    if hasattr(parent, name):
        raise StructureError(f"a {type(parent).__name__} has a {name!r} already; rename it to add another")
    like = next(parent.parameters())
    half = like.dtype.itemsize < 4
    parent.add_module(name, child.to(device=like.device, dtype=torch.float32 if half else like.dtype))
    undo.callback(delattr, parent, name)


def _freeze(model: nn.Module, undo: ExitStack) -> None:
    """Freeze all parameters; their flags come back at the end."""
    flags = [(p, p.requires_grad) for p in model.parameters()]

    def unfreeze() -> None:
        for p, flag in flags:
            p.requires_grad_(flag)

    undo.callback(unfreeze)
    model.requires_grad_(False)


def _heads(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"heads={names!r}; give a list of names of modules")
    found: dict[int, nn.Parameter] = {}
    for name in names:
        try:
            found |= {id(p): p for p in model.get_submodule(name).parameters()} if name else {}
        except AttributeError:
            raise ArgumentError(f"heads: the model has no module {name!r}") from None
    if names and not found:
        raise ArgumentError(f"heads={list(names)}: these have no weights to train")
    if names and any(id(p) in found for _, block in places.blocks(model) for p in block.parameters()):
        raise ArgumentError(f"heads={list(names)}: blocks are the system's to train; name modules outside of them")
    return list(found.values())


def described(system: System) -> str:
    """Return a system with its size, and those of its other fields that are not as they come: ``LoRA(rank=8)``."""
    kept = [
        f"{field.name}={value!r}"
        for field in dataclasses.fields(system)
        if (value := getattr(system, field.name)) != field.default or field.name == system.size
    ]
    return f"{type(system).__name__}({', '.join(kept)})"
