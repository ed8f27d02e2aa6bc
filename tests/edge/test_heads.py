"""Read-outs of the statistics: against their definitions on the samples, against peers, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import ConfigurationError, NotEnoughSamplesError, SpaceMismatchError
from edge.heads import Background, LinearHead, fit_balanced_ridge, fit_detection, fit_lda, fit_ncm, fit_ridge
from edge.scatter import pivoted, require_power_of_two, ridge_term, total_scatter, within_scatter
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics
from edge.symmetric import Array
from tests.strategies import Samples, feature_space, samples

FITS = (fit_ridge, fit_balanced_ridge, fit_lda)


def clusters(
    space: FeatureSpace, n_classes: int, n_each: int, seed: int, *, noise: float = 0.7, prefix: str = "class"
) -> Samples:
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((n_classes, space.dim)) + 0.5
    x = np.repeat(means, n_each, axis=0) + noise * rng.standard_normal((n_classes * n_each, space.dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = tuple(f"{prefix} {i}" for i in range(n_classes) for _ in range(n_each))
    return Samples(space, space.embedding.grid.quantize(x)[0], labels)


def build(data: Samples) -> SufficientStatistics:
    return SufficientStatistics.from_samples(data.space, data.features, data.labels)


def plain_scatter(x: Array, groups: NDArray[np.str_]) -> Array:
    total = np.zeros((x.shape[1], x.shape[1]))
    for group in np.unique(groups):
        centred = x[groups == group] - x[groups == group].mean(axis=0)
        total += centred.T @ centred
    return total


SPACE = feature_space(12)
TAUGHT = clusters(SPACE, 5, 20, 1)
PRIOR = clusters(SPACE, 9, 40, 2, prefix="prior")
IGNORED = Samples(SPACE, clusters(SPACE, 1, 15, 3).features, ("_background_",) * 15)


@given(samples(min_size=1))
def test_scatter_equals_its_definition(data: Samples) -> None:
    stats, x = build(data), data.features.astype(np.float64)
    tolerance = 1e-9 * max(1.0, float(np.abs(stats.gram).max()))
    np.testing.assert_allclose(within_scatter(stats), plain_scatter(x, np.array(data.labels)), atol=tolerance)
    np.testing.assert_allclose(total_scatter(stats), plain_scatter(x, np.full(len(x), "all")), atol=tolerance)


def test_pivots_keep_what_plain_subtraction_loses() -> None:
    """Two tight classes far from the origin: gram - sum s s'/n cancels ten digits, the pivoted form none."""
    space, rng = feature_space(6), np.random.default_rng(0)
    noise = rng.integers(-1, 2, (4000, 6))
    features = (np.where(np.arange(4000)[:, None] < 2000, 30_000, -29_000) + noise).astype(np.int16)
    stats = SufficientStatistics.from_samples(space, features, ["a"] * 2000 + ["b"] * 2000)
    exact = plain_scatter(noise.astype(np.float64), np.array(["a"] * 2000 + ["b"] * 2000))
    naive = stats.gram - (stats.sums / stats.counts[:, None]).T @ stats.sums
    assert np.abs(within_scatter(stats) - exact).max() < 1e-12 * np.abs(exact).max()
    assert np.abs(naive - exact).max() > 1e-8 * np.abs(exact).max()
    parts = pivoted(stats.counts, stats.sums, stats.gram)
    assert np.array_equal(parts.scatter, np.rint(parts.scatter))


def test_ridge_is_the_regression_on_the_samples() -> None:
    x, p = TAUGHT.features.astype(np.float64), PRIOR.features.astype(np.float64)
    stats = build(TAUGHT)
    targets = np.array([[label == name for name in stats.labels] for label in TAUGHT.labels], dtype=np.float64)
    term = ridge_term(SPACE, 2.0) * np.eye(12)
    head = fit_ridge(stats, ridge=2.0)
    np.testing.assert_allclose(head.weights, np.linalg.solve(x.T @ x + term, x.T @ targets), rtol=1e-9)
    head = fit_ridge(stats, ridge=2.0, prior=build(PRIOR), prior_weight=0.5)
    np.testing.assert_allclose(head.weights, np.linalg.solve(x.T @ x + 0.5 * p.T @ p + term, x.T @ targets), rtol=1e-9)


def test_lda_is_the_gaussian_log_likelihood_with_uniform_prior() -> None:
    x, p = TAUGHT.features.astype(np.float64), PRIOR.features.astype(np.float64)
    scatter = plain_scatter(x, np.array(TAUGHT.labels)) + 0.5 * plain_scatter(p, np.array(PRIOR.labels))
    mass = len(x) + 0.5 * len(p) + 4.0
    precision = np.linalg.inv((scatter + ridge_term(SPACE, 4.0) * np.eye(12)) / mass)
    stats = build(TAUGHT)
    likelihood = np.array([[-0.5 * (v - m) @ precision @ (v - m) for m in stats.means] for v in x])
    scores = fit_lda(stats, ridge=4.0, prior=build(PRIOR), prior_weight=0.5).scores(TAUGHT.features)
    np.testing.assert_allclose(scores - scores[:, :1], likelihood - likelihood[:, :1], rtol=1e-8, atol=1e-8)


def test_balanced_ridge_is_ridge_when_classes_are_equally_large() -> None:
    stats = build(TAUGHT)
    plain, balanced = fit_ridge(stats, ridge=1.0), fit_balanced_ridge(stats, ridge=1.0)
    np.testing.assert_allclose(balanced.weights, plain.weights, rtol=1e-8)


def test_balance_matters_when_one_class_is_rare() -> None:
    """Plain ridge shrinks a class by its count; with the balance switched off the rare class is lost."""
    data = clusters(SPACE, 8, 300, 5, noise=1.2)
    rare = [i for i, label in enumerate(data.labels) if label != "class 0" or i < 3]
    stats, test = build(data.take(rare)), data.take(range(3, 300))

    def recall(head: LinearHead) -> float:
        return float(np.mean(head.scores(test.features).argmax(axis=1) == head.labels.index("class 0")))

    assert recall(fit_ridge(stats, ridge=1.0)) < 0.1
    assert recall(fit_balanced_ridge(stats, ridge=1.0)) > 0.5
    assert recall(fit_lda(stats, ridge=1.0)) > 0.5


def test_ncm_names_the_nearest_mean() -> None:
    stats, x = build(TAUGHT), TAUGHT.features.astype(np.float64)
    distance = np.array([[np.sum((v - m) ** 2) for m in stats.means] for v in x])
    scores = fit_ncm(stats).scores(TAUGHT.features)
    np.testing.assert_allclose(scores - scores[:, :1], -0.5 * (distance - distance[:, :1]) / 2.0**28, atol=1e-12)


def test_scikit_learn_agrees() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    stats, x = build(TAUGHT), TAUGHT.features.astype(np.float64)
    targets = np.array([[label == name for name in stats.labels] for label in TAUGHT.labels], dtype=np.float64)
    peer = linear_model.Ridge(alpha=ridge_term(SPACE, 1.0), fit_intercept=False).fit(x, targets)
    np.testing.assert_allclose(fit_ridge(stats, ridge=1.0).weights, peer.coef_.T, rtol=1e-8)
    lda = discriminant.LinearDiscriminantAnalysis(solver="svd", priors=np.full(5, 0.2)).fit(x, TAUGHT.labels)
    answers = [stats.labels[i] for i in fit_lda(stats, ridge=2.0**-30).scores(x).argmax(axis=1)]
    assert answers == lda.predict(x).tolist()


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_z_of_the_background_has_mean_zero_and_deviation_one(weight: float) -> None:
    prior, ridge = build(PRIOR), 2.0**-30
    background = Background.from_statistics(prior, weight, None, ridge, SPACE)
    z = fit_detection(build(TAUGHT), background, ridge=ridge).z(PRIOR.features)
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=1e-9)


def test_background_is_the_moments_of_the_weighted_pool() -> None:
    prior, ignored, ridge = build(PRIOR), build(IGNORED), 8.0
    background = Background.from_statistics(prior, 0.5, ignored, ridge, SPACE)
    x = np.vstack([PRIOR.features, IGNORED.features]).astype(np.float64)
    weights = np.r_[np.full(len(PRIOR), 0.5), np.ones(len(IGNORED))]
    mean = weights @ x / weights.sum()
    total = (x - mean).T @ ((x - mean) * weights[:, None])
    np.testing.assert_allclose(background.mean, mean, rtol=1e-10)
    isotropic = ridge_term(SPACE, ridge) * np.eye(12)
    np.testing.assert_allclose(background.covariance, (total + isotropic) / (weights.sum() + ridge), rtol=1e-9)
    assert np.array_equal(background.covariance, background.covariance.T)
    within = 0.5 * within_scatter(prior) + within_scatter(ignored)
    assert np.abs(background.scatter - within).max() <= 0.5
    assert background.n_samples == weights.sum()


def test_a_background_of_nothing_is_isotropic_at_zero() -> None:
    background = Background.nothing(SPACE, 4.0)
    np.testing.assert_allclose(background.covariance, np.eye(12) * 2.0**28 / 12)
    assert not background.mean.any()
    assert Background.from_statistics(build(PRIOR), 0.0, None, 4.0, SPACE).n_samples == 0.0


def test_detection_and_lda_give_the_same_answer_from_the_same_matrix() -> None:
    prior, taught = build(PRIOR), build(TAUGHT)
    background = Background.from_statistics(prior, 1.0, None, 1.0, SPACE)
    head = fit_detection(taught, background, ridge=1.0)
    lda = fit_lda(taught, ridge=1.0, prior=prior).scores(PRIOR.features)
    ours = head.lda_scores(PRIOR.features)
    np.testing.assert_allclose(ours - ours[:, :1], lda - lda[:, :1], rtol=1e-6, atol=1e-6)
    assert np.array_equal(ours.argmax(axis=1), lda.argmax(axis=1))


def test_the_prior_keeps_its_class_means_out_of_the_covariance() -> None:
    """Collapsed into one class, the prior's between-class scatter would hide the directions that tell sounds apart."""
    collapsed = Samples(SPACE, PRIOR.features, ("everything",) * len(PRIOR))
    kept = Background.from_statistics(build(PRIOR), 1.0, None, 1.0, SPACE)
    lost = Background.from_statistics(build(collapsed), 1.0, None, 1.0, SPACE)
    np.testing.assert_allclose(kept.covariance, lost.covariance, rtol=1e-9)
    assert np.trace(kept.scatter) < 0.7 * np.trace(lost.scatter)


@given(samples(max_size=12), st.sampled_from([2.0**-8, 1.0, 64.0]), st.sampled_from(["scipy", "numpy"]))
def test_scores_are_always_finite(data: Samples, ridge: float, kernel: str) -> None:
    """One class, one window, duplicates, zero vectors, one dimension: every head works or says what is missing."""
    stats = build(data)
    probe = np.vstack([data.features, np.zeros((1, data.space.dim)), np.full((1, data.space.dim), -32767)])
    probe = probe.astype(np.int16)
    head = fit_detection(stats, Background.nothing(data.space, ridge), ridge=ridge, kernel=kernel)  # type: ignore[arg-type]
    assert head.z(probe).shape == (len(probe), len(stats.labels))
    assert np.isfinite(head.z(probe)).all()
    assert np.isfinite(head.lda_scores(probe)).all()
    assert head.z(probe).dtype == np.float64
    for fit in FITS:
        if not stats.labels:
            with pytest.raises(NotEnoughSamplesError, match="teach a sound first"):
                fit(stats, ridge=ridge)
        else:
            scores = fit(stats, ridge=ridge, kernel=kernel).scores(probe)  # type: ignore[arg-type]
            assert np.isfinite(scores).all()
            assert scores.dtype == np.float64
    if stats.labels:
        assert np.isfinite(fit_ncm(stats).scores(probe)).all()


def test_a_head_is_a_function_of_the_statistics_to_the_bit() -> None:
    shuffled = TAUGHT.take(np.random.default_rng(0).permutation(len(TAUGHT)))
    background = Background.from_statistics(build(PRIOR), 1.0, build(IGNORED), 1.0, SPACE)
    a, b = (fit_detection(build(data), background, ridge=1.0) for data in (TAUGHT, shuffled))
    assert np.array_equal(a.z(PRIOR.features), b.z(PRIOR.features))


@pytest.mark.parametrize("value", [0.0, -1.0, 3.0, 0.1, float("nan"), float("inf"), 2.0**41, 2.0**-41])
def test_settings_are_powers_of_two(value: float) -> None:
    with pytest.raises(ConfigurationError, match="wanted a power of two"):
        fit_lda(build(TAUGHT), ridge=value)
    if value != 0.0:
        with pytest.raises(ConfigurationError, match="prior_weight"):
            Background.from_statistics(build(PRIOR), value, None, 1.0, SPACE)
    require_power_of_two("prior_weight", 0.0, or_zero=True)


def test_spaces_do_not_mix() -> None:
    other = build(clusters(feature_space(12, backbone="a"), 2, 3, 0))
    for fit in FITS:
        with pytest.raises(SpaceMismatchError):
            fit(build(TAUGHT), ridge=1.0, prior=other)
    with pytest.raises(SpaceMismatchError):
        Background.from_statistics(other, 1.0, None, 1.0, SPACE)
    with pytest.raises(SpaceMismatchError):
        fit_detection(other, Background.nothing(SPACE, 1.0), ridge=1.0)


def test_a_ridge_too_small_for_float64_is_named() -> None:
    one = np.random.default_rng(0).integers(-32767, 32768, (1, 12)).astype(np.int16)
    stats = SufficientStatistics.from_samples(SPACE, np.repeat(one, 20_000, axis=0), ["a"] * 20_000)
    with pytest.raises(ConfigurationError, match="choose a larger ridge"):
        fit_ridge(stats, ridge=2.0**-40)
