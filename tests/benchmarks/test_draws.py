"""Draws keep what belongs together on one side and teach only what carries sound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.draws import Questions, clips_by_label, episode, shots_of, spread_over_sources, taught, taught_unequally
from edge.errors import NotEnoughSamplesError
from tests.benchmarks.recordings import KINDS, recordings


@given(st.integers(0, 1000), st.integers(1, 3))
def test_questions_never_come_from_a_taught_source(seed: int, shots: int) -> None:
    data = recordings()
    pool = clips_by_label(data, data.where(sets=("esc50",), held_out=True))
    teach, ask = episode(data, pool, 4, shots, np.random.default_rng(seed))
    assert not set(data.clips.sources[teach]) & set(data.clips.sources[ask])
    assert len(teach) == 4 * shots
    assert all(data.clips.held_out[c] for c in [*teach, *ask])


@given(st.integers(0, 1000))
def test_every_source_comes_once_before_any_comes_twice(seed: int) -> None:
    data = recordings()
    own = data.where(sets=("esc50",), held_out=True, labels=("dog",))
    order = spread_over_sources(data, own, np.random.default_rng(seed))
    assert sorted(order) == sorted(own)
    assert len(set(data.clips.sources[order[:3]].tolist())) == 3


def test_shots_are_counted_and_too_few_are_refused() -> None:
    data = recordings()
    train = data.where(sets=("esc50",), held_out=False)
    drawn = shots_of(data, train, 2, np.random.default_rng(0))
    assert {label: len(own) for label, own in clips_by_label(data, drawn).items()} == dict.fromkeys(KINDS, 2)
    assert sorted(shots_of(data, train, None, np.random.default_rng(0))) == sorted(train)
    with pytest.raises(NotEnoughSamplesError, match="wanted at least 7"):
        shots_of(data, train, 7, np.random.default_rng(0))


def test_only_windows_that_carry_sound_are_taught_and_asked() -> None:
    data = recordings(windows=4)
    assert taught(data, [0, 1]).n_samples == 6
    questions = Questions.of(data, [0])
    assert np.array_equal(questions.means[0], data.features[:3].astype(np.float64).mean(axis=0))


def test_unequal_teaching_falls_in_a_geometric_row() -> None:
    data = recordings(n_per_side=20, windows=8)
    stats, labels = taught_unequally(data, data.where(sets=("esc50",), held_out=False), 100.0, np.random.default_rng(0))
    counts = dict(zip(stats.labels, stats.counts, strict=True))
    row = [counts[label] for label in labels]
    assert row[0] == 140.0
    assert row[-1] == 1.0
    assert row == sorted(row, reverse=True)
