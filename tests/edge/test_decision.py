"""The decider: thresholds, hysteresis, k of n, refractory time, several classes at once, unknown, silence, gaps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decision import SILENT, Decider, DecisionSettings, Event, NoiseFloor, decide_clip, level_dbfs
from edge.errors import ConfigurationError
from edge.records import BACKGROUND

RATE, WINDOW, HOP = 16000, 16000, 4000
PLAIN = DecisionSettings(
    threshold=6.0, low_threshold=4.0, k=1, n=1, hold_ms=500, refractory_ms=2000, rival_share=0.0, unknown_above_db=200.0
)


def run(
    z: Sequence[Sequence[float]],
    settings: DecisionSettings = PLAIN,
    labels: tuple[str, ...] = ("dog",),
    levels: Sequence[float] | None = None,
) -> list[Event]:
    """Push one window per row of z, a hop apart, then flush."""
    decider = Decider(settings, sample_rate=RATE, window_length=WINDOW, hop_length=HOP)
    events: list[Event] = []
    for i, row in enumerate(z):
        level = -20.0 if levels is None else levels[i]
        events += decider.push(i * HOP, labels, np.asarray(row, dtype=np.float64), level)
    return events + decider.flush()


def onsets(events: Sequence[Event]) -> list[tuple[str | None, int]]:
    return [(e.label, e.first_window // HOP) for e in events if e.phase == "onset"]


def test_an_event_opens_at_the_threshold_and_closes_after_the_hold() -> None:
    events = run([[0.0], [7.0], [5.0], [3.0], [0.0], [0.0], [0.0]])
    assert [e.phase for e in events] == ["onset", "offset"]
    assert events[0].id == events[1].id
    assert (events[1].first_window, events[1].last_window) == (1 * HOP, 2 * HOP)
    assert events[1].onset_sample == min(1 * HOP + WINDOW - HOP, 3 * HOP)
    assert events[1].offset_sample == max(1 * HOP + WINDOW - HOP, 3 * HOP)
    assert 0.5 < events[0].score < 1.0


def test_hysteresis_keeps_one_event_whole_and_without_it_the_event_splits() -> None:
    wavering = [[7.0], [4.5], [7.0], [4.5], [4.5], [4.5], [4.5], [7.0], [0.0], [0.0], [0.0], [0.0]]
    settings = dataclasses.replace(PLAIN, hold_ms=250, refractory_ms=0)
    assert len(onsets(run(wavering, settings))) == 1
    assert len(onsets(run(wavering, dataclasses.replace(settings, low_threshold=6.0)))) > 1


def test_k_of_n_asks_for_more_than_one_window() -> None:
    single, double = [[0.0], [7.0], [0.0], [0.0]], [[0.0], [7.0], [0.0], [7.0]]
    two_of_three = dataclasses.replace(PLAIN, k=2, n=3)
    assert onsets(run(single)) == [("dog", 1)]
    assert onsets(run(single, two_of_three)) == []
    assert onsets(run(double, two_of_three)) == [("dog", 1)]


def test_the_refractory_time_makes_one_event_of_a_stutter() -> None:
    stutter = [[7.0 if i % 6 == 0 else 0.0] for i in range(36)]
    assert len(onsets(run(stutter))) == 1
    assert len(onsets(run(stutter, dataclasses.replace(PLAIN, refractory_ms=0)))) == 6
    quiet_between = [[7.0], *[[0.0]] * 12, [7.0], *[[0.0]] * 12]
    assert len(onsets(run(quiet_between))) == 2


def test_minimum_length_refuses_a_short_burst() -> None:
    longer = dataclasses.replace(PLAIN, min_ms=1500)
    assert onsets(run([[7.0], [0.0], [0.0]], longer)) == []
    assert len(onsets(run([[7.0]] * 4, longer))) == 1


def test_two_taught_sounds_may_be_active_at_once() -> None:
    decider = Decider(PLAIN, sample_rate=RATE, window_length=WINDOW, hop_length=HOP)
    decider.push(0, ("cat", "dog"), np.array([7.0, 9.0]), -20.0)
    assert decider.active == ("cat", "dog")


def test_a_class_far_below_another_in_the_last_second_does_not_count_and_without_the_rule_it_does() -> None:
    z = [[20.0, 7.0], [0.0, 7.0], [0.0, 7.0]]
    rule = dataclasses.replace(PLAIN, rival_share=0.5)
    assert onsets(run(z, rule, ("cat", "dog"))) == [("cat", 0)]
    assert onsets(run(z, PLAIN, ("cat", "dog"))) == [("cat", 0), ("dog", 0)]
    alike = [[20.0, 11.0]]
    assert len(onsets(run(alike, rule, ("cat", "dog")))) == 2


def test_what_is_ignored_is_neither_reported_nor_unknown() -> None:
    settings = dataclasses.replace(PLAIN, unknown_above_db=12.0)
    levels = [-60.0] * 20 + [-30.0] * 3 + [-60.0] * 8
    loud = [[0.0, 9.0 if level > -50 else 0.0] for level in levels]
    assert run(loud, settings, ("dog", BACKGROUND), levels) == []
    quiet_in_mind = [[0.0, 0.0]] * len(levels)
    assert onsets(run(quiet_in_mind, settings, ("dog", BACKGROUND), levels)) == [(None, 20)]
    clip = decide_clip(("dog", BACKGROUND), np.array([[1.0, 9.0]]), settings)
    assert clip.label is None
    assert set(clip.scores) == {"dog"}


def test_a_class_may_have_its_own_threshold() -> None:
    settings = dataclasses.replace(PLAIN, per_class={"cat": 10.0})
    assert onsets(run([[7.0, 7.0]], settings, ("cat", "dog"))) == [("dog", 0)]


@given(st.lists(st.floats(-1e3, 1e300), min_size=1, max_size=30))
def test_digital_silence_never_fires_whatever_the_scores(z: list[float]) -> None:
    assert run([[v] for v in z], levels=[SILENT] * len(z)) == []
    loud = [[7.0]]
    assert len(onsets(run(loud, levels=[-20.0]))) == 1


def test_what_is_loud_and_unexplained_is_unknown_and_what_is_steady_is_background() -> None:
    settings = dataclasses.replace(PLAIN, unknown_above_db=12.0)
    levels = [-60.0] * 20 + [-30.0] * 3 + [-60.0] * 8
    events = run([[0.0]] * len(levels), settings, levels=levels)
    assert onsets(events) == [(None, 20)]
    explained = run([[7.0] if level > -50 else [0.0] for level in levels], settings, levels=levels)
    assert [label for label, _ in onsets(explained)] == ["dog"]
    assert run([[0.0]] * 40, settings, levels=[-30.0] * 40) == []


def test_a_gap_ends_what_is_open_and_forgets_partial_evidence() -> None:
    decider = Decider(dataclasses.replace(PLAIN, k=2, n=3), sample_rate=RATE, window_length=WINDOW, hop_length=HOP)
    assert decider.push(0, ("dog",), np.array([7.0]), -20.0) == []
    assert decider.gap() == []
    assert decider.push(10 * HOP, ("dog",), np.array([7.0]), -20.0) == []
    assert len(decider.push(11 * HOP, ("dog",), np.array([7.0]), -20.0)) == 1
    assert [e.phase for e in decider.gap()] == ["offset"]


def test_a_forgotten_class_ends_its_event() -> None:
    decider = Decider(PLAIN, sample_rate=RATE, window_length=WINDOW, hop_length=HOP)
    decider.push(0, ("dog",), np.array([7.0]), -20.0)
    assert [e.phase for e in decider.push(HOP, (), np.zeros(0), -20.0)] == ["offset"]
    assert decider.active == ()


@given(
    st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(-90, 0)), min_size=1, max_size=80),
    st.integers(1, 3),
)
def test_every_onset_has_its_offset_and_times_are_in_order(rows: list[tuple[float, float, float]], k: int) -> None:
    settings = dataclasses.replace(PLAIN, k=k, n=3, unknown_above_db=12.0)
    events = run([r[:2] for r in rows], settings, ("cat", "dog"), [r[2] for r in rows])
    opened = [e.id for e in events if e.phase == "onset"]
    closed = [e.id for e in events if e.phase == "offset"]
    assert sorted(opened) == sorted(closed)
    assert len(set(opened)) == len(opened)
    for e in events:
        assert 0 <= e.onset_sample < e.offset_sample <= (len(rows) - 1) * HOP + WINDOW + HOP
        assert 0.0 <= e.score <= 1.0
        assert e.first_window <= e.last_window


def test_settings_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="2 of 1"):
        DecisionSettings(k=2, n=1)
    with pytest.raises(ConfigurationError, match="above threshold"):
        DecisionSettings(threshold=3.0, low_threshold=4.0)


def test_level_of_sounds_and_of_silence() -> None:
    assert level_dbfs(np.zeros(100, dtype=np.float32)) == SILENT
    assert level_dbfs(np.zeros(0, dtype=np.float32)) == SILENT
    assert level_dbfs(np.full(100, 0.5, dtype=np.float32)) == pytest.approx(-6.02, abs=0.01)


def test_the_noise_floor_follows_the_room_and_ignores_digital_silence() -> None:
    floor = NoiseFloor(8)
    assert floor.push(SILENT) == SILENT
    for _ in range(8):
        floor.push(-50.0)
    assert floor.push(-10.0) == pytest.approx(-50.0)


def test_a_clip_is_its_best_class_when_that_passes_and_unknown_otherwise() -> None:
    z = np.array([[1.0, 7.0], [2.0, 9.0], [0.0, 8.0]])
    known = decide_clip(("cat", "dog"), z, PLAIN)
    assert known.label == "dog"
    assert known.scores["dog"] > 0.5 > known.scores["cat"]
    assert decide_clip(("cat", "dog"), z - 5.0, PLAIN).label is None
    assert decide_clip(("cat",), np.zeros((0, 1)), PLAIN).label is None
    assert decide_clip((), np.zeros((3, 0)), PLAIN).label is None
