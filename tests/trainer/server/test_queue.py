"""Jobs in the queue: one holder at a time, whatever dies, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from edge.errors import StateError
from tests.faults import repetitions
from trainer.server import queue
from trainer.server.database import reading, transaction
from trainer.server.opening import Server
from trainer.server.tables import Job


def job(server: Server, job_id: int) -> Job:
    with reading(server.engine) as session:
        found = session.get(Job, job_id)
    assert found is not None
    return found


def later(server: Server, seconds: float) -> Server:
    return replace(server, clock=lambda: server.clock() + seconds)


def test_one_job_at_a_time(any_engine_server: Server) -> None:
    server = any_engine_server
    first = queue.enqueue(server, "me")
    with pytest.raises(StateError, match=f"job {first} is queued; one at a time"):
        queue.enqueue(server, "me again")
    held = queue.claim(server, "w1")
    assert held is not None and (held.id, held.status, held.n_starts) == (first, "running", 1)
    with pytest.raises(StateError, match="is running"):
        queue.enqueue(server, "me again")
    assert queue.claim(server, "w2") is None
    assert queue.finish(server, first, "w1", "done", {"a": 1}, None)
    assert (job(server, first).status, job(server, first).result) == ("done", {"a": 1})
    assert queue.enqueue(server, "me again") == first + 1


def test_a_lease_that_runs_out_gives_the_job_to_another(any_engine_server: Server) -> None:
    server = any_engine_server
    number = queue.enqueue(server, "me")
    queue.claim(server, "w1", lease_s=60.0)
    assert queue.claim(later(server, 59.0), "w2") is None
    assert queue.heartbeat(later(server, 59.0), number, "w1", stage="adapt", progress=0.3) == "held"
    assert queue.claim(later(server, 100.0), "w2") is None, "the heartbeat renewed the lease"
    taken = queue.claim(later(server, 120.0), "w2")
    assert taken is not None and (taken.n_starts, taken.stage) == (2, "adapt")
    assert queue.heartbeat(server, number, "w1") == "lost"
    assert not queue.finish(server, number, "w1", "done", {}, None), "who lost the lease decides nothing any more"
    assert queue.finish(server, number, "w2", "failed", None, "why") and job(server, number).error == "why"


def test_a_job_whose_workers_are_always_lost_fails(any_engine_server: Server) -> None:
    server = any_engine_server
    number = queue.enqueue(server, "me")
    for start in range(queue.MAX_STARTS):
        assert queue.claim(later(server, 1000.0 * start), f"w{start}") is not None
        queue.heartbeat(later(server, 1000.0 * start), number, f"w{start}", stage="adapt")
    assert queue.claim(later(server, 1e6), "last") is None
    ended = job(server, number)
    assert ended.status == "failed" and "begun 3 times and its worker was lost each time" in (ended.error or "")


def test_cancelling(any_engine_server: Server) -> None:
    server = any_engine_server
    waiting = queue.enqueue(server, "me")
    assert queue.cancel(server, waiting) == "cancelled" and queue.claim(server, "w") is None
    running = queue.enqueue(server, "me")
    queue.claim(server, "w")
    assert queue.cancel(server, running) == "running" and queue.heartbeat(server, running, "w") == "cancelled"
    assert queue.finish(server, running, "w", "cancelled", None, None)
    with pytest.raises(StateError, match="is cancelled already"):
        queue.cancel(server, running)
    with pytest.raises(StateError, match="there is no job 99"):
        queue.cancel(server, 99)
    lost = queue.enqueue(server, "me")
    queue.claim(server, "w")
    queue.cancel(server, lost)
    assert queue.claim(later(server, 1e4), "w2") is None and job(server, lost).status == "cancelled"


def test_a_stopped_server_gives_its_job_back_and_loses_no_start(any_engine_server: Server) -> None:
    server = any_engine_server
    number = queue.enqueue(server, "me")
    for _ in range(5):
        assert queue.claim(server, "w") is not None
        queue.release(server, number, "w")
    assert (job(server, number).status, job(server, number).n_starts) == ("queued", 0)


def test_a_dead_process_of_this_machine_needs_no_lease_to_run_out(sqlite_server: Server) -> None:
    server = sqlite_server
    number = queue.enqueue(server, "me")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = queue.this_worker().replace(f":{os.getpid()}:", f":{process.pid}:")
        owner = f"{owner.rpartition(':')[0]}:{queue._started(process.pid)}"
        queue.claim(server, owner)
        assert queue.claim(server, "w2") is None, "it is alive"
        process.kill()
        process.wait()
    taken = queue.claim(server, "w2")
    assert taken is not None and taken.id == number and taken.n_starts == 2


def test_a_live_owner_and_one_of_another_machine_are_not_dead() -> None:
    assert not queue._is_dead(queue.this_worker())
    assert not queue._is_dead(f"{queue.this_worker()}:thread")
    assert not queue._is_dead("elsewhere/123/4:1:1") and not queue._is_dead("nonsense") and not queue._is_dead("")
    machine = queue.this_worker().partition(":")[0]
    assert queue._is_dead(f"{machine}:{os.getpid()}:1"), "the number of a process that was used before"


@pytest.mark.faults
def test_workers_side_by_side_never_hold_one_job(any_engine_server: Server) -> None:
    """Claims, short leases and lost workers at random: no moment at which two believe to hold the same job."""
    server = replace(any_engine_server, clock=time.time)
    n_jobs = repetitions(6, 60)
    with transaction(server.engine) as session:
        session.add_all([Job(created_at=0.0, asked_by=f"{i}") for i in range(n_jobs)])
    holders: dict[int, str] = {}
    clashes: list[tuple[int, str, str]] = []
    guard = threading.Lock()

    def work(name: str) -> None:
        while (held := queue.claim(server, name, lease_s=30.0)) is not None:
            with guard:
                if held.id in holders:
                    clashes.append((held.id, holders[held.id], name))
                holders[held.id] = name
            time.sleep(0.005)
            assert queue.heartbeat(server, held.id, name) == "held"
            with guard:
                del holders[held.id]
            assert queue.finish(server, held.id, name, "done", None, None)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
    with reading(server.engine) as session:
        done = session.query(Job).all()
    assert {(j.status, j.n_starts) for j in done} == {("done", 1)} and len(done) == n_jobs


def test_two_that_ask_at_once_get_one_job(any_engine_server: Server) -> None:
    results: list[object] = []

    def ask() -> None:
        try:
            results.append(queue.enqueue(any_engine_server, "me"))
        except StateError as error:
            results.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(r).__name__ for r in results) == ["int"] + ["str"] * 5


def test_without_the_lock_workers_meet(sqlite_server: Server) -> None:
    """The mechanism switched off: two that read before either writes both believe to hold the job."""
    number = queue.enqueue(sqlite_server, "me")
    seen = []
    for _ in range(2):
        with reading(sqlite_server.engine) as session:
            row = session.get(Job, number)
            seen.append(row is not None and row.status == "queued")
    assert seen == [True, True]
    assert queue.claim(sqlite_server, "w1") is not None and queue.claim(sqlite_server, "w2") is None
