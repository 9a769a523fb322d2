"""Which channels S2FT trains: random, or ranked by weight, activation, their product, or gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import ChannelError
from linnet.problem import LayerProblem

Criterion = Literal["random", "weight", "activation", "product", "gradient"]


def channel_scores(problem: LayerProblem, *, by: Criterion, form: Literal["rows", "columns"] = "rows") -> Array:
    """Return the score of each channel, (..., d_out) for rows and (..., d_in) for columns.

    ``weight``: norm of the channel's row (column) of the layer. ``activation``: root mean square of what
    the channel emits (receives). ``product``: one times the other. ``gradient``: norm of the channel's
    row (column) of the risk's gradient at the pre-trained layer.

    Raises:
        ChannelError: an unknown criterion.

    Source: yang2024, Sec. 3.2 (selection strategies R, W, A, S, G).
    """
    la.require_kind(problem, LayerProblem, "problem", "give LayerProblem(net, layer, moments)")
    if by not in ("weight", "activation", "product", "gradient"):
        raise ChannelError(f'by={by!r}; give "random", "weight", "activation", "product" or "gradient"')
    check_form(form)
    xp = la.namespace(problem.gram)
    axis = -1 if form == "rows" else -2
    if by == "gradient":
        gradient = 2 * la.mT(problem.upper) @ problem.cross
        return xp.sqrt(xp.sum(gradient * gradient, axis=axis))
    w = problem.weight
    size = xp.sqrt(xp.sum(w * w, axis=axis))
    if by == "weight":
        return size
    if form == "rows":
        second = xp.sum((w @ problem.gram) * w, axis=-1)
        if problem.net.biases is not None:
            b = problem.net.biases[problem.layer]
            second = second + 2 * b * la.matvec(w, problem.input_mean) + b * b
    else:
        second = xp.linalg.diagonal(problem.gram)
    active = xp.sqrt(xp.where(second > 0, second, 0.0))
    return active if by == "activation" else active * size


def select_channels(
    problem: LayerProblem,
    count: int,
    *,
    by: Criterion = "random",
    largest: bool = True,
    form: Literal["rows", "columns"] = "rows",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Return ``count`` channels of each problem, sorted, (..., count).

    Ties in the score go to the channel of lower index.

    Args:
        problem: the layer.
        count: from 1 to the number of channels.
        by: "random" (needs ``rng``), or the score to rank by.
        largest: whether to take the largest scores, or the smallest.
        form: "rows" (output channels) or "columns" (input channels).
        rng: draws the random choice.

    Raises:
        ChannelError: a count that does not fit, an unknown criterion, or "random" without ``rng``.
    """
    la.require_kind(problem, LayerProblem, "problem", "give LayerProblem(net, layer, moments)")
    check_form(form)
    total = problem.d_out if form == "rows" else problem.d_in
    if not la.is_whole(count) or not 1 <= count <= total:
        raise ChannelError(f"{count!r} channels of {total}; give 1 to {total}")
    if by == "random":
        if rng is None:
            raise ChannelError('by="random" needs rng=np.random.default_rng(seed)')
        la.require_rng(rng)
        keys = rng.random((*problem.batch_shape, total))
    else:
        keys = la.to_numpy(channel_scores(problem, by=by, form=form))
        keys = -keys if largest else keys
    return np.sort(np.argsort(keys, axis=-1, kind="stable")[..., :count], axis=-1)


def check_form(form: str) -> None:
    """Refuse anything but "rows" and "columns".

    Raises:
        ChannelError: it is something else.
    """
    if not isinstance(form, str) or form not in ("rows", "columns"):
        raise ChannelError(f'form={form!r}; give "rows" or "columns"')


def as_selection(channels: Sequence[int] | Array, size: int, like: Array) -> Array:
    """Return U_C = [e_a : a in channels], (..., size, s), beside ``like``.

    Raises:
        ChannelError: no channel, one out of range, one named twice, or not whole numbers.
    """
    try:
        plain = not isinstance(channels, str | bytes) and channels is not None and np.ndim(channels) > 0
        chosen = la.to_numpy(channels) if not isinstance(channels, Sequence) else np.asarray(channels)
    except ValueError:  # ragged
        plain = False
    if not plain:
        raise ChannelError(f"channels={channels!r}; give a list of whole numbers from 0 to {size - 1}")
    if chosen.size == 0 or chosen.shape[-1] == 0:
        raise ChannelError(f"no channels were given; give at least one of 0 to {size - 1}")
    if chosen.dtype.kind not in "iu":
        raise ChannelError(f"channels have dtype {chosen.dtype}; give whole numbers from 0 to {size - 1}")
    if chosen.min() < 0 or chosen.max() >= size:
        worst = int(chosen.min() if chosen.min() < 0 else chosen.max())
        raise ChannelError(f"channel {worst} of a layer with {size}; give 0 to {size - 1}")
    if np.any(np.diff(np.sort(chosen, axis=-1), axis=-1) == 0):
        raise ChannelError("a channel is named twice; name each once")
    one_hot = np.arange(size)[:, None] == chosen[..., None, :]
    return la.host_like(one_hot, like)
