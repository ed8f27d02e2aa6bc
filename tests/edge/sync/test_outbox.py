"""The outbox: numbers that are never used twice, answers that outlive a crash, damage that costs only sending again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edge.errors import SyncError
from edge.sync.outbox import SEQUENCE_BLOCK, Outbox, Settled
from tests.faults import repetitions
from tests.simulators.sync_device import FakeClock


def test_numbers_grow_and_outlive_restarts(quick: Path) -> None:
    given: list[int] = []
    for n in (1, 5, 100, 3):
        with Outbox(quick / "o.db") as outbox:
            given += [outbox.next_sequence() for _ in range(n)]
    assert given == sorted(set(given)) and given[0] == 1
    assert given[-1] <= len(given) + 4 * SEQUENCE_BLOCK


def test_two_processes_never_give_the_same_number(quick: Path) -> None:
    with Outbox(quick / "o.db") as a, Outbox(quick / "o.db") as b:
        given = [(a if i % 3 else b).next_sequence() for i in range(300)]
    assert len(set(given)) == 300


def test_after_a_replay_numbers_go_on_where_the_server_says(quick: Path) -> None:
    with Outbox(quick / "o.db") as outbox:
        outbox.next_sequence()
        outbox.sequence_is_at_least(5000)
        assert outbox.next_sequence() == 5001
        outbox.sequence_is_at_least(3)  # never backwards
        assert outbox.next_sequence() > 5001
        with pytest.raises(SyncError, match="enrol again"):
            outbox.sequence_is_at_least(2**60)


def test_the_ledger_keeps_the_last_word(quick: Path) -> None:
    with Outbox(quick / "o.db") as outbox:
        outbox.settle([Settled("clips", "a", "rejected", "why", 5), Settled("clips", "b", "dropped", None, 7)])
        outbox.settle([Settled("clips", "a", "created", None, 5), Settled("embeddings", "a", "rejected", "bad")])
    with Outbox(quick / "o.db") as outbox:
        assert outbox.settled("clips")["a"].result == "created"
        assert [(r.kind, r.reason) for r in outbox.refused()] == [("embeddings", "bad")]
        assert outbox.dropped() == (1, 7)
        outbox.forget_answers(refused_only=True)
        assert (outbox.settled("clips").keys(), outbox.refused(), outbox.dropped()) == ({"a"}, [], (0, 0))


def test_the_budget_outlives_a_restart_and_a_reboot(quick: Path) -> None:
    clock = FakeClock(1000.0)
    with Outbox(quick / "o.db", now=clock.now) as outbox:
        while not outbox.take_request():
            pass
    with Outbox(quick / "o.db", now=clock.now) as outbox:
        assert outbox.take_request() == pytest.approx(120.0)
    clock.boot, clock.seconds = "b", 10.0
    with Outbox(quick / "o.db", now=clock.now) as outbox:
        assert outbox.take_request() > 100.0
        clock.sleep(120.0)
        assert outbox.take_request() == 0.0


@pytest.mark.faults
def test_damage_is_found_or_costs_only_sending_again(quick: Path) -> None:
    """Bits flip anywhere in the file: it opens, gives numbers, and never claims an answer that was not given."""
    path, rng = quick / "o.db", np.random.default_rng(3)
    items = [hashlib.sha256(bytes([i])).hexdigest() for i in range(50)]
    with Outbox(path) as outbox:
        outbox.settle(Settled("clips", item, "created") for item in items[:25])
        outbox.next_sequence()
    whole = path.read_bytes()
    n_found = 0
    for _ in range(repetitions(40, 2000)):
        damaged = bytearray(whole)
        for _ in range(int(rng.integers(1, 20))):
            damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            with Outbox(path) as outbox:
                n_found += bool(outbox.findings)
                assert not outbox.settled("clips").keys() & set(items[25:])
                assert 1 <= outbox.next_sequence() < 1000
        except SyncError:
            path.unlink()  # found while it was read; what a person is told to do
    assert n_found
