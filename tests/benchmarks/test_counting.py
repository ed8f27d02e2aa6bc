"""Laws of counting false alarms: events are merged by time, rates carry an exact interval, audio counts once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.counting import auroc, distinct_hours, first_crossings, held_for, poisson_interval, timeline
from edge.errors import MisuseError

HOP, REFRACTORY = 4000, 32000

hit_lists = st.lists(st.booleans(), max_size=120).map(lambda x: np.array(x, dtype=np.bool_))
scores = st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=60).map(np.array)


def times(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int64) * HOP


def slowly(hits: np.ndarray, at: np.ndarray) -> list[int]:
    """Count as a person would: remember the last hit."""
    begins, last = [], None
    for i in range(len(hits)):
        if hits[i]:
            if last is None or at[i] - last > REFRACTORY:
                begins.append(i)
            last = at[i]
    return begins


@given(hit_lists)
def test_events_are_those_that_a_person_counts(hits: np.ndarray) -> None:
    assert first_crossings(hits, times(len(hits)), REFRACTORY).tolist() == slowly(hits, times(len(hits)))


def test_one_long_burst_is_one_event_and_a_hundred_bursts_are_a_hundred() -> None:
    burst = np.concatenate([np.ones(20, dtype=np.bool_), np.zeros(30, dtype=np.bool_)])
    assert len(first_crossings(burst, times(50), REFRACTORY)) == 1
    many = np.tile(burst, 100)
    assert len(first_crossings(many, times(len(many)), REFRACTORY)) == 100


def test_without_the_refractory_time_a_flickering_burst_would_count_every_crossing() -> None:
    flicker = np.tile(np.array([True, False]), 10)
    assert len(first_crossings(flicker, times(20), REFRACTORY)) == 1
    assert len(first_crossings(flicker, times(20), HOP)) == 10


@given(hit_lists, hit_lists)
def test_clips_behind_each_other_count_as_each_alone(a: np.ndarray, b: np.ndarray) -> None:
    starts = np.concatenate([times(len(a)), times(len(b))])
    clip = np.repeat([3, 7], [len(a), len(b)])
    whole = first_crossings(np.concatenate([a, b]), timeline(starts, clip, REFRACTORY), REFRACTORY)
    apart = [first_crossings(x, times(len(x)), REFRACTORY) for x in (a, b)]
    assert whole.tolist() == [*apart[0].tolist(), *(apart[1] + len(a)).tolist()]


@given(scores, st.integers(1, 4))
def test_k_in_a_row_is_the_least_of_k_neighbours(z: np.ndarray, k: int) -> None:
    held = held_for(z, times(len(z)), k, HOP)
    wanted = [min(z[i - k + 1 : i + 1]) if i >= k - 1 else -math.inf for i in range(len(z))]
    assert held.tolist() == wanted
    assert np.all(held <= z)


def test_k_in_a_row_does_not_reach_across_a_gap() -> None:
    at = np.array([0, HOP, 5 * HOP, 6 * HOP], dtype=np.int64)
    assert held_for(np.ones(4), at, 2, HOP).tolist() == [-math.inf, 1.0, -math.inf, 1.0]
    with pytest.raises(MisuseError, match="k is 0"):
        held_for(np.ones(4), at, 0, HOP)


@pytest.mark.parametrize(
    ("events", "low", "high"),
    [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (5, 1.6235, 11.6683), (20, 12.2165, 30.8884), (100, 81.3639, 121.6269)],
)
def test_the_interval_is_the_exact_one_of_the_tables(events: int, low: float, high: float) -> None:
    found = poisson_interval(events, 1.0)
    assert found == pytest.approx((low, high), abs=2e-4)
    assert poisson_interval(events, 4.0) == pytest.approx((low / 4.0, high / 4.0), abs=1e-4)


@given(st.integers(1, 60))
def test_the_interval_leaves_a_fortieth_on_either_side(events: int) -> None:
    low, high = poisson_interval(events, 1.0)

    def at_most(n: int, mean: float) -> float:
        return math.fsum(math.exp(-mean + i * math.log(mean) - math.lgamma(i + 1)) for i in range(n + 1))

    assert 1.0 - at_most(events - 1, low) == pytest.approx(0.025, abs=1e-9)
    assert at_most(events, high) == pytest.approx(0.025, abs=1e-9)


def test_no_events_in_six_hours_is_what_half_an_event_an_hour_takes() -> None:
    assert poisson_interval(0, 6.0)[1] == pytest.approx(-math.log(0.025) / 6.0)
    with pytest.raises(MisuseError, match="no interval"):
        poisson_interval(0, 0.0)


def test_a_looped_recording_adds_no_hours() -> None:
    once = [("a", 1800.0), ("b", 900.0)]
    assert distinct_hours(once) == 0.75
    assert distinct_hours(once * 10) == 0.75
    assert distinct_hours([]) == 0.0


@given(scores, scores)
def test_auroc_is_that_of_scikit_learn(known: np.ndarray, unknown: np.ndarray) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn as the judge")
    truth = np.repeat([1, 0], [len(known), len(unknown)])
    wanted = metrics.roc_auc_score(truth, np.concatenate([known, unknown]))
    assert auroc(known, unknown) == pytest.approx(wanted)
    assert auroc(known, unknown) + auroc(unknown, known) == pytest.approx(1.0)


def test_auroc_wants_both_sides() -> None:
    with pytest.raises(MisuseError, match="at least one of each"):
        auroc(np.ones(3), np.ones(0))
