"""Rivals: the background's own classes speak against a taught class; without a part its effect is gone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.heads import Background, DetectionHead, fit_detection
from edge.records import BACKGROUND
from edge.rivals import Rivals
from edge.space import EmbeddingSpace, FeatureSpace, Grid, l2_normalize
from edge.statistics import SufficientStatistics

DIM = 16
SPACE = FeatureSpace(EmbeddingSpace("0" * 64, 16000, 16000, 4000, DIM, Grid()))
RIDGE = 16.0


def around(center: NDArray[np.float64], n: int, seed: int, spread: float = 0.15) -> NDArray[np.int16]:
    """n windows near a direction, on the grid."""
    rng = np.random.default_rng(seed)
    x = center + spread * rng.standard_normal((n, DIM))
    return Grid().quantize(l2_normalize(x.astype(np.float32)))[0]


def axis(*weights: float) -> NDArray[np.float64]:
    center = np.zeros(DIM)
    center[: len(weights)] = weights
    return center / np.linalg.norm(center)


RAIN, SPEECH, BARK = axis(1.0), axis(0.0, 1.0), axis(0.0, 0.0, 1.0)
OWN_DOG, BELL = axis(0.0, 0.0, 1.0, 0.5), axis(0.0, 0.0, 0.3, 0.0, 1.0)


def stats(**classes: NDArray[np.int16]) -> SufficientStatistics:
    total = SufficientStatistics.zero(SPACE)
    for label, features in classes.items():
        total = total + SufficientStatistics.from_samples(SPACE, features, [label] * len(features))
    return total


PRIOR = stats(rain=around(RAIN, 200, 1), speech=around(SPEECH, 200, 2), bark=around(BARK, 60, 3))


def background(ignored: NDArray[np.int16] | None = None) -> Background:
    kept = None if ignored is None else stats(**{BACKGROUND: ignored})
    return Background.from_statistics(PRIOR, 1.0, kept, RIDGE, SPACE)


def detector(center: NDArray[np.float64], ignored: NDArray[np.int16] | None = None) -> DetectionHead:
    return fit_detection(stats(taught=around(center, 12, 5)), background(ignored), ridge=RIDGE)


def mean_score(head: DetectionHead, center: NDArray[np.float64]) -> float:
    return float(head.scores(around(center, 50, 9)).mean())


def without_rivals(head: DetectionHead) -> DetectionHead:
    return dataclasses.replace(head, admitted=np.zeros_like(head.admitted))


def test_a_rival_takes_away_what_it_explains_and_without_rivals_it_stays() -> None:
    head = detector(BELL)
    alone = without_rivals(head)
    rain_loss = mean_score(alone, RAIN) - mean_score(head, RAIN)
    own_loss = mean_score(alone, BELL) - mean_score(head, BELL)
    assert rain_loss > 0.4
    assert own_loss < 0.1


def test_a_prior_that_holds_barking_does_not_silence_the_own_dog() -> None:
    head = detector(OWN_DOG)
    bark = PRIOR.labels.index("bark")
    assert not head.admitted[0, bark]
    everyone = dataclasses.replace(head, admitted=np.ones_like(head.admitted))
    assert mean_score(head, OWN_DOG) > mean_score(everyone, OWN_DOG) + 1.0


def test_each_rival_has_mean_zero_and_deviation_one_on_the_background() -> None:
    rivals = background().rivals
    windows = np.concatenate([around(RAIN, 200, 1), around(SPEECH, 200, 2), around(BARK, 60, 3)])
    z = windows.astype(np.float64) @ rivals.weights - rivals.offset
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-9)
    assert np.all(np.abs(z.std(axis=0) - 1.0) < 0.05)


def test_the_own_share_brings_classes_near_and_far_to_one_scale() -> None:
    head = detector(OWN_DOG)
    plain = head.z(around(OWN_DOG, 50, 9)) - head.rivals.against(around(OWN_DOG, 50, 9), head.admitted)
    np.testing.assert_allclose(head.scores(around(OWN_DOG, 50, 9)), plain - 0.25 * head.own_z, atol=1e-9)
    own_mean = stats(taught=around(OWN_DOG, 12, 5)).means
    np.testing.assert_allclose(head.z(own_mean), head.own_z[None], rtol=1e-9)


def test_what_is_ignored_beats_a_class_much_like_it_and_otherwise_leaves_it_alone() -> None:
    neighbours_dog = axis(0.0, 0.0, 1.0, 0.0, 0.0, 0.6)
    wrong = around(neighbours_dog, 8, 11)
    before, after = detector(OWN_DOG), detector(OWN_DOG, wrong)
    assert mean_score(before, neighbours_dog) > 1.5
    assert mean_score(after, neighbours_dog) < 0.5 * mean_score(before, neighbours_dog)
    assert mean_score(after, OWN_DOG) > 1.5
    assert after.rivals.ignored_z(wrong) is not None
    assert before.rivals.ignored_z(wrong) is None


@pytest.mark.parametrize("n", [0, 3])
def test_no_background_has_no_rivals_and_scores_stay_finite(n: int) -> None:
    nothing = Background.nothing(SPACE, RIDGE)
    head = fit_detection(stats(taught=around(BARK, 2, 1)), nothing, ridge=RIDGE)
    scores = head.scores(around(BARK, n, 2))
    assert scores.shape == (n, 1)
    assert np.isfinite(scores).all()


def test_a_class_at_the_backgrounds_mean_is_no_rival() -> None:
    base = background()
    rivals = Rivals.of(
        np.stack([base.mean, PRIOR.means[0]]),
        base.mean,
        base.scatter,
        base.covariance,
        ridge=RIDGE,
        space=SPACE,
        last_is_ignored=False,
    )
    assert rivals.weights.shape[1] == 1
