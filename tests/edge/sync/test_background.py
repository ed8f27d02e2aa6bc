"""Syncing while listening: it goes on whatever happens, keeps its distance, and costs the loop a copy."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.journal import Journal
from edge.learner import Learner
from edge.snapshot import sum_of
from edge.space import EmbeddingSpace, FeatureSpace
from edge.sync.background import INTERVAL_SECONDS, JITTER, STOPPED_SECONDS, BackgroundSync
from edge.sync.knowledge import from_journal, from_learner
from edge.sync.retry import CAP_SECONDS, StoppedError, TryLaterError
from tests.bundles import SPACE, tone
from tests.edge.examples import example
from tests.simulators.running_listener import running_listener
from tests.simulators.sync_device import heard

OUTCOMES = st.lists(
    st.sampled_from([None, "fine", StoppedError("no"), TryLaterError("later", wait_s=7.0), ValueError("a bug")]),
    min_size=1,
    max_size=60,
)


@given(outcomes=OUTCOMES, seed=st.integers(0, 2**32))
def test_it_always_comes_back(outcomes: list[object], seed: int) -> None:
    coming = iter(outcomes)

    def sync(pause: object) -> str | None:
        outcome = next(coming)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[return-value]

    background = BackgroundSync(sync, rng=np.random.default_rng(seed))
    for outcome in outcomes:
        wait_s = background.visit()
        if isinstance(outcome, StoppedError):
            assert wait_s == STOPPED_SECONDS
        elif isinstance(outcome, TryLaterError):
            assert 7.0 <= wait_s <= CAP_SECONDS
        else:
            assert INTERVAL_SECONDS * (1 - JITTER) <= wait_s <= INTERVAL_SECONDS * (1 + JITTER)
    assert background.n_failed == sum(isinstance(outcome, Exception) for outcome in outcomes)
    assert background.n_synced == outcomes.count("fine")


def test_trouble_is_told_once_until_it_is_over() -> None:
    said: list[str] = []
    coming = iter([TryLaterError("away"), TryLaterError("away"), "fine", TryLaterError("away again")])

    def sync(pause: object) -> str:
        outcome = next(coming)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    background = BackgroundSync(sync, tell=said.append)
    for _ in range(4):
        background.visit()
    assert said == ["soundkeep: away", "soundkeep: away again"]
    assert background.health()["last_error"] == "away again"


def test_the_end_of_the_listener_ends_a_sync_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.sync.background.FIRST_SECONDS", 0.0)
    inside = threading.Event()

    def sync(pause) -> None:  # type: ignore[no-untyped-def]
        inside.set()
        pause(600.0)

    began = time.monotonic()
    with BackgroundSync(sync):
        assert inside.wait(5.0)
    assert time.monotonic() - began < 4.0


def test_what_the_listener_tells_is_what_its_journal_says(quick: Path) -> None:
    rng = np.random.default_rng(5)
    with running_listener(quick / "state") as running:
        running.hear(tone(900.0, 3.0, rng))
        running.live.call(lambda: running.live.teach_span("bell", 0, 12_000)).result()
        running.live.call(lambda: running.live.teach_span("baby", 12_000, 20_000)).result()
        told = from_learner(running.learner, running.inbox.call, ())
        hidden = from_learner(running.learner, running.inbox.call, ("baby",))
    with Journal.open(quick / "state", space=SPACE, read_only=True) as journal:
        on_disk = from_journal(journal, FeatureSpace(SPACE), ())
        less = from_journal(journal, FeatureSpace(SPACE), ("baby",))
    assert (told.ids, told.statistics.sha256) == (on_disk.ids, on_disk.statistics.sha256)
    assert (hidden.ids, hidden.statistics.sha256) == (less.ids, less.statistics.sha256)
    assert len(told.ids) == 2 and hidden.statistics.labels == ("bell",)


def test_a_damaged_record_is_not_told(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.errors import CorruptionError
    from edge.journal_reader import JournalReader
    from tests.edge.examples import SPACE as SMALL

    records = [example("bell", 1), example("dog", 2), example("dog", 3)]
    load = JournalReader._load
    with Journal.open(quick / "state", space=SMALL) as journal:
        journal.import_records(records)

        def damaged(reader: JournalReader, known):  # type: ignore[no-untyped-def]
            if known.id == records[1].id:
                raise CorruptionError("altered")
            return load(reader, known)

        monkeypatch.setattr(JournalReader, "_load", damaged)
        told = from_journal(journal, FeatureSpace(SMALL), ())
    assert set(told.ids) == {records[0].id, records[2].id}
    assert told.statistics.sha256 == sum_of(FeatureSpace(SMALL), [records[0], records[2]]).sha256


def test_the_loop_is_busy_for_milliseconds(quick: Path) -> None:
    """At 256 numbers a window and 20 classes; a window comes every 250 ms."""
    space = EmbeddingSpace("ee" * 32, sample_rate=16000, window_length=16000, hop_length=4000, dim=256)
    with Journal.open(quick / "state", space=space) as journal:
        journal.import_records([heard(f"sound {i}", i, n_windows=20, space=space) for i in range(20)])
        learner = Learner(journal, FeatureSpace(space), live=False)
        took = []
        for _ in range(20):
            began = time.perf_counter()
            learner.records, learner.statistics()
            took.append(time.perf_counter() - began)
    print(f"copy of the sums: {1000 * statistics.median(took):.2f} ms")
    assert statistics.median(took) < 0.02
