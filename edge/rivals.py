"""The background's own classes as rivals: what explains a window better than a taught class takes it away.

A matched filter fires on everything that is loud in its direction. The prior's classes (speech, rain, a door, ...) and
the ignored sounds have filters of their own, from the same sums; a window counts for a taught class only as far as it
fits that class better than it fits the rivals. Rivals too like the taught class are left out: a prior that holds
barking must not silence the owner's dog. Related: cohort normalisation in speaker verification (Auckenthaler et al.
2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.scatter import ridge_term, solve
from edge.space import FeatureSpace
from edge.symmetric import Array

TOO_ALIKE = 0.5
LARGEST = 50.0
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class IgnoredSounds:
    """Where the mean of the ignored sounds lies: deviation sqrt(w' C0 w) of its filter, energy (mu - m0)'w."""

    deviation: float
    energy: float

    def lda_of_z(self, z: Array, mass: float) -> Array:
        """Log-likelihood ratios (n,) of the ignored sounds to a class at m0, from their z values (n,)."""
        return mass * (self.deviation * z - 0.5 * self.energy)


@dataclass(frozen=True, eq=False)
class Rivals:
    """Filters of the background's classes, each of unit deviation on the background.

    weights: (d, m) float64. offset: (m,). z_j(x) = w_j.x - offset_j, with mean 0 and deviation 1 on background.
    ignored: set when the last filter is that of the device's ignored sounds.
    """

    weights: Array
    offset: Array
    ignored: IgnoredSounds | None

    @classmethod
    def of(
        cls,
        class_means: Array,
        mean: Array,
        scatter: Array,
        covariance: Array,
        *,
        ridge: float,
        space: FeatureSpace,
        last_is_ignored: bool,
    ) -> Rivals:
        """Solve the filters of classes (m, d) against a background's mean (d,), scatter and covariance (d, d).

        w_j = A^-1 (mu_j - m0) / sqrt(w' C0 w), with A the background's within-class scatter plus the ridge term.
        A class at the background's mean has no direction and is left out.
        """
        if len(class_means) == 0:
            return cls(np.zeros((space.dim, 0)), np.zeros(0), None)
        columns = solve(scatter, ridge_term(space, ridge), class_means - mean, "auto")
        deviation = np.sqrt(np.maximum(np.einsum("dk,dk->k", columns, covariance @ columns), 0.0))
        kept = deviation > np.sqrt(TINY)
        weights = columns[:, kept] / deviation[kept]
        ignored = None
        if last_is_ignored and kept[-1]:
            ignored = IgnoredSounds(float(deviation[-1]), float((class_means[-1] - mean) @ columns[:, -1]))
        return cls(np.ascontiguousarray(weights), mean @ weights, ignored)

    def ignored_z(self, features: NDArray[Any]) -> Array | None:
        """z of the ignored sounds' own filter, (n,), or None when nothing is ignored. features: (n, d)."""
        if self.ignored is None:
            return None
        return np.asarray(np.asarray(features, dtype=np.float64) @ self.weights[:, -1] - self.offset[-1])

    def admitted(self, spread: Array) -> NDArray[np.bool_]:
        """Say which rivals may speak against which class: those correlated below 0.5 with it on the background.

        spread: (d, k) = C0 w_c of filters with unit deviation. Returns (k, m).
        """
        return np.asarray(spread.T @ self.weights < TOO_ALIKE)

    def against(self, features: NDArray[Any], admitted: NDArray[np.bool_]) -> Array:
        """log mean_j exp z_j(x) over the admitted rivals of each class; 0 for a class without any.

        features: (n, d). admitted: (k, m). Returns (n, k) float64, finite.
        """
        count = admitted.sum(axis=1)
        if self.weights.shape[1] == 0:
            return np.zeros((len(features), len(admitted)))
        z = np.minimum(np.asarray(features, dtype=np.float64) @ self.weights - self.offset, LARGEST)
        total = np.exp(z) @ admitted.T.astype(np.float64)
        mean = np.where(count > 0, total / np.maximum(count, 1), 1.0)
        return np.asarray(np.log(np.maximum(mean, TINY)))
