"""The choice of the ridge: a function of the records, blind to their order, modest when there are few."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigurationError, CorruptionError, NotEnoughSamplesError
from edge.heads import Background
from edge.ridge_selection import (
    CANDIDATES,
    CalibrationRecord,
    TaughtRecord,
    fold_of_records,
    gcv_scores,
    select_ridge,
)
from edge.scatter import ridge_term
from edge.statistics import SufficientStatistics
from tests.strategies import feature_space

SPACE = feature_space(24)


def records(n_classes: int, n_each: int, *, noise: float, seed: int = 0, n_windows: int = 3) -> list[TaughtRecord]:
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(9).standard_normal((n_classes, SPACE.dim))
    made = []
    for index in range(n_classes):
        for _ in range(n_each):
            own = means[index] + noise * rng.standard_normal(SPACE.dim)
            x = own + 0.1 * rng.standard_normal((n_windows, SPACE.dim))
            features = SPACE.embedding.grid.quantize(x / np.linalg.norm(x, axis=1, keepdims=True))[0]
            made.append(TaughtRecord(hashlib.sha256(features.tobytes()).hexdigest(), f"class {index}", features))
    return made


NOTHING = Background.nothing(SPACE, 1.0)


@given(st.lists(st.sampled_from("ab"), max_size=20))
def test_each_class_is_dealt_out_evenly_whatever_the_order(labels: list[str]) -> None:
    features = np.zeros((1, 24), dtype=np.int16)
    dealt = [TaughtRecord(f"record {i}", label, features) for i, label in enumerate(labels)]
    fold = fold_of_records(dealt)
    again = dict(zip(reversed(dealt), fold_of_records(dealt[::-1]), strict=True))
    for label in "ab":
        mine = [f for r, f in zip(dealt, fold, strict=True) if r.label == label]
        assert abs(2 * sum(mine) - len(mine)) <= 1
    assert all(again[r] == f for r, f in zip(dealt, fold, strict=True))


def test_the_choice_is_blind_to_the_order_of_teaching() -> None:
    known = records(6, 5, noise=0.6)
    shuffled = [known[i] for i in np.random.default_rng(0).permutation(len(known))]
    assert select_ridge(known, NOTHING, default=1.0) == select_ridge(shuffled, NOTHING, default=1.0)


def test_a_bad_default_is_left_and_a_good_one_is_kept() -> None:
    """Few noisy records in many dimensions: almost no ridge overfits the scatter of the fold."""
    known = records(8, 6, noise=0.9, n_windows=1)
    chosen = select_ridge(known, NOTHING, default=2.0**-20)
    by_ridge = dict(zip(chosen.candidates, chosen.accuracy, strict=True))
    assert chosen.ridge > 2.0**-20
    assert by_ridge[chosen.ridge] == max(chosen.accuracy) > by_ridge[2.0**-20] + chosen.standard_error
    kept = select_ridge(known, NOTHING, default=chosen.ridge)
    assert kept.ridge == chosen.ridge
    assert kept.n_records == len(known)


def test_with_too_few_records_the_default_stays() -> None:
    for few in (records(1, 6, noise=0.3), records(4, 1, noise=0.3)):
        chosen = select_ridge(few, NOTHING, default=4.0)
        assert (chosen.ridge, chosen.candidates, chosen.accuracy) == (4.0, (), ())
        assert chosen.gcv_ridge in {4.0, *CANDIDATES}
    with pytest.raises(NotEnoughSamplesError):
        select_ridge([], NOTHING, default=1.0)
    with pytest.raises(ConfigurationError):
        select_ridge(records(2, 2, noise=0.3), NOTHING, default=0.3)


def test_a_record_names_the_statistics_it_was_made_from() -> None:
    known = records(3, 4, noise=0.3)
    labels = [r.label for r in known for _ in r.features]
    stats = SufficientStatistics.from_samples(SPACE, np.vstack([r.features for r in known]), labels)
    assert select_ridge(known, NOTHING, default=1.0).statistics_sha256 == stats.sha256


def test_gcv_from_the_statistics_equals_gcv_from_the_samples() -> None:
    known = records(4, 10, noise=0.8)
    x = np.vstack([r.features for r in known])
    labels = [r.label for r in known for _ in r.features]
    stats = SufficientStatistics.from_samples(SPACE, x, labels)
    y = np.array([[label == name for name in stats.labels] for label in labels], dtype=np.float64)
    whole = x.astype(np.float64)
    wanted = []
    for ridge in CANDIDATES:
        hat = whole @ np.linalg.solve(stats.gram + ridge_term(SPACE, ridge) * np.eye(24), whole.T)
        rss = np.sum((y - hat @ y) ** 2)
        wanted.append(len(x) * rss / (len(x) - np.trace(hat)) ** 2)
    np.testing.assert_allclose(gcv_scores(stats, CANDIDATES), wanted, rtol=1e-7)


@given(st.integers(0, 5))
def test_gcv_is_finite_when_the_ridge_vanishes_in_the_samples(n: int) -> None:
    features = np.arange(n * 24).reshape(n, 24).astype(np.int16)
    stats = SufficientStatistics.from_samples(SPACE, features, ["a"] * n)
    if n:
        assert np.isfinite(gcv_scores(stats, CANDIDATES)).all()


def test_the_stored_form() -> None:
    record = select_ridge(records(3, 4, noise=0.3), NOTHING, default=1.0)
    stored = json.loads(json.dumps(record.to_dict()))
    assert CalibrationRecord.from_dict(stored) == record
    for bad in (None, [], {}, {**stored, "version": 2}, {**stored, "ridge": 0.3}, {**stored, "ridge": "x"}):
        with pytest.raises(CorruptionError, match="calibrate again"):
            CalibrationRecord.from_dict(bad)
    del stored["accuracy"]
    with pytest.raises(CorruptionError):
        CalibrationRecord.from_dict(stored)
