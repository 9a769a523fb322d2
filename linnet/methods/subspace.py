"""Fine-tuning in any linear subspace of the layer's weights."""

from __future__ import annotations

from dataclasses import dataclass

from linnet import _linalg as la
from linnet._linalg import Array
from linnet.errors import ShapeError
from linnet.methods.base import LinearMethod, finish
from linnet.problem import LayerProblem, Update


@dataclass(frozen=True, eq=False)
class Subspace(LinearMethod):
    """vec(delta) = P phi with phi trained: the general linear parametrisation.

    Attributes:
        basis: P, (..., d_out * d_in, k), rows in row-major order of the layer; orthonormal columns are
            not needed, but the norm that is least is that of phi.

    Raises:
        ShapeError: P is not a matrix, or (at ``solve``) has not d_out * d_in rows.
        NonFiniteError: P holds a non-finite value.

    Source: liu2025, eq. (49), the linearised g(Phi) = P Phi.
    """

    basis: Array

    def __post_init__(self) -> None:
        basis = la.as_float(self.basis, "basis")
        la.require_shape(basis, "basis", ("d_out * d_in", "k"))
        if basis.shape[-1] == 0:
            raise ShapeError("the basis has no columns; give at least one direction")
        la.require_finite(basis=basis)
        object.__setattr__(self, "basis", basis)

    def directions(self, problem: LayerProblem) -> Array:
        basis = la.beside(self.basis, problem.gram)
        la.require_shape(basis, "basis", (problem.d_out * problem.d_in, "k"))
        return basis

    def ends(self, problem: LayerProblem) -> tuple[Array, Array] | None:
        basis = self.directions(problem)
        return (la.eye(basis, 1), basis) if problem.d_out == 1 else None  # a layer of one output: delta = phi^T P^T

    def solve(self, problem: LayerProblem) -> Update:
        """Return the least-norm minimiser over phi, by the SVD of the design: (upper x root) P.

        Raises:
            ShapeError: P has not d_out * d_in rows.
        """
        p = self.directions(problem)
        xp = la.namespace(p)
        k = p.shape[-1]
        directions = xp.reshape(la.mT(p), (*p.shape[:-2], k, problem.d_out, problem.d_in))
        moved = problem.upper[..., None, :, :] @ directions @ problem.root[..., None, :, :]
        design = la.mT(xp.reshape(moved, (*moved.shape[:-2], moved.shape[-2] * moved.shape[-1])))
        target = xp.reshape(problem.whitened, (*problem.whitened.shape[:-2], design.shape[-2]))
        scale = problem.upper_scale * problem.reach_scale * la.size(p)
        phi = la.matvec(la.pinv(design, rtol=problem.rtol, scale=scale), target)
        flat = la.matvec(p, phi)
        return finish(problem, xp.reshape(flat, (*flat.shape[:-1], problem.d_out, problem.d_in)))

    def n_parameters(self, problem: LayerProblem) -> int:
        return int(self.basis.shape[-1])
