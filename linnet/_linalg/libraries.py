"""The only seam to the array libraries.

NumPy in float64 is the reference; JAX and torch are guests, recognised by array-api-compat. Records of arrays are
pytrees to both, and move between them.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

import array_api_compat
import array_api_compat.numpy
import numpy as np

from linnet.errors import ArgumentError, PrecisionError, ShapeError

Array = Any
"""An array of NumPy, JAX or torch."""

HOST = np.ndarray | np.generic
"""What NumPy's own functions return; without axes that is a scalar, not an array."""


def namespace(*arrays: Array) -> Any:
    """Return the array-API namespace of the arrays, None and Python numbers left aside."""
    if all(isinstance(a, HOST) for a in arrays if a is not None):
        return array_api_compat.numpy  # by far the most, and array-api-compat takes its time
    try:
        xp = array_api_compat.array_namespace(*(a for a in arrays if a is not None))
    except TypeError as err:
        raise ArgumentError(
            f"arrays of two libraries meet ({err}); move them to one with .to(numpy), .to(jax.numpy) or .to(torch)"
        ) from None
    _register_records(xp)
    return xp


def is_numpy(xp: Any) -> bool:
    return bool(array_api_compat.is_numpy_namespace(xp))


def is_concrete(*arrays: Array) -> bool:
    """Return whether values can be looked at: False under ``jax.jit``, ``jax.vmap``, ``torch.vmap``."""
    for a in arrays:
        if a is None:
            continue
        if array_api_compat.is_jax_array(a):
            import jax

            if isinstance(a, jax.core.Tracer):
                return False
        elif array_api_compat.is_torch_array(a):
            import torch

            if torch._C._functorch.is_functorch_wrapped_tensor(a) or torch.compiler.is_compiling():
                return False
    return True


def as_float(a: Any, name: str) -> Array:
    """Return ``a`` as a floating array of its own library; lists, numbers and integers become float64.

    Raises:
        ShapeError: ``a`` is ragged or not numeric.
    """
    if array_api_compat.is_array_api_obj(a) and not isinstance(a, np.ndarray | np.generic):
        xp = namespace(a)
        return a if xp.isdtype(a.dtype, "real floating") else xp.astype(a, xp.asarray(0.0).dtype)
    try:
        out = np.asarray(a)
        if out.dtype.kind == "f" and out.dtype.itemsize >= 4:
            return out
        if out.dtype.kind not in "biuf":
            raise TypeError(f"dtype {out.dtype}")
        return out.astype(np.float64)
    except (TypeError, ValueError) as err:
        raise ShapeError(
            f"{name} is not a rectangular array of real numbers ({err}); give numbers in equal rows"
        ) from None


def together(*arrays: Array | None) -> tuple[Any, ...]:
    """Return the arrays in one library and one precision (the widest), NumPy ones following a guest."""
    present = [a for a in arrays if a is not None]
    guests = [a for a in present if not isinstance(a, HOST)]
    xp = namespace(*(guests or present))
    kinds = {} if not guests else {"device": array_api_compat.device(guests[0])}
    if not guests and len({a.dtype for a in present}) == 1:
        return arrays
    if guests and array_api_compat.is_jax_namespace(xp):
        kinds = {}  # tracers have no device of their own
    out = [None if a is None else (xp.asarray(a, **kinds) if isinstance(a, HOST) else a) for a in arrays]
    dtype = xp.result_type(*(a for a in out if a is not None))
    return tuple(None if a is None else (a if a.dtype == dtype else xp.astype(a, dtype)) for a in out)


def to_library(a: Array, xp: Any, dtype: Any, device: Any) -> Array:
    """Move one array to the library ``xp``; see ``Record.to``."""
    target = namespace(xp.asarray([0.0]))
    source = a if isinstance(a, np.ndarray) else np.asarray(_to_host(a))
    floating = source.dtype.kind == "f"
    options = {} if device is None else {"device": device}
    if floating and dtype is not None:
        options["dtype"] = dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of the truncation that is refused or reported below
        try:
            out = target.asarray(np.array(source), **options)
        except TypeError as err:
            raise ArgumentError(f"dtype={dtype!r}, device={device!r} ({err}); give what the library names so") from None
    if floating and not target.isdtype(out.dtype, "real floating"):
        raise ArgumentError(f"dtype={_dtype_name(dtype)}; give a floating type, such as float64")
    if floating and dtype is not None and _dtype_name(out.dtype) != _dtype_name(dtype):
        raise PrecisionError(
            f"asked for {_dtype_name(dtype)}, the library gave {_dtype_name(out.dtype)}; "
            'for JAX call jax.config.update("jax_enable_x64", True) first'
        )
    if floating and dtype is None and out.dtype.itemsize < source.dtype.itemsize:
        warnings.warn(
            f"values moved from {source.dtype} to {out.dtype}: the array library holds no more; "
            'for JAX call jax.config.update("jax_enable_x64", True) first, or pass dtype= to say that this is meant',
            stacklevel=4,
        )
    return out


def _dtype_name(dtype: Any) -> str:
    return str(getattr(dtype, "__name__", dtype)).split(".")[-1]


def _to_host(a: Array) -> Any:
    return a.detach().cpu().numpy() if array_api_compat.is_torch_array(a) else a


def to_numpy(a: Array) -> np.ndarray:
    """Return a concrete array of any library as NumPy's."""
    return np.asarray(_to_host(a))


def as_result(a: Array) -> Any:
    """Return a NumPy value without batch axes as a float, anything else as it is."""
    return float(a) if isinstance(a, np.ndarray | np.generic) and a.ndim == 0 else a


_RECORDS: list[type[Record]] = []

_REGISTERED: dict[str, int] = {"jax": 0, "torch": 0}


class Record(ABC):
    """A frozen dataclass of arrays, other records and static fields; a pytree to JAX and to torch.

    Subclasses name in ``_static`` the fields that are not arrays: they are part of the structure that
    ``jit`` compiles for.
    """

    _static: ClassVar[tuple[str, ...]] = ()

    _own_axes: ClassVar[Mapping[str, int | tuple[int, ...]]] = {}
    """Axes of a field behind those of the batch, where they are not two; of a tuple of different ones, one each."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _RECORDS.append(cls)

    def _split(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]  # subclasses are dataclasses
        return (
            tuple(getattr(self, n) for n in names if n not in self._static),
            tuple(getattr(self, n) for n in names if n in self._static),
        )

    @classmethod
    def _join(cls, leaves: Any, static: Any) -> Self:
        # Past __init__: JAX puts placeholders where the arrays were, and they must not be validated.
        self = object.__new__(cls)
        names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]  # subclasses are dataclasses
        moving, fixed = iter(leaves), iter(static)
        for n in names:
            object.__setattr__(self, n, next(fixed) if n in cls._static else next(moving))
        return self

    def _tree(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return what ``_split`` does, as JAX and torch are to see it."""
        return self._split()

    @property
    @abstractmethod
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes that all fields broadcast to."""

    def part(self, piece: slice) -> Self:
        """Return a piece of the batch, along its first axis; fields that all of the batch share stay whole."""
        return self._part(piece, len(self.batch_shape))

    def _part(self, piece: slice, axes: int) -> Self:
        leaves, static = self._split()
        return self._join(
            tuple(
                _piece_of(x, piece, axes, self._own_axes.get(n, 2)) for n, x in zip(self._moving(), leaves, strict=True)
            ),
            static,
        )

    @property
    def _largest(self) -> int:
        """Entries of the largest array of an element of the batch."""
        leaves, _ = self._split()
        owns = (self._own_axes.get(n, 2) for n in self._moving())
        return max(map(_entries_of, leaves, owns), default=0)

    @classmethod
    def _moving(cls) -> tuple[str, ...]:
        """Return the names of what ``_split`` takes apart."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name not in cls._static)  # type: ignore[arg-type]  # subclasses are dataclasses

    def to(self, xp: Any, *, dtype: Any = None, device: Any = None) -> Self:
        """Return a copy whose arrays belong to the library ``xp``: ``numpy``, ``jax.numpy`` or ``torch``.

        Args:
            xp: the library's module.
            dtype: floating type of the copy; by default the precision is kept.
            device: where the copy lives, as the library names it.

        Raises:
            PrecisionError: the library will not hold ``dtype`` (JAX without ``jax_enable_x64``).
            ArgumentError: ``xp`` is no such module, or ``dtype`` no floating type.
        """
        if not hasattr(xp, "asarray"):
            raise ArgumentError(f"to({xp!r}); give the module itself: numpy, jax.numpy or torch")
        leaves, static = self._split()
        return self._join(tuple(_move(x, xp, dtype, device) for x in leaves), static)


def _piece_of(x: Any, piece: slice, axes: int, own: int | tuple[int, ...]) -> Any:
    if x is None:
        return None
    if isinstance(x, Record):
        return x._part(piece, axes)
    if isinstance(x, tuple):
        owns = own if isinstance(own, tuple) else (own,) * len(x)
        return tuple(_piece_of(y, piece, axes, o) for y, o in zip(x, owns, strict=True))
    return x[piece] if axes and not isinstance(own, tuple) and x.ndim == axes + own and x.shape[0] != 1 else x


def _entries_of(x: Any, own: int | tuple[int, ...]) -> int:
    if x is None:
        return 0
    if isinstance(x, Record):
        return x._largest
    if isinstance(x, tuple):
        owns = own if isinstance(own, tuple) else (own,) * len(x)
        return max(map(_entries_of, x, owns), default=0)
    return math.prod(x.shape[x.ndim - own :]) if isinstance(own, int) else 0


def _move(x: Any, xp: Any, dtype: Any, device: Any) -> Any:
    if x is None:
        return None
    if isinstance(x, Record):
        return x.to(xp, dtype=dtype, device=device)
    if isinstance(x, tuple):
        return tuple(_move(y, xp, dtype, device) for y in x)
    return to_library(x, xp, dtype, device)


def _register_records(xp: Any) -> None:
    """Tell JAX or torch, once it is in use, how to take the records apart; importing neither here."""
    if array_api_compat.is_jax_namespace(xp):
        key = "jax"
    elif array_api_compat.is_torch_namespace(xp):
        key = "torch"
    else:
        return
    while _REGISTERED[key] < len(_RECORDS):
        cls = _RECORDS[_REGISTERED[key]]
        _REGISTERED[key] += 1
        join = partial(_join_record, cls)
        if key == "jax":
            import jax

            jax.tree_util.register_pytree_node(cls, _split_record, join)
        else:
            from torch.utils import _pytree

            _pytree.register_pytree_node(cls, _split_torch_record, partial(_join_torch_record, join))


def _split_record(record: Record) -> tuple[Any, Any]:
    return record._tree()


def _split_torch_record(record: Record) -> tuple[Any, Any]:
    """To torch None is a leaf, which its vmap refuses: absent fields move to the structure."""
    leaves, static = record._tree()
    return tuple(x for x in leaves if x is not None), (static, tuple(x is not None for x in leaves))


def _join_torch_record(join: Callable[[Any, Any], Record], leaves: Any, structure: Any) -> Record:
    static, present = structure
    given = iter(leaves)
    return join(static, tuple(next(given) if p else None for p in present))


def _join_record(cls: type[Record], static: Any, leaves: Any) -> Record:
    return cls._join(leaves, static)


def eps(a: Array) -> float:
    """Return the machine epsilon of a floating array."""
    return float(namespace(a).finfo(a.dtype).eps)


def eye(like: Array, n: int) -> Array:
    """Identity of size ``n`` in the library, precision and place of ``like``."""
    xp = namespace(like)
    return (
        xp.eye(n, dtype=like.dtype, device=array_api_compat.device(like))
        if is_concrete(like)
        else xp.eye(n, dtype=like.dtype)
    )


def host_like(values: np.ndarray, like: Array) -> Array:
    """Return host values as a floating array beside ``like``."""
    return together(np.asarray(values, dtype=np.float64 if eps(like) < 1e-12 else np.float32), like)[0]


def beside(a: Array, like: Array) -> Array:
    """Return ``a`` in the library, the precision and the place of ``like``."""
    if isinstance(a, HOST) and not isinstance(like, HOST):
        return host_like(np.asarray(a), like)
    return a if a.dtype == like.dtype else namespace(a).astype(a, like.dtype)
