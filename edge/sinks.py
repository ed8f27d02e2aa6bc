"""Where events go. A sink takes an event at once: what may be slow stands behind a bounded queue."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Literal, Protocol, TextIO

from edge.decision import Event


class EventSink(Protocol):
    """Takes events on the loop's thread; must return at once."""

    def emit(self, event: Event) -> None: ...

    def close(self) -> None:
        """Deliver what waits, then release what is held. Idempotent."""
        ...


def event_object(event: Event, sample_rate: int, *, wall_time: float | None = None) -> dict[str, Any]:
    """Return an event as a JSON object. ``label`` null is an unknown sound. ``time`` (UTC) only for what is live."""
    value: dict[str, Any] = {
        "id": event.id,
        "label": event.label,
        "phase": event.phase,
        "onset_sample": event.onset_sample,
        "offset_sample": event.offset_sample,
        "onset_s": round(event.onset_sample / sample_rate, 3),
        "offset_s": round(event.offset_sample / sample_rate, 3),
        "score": round(event.score, 4),
    }
    if wall_time is not None:
        value["time"] = datetime.fromtimestamp(wall_time, timezone.utc).isoformat(timespec="milliseconds")
    return value


class JsonLinesSink:
    """One JSON object per line."""

    def __init__(self, stream: TextIO, sample_rate: int, *, clock: Callable[[], float] | None = None) -> None:
        self._stream = stream
        self._sample_rate = sample_rate
        self._clock = clock

    def emit(self, event: Event) -> None:
        wall_time = None if self._clock is None else self._clock()
        line = json.dumps(event_object(event, self._sample_rate, wall_time=wall_time))
        self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class TextSink:
    """One line for people per event that begins, one when it ends."""

    def __init__(self, stream: TextIO, sample_rate: int) -> None:
        self._stream = stream
        self._sample_rate = sample_rate

    def emit(self, event: Event) -> None:
        name = event.label if event.label is not None else "(unknown sound)"
        at = _clock_time(event.onset_sample / self._sample_rate)
        if event.phase == "onset":
            self._stream.write(f"{at}  {name}  {event.score:.2f}  [{event.id}]\n")
        else:
            seconds = (event.offset_sample - event.onset_sample) / self._sample_rate
            self._stream.write(f"{at}  {name}  ended after {seconds:.1f} s\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


def _clock_time(seconds: float) -> str:
    whole, tenth = divmod(round(seconds * 10), 10)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{tenth}"


class QueuedSink:
    """Puts a bounded queue and a thread before a slow sink.

    When full: "drop" leaves the new event out and counts it (live sound cannot wait), "wait" waits (a replay can).
    A sink that fails is closed and ``on_failure`` called once; events after that are dropped.
    """

    def __init__(
        self,
        sink: EventSink,
        *,
        max_waiting: int = 256,
        when_full: Literal["drop", "wait"] = "drop",
        on_drop: Callable[[], None] = lambda: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._sink = sink
        self._when_full = when_full
        self._on_drop = on_drop
        self._on_failure = on_failure
        self._waiting: queue.Queue[Event | None] = queue.Queue(max_waiting)
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="soundkeep-sink", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        while not self._failed.is_set():
            try:
                self._waiting.put(event, timeout=0.1 if self._when_full == "wait" else 0.0)
                return
            except queue.Full:
                if self._when_full == "drop":
                    self._on_drop()
                    return

    def close(self, timeout_s: float = 5.0) -> None:
        """Wait at most ``timeout_s`` for what is queued."""
        until = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < until:
            try:
                self._waiting.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join(max(0.0, until - time.monotonic()))

    def _deliver(self) -> None:
        try:
            while (event := self._waiting.get()) is not None:
                self._sink.emit(event)
            self._sink.close()
        except (OSError, ValueError):
            self._failed.set()
            self._on_failure()


class EventFeed:
    """Hands every event to whoever has subscribed, from any thread."""

    def __init__(self) -> None:
        self._readers: list[Callable[[Event], object]] = []
        self._lock = threading.Lock()

    def subscribe(self, reader: Callable[[Event], object]) -> Callable[[], None]:
        """Call ``reader`` (which must return at once) for every event; returns what ends that."""
        with self._lock:
            self._readers.append(reader)

        def unsubscribe() -> None:
            with self._lock:
                if reader in self._readers:
                    self._readers.remove(reader)

        return unsubscribe

    def emit(self, event: Event) -> None:
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            reader(event)

    def close(self) -> None:
        """Nothing to release."""
