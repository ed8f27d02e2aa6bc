"""The whole device in one loop. No policy here: source, embedder, learner, decider and sinks are given.

Threads. The source runs in its own thread and hands blocks to the inbox; ``run`` is the loop and alone touches
windower, learner, decider and recent sound; the API serves from a thread of its own and posts commands to the inbox,
which the loop does between two windows. So nothing here needs a lock, a taught sound is known from the next window on,
and the stream never stops: while the loop works, audio waits in the inbox and then in the source's own queue, which
counts what it must drop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.audio_stream import AudioSource
from edge.decision import Decider, Event, level_dbfs
from edge.hearing import WindowEmbedder
from edge.inbox import Arrival, Command, Inbox
from edge.recent import RecentSound
from edge.sinks import EventSink
from edge.windows import CutsWindows, Window


class Judge(Protocol):
    """What the loop needs of a learner."""

    def judge(self, embeddings: NDArray[np.int16]) -> tuple[Sequence[str], NDArray[np.float64]]:
        """(n, d) int16 -> labels (k,) of the enabled classes and their z values (n, k)."""
        ...


class Meter(Protocol):
    """What the loop tells about itself. Seconds; latency counts from the arrival of a window's last block."""

    def heard(self, n_samples: int) -> None: ...

    def decided(self, embedding_s: float, latency_s: float) -> None: ...

    def began(self, label: str | None) -> None: ...


class Listener:
    """Runs until the source ends or the inbox is stopped. Raises what the source raised."""

    def __init__(
        self,
        *,
        source: AudioSource,
        inbox: Inbox,
        windower: CutsWindows,
        embedder: WindowEmbedder,
        judge: Judge,
        decider: Decider,
        recent: RecentSound,
        sinks: Sequence[EventSink],
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._inbox = inbox
        self._windower = windower
        self._embedder = embedder
        self._judge = judge
        self._decider = decider
        self._recent = recent
        self._sinks = sinks
        self._meter = meter
        self._clock = clock

    def run(self) -> None:
        with self._source as source:
            feeder = threading.Thread(target=feed, args=(source, self._inbox), name="soundkeep-source", daemon=True)
            feeder.start()
            try:
                for item in self._inbox:
                    if isinstance(item, Command):
                        item.run()
                    else:
                        self._hear(item)
            finally:
                self._inbox.stop()
                self._report(self._decider.flush())
        feeder.join(timeout=2.0)

    def _hear(self, arrival: Arrival) -> None:
        n_gaps = self._windower.n_gaps
        windows = self._windower.push(arrival.block)
        if self._windower.n_gaps > n_gaps:
            self._report(self._decider.gap())
        for window in windows:
            self._decide(window, arrival.at)
        self._meter.heard(len(arrival.block.samples))

    def _decide(self, window: Window, arrived_at: float) -> None:
        began_at = self._clock()
        embedding, _ = self._embedder.quantized(window.heard[None])
        embedded_at = self._clock()
        self._recent.push(window, embedding)
        labels, z = self._judge.judge(embedding)
        self._report(self._decider.push(window.start_sample, labels, z[0], level_dbfs(window.samples)))
        self._meter.decided(embedded_at - began_at, self._clock() - arrived_at)

    def _report(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.phase == "onset":
                self._meter.began(event.label)
            for sink in self._sinks:
                sink.emit(event)


def feed(source: AudioSource, inbox: Inbox) -> None:
    """Hand every block of an open source to the inbox, and its end or its error."""
    try:
        for block in source:
            if not inbox.put(block):
                return
    except Exception as error:
        inbox.end(error)
    else:
        inbox.end()
