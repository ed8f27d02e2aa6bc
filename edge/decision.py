"""From scores to events: each taught class is tested by itself, everything else is unknown or background.

The scores come from ``edge.heads.DetectionHead.scores``: a class's linear score in deviations of the background, less
what the background's own classes say. One threshold therefore fits all classes; ``per_class`` overrides it where a user
wants another.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigurationError
from edge.records import BACKGROUND

Array = NDArray[np.float64]
SILENT = -math.inf
TINY = 1e-9


@dataclass(frozen=True)
class DecisionSettings:
    """``threshold`` opens an event, ``low_threshold`` keeps it open; k of the last n windows must pass.

    ``rival_share``: a class counts only with at least this share of the largest score that any taught class had in the
    last ``rival_windows`` windows, so that one bark is not three animals; 0 switches that off. ``unknown_above_db``: a
    window this far above the running noise floor that no class claims is an unknown sound; ``floor_seconds``: memory of
    that floor.
    """

    threshold: float = 3.5
    low_threshold: float = 2.5
    rival_share: float = 0.5
    rival_windows: int = 5
    k: int = 1
    n: int = 1
    min_ms: int = 0
    hold_ms: int = 500
    refractory_ms: int = 2000
    unknown_above_db: float = 12.0
    floor_seconds: float = 30.0
    per_class: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise ConfigurationError(f"k of n is {self.k} of {self.n}; wanted 1 <= k <= n")
        if self.low_threshold > self.threshold:
            raise ConfigurationError(
                f"low_threshold {self.low_threshold} is above threshold {self.threshold}; "
                "an event could never stay open"
            )

    def threshold_for(self, label: str) -> float:
        return self.per_class.get(label, self.threshold)

    def score(self, value: float, label: str) -> float:
        """Map a head's score to [0, 1): x / (x + threshold), 0.5 at the class's threshold; 0 for what is negative."""
        return value / (value + max(self.threshold_for(label), TINY)) if value > 0.0 else 0.0


@dataclass(frozen=True)
class Event:
    """A sound from ``onset_sample`` to ``offset_sample``. ``label`` None is a sound that nothing taught explains.

    An event is reported twice: with phase "onset" as soon as it is certain, with phase "offset" when it has ended.
    ``first_window`` and ``last_window``: start samples of the windows that carried it.
    """

    id: str
    label: str | None
    phase: Literal["onset", "offset"]
    onset_sample: int
    offset_sample: int
    score: float
    first_window: int
    last_window: int


@dataclass
class _Track:
    hits: deque[bool]
    first_hit: int = 0
    last_hit: int = 0
    best: float = SILENT
    event_id: str | None = None
    quiet_since: int | None = None
    blocked_until: int = -1


def level_dbfs(samples: NDArray[np.float32]) -> float:
    """RMS level of samples (n,) in dB relative to full scale; digital silence (below one 16-bit step) is -inf."""
    if len(samples) == 0 or float(np.max(np.abs(samples))) < 1.0 / 32768.0:
        return SILENT
    return float(10.0 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


class NoiseFloor:
    """Running floor of the level: the tenth percentile of the last windows that were not digital silence."""

    def __init__(self, n_windows: int) -> None:
        self._levels: deque[float] = deque(maxlen=max(4, n_windows))

    def push(self, level: float) -> float:
        """Add a level in dBFS; return the floor in dBFS, -inf until something was heard."""
        if level > SILENT:
            self._levels.append(level)
        return float(np.percentile(self._levels, 10)) if self._levels else SILENT


class Decider:
    """One push for every window, in stream order; returns the events that began or ended with it.

    No I/O and no clock: time is the sample count. Several classes may be active at once.
    """

    UNKNOWN = ""

    def __init__(self, settings: DecisionSettings, *, sample_rate: int, window_length: int, hop_length: int) -> None:
        self.settings = settings
        self._sample_rate = sample_rate
        self._window_length = window_length
        self._hop_length = hop_length
        self._tracks: dict[str, _Track] = {}
        self._floor = NoiseFloor(int(settings.floor_seconds * sample_rate / hop_length))
        self._leaders: deque[float] = deque(maxlen=max(1, settings.rival_windows))
        self._n_events = 0

    def use(self, settings: DecisionSettings) -> None:
        """Decide by other settings from the next window on; events that are open go on."""
        self.settings = settings

    @property
    def active(self) -> tuple[str, ...]:
        """Labels of the events that are open now, sorted; empty when there is nothing but background."""
        return tuple(sorted(k for k, t in self._tracks.items() if t.event_id is not None and k != self.UNKNOWN))

    def push(self, start_sample: int, labels: Sequence[str], scores: Array, level: float) -> list[Event]:
        """Judge one window.

        start_sample: where the window starts. labels: (k,) taught classes that are enabled, and BACKGROUND where
        sounds are ignored: it is never reported, but what it explains is not unknown. scores: (k,) of the head.
        level: the window's level in dBFS, -inf for digital silence, which never is a hit.
        """
        s = self.settings
        floor = self._floor.push(level)
        events: list[Event] = []
        for gone in [k for k in self._tracks if k != self.UNKNOWN and k not in labels]:
            events += self._close(gone, self._tracks.pop(gone))
        near = False
        heard = [v if level > SILENT and math.isfinite(v) else SILENT for v in scores.tolist()]
        taught = [(label, v) for label, v in zip(labels, heard, strict=True) if label != BACKGROUND]
        self._leaders.append(max((v for _, v in taught), default=SILENT))
        least = s.rival_share * max(self._leaders)
        ignored = any(v >= s.threshold for label, v in zip(labels, heard, strict=True) if label == BACKGROUND)
        for label, own in taught:
            value = own if own >= least or s.rival_share == 0.0 else SILENT
            threshold = s.threshold_for(label)
            low = threshold - (s.threshold - s.low_threshold)
            near = near or value >= low
            events += self._step(label, start_sample, value, threshold, low)
        explained = near or ignored or any(label in self.active for label in labels)
        loud = level > SILENT and level >= floor + s.unknown_above_db and not explained
        events += self._step(self.UNKNOWN, start_sample, 1.0 if loud else SILENT, 1.0, 1.0)
        return events

    def gap(self) -> list[Event]:
        """Audio was lost: end what is open and forget partial evidence."""
        events = [e for label, track in self._tracks.items() for e in self._close(label, track)]
        for track in self._tracks.values():
            track.hits.clear()
        self._leaders.clear()
        return events

    def flush(self) -> list[Event]:
        """The stream ended: end what is open."""
        return self.gap()

    def _samples(self, ms: int) -> int:
        return ms * self._sample_rate // 1000

    def _step(self, label: str, start: int, value: float, threshold: float, low: float) -> list[Event]:
        track = self._tracks.get(label)
        if track is None:
            if value < threshold:
                return []
            track = self._tracks[label] = _Track(deque(maxlen=self.settings.n))
        hit = value >= threshold
        if track.event_id is None:
            return self._wait(label, track, start, value, hit)
        if value >= low:
            track.last_hit, track.quiet_since = start, None
            track.best = max(track.best, value)
            return []
        if track.quiet_since is None:
            track.quiet_since = start
        if start - track.quiet_since >= self._samples(self.settings.hold_ms):
            return self._close(label, track)
        return []

    def _wait(self, label: str, track: _Track, start: int, value: float, hit: bool) -> list[Event]:
        if start < track.blocked_until:
            if hit:
                track.blocked_until = start + self._samples(self.settings.refractory_ms)
            return []
        if hit and not any(track.hits):
            track.first_hit, track.best = start, SILENT
        track.hits.append(hit)
        if not hit:
            return []
        track.best = max(track.best, value)
        track.last_hit = start
        long_enough = start - track.first_hit >= self._samples(self.settings.min_ms) - self._window_length
        if sum(track.hits) < self.settings.k or not long_enough:
            return []
        self._n_events += 1
        track.event_id = f"{start}-{self._n_events}"
        track.quiet_since = None
        return [self._event(label, track, "onset")]

    def _close(self, label: str, track: _Track) -> list[Event]:
        if track.event_id is None:
            return []
        event = self._event(label, track, "offset")
        track.event_id, track.quiet_since, track.best = None, None, SILENT
        track.hits.clear()
        track.blocked_until = track.last_hit + self._samples(self.settings.refractory_ms)
        return [event]

    def _event(self, label: str, track: _Track, phase: Literal["onset", "offset"]) -> Event:
        assert track.event_id is not None
        newest = track.first_hit + self._window_length - self._hop_length
        oldest = track.last_hit + self._hop_length
        onset, offset = min(newest, oldest), max(newest, oldest)
        if offset - onset < self._hop_length:
            offset = onset + self._hop_length
        known = label != self.UNKNOWN
        score = self.settings.score(track.best, label) if known else 0.5
        return Event(
            track.event_id, label if known else None, phase, onset, offset, score, track.first_hit, track.last_hit
        )


@dataclass(frozen=True)
class ClipDecision:
    """What a whole clip is: ``label`` None when no taught class passes; ``scores`` of every class in [0, 1]."""

    label: str | None
    score: float
    scores: Mapping[str, float]


def decide_clip(labels: Sequence[str], scores: Array, settings: DecisionSettings) -> ClipDecision:
    """Pool a clip's sound-carrying windows: the class with the best mean, if its best window passes its threshold.

    labels: (k,), BACKGROUND among them is passed over. scores: (n, k) of the clip's windows that carry sound; n = 0
    (silence) is unknown. A class is reported with its best window: a short sound in a long clip still counts.
    """
    taught = [i for i, label in enumerate(labels) if label != BACKGROUND]
    labels, scores = [labels[i] for i in taught], scores[:, taught]
    if len(labels) == 0 or len(scores) == 0:
        return ClipDecision(None, 0.0, dict.fromkeys(labels, 0.0))
    mean, best = scores.mean(axis=0), scores.max(axis=0)
    reported = {label: settings.score(float(best[i]), label) for i, label in enumerate(labels)}
    margin = np.array([mean[i] - settings.threshold_for(label) for i, label in enumerate(labels)])
    winner = int(np.argmax(margin))
    label = labels[winner]
    known = float(best[winner]) >= settings.threshold_for(label)
    return ClipDecision(label if known else None, reported[label], reported)
