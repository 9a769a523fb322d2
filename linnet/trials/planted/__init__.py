"""Planted claims: true ones, and the same ones made false by a little. What a trial must tell apart.

A module a setting; each entry is a short function of a view, under ``false`` or ``true``: what the trial must
find. Signs are flipped, transposes dropped, exponents off by a half, tight constants one per cent too small,
hypotheses removed, ranks off by one; and true claims are disguised.
"""

from __future__ import annotations

import importlib
import pkgutil

from linnet.trials.claim import Claim
from linnet.trials.planted.base import FALSE, TRUE


def planted() -> tuple[dict[str, Claim], dict[str, Claim]]:
    """Return the false and the true claims, by name, of every module in this package."""
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        importlib.import_module(module.name)
    return dict(sorted(FALSE.items())), dict(sorted(TRUE.items()))


def planted_claims() -> dict[str, Claim]:
    """Return all of them by id."""
    false, true = planted()
    return {c.id: c for c in (false | true).values()}
