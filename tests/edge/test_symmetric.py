"""One contract for both kernels: SciPy's in-place BLAS and plain NumPy."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

import edge.symmetric
from edge.errors import ConfigurationError
from edge.symmetric import FEW_COLUMNS, Array, Kernels, NumpyKernels, ScipyKernels, filled, kernels


@pytest.fixture(params=[ScipyKernels, NumpyKernels])
def kernel(request: pytest.FixtureRequest) -> Kernels:
    made: Kernels = request.param()
    return made


def positive(d: int, seed: int = 0) -> Array:
    x = np.random.default_rng(seed).standard_normal((2 * d, d))
    return np.asfortranarray(x.T @ x)


@pytest.mark.parametrize("n", [0, 1, 3, 40])
@pytest.mark.parametrize("alpha", [1.0, -1.0])
def test_outer_products_are_added_in_place(kernel: Kernels, n: int, alpha: float) -> None:
    matrix = positive(7)
    before = filled(matrix)
    rows = np.random.default_rng(n).standard_normal((n, 7))
    kernel.add_outer(matrix, rows, alpha)
    np.testing.assert_allclose(filled(matrix), before + alpha * rows.T @ rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", [0, 1, FEW_COLUMNS, FEW_COLUMNS + 1])
def test_products_read_one_triangle(kernel: Kernels, m: int) -> None:
    matrix = positive(7)
    columns = np.asfortranarray(np.random.default_rng(m).standard_normal((7, m)))
    wanted = matrix @ columns
    if kernel.name == "scipy":
        matrix[np.triu_indices(7, 1)] = np.nan
    found = kernel.multiply(matrix, columns)
    assert found.flags.f_contiguous
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [0, 1, 5])
def test_solving(kernel: Kernels, k: int) -> None:
    matrix = positive(7)
    columns = np.asfortranarray(np.random.default_rng(k).standard_normal((7, k)))
    factor = kernel.cholesky(matrix.copy(order="F"))
    np.testing.assert_allclose(factor, np.linalg.cholesky(matrix), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(matrix @ kernel.cholesky_solve(factor, columns), columns, atol=1e-10)
    np.testing.assert_allclose(factor @ kernel.lower_solve(factor, columns), columns, atol=1e-10)
    np.testing.assert_allclose(filled(kernel.cholesky_inverse(factor)) @ matrix, np.eye(7), atol=1e-10)


@pytest.mark.parametrize(("m", "k"), [(0, 3), (2, 0), (2, 3)])
def test_products_are_subtracted_in_place(kernel: Kernels, m: int, k: int) -> None:
    rng = np.random.default_rng(0)
    matrix = np.asfortranarray(rng.standard_normal((7, k)))
    left, right = np.asfortranarray(rng.standard_normal((7, m))), rng.standard_normal((m, k))
    wanted = matrix - left @ right
    kernel.subtract_product(matrix, left, right)
    np.testing.assert_allclose(matrix, wanted, atol=1e-12)


def test_what_is_not_positive_is_refused(kernel: Kernels) -> None:
    with pytest.raises(np.linalg.LinAlgError):
        kernel.cholesky(np.asfortranarray(-np.eye(3)))


@pytest.mark.parametrize("matrix", [np.zeros((3, 3), dtype=np.float32, order="F"), np.arange(9.0).reshape(3, 3)])
def test_a_wrapper_that_would_copy_is_noticed(matrix: Any) -> None:
    with pytest.raises(AssertionError):
        ScipyKernels().add_outer(matrix, np.ones((1, 3)), 1.0)


def test_without_scipy_plain_numpy_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def no_scipy(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_scipy)
    edge.symmetric.kernels.cache_clear()
    try:
        assert kernels("auto").name == "numpy"
        with pytest.raises(ImportError):
            kernels("scipy")
    finally:
        edge.symmetric.kernels.cache_clear()


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="choose auto, scipy or numpy"):
        kernels("fortran")  # type: ignore[arg-type]
