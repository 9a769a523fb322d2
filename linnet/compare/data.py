"""Networks and data sets from .npz files, refused with one clear line where they do not serve."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linnet import _linalg as la
from linnet.compare.records import Source
from linnet.errors import DataError, LinnetError, ShapeError
from linnet.network import DeepLinearNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDS = 5
MIN_ROWS = 2 * FOLDS
"""A variance within a fold takes two samples of it."""

Data = tuple[np.ndarray, np.ndarray]
"""x (n, p) and y (n, q), float64."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network, a training set, a shifted test set, and what to compare on them.

    Attributes:
        net: the pre-trained network.
        train, test: x (n, p) and y (n, q).
        layer, rank: the layer to fine-tune, and the rank of LoRA that sets the budget.
        source: where all this came from.
    """

    net: DeepLinearNetwork
    train: Data
    test: Data
    layer: int
    rank: int
    source: Source


def read_network(path: Path) -> DeepLinearNetwork:
    """Read a network from ``W0``, ``W1``, ..., each (outputs, inputs), and any of ``b0``, ``b1``, ..., each (outputs,).

    A bias that is absent is zero; other keys are ignored.

    Raises:
        DataError: the file is missing, unreadable, or lacks a weight.
        ShapeError, NonFiniteError: a weight or bias has a wrong shape or a non-finite value.
    """
    with _opened(path) as file:
        depth = len(_indices("W", file.files))
        if depth == 0 or "W0" not in file.files:
            raise DataError(
                f"{path} has {_listed(file.files)} but no W0; a network needs W0, W1, ... without a gap, "
                "each (outputs, inputs)"
            )
        for i in range(depth):
            if f"W{i}" not in file.files:
                last = max(_indices("W", file.files))
                raise DataError(
                    f"{path} has W{last} but no W{i}; a network needs W0, W1, ... without a gap: add it or renumber"
                )
        weights = [_array(path, file, f"W{i}") for i in range(depth)]
        biases = {i: _array(path, file, f"b{i}") for i in _indices("b", file.files)}
    for i, w in enumerate(weights):
        if w.ndim != 2 or 0 in w.shape:
            raise ShapeError(f"{path}: W{i} has shape {w.shape}; a matrix (outputs, inputs) is needed")
        if i and w.shape[1] != weights[i - 1].shape[0]:
            raise ShapeError(
                f"{path}: W{i} has shape {w.shape}, but W{i - 1} has {weights[i - 1].shape[0]} outputs; W{i} needs as "
                f"many columns (weights are (outputs, inputs): transpose them if yours are the other way)"
            )
    for i, b in biases.items():
        if i >= depth:
            raise DataError(f"{path} has b{i} but no W{i}; a bias needs its weight: remove b{i} or add W{i}")
        if b.shape != (weights[i].shape[0],):
            raise ShapeError(
                f"{path}: b{i} has shape {b.shape}; ({weights[i].shape[0]},) is needed, one for each row of W{i}"
            )
    if not biases:
        return DeepLinearNetwork(tuple(weights))
    return DeepLinearNetwork(tuple(weights), tuple(biases.get(i, np.zeros(w.shape[0])) for i, w in enumerate(weights)))


def read_data(path: Path) -> Data:
    """Read a data set ``x`` (n, p), ``y`` (n, q); other keys are ignored.

    Raises:
        DataError: the file is missing, unreadable, lacks x or y, or has too few rows to split.
        ShapeError, NonFiniteError: x or y has a wrong shape or a non-finite value.
    """
    with _opened(path) as file:
        for key in ("x", "y"):
            if key not in file.files:
                raise DataError(
                    f"{path} has {_listed(file.files)} but no {key}; a data set needs x (n, p) and y (n, q), "
                    "a row for each sample: np.savez(path, x=x, y=y)"
                )
        x, y = (_array(path, file, key) for key in ("x", "y"))
    return checked_data((x, y), f"{path}: ")


def checked_data(data: tuple[Any, Any], where: str) -> Data:
    """Return x (n, p) and y (n, q) in float64; ``where`` begins the messages.

    Raises:
        DataError: fewer rows than can be split.
        ShapeError, NonFiniteError: wrong shapes or non-finite values.
    """
    x, y = (_float64(a, f"{where}{name}") for a, name in zip(data, ("x", "y"), strict=True))
    for a, name, columns in ((x, "x", "p"), (y, "y", "q")):
        if a.ndim != 2 or a.shape[1] == 0:
            hint = f"; for a single column use {name}[:, None]" if a.ndim == 1 else ""
            raise ShapeError(
                f"{where}{name} has shape {a.shape}; (n, {columns}) is needed, a row for each sample{hint}"
            )
    if len(x) != len(y):
        raise ShapeError(f"{where}x has {len(x)} rows and y {len(y)}; both need the same samples, a row each")
    if len(x) < MIN_ROWS:
        raise DataError(
            f"{where}{len(x)} rows are too few to split into {FOLDS} folds of at least two; give {MIN_ROWS} or more"
        )
    la.require_finite(**{f"{where}x": x, f"{where}y": y})
    return x, y


def checked_sizes(net: DeepLinearNetwork, data: Data, where: str) -> None:
    """Refuse data that the network does not map.

    Raises:
        ShapeError: x has not p columns, or y not q.
    """
    p, q = net.widths[0], net.widths[-1]
    for a, name, needed, side in ((data[0], "x", p, "inputs"), (data[1], "y", q, "outputs")):
        if a.shape[1] != needed:
            raise ShapeError(
                f"{where}{name} has {a.shape[1]} columns, the network has {needed} {side}; "
                f"give {name} with {needed} columns, or the network that was trained on these"
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of an .npz file written by np.savez") from None
    except Exception as err:
        # A hostile or broken file fails in as many ways as zipfile, zlib and NumPy's header parser have.
        raise DataError(_unreadable(path, err)) from None
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise DataError(f"{path} holds a single array (.npy); an .npz file with named arrays is needed: use np.savez")
    with file:
        yield file


def _array(path: Path, file: Any, key: str) -> np.ndarray:
    try:
        array = file[key]
    except Exception as err:
        raise DataError(_unreadable(path, err, key)) from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {key} is not a NumPy array; write the file with np.savez")
    array = _float64(array, f"{path}: {key}")
    la.require_finite(**{f"{path}: {key}": array})
    return array


def _unreadable(path: Path, err: Exception, key: str | None = None) -> str:
    what = f"{path}: {key}" if key else str(path)
    if "pickle" in str(err).lower():
        return (
            f"{what} is pickled or not an .npz file, and pickles can run code; "
            "give plain numbers in an .npz file: np.savez of float arrays"
        )
    reason = (str(err).splitlines() or [""])[0].strip() or type(err).__name__
    return f"{what} cannot be read as .npz ({reason}); it may be cut short or of another format: write it with np.savez"


def _float64(a: Any, name: str) -> np.ndarray:
    try:
        out = la.as_float(la.to_numpy(a) if not isinstance(a, list | tuple) else a, name)
    except LinnetError:
        raise
    except (TypeError, ValueError) as err:
        raise ShapeError(f"{name} is not an array of real numbers ({err}); give numbers in equal rows") from None
    with np.errstate(over="ignore"):
        return np.asarray(out, dtype=np.float64)


def _indices(letter: str, keys: Iterable[str]) -> list[int]:
    found = (re.fullmatch(rf"{letter}(0|[1-9]\d{{0,8}})", key) for key in keys)
    return sorted(int(m.group(1)) for m in found if m)


def _listed(keys: list[str]) -> str:
    if not keys:
        return "no array"
    shown = ", ".join(ascii(k)[1:-1] for k in keys[:6])
    return shown if len(keys) <= 6 else f"{shown}, ... ({len(keys)} arrays)"
