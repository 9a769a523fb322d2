"""All fine-tuning methods on real input: a user's own network, a training and a shifted test set.

``compare`` is the library function, ``command`` what ``linnet compare`` runs.
"""

from __future__ import annotations

from linnet.compare.bounds import Bound, bounds_that_apply
from linnet.compare.core import compare
from linnet.compare.records import Comparison, Estimate, Recommendation, Row, Side
from linnet.compare.run import command

__all__ = [
    "Bound",
    "Comparison",
    "Estimate",
    "Recommendation",
    "Row",
    "Side",
    "bounds_that_apply",
    "command",
    "compare",
]
