"""Heads read out of the statistics: ridge, balanced ridge, LDA, nearest class mean, and the detector.

Every head is a disposable function of ``SufficientStatistics``. ``ridge`` counts isotropic windows: the matrix that is
solved is A = S + ridge * scale^2 / d * I, with S a scatter sum in squared grid units, so teaching never changes the
meaning of ``ridge``. ``ridge`` and ``prior_weight`` are powers of two. The prior's statistics enter a read-out only;
they never mix into what was learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import NotEnoughSamplesError, SpaceMismatchError
from edge.rivals import Rivals
from edge.scatter import require_power_of_two, ridge_term, solve, total_scatter, within_scatter
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics
from edge.symmetric import Array, KernelName

TINY = np.finfo(np.float64).tiny
OWN_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Scores that are linear in the features. labels: k names. weights: (d, k) float64. bias: (k,) float64."""

    labels: tuple[str, ...]
    weights: Array
    bias: Array

    def scores(self, features: NDArray[Any]) -> Array:
        """features: (n, d) on the grid. Returns (n, k) float64, finite."""
        return np.asarray(np.asarray(features, dtype=np.float64) @ self.weights + self.bias)


def fit_ridge(
    stats: SufficientStatistics,
    *,
    ridge: float,
    prior: SufficientStatistics | None = None,
    prior_weight: float = 1.0,
    kernel: KernelName = "auto",
) -> LinearHead:
    """One-hot ridge regression without intercept: (G + ridge term) W = sums'.

    The prior, if any, adds ``prior_weight`` times its gram: samples whose target is zero in every column.
    Raises NotEnoughSamplesError without a class. Source: Hoerl and Kennard 1970; Zhuang et al. 2022 (ACIL).
    """
    _require_classes(stats, 1)
    share = _prior_share(stats, prior, prior_weight)
    gram = stats.gram if prior is None else stats.gram + share * prior.gram
    weights = solve(gram, ridge_term(stats.space, ridge), stats.sums, kernel)
    return LinearHead(stats.labels, weights, np.zeros(len(stats.labels)))


def fit_balanced_ridge(
    stats: SufficientStatistics,
    *,
    ridge: float,
    prior: SufficientStatistics | None = None,
    prior_weight: float = 1.0,
    kernel: KernelName = "auto",
) -> LinearHead:
    """Ridge regression in which every class has the same mass and the pooled covariance, whatever its count.

    With K classes (the prior's included, with target zero) and N samples:
    (S_w + N/K sum_c mu_c mu_c' + ridge term) W = N/K mu.
    Raises NotEnoughSamplesError without a class. Source: He et al. 2024 (AIR), each class's gram replaced by
    n_c (S_w / N + mu_c mu_c'), which keeps the state at one matrix.
    """
    _require_classes(stats, 1)
    scatter, mass = _pooled(stats, prior, prior_weight)
    means = stats.means if mass == stats.n_samples or prior is None else np.vstack([stats.means, prior.means])
    each = mass / len(means)
    weights = solve(scatter + each * (means.T @ means), ridge_term(stats.space, ridge), each * stats.means, kernel)
    return LinearHead(stats.labels, weights, np.zeros(len(stats.labels)))


def fit_lda(
    stats: SufficientStatistics,
    *,
    ridge: float,
    prior: SufficientStatistics | None = None,
    prior_weight: float = 1.0,
    kernel: KernelName = "auto",
) -> LinearHead:
    """Linear discriminant with uniform class prior: the log-likelihood of each class up to a common term.

    Covariance (S_w + prior_weight * prior's S_w + ridge term) / N; N = samples + prior_weight * prior's + ridge.
    Raises NotEnoughSamplesError without a class. Source: Fisher 1936; Panos et al. 2023 (First Session Adaptation).
    """
    _require_classes(stats, 1)
    scatter, mass = _pooled(stats, prior, prior_weight)
    weights = (mass + ridge) * solve(scatter, ridge_term(stats.space, ridge), stats.means, kernel)
    return LinearHead(stats.labels, weights, -0.5 * np.einsum("kd,dk->k", stats.means, weights))


def fit_ncm(stats: SufficientStatistics) -> LinearHead:
    """Nearest class mean: half the squared distance to each mean, negated, up to a common term; unit length is 1.

    Raises NotEnoughSamplesError without a class.
    """
    _require_classes(stats, 1)
    unit = stats.space.embedding.grid.scale**2
    return LinearHead(
        stats.labels, np.ascontiguousarray(stats.means.T) / unit, -0.5 * np.sum(stats.means**2, axis=1) / unit
    )


@dataclass(frozen=True, eq=False)
class Background:
    """Everything else: the bundle's prior and what the owner told the device to ignore.

    mean: (d,), zero when there is nothing. covariance: (d, d), total, with ``ridge`` isotropic windows in it.
    scatter: (d, d), scatter sum about the background's own class means, rounded to whole numbers so that the live head
    can add to it exactly. n_samples: weighted. rivals: filters of its own classes. Grid units.
    """

    space: FeatureSpace
    mean: Array
    covariance: Array
    scatter: Array
    n_samples: float
    rivals: Rivals

    @classmethod
    def from_statistics(
        cls,
        prior: SufficientStatistics | None,
        weight: float,
        ignored: SufficientStatistics | None,
        ridge: float,
        space: FeatureSpace,
    ) -> Background:
        """Build it exactly from statistics.

        prior: the bundle's, of any classes. weight: power of two or 0. ignored: the device's background records,
        counted with weight 1. Raises SpaceMismatchError, ConfigurationError.
        """
        require_power_of_two("prior_weight", weight, or_zero=True)
        d = space.dim
        mean, total, within, mass = np.zeros(d), np.zeros((d, d)), np.zeros((d, d)), 0.0
        class_means = [np.zeros((0, d))]
        for part, share in ((prior, weight), (ignored, 1.0)):
            if part is None or share == 0.0 or part.n_samples == 0:
                continue
            _require_space(space, part)
            n = share * part.n_samples
            step = np.sum(part.sums, axis=0) / part.n_samples - mean
            total += share * total_scatter(part) + (mass * n / (mass + n)) * np.outer(step, step)
            within += share * within_scatter(part)
            class_means.append(part.means)
            mean = mean + (n / (mass + n)) * step
            mass += n
        total[np.diag_indices(d)] += ridge_term(space, ridge)
        covariance, scatter = total / (mass + ridge), np.rint(within)
        rivals = Rivals.of(
            np.vstack(class_means),
            mean,
            scatter,
            covariance,
            ridge=ridge,
            space=space,
            last_is_ignored=ignored is not None and ignored.n_samples > 0,
        )
        return cls(space, mean, covariance, scatter, mass, rivals)

    @classmethod
    def nothing(cls, space: FeatureSpace, ridge: float) -> Background:
        """No prior and nothing ignored: mean zero, isotropic."""
        return cls.from_statistics(None, 0.0, None, ridge, space)


@dataclass(frozen=True, eq=False)
class DetectionHead:
    """What hears: each taught class against the background, by itself.

    z_c(x) = w_c.(x - m0) / sqrt(w_c' C0 w_c), w_c = A^-1 (mu_c - m0), with A the pooled within-class scatter of taught
    classes and background plus the ridge term, m0 and C0 the background's mean and covariance: on background, z has
    mean 0 and deviation 1. ``lda_scores`` are log-likelihood ratios of each class to a class at m0, so their largest is
    LDA's answer with uniform prior. ``scores`` are what decides: z less what the background's own classes say.

    weights: (d, k) = w_c over its deviation. offset: (k,). gain, bias: (k,), lda = gain * z + bias. rivals: filters of
    the background's classes. admitted: (k, m), which of them may speak against which class. mass: weighted samples.
    """

    labels: tuple[str, ...]
    weights: Array
    offset: Array
    gain: Array
    bias: Array
    rivals: Rivals
    admitted: NDArray[np.bool_]
    mass: float

    def z(self, features: NDArray[Any]) -> Array:
        """features: (n, d) on the grid. Returns (n, k) float64, finite."""
        return np.asarray(np.asarray(features, dtype=np.float64) @ self.weights - self.offset)

    def scores(self, features: NDArray[Any]) -> Array:
        """features: (n, d) on the grid. Returns (n, k) float64, finite.

        s_c(x) = z_c(x) - log mean_j exp z_j(x) over rivals j - OWN_SHARE * z_c(mu_c). The last term asks more of a
        class that stands out more: one threshold fits kinds that the prior holds and kinds that nobody heard. A window
        that the ignored sounds explain better than a class much like them scores at most 0 for that class.
        """
        z = self.z(features)
        scores = z - self.rivals.against(features, self.admitted) - OWN_SHARE * self.own_z
        return np.where(self._ignored_instead(features, z), np.minimum(scores, 0.0), scores)

    def _ignored_instead(self, features: NDArray[Any], z: Array) -> NDArray[np.bool_]:
        """Say where LDA prefers the ignored sounds to a class that they are too alike to rival. Returns (n, k)."""
        ignored, ignored_z = self.rivals.ignored, self.rivals.ignored_z(features)
        if ignored is None or ignored_z is None:
            return np.zeros(z.shape, dtype=np.bool_)
        preferred = ignored.lda_of_z(ignored_z, self.mass)[:, None] > self.lda_of_z(z)
        return np.asarray(preferred & ~self.admitted[:, -1])

    @property
    def own_z(self) -> Array:
        """z of each class's own mean, (k,): how far it stands out of the background."""
        return np.asarray(-2.0 * self.bias / self.gain)

    def lda_scores(self, features: NDArray[Any]) -> Array:
        """features: (n, d) on the grid. Returns (n, k) float64, finite: log-likelihood ratios."""
        return self.lda_of_z(self.z(features))

    def lda_of_z(self, z: Array) -> Array:
        """The log-likelihood ratios that belong to z values (n, k)."""
        return z * self.gain + self.bias

    @classmethod
    def from_columns(
        cls, labels: tuple[str, ...], columns: Array, spread: Array, steps: Array, background: Background, mass: float
    ) -> DetectionHead:
        """Normalise solved columns. columns: w (d, k). spread: C0 w (d, k). steps: mu_c - m0 (k, d).

        mass: N, the weighted number of samples behind A.
        """
        deviation = np.sqrt(np.maximum(np.einsum("dk,dk->k", columns, spread), TINY))
        weights = columns / deviation
        return cls(
            labels,
            weights,
            background.mean @ weights,
            mass * deviation,
            -0.5 * mass * np.einsum("kd,dk->k", steps, columns),
            background.rivals,
            background.rivals.admitted(spread / deviation),
            mass,
        )


def fit_detection(
    taught: SufficientStatistics, background: Background, *, ridge: float, kernel: KernelName = "auto"
) -> DetectionHead:
    """The detector of the taught classes, solved from the statistics by one Cholesky factorisation.

    taught: the device's records without the ignored ones; zero classes give a head with no columns.
    Raises SpaceMismatchError, ConfigurationError.
    Source of the scores: LDA; relative Mahalanobis distance (Ren et al. 2021) restricted to one direction per class.
    """
    _require_space(taught.space, background)
    steps = taught.means - background.mean
    scatter = within_scatter(taught) + background.scatter
    columns = solve(scatter, ridge_term(taught.space, ridge), steps, kernel)
    mass = taught.n_samples + background.n_samples + ridge
    return DetectionHead.from_columns(taught.labels, columns, background.covariance @ columns, steps, background, mass)


def _pooled(stats: SufficientStatistics, prior: SufficientStatistics | None, weight: float) -> tuple[Array, float]:
    """Within-class scatter of the taught classes and the weighted prior (d, d), and the weighted number of samples."""
    share = _prior_share(stats, prior, weight)
    if prior is None or share == 0.0:
        return within_scatter(stats), float(stats.n_samples)
    return within_scatter(stats) + share * within_scatter(prior), stats.n_samples + share * prior.n_samples


def _prior_share(stats: SufficientStatistics, prior: SufficientStatistics | None, weight: float) -> float:
    """The weight with which the prior counts: 0 without one. Raises ConfigurationError, SpaceMismatchError."""
    require_power_of_two("prior_weight", weight, or_zero=True)
    if prior is None or prior.n_samples == 0:
        return 0.0
    _require_space(stats.space, prior)
    return weight


def _require_classes(stats: SufficientStatistics, least: int) -> None:
    if len(stats.labels) < least:
        raise NotEnoughSamplesError(
            f"the statistics hold {len(stats.labels)} classes; a read-out wants at least {least}: teach a sound first"
        )


def _require_space(space: FeatureSpace, other: SufficientStatistics | Background) -> None:
    if other.space != space:
        raise SpaceMismatchError(
            f"a prior or background of feature space {other.space.sha256[:12]} cannot serve {space.sha256[:12]}; "
            "use the one that came with the backbone"
        )
