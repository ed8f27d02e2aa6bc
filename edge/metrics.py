"""What the listener counts, and the page that Prometheus reads. Thread-safe; a registry of its own, no global."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SOURCE_STATES = ("running", "waiting", "silent", "ended")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True)
class Gauges:
    """Values read at the moment of a scrape. Lost audio is in samples, the residual without dimension."""

    source_state: str
    n_overflows: int
    n_lost_samples: int
    n_reopened: int
    n_gaps: int
    n_waiting_blocks: int
    n_classes: int
    n_records: int
    n_windows: int
    n_reanchored: int
    residual: float
    hearing: bool


class _Followed:
    """A Prometheus counter that follows a total counted elsewhere."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._total = 0.0

    def follow(self, total: float) -> None:
        self._counter.inc(max(0.0, total - self._total))
        self._total = max(self._total, total)


class Metrics:
    """The counters of one listener. Label values are bounded by the classes its owner taught."""

    def __init__(self, *, sample_rate: int, about: Mapping[str, str]) -> None:
        self._sample_rate = sample_rate
        self._registry = CollectorRegistry()
        self._windows = Counter("soundkeep_windows", "windows decided", registry=self._registry)
        self._audio = Counter("soundkeep_audio_seconds", "audio that reached the loop", registry=self._registry)
        self._latency = Histogram(
            "soundkeep_decision_latency_seconds",
            "from the arrival of a window's last block to its decision",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._embedding = Histogram(
            "soundkeep_embedding_seconds", "one window through the backbone", buckets=_SECONDS, registry=self._registry
        )
        self._events = Counter(
            "soundkeep_events",
            "events that began; an empty label is an unknown sound",
            ["label"],
            registry=self._registry,
        )
        self._unsent = Counter(
            "soundkeep_events_unsent", "events that a slow reader did not take", registry=self._registry
        )
        self._about = Info("soundkeep_listener", "what listens", registry=self._registry)
        self._about.info(dict(about))
        self._state = Gauge(
            "soundkeep_source_state", "1 for the state the source is in", ["state"], registry=self._registry
        )
        self._overflows = self._counter("soundkeep_source_overflows", "times the device or its queue dropped audio")
        self._reopened = self._counter("soundkeep_source_reopened", "times the device was opened again")
        self._lost = self._counter("soundkeep_audio_lost_seconds", "audio that was lost before it reached the loop")
        self._gaps = self._counter("soundkeep_gaps", "interruptions at which windows began afresh")
        self._reanchored = self._counter("soundkeep_reanchored", "times the live head was rebuilt from the statistics")
        self._waiting = self._gauge("soundkeep_waiting_blocks", "blocks of audio waiting for the loop")
        self._hearing = self._gauge("soundkeep_hearing", "1 when audio was heard within two seconds")
        self._classes = self._gauge("soundkeep_classes", "taught classes")
        self._records = self._gauge("soundkeep_records", "records known")
        self._learnt = self._gauge("soundkeep_learnt_windows", "windows in the statistics")
        self._residual = self._gauge("soundkeep_residual", "relative residual of the live head at its last check")

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(name, words, registry=self._registry)

    def _counter(self, name: str, words: str) -> _Followed:
        return _Followed(Counter(name, words, registry=self._registry))

    def heard(self, n_samples: int) -> None:
        self._audio.inc(n_samples / self._sample_rate)

    def decided(self, embedding_s: float, latency_s: float) -> None:
        self._windows.inc()
        self._embedding.observe(embedding_s)
        self._latency.observe(latency_s)

    def began(self, label: str | None) -> None:
        self._events.labels(label=label or "").inc()

    def unsent(self) -> None:
        self._unsent.inc()

    def page(self, now: Gauges) -> bytes:
        """Return the text that Prometheus reads."""
        for state in SOURCE_STATES:
            self._state.labels(state=state).set(1.0 if state == now.source_state else 0.0)
        self._overflows.follow(now.n_overflows)
        self._reopened.follow(now.n_reopened)
        self._lost.follow(now.n_lost_samples / self._sample_rate)
        self._gaps.follow(now.n_gaps)
        self._reanchored.follow(now.n_reanchored)
        self._waiting.set(now.n_waiting_blocks)
        self._hearing.set(1.0 if now.hearing else 0.0)
        self._classes.set(now.n_classes)
        self._records.set(now.n_records)
        self._learnt.set(now.n_windows)
        self._residual.set(now.residual)
        return generate_latest(self._registry)
