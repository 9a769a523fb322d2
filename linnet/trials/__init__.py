"""Trials: write a claim as two expressions over a setting, and let it be tried."""

from linnet.trials.algebra import (
    UndefinedError,
    activate,
    cond_sq,
    inner,
    op_norm_sq,
    positive_part,
    rank,
    ratio,
    scalar,
    singular_values,
    sq,
    sqrt,
    svd_r,
    tail_sq,
    trace,
    where_positive,
)
from linnet.trials.claim import Claim, Comparison, Hypothesis, claim
from linnet.trials.settings import Activated, Layer, Parametrisation, Quadratic

__all__ = [
    "Activated",
    "Claim",
    "Comparison",
    "Hypothesis",
    "Layer",
    "Parametrisation",
    "Quadratic",
    "UndefinedError",
    "activate",
    "claim",
    "cond_sq",
    "inner",
    "op_norm_sq",
    "positive_part",
    "rank",
    "ratio",
    "scalar",
    "singular_values",
    "sq",
    "sqrt",
    "svd_r",
    "tail_sq",
    "trace",
    "where_positive",
]
