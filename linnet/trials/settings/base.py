"""What a claim can speak about: how instances are drawn, viewed, and written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from linnet.errors import ClaimError
from linnet.trials.algebra import FloatMatrix, Instance, Matrix

Raw = dict[str, np.ndarray]
"""Free parameters of a batch of instances of one shape: name to array (count, ...)."""

Factory = Callable[[Any], Matrix]
"""Turns the free parameters of one name into a matrix of either arithmetic."""


class Setting(ABC):
    """What a claim speaks about.

    An instance is born from free parameters (``draw``), which search and shrinking may change at will:
    every value of them is a valid instance. ``compose`` turns them into natural terms, by the same
    expressions in float64 and in exact arithmetic, and ``view`` offers those terms to a claim.
    """

    name: str
    kinds: tuple[str, ...]
    """Ways to draw: random, structured, degenerate."""

    @abstractmethod
    def random_shape(self, rng: np.random.Generator) -> Any:
        """Return a random shape: a frozen dataclass of everything that is not a matrix entry."""

    @abstractmethod
    def small_shapes(self) -> Iterator[Any]:
        """Yield shapes, the fewest dimensions first."""

    @abstractmethod
    def size(self, shape: Any) -> tuple[int, ...]:
        """Return what "fewest dimensions" means: shapes are ordered by it."""

    @abstractmethod
    def parameters(self, shape: Any) -> dict[str, tuple[int, int]]:
        """Return the free matrices of a shape: name to (rows, columns)."""

    @abstractmethod
    def draw(self, shape: Any, kind: str, count: int, rng: np.random.Generator) -> Raw:
        """Draw ``count`` instances of a shape in one of the ``kinds``."""

    @abstractmethod
    def compose(self, shape: Any, raw: dict[str, Matrix], imposed: Collection[str]) -> Instance:
        """Turn free parameters into natural terms, meeting the hypotheses named in ``imposed``."""

    @abstractmethod
    def view(self, instance: Instance) -> Any:
        """Offer an instance to a claim, in the arithmetic of its matrices."""

    @abstractmethod
    def defects(self, instance: Instance) -> list[str]:
        """Say, exactly, what keeps an instance from being one of this setting (nothing, it should be)."""

    def given(self, terms: Mapping[str, Any]) -> Instance:
        """Return an exact instance from its natural terms: matrices as rows of numbers.

        Raises:
            ClaimError: they are none of this setting.
        """
        from linnet.trials.exact import ExactMatrix

        def exact(value: Any) -> Any:
            if isinstance(value, list) and value and isinstance(value[0], list):
                deep = value[0] and isinstance(value[0][0], list)
                return [exact(v) for v in value] if deep else ExactMatrix.of(value)
            return value

        instance = {name: exact(value) for name, value in terms.items()}
        flaws = self.defects(instance)
        if flaws:
            raise ClaimError(f"not an instance of {self.name}: {'; '.join(flaws)}")
        return instance

    def float_view(self, shape: Any, raw: Raw, imposed: Collection[str]) -> Any:
        """View a batch in float64."""
        return self.view(self.compose(shape, {k: FloatMatrix(v) for k, v in raw.items()}, imposed))

    def exact_instance(self, shape: Any, raw: Raw, index: int, imposed: Collection[str]) -> Instance:
        """Return one element of a batch in exact arithmetic; its floats are taken at their exact value."""
        from linnet.trials.exact import ExactMatrix

        rows = {k: [[Fraction(float(x)) for x in row] for row in v[index]] for k, v in raw.items()}
        return self.compose(shape, {k: ExactMatrix.of(v) for k, v in rows.items()}, imposed)


class Ladder(Setting):
    """A setting with a size that grows: of the sample, or of a width. Claims about it are orders, or expectations.

    An instance is then only what stays the same along the ladder of sizes; what is random at each size is
    drawn by ``at``, so many times over as a mean or a quantile needs.
    """

    onwards: tuple[float, ...] = (1e2, 1e5, 1e8)
    """How much farther a ladder is followed before an exponent that misses is believed."""

    def growing(self) -> Iterator[list[Any]]:
        """Yield rows of shapes whose dimensions double from one to the next, the most telling ones first."""
        yield from ()

    def even(self, shape: Any, rng: np.random.Generator) -> Raw:
        """Draw one instance whose matrices are nearly orthogonal, so that nothing but dimensions tells two apart."""
        raw = {}
        for name, (m, n) in self.parameters(shape).items():
            u, _, vt = np.linalg.svd(rng.normal(size=(m, n)), full_matrices=False)
            # Not exactly: singular values that tie have no truncation.
            raw[name] = ((u * rng.uniform(0.9, 1.1, size=u.shape[1])) @ vt)[None]
        return raw

    @abstractmethod
    def shape_from(self, fields: dict[str, Any]) -> Any:
        """Return the shape that has these fields, as they stand in a record."""

    @abstractmethod
    def sizes(self, view: Any, count: int, imposed: Collection[str]) -> np.ndarray:
        """Return ``count`` sizes over two decades, ascending, from where the hypotheses begin to hold."""

    @abstractmethod
    def at(
        self,
        shape: Any,
        raw: Raw,
        imposed: Collection[str],
        n: int,
        replicates: int,
        rng: np.random.Generator,
        known: Any = None,
    ) -> Any:
        """View ``replicates`` random realisations of one instance (batch of one) at one size.

        ``known`` is the view of the instance itself, if it is there already.
        """


def draw_matrices(sizes: dict[str, tuple[int, int]], kind: str, count: int, rng: np.random.Generator) -> Raw:
    """Draw matrices of one kind, names apart.

    ``gaussian``; ``scaled``: columns and rows over six decades; ``integer``: -2 to 2; ``signs``: -1, 0, 1,
    mostly 0; ``rank``: Gaussian of a random lower rank; ``spectrum``: half-integer singular values with
    ties; ``orthogonal``: identities, permuted and signed; ``mixed``: each matrix of its own kind.
    """
    plain = ("gaussian", "integer", "signs", "rank", "spectrum", "orthogonal")
    return {
        k: _draw(str(rng.choice(plain)) if kind == "mixed" else kind, count, m, n, rng) for k, (m, n) in sizes.items()
    }


KINDS = ("gaussian", "integer", "signs", "mixed", "orthogonal", "spectrum", "rank", "scaled")


def _draw(kind: str, count: int, m: int, n: int, rng: np.random.Generator) -> np.ndarray:
    from linnet.network import haar

    shape = (count, m, n)
    if kind == "integer":
        return rng.integers(-2, 3, size=shape).astype(float)
    if kind == "signs":
        return rng.choice([-1.0, 0.0, 0.0, 1.0], size=shape)
    if kind == "rank":
        k = int(rng.integers(0, min(m, n) + 1))
        return rng.normal(size=(count, m, k)) @ rng.normal(size=(count, k, n))
    if kind == "spectrum":
        k = min(m, n)
        s = rng.integers(0, 5, size=(count, 1, k)) / 2
        return (haar(m, rng, (count,))[..., :k] * s) @ haar(n, rng, (count,))[..., :k].swapaxes(-1, -2)
    if kind == "orthogonal":
        out = np.zeros(shape)
        k = min(m, n)
        for b in range(count):
            out[b, rng.permutation(m)[:k], rng.permutation(n)[:k]] = rng.choice([-1.0, 1.0, 1.0, 1.0], size=k)
        return out
    g = rng.normal(size=shape)
    if kind == "scaled":
        g *= 10.0 ** rng.uniform(-1.5, 1.5, size=(count, m, 1)) * 10.0 ** rng.uniform(-1.5, 1.5, size=(count, 1, n))
    return g
