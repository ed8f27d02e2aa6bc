"""What was heard lately, already embedded: the source of `teach --last` and of `wrong`. Bounded.

Audio itself stays only when the owner keeps clips, and in memory while a new ear is prepared and on trial: what was
heard with the one can then be heard again with the other.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.decision import Event
from edge.errors import BundleError, MisuseError, SilenceError
from edge.hearing import Heard, Levels, WindowEmbedder
from edge.space import EmbeddingSpace
from edge.windows import Window


@dataclass(frozen=True, eq=False)
class _Kept:
    start: int
    space: EmbeddingSpace
    embedding: NDArray[np.int16]
    levels: Levels
    samples: NDArray[np.float32] | None


class RecentSound:
    """The newest windows of the stream; when full, the oldest leaves. Owned by the loop's thread."""

    def __init__(self, space: EmbeddingSpace, seconds: float, *, keep_audio: bool = False) -> None:
        self._space = space
        self._keep_audio = keep_audio
        self.hold_audio = False
        """Whether audio stays in memory although the owner keeps no clips."""
        self._embedder: WindowEmbedder | None = None
        self._kept: deque[_Kept] = deque(maxlen=max(1, int(seconds * space.sample_rate / space.hop_length)))

    def push(self, window: Window, embedding: NDArray[np.int16]) -> None:
        """Keep one window. embedding: (1, d) int16."""
        keeps = (self._keep_audio or self.hold_audio) and window.features is None
        samples = window.samples if keeps else None
        levels = Levels.of(window.samples[None])
        self._kept.append(_Kept(window.start_sample, self._space, embedding, levels, samples))

    def hear_with(self, embedder: WindowEmbedder) -> None:
        """Another ear hears from now on, and hears again on demand what is kept with its audio.

        Its windows are as long and as far apart as those before.
        """
        self._space, self._embedder = embedder.space, embedder

    def release_audio(self) -> None:
        """Let go of audio that was only held in memory."""
        self.hold_audio = False
        if not self._keep_audio:
            self._kept = deque((replace(kept, samples=None) for kept in self._kept), maxlen=self._kept.maxlen)

    @property
    def heard_until(self) -> int:
        """Sample after the newest window; 0 before the first."""
        return self._kept[-1].start + self._space.window_length if self._kept else 0

    def last(self, seconds: float) -> Heard:
        """Return the windows of the last ``seconds``; at least one. Raises SilenceError before the first window."""
        return self.between(self.heard_until - round(seconds * self._space.sample_rate), self.heard_until)

    def between(self, start_sample: int, end_sample: int) -> Heard:
        """Return the windows that lie whole in the span; when it is shorter than a window, the newest that meets it."""
        length = self._space.window_length
        meeting = [kept for kept in self._kept if kept.start < end_sample and kept.start + length > start_sample]
        if not meeting:
            raise SilenceError("nothing was heard in that time; wait until the listener has heard a second of sound")
        whole = [kept for kept in meeting if kept.start >= start_sample and kept.start + length <= end_sample]
        return self._heard(whole or meeting[-1:])

    def starting_in(self, first_window: int, last_window: int) -> Heard | None:
        """Return the windows that start in [first_window, last_window]; None when none is kept any more, or none can be
        heard again with the ear in use."""
        chosen = [kept for kept in self._kept if first_window <= kept.start <= last_window]
        try:
            return self._heard(chosen) if chosen else None
        except SilenceError:
            return None

    def _heard(self, chosen: list[_Kept]) -> Heard:
        chosen = [again for kept in chosen if (again := self._as_now(kept)) is not None]
        if not chosen:
            raise SilenceError(
                "that was heard before the new ear came into use, and its sound is not at hand any more; wait until "
                "the sound is heard again"
            )
        levels = [kept.levels for kept in chosen]
        audio = self._audio(chosen)
        return Heard(
            self._space,
            np.array([kept.start for kept in chosen], dtype=np.int64),
            np.concatenate([kept.embedding for kept in chosen]),
            Levels(
                np.concatenate([x.power for x in levels]),
                np.concatenate([x.peak for x in levels]),
                np.concatenate([x.clipped for x in levels]),
            ),
            audio if self._keep_audio else None,
            audio,
        )

    def _as_now(self, kept: _Kept) -> _Kept | None:
        """A window as the ear in use hears it; None when another ear heard it and its audio is gone, or this one fails
        at it: on trial, that shows at the windows to come, and is for the trial to judge."""
        if kept.space == self._space:
            return kept
        if kept.samples is None or self._embedder is None:
            return None
        try:
            embedding, _ = self._embedder.quantized(kept.samples[None])
        except BundleError:
            return None
        return replace(kept, space=self._space, embedding=embedding)

    def _audio(self, chosen: list[_Kept]) -> NDArray[np.float32] | None:
        """The sound of consecutive windows, each sample once; a gap is closed up."""
        pieces = [kept.samples for kept in chosen if kept.samples is not None]
        if not pieces:
            return None
        return np.concatenate([*(piece[: self._space.hop_length] for piece in pieces[:-1]), pieces[-1]])


class RecentEvents:
    """The newest events with their windows, so that one can be called wrong after its audio has left the ring."""

    def __init__(self, sound: RecentSound, max_events: int) -> None:
        self._sound = sound
        self._max_events = max_events
        self._kept: OrderedDict[str, tuple[Event, Heard | None]] = OrderedDict()

    def emit(self, event: Event) -> None:
        """Keep an event (an EventSink); its end replaces its beginning."""
        heard = self._sound.starting_in(event.first_window, event.last_window)
        self._kept[event.id] = (event, heard)
        self._kept.move_to_end(event.id)
        while len(self._kept) > self._max_events:
            self._kept.popitem(last=False)

    def close(self) -> None:
        """Nothing to release."""

    def all(self) -> list[Event]:
        """The events kept, oldest first."""
        return [event for event, _ in self._kept.values()]

    def find(self, event_id: str | None) -> tuple[Event, Heard]:
        """Return an event and its windows; without an id, the newest. Raises MisuseError when there is none."""
        if not self._kept:
            raise MisuseError("no event was heard yet; there is nothing to correct")
        chosen = next(reversed(self._kept)) if event_id is None else event_id
        if chosen not in self._kept:
            raise MisuseError(
                f"event {chosen[:80]!r} is not one of the last {len(self._kept)}; see the ids that `listen` prints"
            )
        event, heard = self._kept[chosen]
        if heard is None:
            raise MisuseError(f"the sound of event {chosen[:80]!r} is not at hand any more; correct it sooner")
        return event, heard
