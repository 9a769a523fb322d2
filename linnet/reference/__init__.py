"""The slow twins: independent, transparent solutions that the closed forms are tested against.

They read nothing of a ``LayerProblem`` but its network and its moments, form whatever the fast code avoids
forming, and take one problem at a time.
"""

from linnet.reference.dense import Twin, least_squares, twin_risk
from linnet.reference.exact import ExactTwin, exact_least_squares, exact_low_rank, relative_error
from linnet.reference.lowrank import Certificate, certify_low_rank, equal_risk_competitor, low_rank, optimal_risk

__all__ = [
    "Certificate",
    "ExactTwin",
    "Twin",
    "certify_low_rank",
    "equal_risk_competitor",
    "exact_least_squares",
    "exact_low_rank",
    "least_squares",
    "low_rank",
    "optimal_risk",
    "relative_error",
    "twin_risk",
]
