"""How claims are planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from linnet.trials.claim import Claim, Hypothesis, Relation, claim
from linnet.trials.settings.base import Setting

FALSE: dict[str, Claim] = {}
TRUE: dict[str, Claim] = {}


def false(
    name: str, setting: Setting, relation: Relation, function: Callable[[Any], Any], *hypotheses: Hypothesis
) -> None:
    """Plant a claim that a trial must refute."""
    _plant(FALSE, name, setting, relation, function, hypotheses)


def true(
    name: str, setting: Setting, relation: Relation, function: Callable[[Any], Any], *hypotheses: Hypothesis
) -> None:
    """Plant a claim that a trial must keep."""
    _plant(TRUE, name, setting, relation, function, hypotheses)


def _plant(
    where: dict[str, Claim],
    name: str,
    setting: Setting,
    relation: Relation,
    function: Callable[[Any], Any],
    hypotheses: tuple[Hypothesis, ...],
) -> None:
    if name in FALSE or name in TRUE:
        raise ValueError(f"two planted claims are called {name}")
    function.__doc__ = f"Planted: {name}."
    declare = claim(f"planted/{name}", setting=setting, relation=relation, source="planted", hypotheses=hypotheses)
    where[name] = declare(function)
