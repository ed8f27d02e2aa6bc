"""A listener with a real backbone whose ear can be changed while it hears, as `soundkeep listen` composes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.backbones import find_ear, start_ear
from edge.bundle import Bundle
from edge.clips import ClipStore
from edge.config import SyncSettings, decision_settings, load_settings
from edge.decision import Decider
from edge.ear import Ear, Worn
from edge.embedder import Embedder
from edge.hearing import WindowEmbedder, hear, sounding_example
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
from edge.sync.catching_up import brought_along
from edge.sync.prepare import Prepared, encode_images, prepare
from edge.sync.upgrade import LiveEar, Prepares, Upgrade
from edge.windows import Window, Windower
from tests.bundles import SAMPLE_RATE
from tests.simulators.queue_source import QueueSource
from tests.simulators.running_listener import RunningListener, _run

Wrap = Callable[[Bundle, Embedder], WindowEmbedder]


class RecordingRecent(RecentSound):
    """Also notes the start of every window that was decided, and by which ear."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.starts: list[int] = []
        self.spaces: list[str] = []

    def push(self, window: Window, embedding: NDArray[np.int16]) -> None:
        self.starts.append(window.start_sample)
        self.spaces.append(self._space.sha256)
        super().push(window, embedding)


@dataclass
class Upgrading(RunningListener):
    upgrade: Upgrade = field(kw_only=True)
    ear: Ear = field(kw_only=True)
    recent: RecordingRecent = field(kw_only=True)
    said: list[str] = field(kw_only=True)

    def taught_while_running(self, label: str, samples: NDArray[np.float32]) -> None:
        """Teach as an upload does: embedded by both ears, with its clip."""
        example = sounding_example(hear(samples, self.ear.worn.embedder, keep_audio=True), {}, twin=self.ear.twin)
        self.inbox.call(lambda: self.live.teach(label, [example])).result()


def prepare_here(state_dir: Path, new: Bundle, old: Bundle, out: Path) -> Prepared:
    """What the child does, in this process, for tests that need no process."""
    prepared, images = prepare(state_dir, new, old)
    if prepared.refusal is None:
        out.write_bytes(encode_images(images, new.space))
    return prepared


@contextmanager
def upgrading_listener(
    state: Path,
    bundle: Path | None,
    *,
    trial_seconds: float = 5.0,
    prepare: Prepares = prepare_here,
    wrap: Wrap = lambda bundle, embedder: embedder,
    crash_point: Callable[[str], None] = lambda point: None,
) -> Iterator[Upgrading]:
    """Start the loop on a thread; stop it at the end. wrap: puts something around a bundle's embedder."""
    source, inbox, said = QueueSource(SAMPLE_RATE), Inbox(), []
    with Journal.open(state) as journal:
        found = start_ear(state, None if bundle is None else str(bundle))
        found = brought_along(state, found, journal, said.append)

        def wear(chosen: Bundle) -> Worn:
            learner = Learner(journal, FeatureSpace(chosen.space), prior=chosen.prior(), readout=Readout(), live=True)
            decision = decision_settings(chosen.detection, load_settings(state).decision)
            return Worn(chosen.name, wrap(chosen, Embedder(chosen)), learner, decision, None, chosen)

        journal.space = found.bundle.space
        ear = Ear(wear(found.bundle))
        recent = RecordingRecent(ear.space, 60.0)
        parts = Parts(
            source=source,
            inbox=inbox,
            windower=Windower(ear.space.window_length, ear.space.hop_length),
            ear=ear,
            recent=recent,
            recent_events=RecentEvents(recent, 100),
            feed=EventFeed(),
            metrics=Metrics(sample_rate=SAMPLE_RATE, about={}),
            recent_seconds=60.0,
            about={},
        )
        decider = Decider(
            ear.worn.decision,
            sample_rate=SAMPLE_RATE,
            window_length=ear.space.window_length,
            hop_length=ear.space.hop_length,
        )
        events: list[object] = []
        parts.feed.subscribe(events.append)
        listener = Listener(
            source=source,
            inbox=inbox,
            windower=parts.windower,
            embedder=ear,
            judge=ear,
            decider=decider,
            recent=recent,
            sinks=[parts.recent_events, parts.feed],
            meter=parts.metrics,
        )
        ear.follow(lambda worn: decider.use(worn.decision))
        ear.follow(lambda worn: recent.hear_with(worn.embedder))
        upgrade = Upgrade(
            state,
            SyncSettings(trial_seconds=trial_seconds),
            tell=said.append,
            live=LiveEar(ear, inbox.call, recent, wear, source.health),
            prepare=prepare,
            crash_point=crash_point,
        )
        upgrade.go_on(found)
        running = Upgrading(
            source, ear.learner, LiveListener(parts, clips=ClipStore(state, max_bytes=1 << 24)), inbox, listener,
            events, upgrade=upgrade, ear=ear, recent=recent, said=said,
        )  # fmt: skip
        thread = threading.Thread(target=_run, args=(running,))
        thread.start()
        try:
            yield running
        finally:
            inbox.stop()
            thread.join(10.0)
            assert not thread.is_alive()


def taught(
    state: Path, bundle: Path | None, sounds: list[tuple[str, NDArray[np.float32]]], *, clips: bool = True
) -> str:
    """Teach sounds to a device that is not listening; return the hash of its statistics."""
    found = find_ear(state, None if bundle is None else str(bundle))
    embedder = Embedder(found.bundle)
    twin = None if found.before is None else Embedder(found.before)
    with Journal.open(state, space=found.bundle.space) as journal:
        learner = Learner(journal, FeatureSpace(found.bundle.space))
        for label, samples in sounds:
            example = sounding_example(hear(samples, embedder), {"file": label}, twin=twin)
            (record,) = learner.teach(label, [example]).records
            if clips:
                ClipStore(state, max_bytes=1 << 24).keep(record.content_sha256, samples, SAMPLE_RATE)
        return learner.statistics_sha256
