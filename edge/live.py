"""What an outsider may ask of a running listener. The API translates to and from it; nothing here knows HTTP.

Commands run on the loop's thread, through ``call``. ``health``, ``metrics_page`` and ``heard_until`` may be read from
any thread, so that a listener that hangs can still say so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from edge.audio_stream import AudioSource
from edge.clips import ClipStore
from edge.desk import Answer, LocalDesk, history_answer
from edge.ear import Ear
from edge.errors import ApiError
from edge.hearing import background_example, heard_with, sounding_example
from edge.inbox import Inbox
from edge.learner import Learner
from edge.memory_file import encode_memory
from edge.metrics import Gauges, Metrics
from edge.recent import RecentEvents, RecentSound
from edge.sinks import EventFeed, event_object
from edge.space import EmbeddingSpace
from edge.windows import CutsWindows

HEARING_SECONDS = 2.0
STUCK_SECONDS = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Parts:
    """The parts of a running listener, as composed in the command."""

    source: AudioSource
    inbox: Inbox
    windower: CutsWindows
    ear: Ear
    recent: RecentSound
    recent_events: RecentEvents
    feed: EventFeed
    metrics: Metrics
    recent_seconds: float
    about: Mapping[str, str]


class LiveListener(LocalDesk):
    """A desk that also knows the last seconds, the last events and how the listener is doing."""

    def __init__(
        self, parts: Parts, *, clips: ClipStore | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(parts.ear.learner, clips=clips)
        self._parts = parts
        self._clock = clock
        self.feed = parts.feed
        self.recent_seconds = parts.recent_seconds

    @property
    def learner(self) -> Learner:
        return self._parts.ear.learner

    @property
    def on_trial(self) -> bool:
        return self._parts.ear.before is not None

    @property
    def ear(self) -> Ear:
        return self._parts.ear

    @property
    def space(self) -> EmbeddingSpace:
        return self._parts.ear.space

    @property
    def heard_until(self) -> int:
        """Sample after the newest window that was decided."""
        return self._parts.recent.heard_until

    def call(self, work: Callable[[], _T]) -> Future[_T]:
        """Have the loop do ``work`` between two windows. Raises ApiError when it is too busy or has ended."""
        return self._parts.inbox.call(work)

    # ---- on the loop's thread ---------------------------------------------------------------------------------------

    def teach_span(self, label: str, start_sample: int, end_sample: int) -> Answer:
        """Learn a span of what was heard, from the embeddings already computed."""
        heard = self._parts.recent.between(start_sample, end_sample)
        provenance = self._provenance(start_sample, end_sample)
        return self.teach(label, [sounding_example(heard, provenance, twin=self.ear.twin)])

    def ignore_span(self, start_sample: int, end_sample: int) -> Answer:
        heard = self._parts.recent.between(start_sample, end_sample)
        provenance = self._provenance(start_sample, end_sample)
        return self.ignore([background_example(heard, provenance, twin=self.ear.twin)])

    def wrong(self, event_id: str | None = None) -> Answer:
        """Ignore the windows of an event, the newest by default. Raises MisuseError when it is not at hand."""
        event, heard = self._parts.recent_events.find(event_id)
        provenance = {**self._provenance(event.onset_sample, event.offset_sample), "event": event.id}
        heard = heard_with(heard, self.ear.worn.embedder)
        answer = self.ignore([background_example(heard, provenance, twin=self.ear.twin)])
        return {**answer, "event": event_object(event, self.space.sample_rate)}

    def classes(self) -> list[Answer]:
        return self._parts.ear.learner.classes()

    def history(self) -> list[Answer]:
        return history_answer(self._parts.ear.learner)

    def events(self) -> list[Answer]:
        return [event_object(event, self.space.sample_rate) for event in self._parts.recent_events.all()]

    def export_memory(self) -> bytes:
        return encode_memory(self.space, self._parts.ear.learner.records)

    def _provenance(self, start_sample: int, end_sample: int) -> dict[str, Any]:
        rate = self.space.sample_rate
        return {
            "source": self._parts.source.name,
            "start_sample": start_sample,
            "seconds": round((end_sample - start_sample) / rate, 3),
        }

    # ---- from any thread --------------------------------------------------------------------------------------------

    async def wait_until_heard(self, sample: int) -> None:
        """Return when the stream has come to ``sample``. Raises ApiError when no sound comes for five seconds."""
        heard, since = self.heard_until, self._clock()
        while self.heard_until < sample:
            await asyncio.sleep(0.02)
            if self.heard_until > heard:
                heard, since = self.heard_until, self._clock()
            elif self._clock() - since > STUCK_SECONDS:
                raise ApiError(f"the source delivered no sound for {STUCK_SECONDS:.0f} s; see `soundkeep doctor`")

    def count_unsent(self) -> None:
        self._parts.metrics.unsent()

    def health(self) -> dict[str, Any]:
        """How the listener is doing. ``hearing``: audio arrived within two seconds and is not muted."""
        parts = self._parts
        source = parts.source.health()
        last = parts.inbox.last_block_at
        since = None if last is None else self._clock() - last
        hearing = source.state == "running" and since is not None and since <= HEARING_SECONDS
        behind = source.state == "running" and not hearing and parts.inbox.n_waiting_blocks > 0
        return {
            "hearing": hearing,
            "status": "hearing" if hearing else "behind" if behind else source.state,
            "detail": source.detail,
            "source": parts.source.name,
            "seconds_since_audio": None if since is None else round(since, 3),
            "heard_s": round(self.heard_until / self.space.sample_rate, 3),
            "lost_s": round(source.n_lost / self.space.sample_rate, 3),
            "n_overflows": source.n_overflows,
            "n_reopened": source.n_reopened,
            "n_gaps": parts.windower.n_gaps,
            "n_waiting_blocks": parts.inbox.n_waiting_blocks,
            "n_classes": len(parts.ear.learner.labels),
            "n_records": parts.ear.learner.n_records,
            "space": self.space.sha256,
            **parts.about,
            "bundle": parts.ear.worn.name,
            "trial": None if parts.ear.trial is None else parts.ear.trial.to_json(),
        }

    def metrics_page(self) -> bytes:
        """The text that Prometheus reads."""
        parts, report = self._parts, self.health()
        source = parts.source.health()
        return parts.metrics.page(
            Gauges(
                source_state=source.state,
                n_overflows=source.n_overflows,
                n_lost_samples=source.n_lost,
                n_reopened=source.n_reopened,
                n_gaps=parts.windower.n_gaps,
                n_waiting_blocks=parts.inbox.n_waiting_blocks,
                n_classes=len(parts.ear.learner.labels),
                n_records=parts.ear.learner.n_records,
                n_windows=parts.ear.learner.n_windows,
                n_reanchored=parts.ear.learner.n_reanchored,
                residual=parts.ear.learner.residual,
                hearing=bool(report["hearing"]),
            )
        )
