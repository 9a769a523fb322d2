"""Many problems, a piece of the batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from linnet import _linalg as la
from linnet.errors import ArgumentError, ShapeError

ENTRIES = 1 << 18
"""Entries of the largest matrix of a piece, all its elements together: 2 MiB in float64. What a piece computes on the
way then stays in the caches of a processor, and in memory that is used again and again."""


def in_pieces(function: Callable[..., Any], *records: la.Record, size: int | None = None) -> Any:
    """Return ``function(*records)``, computed a piece of the batch at a time and joined along its first axis.

    The results are those of the whole batch; memory is that of a piece and of the results, and time is less where the
    whole does not fit the caches.

    Args:
        function: from records (networks, tasks, shifts, problems) to arrays whose first axis is the batch's: one, or
            a tuple, a list or a dictionary of them.
        records: with batch axes that broadcast; what has no first axis, or one of length 1, is given whole.
        size: elements of a piece along the first axis; by default as many as suit a processor's caches.

    Raises:
        ArgumentError: no record, something else, or a function that returns something else.
        ShapeError: no batch axis, or a size below 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> net = ln.DeepLinearNetwork.random([8, 8, 8], rng=rng, batch=(10_000,))
        >>> task = ln.Regression(rng.normal(size=(10_000, 8, 8)), np.eye(8))
        >>> risks = ln.in_pieces(lambda net, task: ln.excess_risk(net, task), net, task)
    """
    for i, record in enumerate(records):
        la.require_kind(record, la.Record, f"record {i}", "give networks, tasks, shifts or problems")
    if not records:
        raise ArgumentError("no record was given; give those that the function takes: in_pieces(function, net, task)")
    batch = la.broadcast_batch([record.batch_shape for record in records], "the records")
    if not batch:
        raise ShapeError("the records have no batch axis to take pieces of; call the function itself")
    if size is not None and not (la.is_whole(size) and size >= 1):
        raise ShapeError(f"pieces of size {size!r}; give a whole number, at least 1, or None")
    axes, step = len(batch), size or _size(records, batch)
    found = [
        function(*(record._part(slice(start, start + step), axes) for record in records))
        for start in range(0, batch[0], step)
    ]
    return _joined(found) if found else function(*records)


def _size(records: tuple[la.Record, ...], batch: tuple[int, ...]) -> int:
    most = max(record._largest for record in records)
    beside = int(np.prod(batch[1:], dtype=int))
    return max(1, ENTRIES // max(1, most * beside))


def _joined(found: list[Any]) -> Any:
    first = found[0]
    if isinstance(first, dict):
        return {key: _joined([piece[key] for piece in found]) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(_joined(list(pieces)) for pieces in zip(*found, strict=True))
    if not hasattr(first, "shape") or not len(first.shape):
        raise ArgumentError(
            f"the function returned a {type(first).__name__}; give one that returns arrays over the batch, "
            "or a tuple, a list or a dictionary of them"
        )
    return first if len(found) == 1 else la.namespace(*found).concat(found, axis=0)
