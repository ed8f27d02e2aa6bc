"""Where events go: lines, a bounded queue before what is slow, and whoever has subscribed."""

from __future__ import annotations

import io
import json
import threading

import pytest

from edge.decision import Event
from edge.sinks import EventFeed, EventSink, JsonLinesSink, QueuedSink, TextSink, event_object

EVENT = Event("4000-1", "doorbell", "onset", 4000, 8000, 0.93456, 2000, 4000)


class Slow:
    """A sink that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.taken: list[Event] = []
        self.closed = False

    def emit(self, event: Event) -> None:
        self.gate.wait(10.0)
        self.taken.append(event)

    def close(self) -> None:
        self.closed = True


def test_an_event_as_an_object() -> None:
    assert event_object(EVENT, 8000) == {
        "id": "4000-1",
        "label": "doorbell",
        "phase": "onset",
        "onset_sample": 4000,
        "offset_sample": 8000,
        "onset_s": 0.5,
        "offset_s": 1.0,
        "score": 0.9346,
    }
    assert event_object(EVENT, 8000, wall_time=0.0)["time"] == "1970-01-01T00:00:00.000+00:00"


def test_json_lines_are_one_object_each_and_carry_the_time_only_when_live() -> None:
    stream = io.StringIO()
    JsonLinesSink(stream, 8000).emit(EVENT)
    JsonLinesSink(stream, 8000, clock=lambda: 1.5).emit(EVENT)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert "time" not in first and second["time"].endswith("01.500+00:00")


def test_lines_for_people() -> None:
    stream = io.StringIO()
    sink = TextSink(stream, 8000)
    sink.emit(EVENT)
    sink.emit(Event("1-2", None, "offset", 8000 * 3661, 8000 * 3662, 0.5, 0, 0))
    assert stream.getvalue().splitlines() == [
        "00:00:00.5  doorbell  0.93  [4000-1]",
        "01:01:01.0  (unknown sound)  ended after 1.0 s",
    ]


@pytest.mark.parametrize("make", [lambda: JsonLinesSink(io.StringIO(), 8000), lambda: TextSink(io.StringIO(), 8000),
                                  EventFeed, lambda: QueuedSink(Slow())])  # fmt: skip
def test_every_sink_takes_events_and_closes_twice(make: object) -> None:
    assert callable(make)
    sink: EventSink = make()
    sink.emit(EVENT)
    if isinstance(sink, QueuedSink):
        sink.close(timeout_s=0.05)
    else:
        sink.close()
        sink.close()


def test_a_queue_delivers_in_order_and_all_before_it_closes() -> None:
    slow = Slow()
    sink = QueuedSink(slow, max_waiting=100)
    for _ in range(20):
        sink.emit(EVENT)
    slow.gate.set()
    sink.close()
    assert len(slow.taken) == 20 and slow.closed


def test_a_full_queue_drops_and_counts_when_sound_is_live() -> None:
    slow, dropped = Slow(), []
    sink = QueuedSink(slow, max_waiting=2, on_drop=lambda: dropped.append(1))
    for _ in range(10):
        sink.emit(EVENT)
    assert len(dropped) >= 7
    slow.gate.set()
    sink.close()
    assert len(slow.taken) + len(dropped) == 10


def test_a_full_queue_waits_when_it_is_a_replay() -> None:
    slow = Slow()
    sink = QueuedSink(slow, max_waiting=2, when_full="wait")
    emitter = threading.Thread(target=lambda: [sink.emit(EVENT) for _ in range(10)])
    emitter.start()
    emitter.join(0.3)
    assert emitter.is_alive()
    slow.gate.set()
    emitter.join(10.0)
    sink.close()
    assert len(slow.taken) == 10


def test_a_sink_that_fails_says_so_once_and_never_blocks() -> None:
    class Broken(Slow):
        def emit(self, event: Event) -> None:
            raise BrokenPipeError

    failed = threading.Event()
    sink = QueuedSink(Broken(), max_waiting=1, when_full="wait", on_failure=failed.set)
    sink.emit(EVENT)
    assert failed.wait(5.0)
    for _ in range(5):
        sink.emit(EVENT)
    sink.close()


def test_a_feed_hands_events_to_subscribers_until_they_leave() -> None:
    feed = EventFeed()
    seen: list[Event] = []
    unsubscribe = feed.subscribe(seen.append)
    feed.emit(EVENT)
    unsubscribe()
    unsubscribe()
    feed.emit(EVENT)
    assert seen == [EVENT]
