"""The loop: first alone, with every other part played by the test; then whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock
from edge.config import ListenSettings
from edge.decision import Decider, DecisionSettings, Event
from edge.errors import AudioError
from edge.inbox import Inbox
from edge.listener import Listener, feed
from edge.recent import RecentSound
from edge.windows import Windower
from tests.bundles import HOP_LENGTH, SAMPLE_RATE, SPACE, TONES, WINDOW_LENGTH, SpectrumEmbedder, noise, tone
from tests.simulators.queue_source import QueueSource
from tests.simulators.running_listener import running_listener


class LoudIsBell:
    """A judge that knows one class: the label it is told, whenever it is told to."""

    def __init__(self) -> None:
        self.labels: tuple[str, ...] = ("bell",)
        self.n_judged = 0

    def judge(self, embeddings: NDArray[np.int16]) -> tuple[Sequence[str], NDArray[np.float64]]:
        self.n_judged += len(embeddings)
        return self.labels, np.full((len(embeddings), len(self.labels)), 10.0)


class NoEar:
    """An embedder that hears nothing in particular."""

    space = SPACE

    def quantized(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
        return np.zeros((len(windows), SPACE.dim), dtype=np.int16), 0


class Counts:
    """A meter."""

    def __init__(self) -> None:
        self.n_samples = self.n_windows = 0
        self.began_labels: list[str | None] = []
        self.latencies: list[float] = []

    def heard(self, n_samples: int) -> None:
        self.n_samples += n_samples

    def decided(self, embedding_s: float, latency_s: float) -> None:
        self.n_windows += 1
        self.latencies.append(latency_s)

    def began(self, label: str | None) -> None:
        self.began_labels.append(label)


class Bench:
    """A listener whose parts are all simulated but the loop itself."""

    def __init__(self, inbox: Inbox | None = None) -> None:
        self.source = QueueSource(SAMPLE_RATE)
        self.inbox = inbox or Inbox()
        self.judge = LoudIsBell()
        self.meter = Counts()
        self.events: list[Event] = []
        self.recent = RecentSound(SPACE, 60.0)
        self.listener = Listener(
            source=self.source,
            inbox=self.inbox,
            windower=Windower(WINDOW_LENGTH, HOP_LENGTH),
            embedder=NoEar(),
            judge=self.judge,
            decider=Decider(
                DecisionSettings(threshold=5.0, low_threshold=4.0, k=1, n=1),
                sample_rate=SAMPLE_RATE,
                window_length=WINDOW_LENGTH,
                hop_length=HOP_LENGTH,
            ),
            recent=self.recent,
            sinks=[self],
            meter=self.meter,
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing to release."""


SOUND = np.full(2 * SAMPLE_RATE, 0.1, dtype=np.float32)


def test_a_source_that_ends_at_once_is_no_window_and_no_event() -> None:
    bench = Bench()
    bench.source.end()
    bench.listener.run()
    assert (bench.meter.n_windows, bench.events) == (0, [])
    assert bench.source.opened and bench.source.closed


def test_every_window_is_judged_and_kept_and_an_open_event_is_closed_at_the_end() -> None:
    bench = Bench()
    bench.source.play(SOUND)
    bench.source.end()
    bench.listener.run()
    n_windows = 1 + (len(SOUND) - WINDOW_LENGTH) // HOP_LENGTH
    assert bench.meter.n_windows == bench.judge.n_judged == n_windows
    assert bench.meter.n_samples == len(SOUND)
    assert bench.recent.heard_until == len(SOUND)
    assert [(e.label, e.phase) for e in bench.events] == [("bell", "onset"), ("bell", "offset")]
    assert bench.meter.began_labels == ["bell"]


def test_a_gap_ends_what_is_open_and_begins_afresh() -> None:
    bench = Bench()
    bench.source.play(SOUND)
    bench.source.lose(3 * SAMPLE_RATE)
    bench.source.play(SOUND)
    bench.source.end()
    bench.listener.run()
    phases = [e.phase for e in bench.events]
    assert phases == ["onset", "offset", "onset", "offset"]
    assert bench.events[1].offset_sample <= len(SOUND) < bench.events[2].onset_sample


def test_a_command_runs_between_two_windows_on_the_loops_thread_and_counts_from_the_next_window_on() -> None:
    bench = Bench()
    bench.judge.labels = ()
    loop = threading.Thread(target=bench.listener.run)
    loop.start()
    bench.source.play(SOUND)
    names: list[str] = []

    def teach() -> None:
        names.append(threading.current_thread().name)
        bench.judge.labels = ("new",)

    while bench.recent.heard_until < len(SOUND):
        time.sleep(0.001)
    bench.inbox.call(teach).result(5.0)
    assert [e.label for e in bench.events if e.label] == []
    bench.source.play(SOUND[:HOP_LENGTH])
    bench.source.end()
    loop.join(10.0)
    assert names == [loop.name]
    assert [e.label for e in bench.events if e.label] == ["new", "new"]


def test_while_a_command_takes_long_no_sound_is_lost() -> None:
    bench = Bench(Inbox(max_blocks=2))
    loop = threading.Thread(target=bench.listener.run)
    loop.start()
    answer = bench.inbox.call(lambda: time.sleep(0.3))
    bench.source.play(SOUND, block_length=500)
    bench.source.end()
    answer.result(5.0)
    loop.join(10.0)
    assert bench.meter.n_windows == 1 + (len(SOUND) - WINDOW_LENGTH) // HOP_LENGTH


def test_an_error_of_the_source_comes_out_after_the_sound_before_it() -> None:
    bench = Bench()
    bench.source.play(SOUND)
    bench.source.fail(AudioError("the file is truncated"))
    with pytest.raises(AudioError, match="truncated"):
        bench.listener.run()
    assert bench.meter.n_samples == len(SOUND)
    assert bench.events[-1].phase == "offset"


def test_stopping_ends_a_loop_that_waits_for_sound() -> None:
    bench = Bench()
    loop = threading.Thread(target=bench.listener.run)
    loop.start()
    bench.inbox.stop()
    loop.join(5.0)
    assert not loop.is_alive() and bench.source.closed


def test_digital_silence_never_fires_whatever_the_judge_says() -> None:
    bench = Bench()
    bench.source.play(np.zeros(SAMPLE_RATE, dtype=np.float32))
    bench.source.end()
    bench.listener.run()
    assert bench.meter.n_windows > 0 and bench.events == []


def test_latency_counts_from_the_arrival_of_the_last_block() -> None:
    bench = Bench()
    bench.source.play(SOUND)
    bench.source.end()
    bench.listener.run()
    assert all(0.0 <= latency < 5.0 for latency in bench.meter.latencies)


def test_feeding_stops_when_nobody_listens_any_more() -> None:
    source, inbox = QueueSource(SAMPLE_RATE), Inbox()
    source.play(SOUND)
    inbox.stop()
    feed(source, inbox)
    assert list(inbox) == []


def test_a_block_with_a_broken_order_is_a_gap() -> None:
    windower = Windower(WINDOW_LENGTH, HOP_LENGTH)
    windower.push(AudioBlock(SOUND, 0))
    windower.push(AudioBlock(SOUND, len(SOUND) + 7))
    assert windower.n_gaps == 1


# ---- whole ----------------------------------------------------------------------------------------------------------


def test_a_sound_taught_while_listening_is_known_from_then_on_and_the_stream_never_stops(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    quiet = noise(1.0, rng, level=0.003)
    with running_listener(tmp_path) as run:
        run.hear(quiet)
        run.hear(tone(TONES["bell"], 1.0, rng))
        assert [e for e in run.events if e.label] == []
        answer = run.live.call(lambda: run.live.teach_span("bell", run.live.heard_until - 6000, run.live.heard_until))
        assert answer.result(10.0)["records"][0]["new"]
        run.hear(quiet)
        run.hear(quiet)
        run.hear(tone(TONES["bell"], 1.0, rng))
        run.hear(quiet)
        heard = [e.label for e in run.events if e.label and e.phase == "onset"]
        assert "bell" in heard
        assert run.live.health()["n_gaps"] == 0


def test_wrong_speaks_against_the_event_it_names_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    quiet = noise(2.0, rng, level=0.003)
    with running_listener(tmp_path) as run:
        run.hear(tone(TONES["bell"], 1.0, rng))
        run.live.call(lambda: run.live.teach_span("bell", 0, run.live.heard_until)).result(10.0)
        run.hear(quiet)
        run.hear(tone(1.04 * TONES["bell"], 1.0, rng))
        run.hear(quiet)
        n_before = len([e for e in run.events if e.label == "bell" and e.phase == "onset"])
        assert n_before >= 1
        event = next(e for e in reversed(run.events) if e.label == "bell")
        embeddings = run.live._parts.recent_events.find(event.id)[1].embeddings

        def bell() -> float:
            labels, scores = run.learner.judge(embeddings)
            return float(scores[:, labels.index("bell")].max())

        before = bell()
        answer = run.live.call(lambda: run.live.wrong(event.id)).result(10.0)
        assert answer["label"] is None and answer["event"]["id"] == event.id
        assert bell() < 0.8 * before


def test_the_ring_is_bounded_by_the_settings(tmp_path: Path) -> None:
    with running_listener(tmp_path, settings=ListenSettings(recent_seconds=2.0)) as run:
        run.hear(noise(5.0, np.random.default_rng(2)))
        assert len(run.live._parts.recent.last(100.0)) == 2 * SAMPLE_RATE // HOP_LENGTH


def test_a_replay_is_decided_the_same_at_any_speed_and_in_any_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    scene = np.concatenate([noise(1.0, rng, level=0.003), tone(900.0, 1.0, rng), noise(1.5, rng, level=0.003)])
    seen = []
    for block_length in (160, 1000, len(scene)):
        with running_listener(tmp_path / str(block_length), embedder=SpectrumEmbedder()) as run:
            run.source.play(tone(900.0, 1.0, np.random.default_rng(9)))
            run.hear(np.zeros(HOP_LENGTH, dtype=np.float32))
            run.live.call(lambda run=run: run.live.teach_span("bell", 0, SAMPLE_RATE)).result(10.0)
            run.source.play(scene, block_length=block_length)
            run.hear(np.zeros(2 * SAMPLE_RATE, dtype=np.float32))
            seen.append(list(run.events))
    assert seen[0] == seen[1] == seen[2]
    assert any(event.label == "bell" for event in seen[0])
