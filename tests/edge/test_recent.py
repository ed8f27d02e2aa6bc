"""The last seconds and the last events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.decision import Event
from edge.errors import BundleError, MisuseError, SilenceError
from edge.recent import RecentEvents, RecentSound
from edge.windows import Window
from tests.bundles import HOP_LENGTH, SAMPLE_RATE, SPACE, WINDOW_LENGTH


def filled(n: int, *, seconds: float = 10.0, keep_audio: bool = False) -> RecentSound:
    """n windows, each filled with its own number."""
    recent = RecentSound(SPACE, seconds, keep_audio=keep_audio)
    for i in range(n):
        samples = np.arange(i * HOP_LENGTH, i * HOP_LENGTH + WINDOW_LENGTH, dtype=np.float32) / 1e5
        recent.push(Window(i * HOP_LENGTH, samples), np.full((1, SPACE.dim), i, dtype=np.int16))
    return recent


def event(event_id: str, first: int, last: int) -> Event:
    return Event(event_id, "bell", "offset", first, last + WINDOW_LENGTH, 0.9, first, last)


def test_before_the_first_window_there_is_nothing() -> None:
    recent = RecentSound(SPACE, 10.0)
    assert recent.heard_until == 0
    with pytest.raises(SilenceError, match="nothing was heard"):
        recent.last(1.0)


def test_a_span_holds_the_windows_that_lie_whole_in_it() -> None:
    recent = filled(8)
    assert recent.heard_until == 7 * HOP_LENGTH + WINDOW_LENGTH
    assert recent.last(1.0).starts.tolist() == [5 * HOP_LENGTH, 6 * HOP_LENGTH, 7 * HOP_LENGTH]
    assert recent.last(1.0).embeddings[:, 0].tolist() == [5, 6, 7]
    assert len(recent.last(100.0)) == 8


def test_a_span_shorter_than_a_window_is_the_newest_window() -> None:
    assert filled(3).last(0.01).starts.tolist() == [2 * HOP_LENGTH]


def test_the_oldest_leaves_when_it_is_full() -> None:
    recent = filled(50, seconds=2.0)
    assert len(recent.last(100.0)) == 2 * SAMPLE_RATE // HOP_LENGTH


def test_audio_is_kept_only_when_asked_and_each_sample_once() -> None:
    assert filled(3).last(10.0).samples is None
    samples = filled(3, keep_audio=True).last(10.0).samples
    assert samples is not None
    np.testing.assert_array_equal(samples, np.arange(2 * HOP_LENGTH + WINDOW_LENGTH, dtype=np.float32) / 1e5)


def test_the_newest_event_is_found_without_an_id() -> None:
    events = RecentEvents(filled(8), 2)
    with pytest.raises(MisuseError, match="no event was heard yet"):
        events.find(None)
    for name, first in (("a", 0), ("b", 2), ("c", 4)):
        events.emit(event(name, first * HOP_LENGTH, (first + 1) * HOP_LENGTH))
    assert [e.id for e in events.all()] == ["b", "c"]
    found, heard = events.find(None)
    assert found.id == "c" and heard.embeddings[:, 0].tolist() == [4, 5]
    assert events.find("b")[1].embeddings[:, 0].tolist() == [2, 3]
    with pytest.raises(MisuseError, match="event 'a' is not one of the last 2"):
        events.find("a")


def test_an_event_keeps_its_windows_after_they_left_the_ring() -> None:
    recent = filled(8, seconds=2.0)
    events = RecentEvents(recent, 5)
    events.emit(event("a", 6 * HOP_LENGTH, 7 * HOP_LENGTH))
    for i in range(8, 40):
        recent.push(Window(i * HOP_LENGTH, np.ones(WINDOW_LENGTH, np.float32)), np.zeros((1, SPACE.dim), np.int16))
    assert events.find("a")[1].embeddings[:, 0].tolist() == [6, 7]


def test_an_event_whose_windows_were_gone_is_said_to_be_gone() -> None:
    events = RecentEvents(filled(40, seconds=2.0), 5)
    events.emit(event("late", 0, HOP_LENGTH))
    with pytest.raises(MisuseError, match="not at hand any more"):
        events.find("late")


class OtherEar:
    """An ear of another space that fails at windows whose first sample is above ``fails_above``."""

    space = replace(SPACE, backbone_sha256="ef" * 32)

    def __init__(self, fails_above: float = np.inf) -> None:
        self._fails_above = fails_above

    def quantized(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
        if windows[0, 0] > self._fails_above:
            raise BundleError("output 'embedding' holds numbers that are not finite; the backbone is unusable")
        return np.full((len(windows), SPACE.dim), 77, dtype=np.int16), 0


def heard_by_another(ear: Any, *, keep_audio: bool = True) -> RecentSound:
    recent = filled(4, keep_audio=keep_audio)
    recent.hear_with(ear)
    return recent


def test_an_event_across_a_change_of_ear_is_heard_again() -> None:
    events = RecentEvents(heard_by_another(OtherEar()), 4)
    events.emit(event("bell", HOP_LENGTH, 2 * HOP_LENGTH))
    assert events.find("bell")[1].embeddings[:, 0].tolist() == [77, 77]


def test_an_ear_that_fails_at_what_was_heard_before_does_not_end_the_listener() -> None:
    """It leaves out those windows; at the windows to come the trial judges it."""
    first = float(1.5 * HOP_LENGTH / 1e5)
    events = RecentEvents(heard_by_another(OtherEar(first)), 4)
    events.emit(event("bell", HOP_LENGTH, 2 * HOP_LENGTH))
    assert events.find("bell")[1].starts.tolist() == [HOP_LENGTH]
    events.emit(event("door", 2 * HOP_LENGTH, 3 * HOP_LENGTH))
    with pytest.raises(MisuseError, match="not at hand any more"):
        events.find("door")


def test_an_event_whose_sound_is_gone_with_the_ear_before_is_kept_without_it() -> None:
    events = RecentEvents(heard_by_another(OtherEar(), keep_audio=False), 4)
    events.emit(event("bell", HOP_LENGTH, 2 * HOP_LENGTH))
    with pytest.raises(MisuseError, match="not at hand any more"):
        events.find("bell")
