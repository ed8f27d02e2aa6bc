"""The forms that soundkeep does not ship, written plainly from their formulas, as peers in the same run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class LeftToRightRidge:
    """Recursive ridge with P - P X' K X P evaluated from left to right, the order found in public code.

    Source: Zhuang et al. 2022 (ACIL), equations of the recursive update.
    """

    def __init__(self, inverse: Array, weights: Array) -> None:
        self.inverse, self.weights = inverse.copy(), weights.copy()

    def update(self, rows: Array, targets: Array) -> None:
        """rows: (m, d). targets: (m, k)."""
        p = self.inverse
        kernel = np.linalg.inv(np.eye(len(rows)) + rows @ p @ rows.T)
        self.inverse = p - p @ rows.T @ kernel @ rows @ p
        self.weights = self.weights + self.inverse @ rows.T @ (targets - rows @ self.weights)


class OneSidedRidge:
    """Recursive ridge that reuses (X P)' for P X': one product less, and no symmetry. The first form one writes."""

    def __init__(self, inverse: Array, weights: Array) -> None:
        self.inverse, self.weights = inverse.copy(), weights.copy()

    def update(self, rows: Array, targets: Array) -> None:
        """rows: (m, d). targets: (m, k)."""
        spread = rows @ self.inverse
        gain = np.linalg.solve(np.eye(len(rows)) + spread @ rows.T, spread)
        self.inverse -= spread.T @ gain
        self.weights += gain.T @ (targets - rows @ self.weights)


class StreamingDiscriminant:
    """Streaming LDA: running class means and one running covariance, updated sample by sample; pseudo-inverse on read.

    Source: Hayes and Kanan 2020 (Deep SLDA): S_t+1 = (t S_t + t/(t+1) delta delta') / (t + 1).
    """

    def __init__(self, dim: int, n_classes: int, shrinkage: float = 1e-4) -> None:
        self.means = np.zeros((n_classes, dim))
        self.counts = np.zeros(n_classes)
        self.covariance = np.zeros((dim, dim))
        self.n_seen = 0
        self.shrinkage = shrinkage

    def update(self, row: Array, index: int) -> None:
        """row: (d,) of class ``index``."""
        delta = row - self.means[index]
        t = self.n_seen
        self.covariance = (t * self.covariance + np.outer(delta, delta) * (t / (t + 1.0))) / (t + 1.0)
        self.means[index] += delta / (self.counts[index] + 1.0)
        self.counts[index] += 1.0
        self.n_seen += 1

    def read(self) -> tuple[Array, Array]:
        """Weights (d, k) and bias (k,)."""
        dim = len(self.covariance)
        precision = np.linalg.pinv((1.0 - self.shrinkage) * self.covariance + self.shrinkage * np.eye(dim))
        weights = precision @ self.means.T
        return weights, -0.5 * np.einsum("kd,dk->k", self.means, weights)
