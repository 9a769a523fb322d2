"""The Kronecker product of two matrices, kept as its factors."""

from __future__ import annotations

from functools import cmp_to_key
from typing import Any

import numpy as np

from linnet.errors import IllPosedError
from linnet.trials.algebra import Matrix, Scalar, Structured


class Kronecker(Structured):
    """``left kron right`` in either arithmetic: acts on ``vec X`` (row by row) as ``left X right^T``.

    Products, inverses, roots, norms and ranks stay products of the factors'. Only a sum forms the matrix.
    """

    def __init__(self, left: Matrix, right: Matrix) -> None:
        self.left, self.right = left, right

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0] * self.right.shape[0], self.left.shape[1] * self.right.shape[1]

    @property
    def T(self) -> Kronecker:
        return Kronecker(self.left.T, self.right.T)

    def __matmul__(self, other: Any) -> Any:
        (m, n), (k, inner) = self.left.shape, self.right.shape
        if isinstance(other, Kronecker) and (other.left.shape[0], other.right.shape[0]) == (n, inner):
            return Kronecker(self.left @ other.left, self.right @ other.right)
        if not isinstance(other, Matrix) or other.shape[0] != n * inner:
            raise IllPosedError(f"shapes do not fit: {self.shape} @ {getattr(other, 'shape', type(other).__name__)}")
        columns = other.shape[1]
        first = (self.left @ other.reshape(n, inner * columns)).reshape(m * inner, columns)
        return (first.T.reshape(columns * m, inner) @ self.right.T).reshape(columns, m * k).T

    def __rmatmul__(self, other: Matrix) -> Any:
        return (self.T @ other.T).T

    def __add__(self, other: Any) -> Any:
        return self.formed() + (other.formed() if isinstance(other, Kronecker) else other)

    __radd__ = __add__

    def __rsub__(self, other: Any) -> Any:
        return other + (-self)

    def __mul__(self, other: Scalar) -> Kronecker:
        return Kronecker(self.left * other, self.right)

    def formed(self) -> Any:
        """The matrix itself."""
        return self.left.kron(self.right)

    def pinv(self) -> Kronecker:
        return Kronecker(self.left.pinv(), self.right.pinv())

    def root(self) -> Kronecker:
        return Kronecker(self.left.root(), self.right.root())

    def eye(self) -> Kronecker:
        return Kronecker(self.left.eye(), self.right.eye())

    def kron(self, other: Any) -> Kronecker:
        return Kronecker(self, other)

    def reshape(self, rows: int, columns: int) -> Any:
        return self.formed().reshape(rows, columns)

    def beside(self, other: Any) -> Any:
        return self.formed().beside(other)

    def sq(self) -> Scalar:
        return self.left.sq() * self.right.sq()

    def trace(self) -> Scalar:
        return self.left.trace() * self.right.trace()

    def rank(self) -> Scalar:
        return self.left.rank() * self.right.rank()

    def squared_singular_values(self) -> list[Scalar]:
        pairs = [a * b for a in self.left.squared_singular_values() for b in self.right.squared_singular_values()]
        pairs += [pairs[0] * 0] * (min(self.shape) - len(pairs))
        if isinstance(pairs[0], np.ndarray):
            return list(np.sort(np.array(pairs), axis=0)[::-1])
        return sorted(pairs, key=cmp_to_key(_descending))

    def activated(self, name: str) -> Any:
        return self.formed().activated(name)

    def hadamard(self, other: Any) -> Any:
        return self.formed().hadamard(other)

    def softmax(self, causal: bool = False) -> Any:
        return self.formed().softmax(causal)

    def truncated(self, r: int) -> Any:
        return self.formed().truncated(r)


def _descending(a: Scalar, b: Scalar) -> int:
    return (b - a).sign() or 0
