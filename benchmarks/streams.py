"""Synthetic features for the numerical benchmarks: whole numbers, class-sorted, as ill-conditioned as asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.space import EmbeddingSpace, FeatureSpace


def feature_space(dim: int) -> FeatureSpace:
    """A space for made-up features of ``dim`` numbers."""
    return FeatureSpace(EmbeddingSpace("0" * 64, sample_rate=16000, window_length=16000, hop_length=4000, dim=dim))


@dataclass(frozen=True)
class IllConditionedStream:
    """Classes of windows in an exactly rank-deficient space with a decaying spectrum.

    Whole numbers of a space of ``dim / 2`` dimensions, spread by a fixed +-1 matrix: no rounding fills the empty
    directions, so the smallest eigenvalue of scatter + ridge is the ridge, and the condition grows with every window.
    """

    dim: int
    n_classes: int
    seed: int = 0
    decay: float = 0.5

    def windows(self, index: int, n: int, draw: int = 0) -> NDArray[np.int16]:
        """n windows of class ``index``, (n, dim) int16; ``draw`` numbers independent draws."""
        rank = self.dim // 2
        fixed = np.random.default_rng([self.seed, 0])
        spread = fixed.integers(0, 2, (rank, self.dim)).astype(np.float64) * 2.0 - 1.0
        deviation = (1.0 + np.arange(rank)) ** -self.decay
        deviation *= 2.0**14 / np.sqrt(self.dim * 2.0 * np.sum(deviation**2))
        mean = fixed.standard_normal((self.n_classes, rank))[index] * deviation
        noise = np.random.default_rng([self.seed, 1, index, draw]).standard_normal((n, rank)) * deviation
        return np.asarray(np.clip(np.rint(mean + noise) @ spread, -32767, 32767).astype(np.int16))

    def label(self, index: int) -> str:
        return f"class {index:03d}"


def separable_clusters(
    dim: int, n_classes: int, n_windows: int, *, seed: int = 0, noise: float = 1.0
) -> tuple[NDArray[np.int16], list[str]]:
    """Shuffled unit-length windows around random class means on the grid: (n, dim) int16 and n labels."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(dim + n_classes).standard_normal((n_classes, dim))
    which = rng.integers(0, n_classes, n_windows)
    x = means[which] + noise * rng.standard_normal((n_windows, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return feature_space(dim).embedding.grid.quantize(x)[0], [f"class {i:03d}" for i in which]
