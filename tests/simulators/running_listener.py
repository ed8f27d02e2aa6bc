"""A whole listener in this process: every part real but the microphone, which the test plays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.config import ListenSettings
from edge.decision import Decider, DecisionSettings, Event
from edge.ear import Ear, Worn
from edge.inbox import Inbox
from edge.journal import Journal
from edge.learner import Learner
from edge.listener import Listener
from edge.live import LiveListener, Parts
from edge.metrics import Metrics
from edge.readout import Readout
from edge.recent import RecentEvents, RecentSound
from edge.sinks import EventFeed
from edge.space import FeatureSpace
from edge.windows import Windower
from tests.bundles import DETECTION, HOP_LENGTH, SAMPLE_RATE, SPACE, WINDOW_LENGTH, SpectrumEmbedder, background_of
from tests.simulators.queue_source import QueueSource

DECISION = DecisionSettings(
    threshold=float(DETECTION.threshold or 0), low_threshold=float(DETECTION.low_threshold or 0), hold_ms=250,
    refractory_ms=500, k=1, n=1,
)  # fmt: skip


@dataclass
class RunningListener:
    """What a test needs of it."""

    source: QueueSource
    learner: Learner
    live: LiveListener
    inbox: Inbox
    listener: Listener
    events: list[Event] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def hear(self, samples: NDArray[np.float32], *, timeout_s: float = 20.0) -> None:
        """Play sound and wait until every window of it is decided."""
        before = self.source._next
        self.source.play(samples)
        whole = (self.source._next - WINDOW_LENGTH) // HOP_LENGTH * HOP_LENGTH + WINDOW_LENGTH
        until = time.monotonic() + timeout_s
        while self.live.heard_until < max(whole, before):
            assert time.monotonic() < until, (self.live.heard_until, whole)
            time.sleep(0.002)


@contextmanager
def running_listener(
    state_dir: Path, *, settings: ListenSettings | None = None, embedder: SpectrumEmbedder | None = None
) -> Iterator[RunningListener]:
    """Start the loop on a thread; stop it at the end."""
    settings = settings or ListenSettings()
    embedder = embedder or SpectrumEmbedder()
    source, inbox = (
        QueueSource(SAMPLE_RATE),
        Inbox(max_blocks=settings.max_waiting_blocks, max_commands=settings.max_waiting_commands),
    )
    with Journal.open(state_dir, space=SPACE) as journal:
        learner = Learner(journal, FeatureSpace(SPACE), prior=background_of(embedder), readout=Readout(), live=True)
        recent = RecentSound(SPACE, settings.recent_seconds)
        ear = Ear(Worn("numpy", embedder, learner, DECISION))
        parts = Parts(
            source=source,
            inbox=inbox,
            windower=Windower(WINDOW_LENGTH, HOP_LENGTH),
            ear=ear,
            recent=recent,
            recent_events=RecentEvents(recent, settings.max_events_kept),
            feed=EventFeed(),
            metrics=Metrics(sample_rate=SAMPLE_RATE, about={"provider": "numpy"}),
            recent_seconds=settings.recent_seconds,
            about={"provider": "numpy"},
        )
        events: list[Event] = []
        parts.feed.subscribe(events.append)
        listener = Listener(
            source=source,
            inbox=inbox,
            windower=parts.windower,
            embedder=ear,
            judge=ear,
            decider=Decider(DECISION, sample_rate=SAMPLE_RATE, window_length=WINDOW_LENGTH, hop_length=HOP_LENGTH),
            recent=recent,
            sinks=[parts.recent_events, parts.feed],
            meter=parts.metrics,
        )
        running = RunningListener(source, learner, LiveListener(parts), inbox, listener, events)
        thread = threading.Thread(target=_run, args=(running,))
        thread.start()
        try:
            yield running
        finally:
            inbox.stop()
            thread.join(10.0)
            assert not thread.is_alive()


def _run(running: RunningListener) -> None:
    try:
        running.listener.run()
    except BaseException as error:
        running.errors.append(error)
