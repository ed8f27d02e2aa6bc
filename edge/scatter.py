"""Scatter matrices from the statistics without cancellation, the ridge term, and the solve that all heads share."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edge.errors import ConfigurationError
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics
from edge.symmetric import Array, KernelName, kernels

MAX_EXPONENT = 40


class PivotedScatter(NamedTuple):
    """Scatter about integer pivots near the class means: all exact integers, so nothing cancels.

    pivots: (k, d). rests: (k, d), sum of x - pivot. scatter: (d, d), sum over all samples of (x - pivot)(x - pivot)'.
    """

    pivots: Array
    rests: Array
    scatter: Array


def pivoted(counts: Array, sums: Array, gram: Array) -> PivotedScatter:
    """Move the origin of each class to its rounded mean. counts (k,), sums (k, d), gram (d, d)."""
    pivots = np.rint(sums / counts[:, None])
    rests = sums - counts[:, None] * pivots
    return PivotedScatter(pivots, rests, gram - pivots.T @ sums - rests.T @ pivots)


def within_scatter(stats: SufficientStatistics) -> Array:
    """Scatter sum of the samples about their class means: gram - sum_c s_c s_c' / n_c, (d, d)."""
    return _scatter(stats.counts, stats.sums, stats.gram)


def total_scatter(stats: SufficientStatistics) -> Array:
    """Scatter sum of the samples about their common mean, (d, d). Zero when there is no sample."""
    return _scatter(np.array([np.sum(stats.counts)]), np.sum(stats.sums, axis=0)[None, :], stats.gram)


def _scatter(counts: Array, sums: Array, gram: Array) -> Array:
    if not np.any(counts):
        return np.zeros_like(gram)
    parts = pivoted(counts, sums, gram)
    scatter = parts.scatter - (parts.rests / counts[:, None]).T @ parts.rests
    return np.asarray((scatter + scatter.T) / 2.0)


def ridge_term(space: FeatureSpace, ridge: float) -> float:
    """Diagonal entry that stands for ``ridge`` isotropic windows of unit length. Raises ConfigurationError."""
    require_power_of_two("ridge", ridge)
    return ridge * space.embedding.grid.scale**2 / space.dim


def require_power_of_two(name: str, value: float, *, or_zero: bool = False) -> None:
    """Raise ConfigurationError unless ``value`` is a power of two from 2^-40 to 2^40, or zero where that is allowed."""
    if or_zero and value == 0.0:
        return
    wanted = math.isfinite(value) and value > 0.0 and math.frexp(value)[0] == 0.5
    if not wanted or abs(math.log2(value)) > MAX_EXPONENT:
        raise ConfigurationError(
            f"{name} is {value!r}; wanted a power of two from 2^-{MAX_EXPONENT} to 2^{MAX_EXPONENT}"
            f"{', or 0' if or_zero else ''}, such as 0.5, 1 or 16"
        )


def solve(scatter: Array, diagonal: float, targets: Array, kernel: KernelName) -> Array:
    """Solve (scatter + diagonal * I) W = targets'. targets: (k, d). Returns (d, k) in C order.

    Raises ConfigurationError when rounding leaves the matrix indefinite.
    """
    matrix = np.array(scatter, order="F")
    matrix[np.diag_indices(len(matrix))] += diagonal
    k = kernels(kernel)
    try:
        factor = k.cholesky(matrix)
    except np.linalg.LinAlgError as e:
        raise too_small_ridge(diagonal) from e
    return np.ascontiguousarray(k.cholesky_solve(factor, np.asfortranarray(targets.T)))


def too_small_ridge(diagonal: float) -> ConfigurationError:
    """The error for a matrix that rounding made indefinite; ``diagonal`` is the ridge term."""
    return ConfigurationError(
        f"the ridge term {diagonal:g} leaves the matrix not positive definite in float64; choose a larger ridge"
    )
