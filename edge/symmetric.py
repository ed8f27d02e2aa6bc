"""Symmetric matrices in place: rank-n update, product, Cholesky. SciPy's BLAS, or plain NumPy with the same results.

A matrix that these kernels carry is (d, d) float64 in Fortran order. SciPy's kernels keep only the lower triangle true
and touch no other memory; NumPy's keep both. ``filled`` gives the whole matrix either way. SciPy is imported when the
first kernel is asked for, never when this module is.
"""

from __future__ import annotations

import functools
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigurationError

Array = NDArray[np.float64]
FEW_COLUMNS = 8  # up to here OpenBLAS is faster column by column, seven times for a single one
KernelName = Literal["auto", "scipy", "numpy"]


class Kernels(Protocol):
    """What the exact learner asks of a linear algebra library."""

    name: str

    def add_outer(self, matrix: Array, rows: Array, alpha: float) -> None:
        """In place: matrix (d, d) += alpha * rows.T @ rows, rows (n, d) in C order."""

    def multiply(self, matrix: Array, columns: Array) -> Array:
        """matrix (d, d) times columns (d, m): a new (d, m) in Fortran order."""

    def subtract_product(self, matrix: Array, left: Array, right: Array) -> None:
        """In place: matrix (d, k), Fortran order, -= left (d, m) @ right (m, k)."""

    def lower_solve(self, factor: Array, rows: Array) -> Array:
        """Solve factor (m, m), lower triangular, times x = rows (m, c); x in C order."""

    def cholesky(self, matrix: Array) -> Array:
        """Lower factor of matrix; its memory is reused. Raises numpy.linalg.LinAlgError when it is not positive."""

    def cholesky_solve(self, factor: Array, columns: Array) -> Array:
        """Solve (factor factor.T) x = columns (d, k); x in Fortran order."""

    def cholesky_inverse(self, factor: Array) -> Array:
        """Inverse of factor factor.T, as a matrix these kernels carry; the factor's memory is reused."""


def filled(matrix: Array) -> Array:
    """Return a new (d, d) matrix in C order: the lower triangle, mirrored."""
    lower = np.tril(matrix)
    return np.ascontiguousarray(lower + np.tril(lower, -1).T)


class NumpyKernels:
    """Plain NumPy. It evaluates ``v.T @ v`` with one triangle mirrored, so the matrix stays exactly symmetric."""

    name = "numpy"

    def add_outer(self, matrix: Array, rows: Array, alpha: float) -> None:
        matrix += alpha * (rows.T @ rows)

    def multiply(self, matrix: Array, columns: Array) -> Array:
        return np.asfortranarray(matrix @ columns)

    def subtract_product(self, matrix: Array, left: Array, right: Array) -> None:
        matrix -= left @ right

    def lower_solve(self, factor: Array, rows: Array) -> Array:
        return np.ascontiguousarray(np.linalg.solve(factor, rows))

    def cholesky(self, matrix: Array) -> Array:
        return np.asfortranarray(np.linalg.cholesky(filled(matrix)))

    def cholesky_solve(self, factor: Array, columns: Array) -> Array:
        return np.asfortranarray(np.linalg.solve(factor.T, np.linalg.solve(factor, columns)))

    def cholesky_inverse(self, factor: Array) -> Array:
        half = np.linalg.solve(factor, np.eye(len(factor)))
        return np.asfortranarray(half.T @ half)


class ScipyKernels:
    """SciPy's wrappers of BLAS and LAPACK, without copies: a wrapper that silently copied would lose the update."""

    name = "scipy"

    def __init__(self) -> None:
        from scipy.linalg import blas, lapack

        self._blas, self._lapack = blas, lapack

    def add_outer(self, matrix: Array, rows: Array, alpha: float) -> None:
        if len(rows):
            out = self._blas.dsyrk(alpha, rows.T, beta=1.0, c=matrix, lower=1, overwrite_c=1)
            assert np.may_share_memory(out, matrix), "the matrix is not float64 in Fortran order"

    def multiply(self, matrix: Array, columns: Array) -> Array:
        if columns.shape[1] > FEW_COLUMNS:
            return np.asarray(self._blas.dsymm(1.0, matrix, columns, lower=1))
        product = np.empty(columns.shape, order="F")
        for j in range(columns.shape[1]):
            product[:, j] = self._blas.dsymv(1.0, matrix, columns[:, j], lower=1)
        return product

    def subtract_product(self, matrix: Array, left: Array, right: Array) -> None:
        if matrix.shape[1] and len(right):
            out = self._blas.dgemm(-1.0, left, right, beta=1.0, c=matrix, overwrite_c=1)
            assert np.may_share_memory(out, matrix), "the matrix is not float64 in Fortran order"

    def lower_solve(self, factor: Array, rows: Array) -> Array:
        if rows.shape[1] == 0:
            return np.zeros(rows.shape)
        solved: Array = self._blas.dtrsm(1.0, factor, rows.T, side=1, lower=1, trans_a=1)
        return np.ascontiguousarray(solved.T)

    def cholesky(self, matrix: Array) -> Array:
        factor, info = self._lapack.dpotrf(matrix, lower=1, clean=1, overwrite_a=1)
        if info != 0:
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        return np.asarray(factor)

    def cholesky_solve(self, factor: Array, columns: Array) -> Array:
        if columns.shape[1] == 0:
            return np.zeros(columns.shape, order="F")
        solved, info = self._lapack.dpotrs(factor, columns, lower=1)
        assert info == 0, info
        return np.asarray(solved)

    def cholesky_inverse(self, factor: Array) -> Array:
        inverse, info = self._lapack.dpotri(factor, lower=1, overwrite_c=1)
        if info != 0:
            raise np.linalg.LinAlgError("the factor is singular")
        return np.asarray(inverse)


@functools.cache
def kernels(name: KernelName = "auto") -> Kernels:
    """Return the kernels called ``name``; "auto" takes SciPy's when it is installed. Raises ConfigurationError."""
    if name == "numpy":
        return NumpyKernels()
    if name not in ("auto", "scipy"):
        raise ConfigurationError(f"linear algebra kernels {name!r} are not known; choose auto, scipy or numpy")
    try:
        return ScipyKernels()
    except ImportError:
        if name == "scipy":
            raise
        return NumpyKernels()
