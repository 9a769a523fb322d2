"""What a fine-tuning method is: a rule that turns a layer problem into an update, in closed form."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import NonFiniteError, RankError
from linnet.problem import LayerProblem, Update


class Method(ABC):
    """A fine-tuning method of one layer. Subclasses are frozen dataclasses, one a file."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have every method refuse what is no layer problem, once for all."""
        super().__init_subclass__(**kwargs)
        for name in ("solve", "n_parameters", "directions", "ends"):
            if name in vars(cls):
                setattr(cls, name, _of_a_problem(vars(cls)[name]))

    @abstractmethod
    def solve(self, problem: LayerProblem) -> Update:
        """Return the least-norm update among those that minimise ``problem.risk``.

        The norm is the Euclidean one of what the method trains. A single problem that has no unique
        solution raises; in a batch, or under ``jit`` and ``vmap``, ``update.status`` says which elements
        failed and ``update.delta`` is NaN there.
        """

    @abstractmethod
    def n_parameters(self, problem: LayerProblem) -> int:
        """Return the number of trained parameters."""

    def ends(self, problem: LayerProblem) -> tuple[Array, Array] | None:
        """Return U (..., d_out, a) and V (..., d_in, b) such that the updates are U Phi V^T, all of Phi trained.

        None where the method's updates have no such form. The norm that ``solve`` makes least is Phi's.
        """
        return None

    @classmethod
    def at_budget(cls, problem: LayerProblem, budget: int, rng: np.random.Generator) -> Iterator[tuple[str, Self]]:
        """Yield (label, method) for the forms of this method that come nearest to ``budget`` parameters.

        ``linnet compare`` asks every method this question; a method that yields nothing is left out.
        """
        yield from ()


def _of_a_problem(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def checked(self: Method, problem: LayerProblem) -> Any:
        la.require_kind(problem, LayerProblem, "problem", "give LayerProblem(net, layer, moments)")
        with np.errstate(over="ignore", invalid="ignore"):  # ``finish`` gives what overflowed a status
            return function(self, problem)

    return checked


class LinearMethod(Method):
    """A method whose update is linear in what it trains: vec(delta) = P phi.

    The closed form is least squares in ``phi``. ``directions`` says what P is, for the slow twin and for
    whoever needs the subspace; ``solve`` must not form it where the structure allows better.

    Source: liu2025, the linearised g(Phi) = P Phi; yang2024, Sec. F.2 for fixed U.
    """

    @abstractmethod
    def directions(self, problem: LayerProblem) -> Array:
        """Return P, (..., d_out * d_in, k), rows in row-major order of ``delta``.

        Methods that train a bias return d_out * (d_in + 1) rows: row-major order of ``[delta, bias]``.
        """


def finish(
    problem: LayerProblem,
    delta: Array,
    *,
    bias: Array | None = None,
    factors: tuple[Array, Array] | None = None,
    balance: bool = False,
    status: Array | None = None,
) -> Update:
    """Assemble an update; mask what failed, raise or warn where values can be looked at.

    Raises:
        RankError: a single problem whose best rank-r approximation is not unique.
        NonFiniteError: a single problem whose solution overflows.
    """
    xp = la.namespace(delta)
    overflown = xp.astype(xp.where(la.all_finite(xp, delta), la.OK, la.NONFINITE), xp.int32)
    status = la.combine_status(xp, problem.status, *(() if status is None else (status,)), overflown)
    if la.is_concrete(status, delta):
        if not bool(xp.any(status != la.OK)):
            return Update(delta, problem.layer, bias, factors, balance, status)
        if status.ndim == 0 and int(status) == la.NONFINITE:
            raise NonFiniteError("the solution is beyond what floating point holds; rescale the inputs or the weights")
        if status.ndim == 0:
            raise RankError(
                f"{la.STATUS_TEXT[int(status)]}, so that the best rank-r approximation is not unique; "
                'choose another rank, or pass ties="first" to accept any of them'
            )
        la.warn_masked(status, "problems")
    bad = (status != la.OK)[..., None, None]
    nan = float("nan")
    return Update(
        xp.where(bad, nan, delta),
        problem.layer,
        None if bias is None else xp.where(bad[..., 0], nan, bias),
        None if factors is None else (xp.where(bad, nan, factors[0]), xp.where(bad, nan, factors[1])),
        balance,
        status,
    )
