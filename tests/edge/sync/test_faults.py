"""A device and a real server with everything in between failing: all of it arrives, each once, and no loop spins."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.errors import SyncError
from edge.journal import Journal
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from edge.sync.background import BackgroundSync
from edge.sync.client import SignedClient
from edge.sync.outbox import Outbox
from edge.sync.retry import TryLaterError
from edge.sync.uploads import CHUNK_BYTES, send_upload
from tests.faults import repetitions
from tests.simulators.fault_proxy import FAULTS, FaultProxy
from tests.simulators.resync_server import REPOSITORY, ResyncServer
from tests.simulators.sync_device import SPACE, FakeClock, SyncDevice, heard


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResyncServer]:
    with ResyncServer(tmp_path_factory.mktemp("server"), SPACE) as running:
        yield running


def of(server: ResyncServer, table: str, column: str, device_id: str) -> list[str]:
    return [row[0] for row in server.rows(f"SELECT {column} FROM {table} WHERE device_id = ?", device_id)]


def assert_all_there(server: ResyncServer, device: SyncDevice, device_id: str, *, clips: bool = False) -> None:
    with Journal.open(device.state, space=SPACE, read_only=True) as journal:
        records = dict(journal.records())
    (told,) = of(server, "state", "statistics_sha256", device_id)
    assert told == sum_of(FeatureSpace(SPACE), records.values()).sha256
    assert sorted(of(server, "embedded", "record_id", device_id)) == sorted(records)
    if clips:
        contents = sorted({record.content_sha256 for record in records.values()})
        assert sorted(of(server, "clip", "content_sha256", device_id)) == contents


@pytest.mark.faults
def test_half_of_all_requests_fail_and_everything_arrives_once(server: ResyncServer, quick: Path) -> None:
    """Row 11: 50 % failures of every kind."""
    rng, clock = np.random.default_rng(11), FakeClock()
    device = SyncDevice(quick / "state", level="clips", clip_bytes=1 << 30)
    device_id = device.enrol(server.url, server.token())
    n = repetitions(10, 60)
    with FaultProxy(server.port, lambda: str(rng.choice(FAULTS)) if rng.random() < 0.5 else "pass") as proxy:
        device.point_to(proxy.url)
        for i in range(n):
            device.teach(heard(f"sound {i % 3}", 1000 + i), audio=True)
            device.sync_until_done(clock)
    assert proxy.n_failed > n
    assert_all_there(server, device, device_id, clips=True)


@pytest.mark.faults
def test_a_server_that_is_away_gets_at_most_sixty_requests_an_hour(quick: Path) -> None:
    """Row 11: a whole outage, at the pace of the background thread, on a clock that only waits."""
    clock, device = FakeClock(), SyncDevice(quick / "state")
    device.teach(heard("bell", 1))
    at: list[float] = []

    def outage() -> str:
        at.append(clock.seconds)
        return "503" if len(at) % 2 else "reset"

    with FaultProxy(None, outage) as proxy:
        device.point_to(proxy.url)
        background = BackgroundSync(
            lambda pause: device.sync(clock=clock, attempts=2).words, rng=np.random.default_rng(1), clock=lambda: 0.0
        )
        used, until = time.process_time(), repetitions(12, 24 * 14) * 3600.0
        while clock.seconds < until:
            clock.sleep(background.visit())
        used = time.process_time() - used
    assert background.n_synced == 0 and background.n_failed > 10
    assert max(sum(1 for t in at[i:] if t - start < 3600.0) for i, start in enumerate(at)) <= 60
    assert used / until < 0.01  # CPU, as a share of the time that it would have taken


def test_a_loop_that_starts_anew_each_time_is_held_back_too(quick: Path) -> None:
    """A timer that runs `sync now` every second while the server is away: the budget is on the disk."""
    clock, device = FakeClock(), SyncDevice(quick / "state")
    device.teach(heard("bell", 1))
    with FaultProxy(None, lambda: "reset") as proxy:
        device.point_to(proxy.url)
        for _ in range(100):
            with pytest.raises(TryLaterError):
                device.sync(clock=clock, insist=True, attempts=1)
            clock.seconds += 1.0
        assert proxy.n_requests <= 31


def test_without_the_budget_the_same_loop_spins(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbox, "take_request", lambda outbox, of=1.0: 0.0)
    clock, device = FakeClock(), SyncDevice(quick / "state")
    device.teach(heard("bell", 1))
    with FaultProxy(None, lambda: "reset") as proxy:
        device.point_to(proxy.url)
        for _ in range(100):
            with pytest.raises(TryLaterError):
                device.sync(clock=clock, insist=True, attempts=1)
        assert proxy.n_requests == 100


def test_a_person_may_sync_often_while_the_server_answers(server: ResyncServer, quick: Path) -> None:
    clock, device = FakeClock(), SyncDevice(quick / "state")
    device.enrol(server.url, server.token())
    device.teach(heard("bell", 2))
    for _ in range(70):
        device.sync(clock=clock, insist=True)


@pytest.mark.parametrize("to_begin", [8.0, 1.0])
def test_a_sync_is_begun_only_with_enough_left_to_send_something(
    server: ResyncServer, quick: Path, monkeypatch: pytest.MonkeyPatch, to_begin: float
) -> None:
    """After an outage that used everything up; begun with one request left, each sync would poll and never send."""
    monkeypatch.setattr("edge.sync.client.TO_BEGIN", to_begin)
    clock, device = FakeClock(), SyncDevice(quick / "state")
    device.enrol(server.url, server.token())
    device.teach(heard("bell", 4))
    with Outbox(device.folder.outbox_path, now=clock.now) as outbox:
        while outbox.take_request() == 0.0:
            pass
    done = 0
    for _ in range(20):
        try:
            done += device.sync(clock=clock).statement == "created"
        except TryLaterError as error:
            clock.sleep(error.wait_s)
    assert done == (to_begin > 1.0)


def test_half_open_and_nonsense_are_no_answer(server: ResyncServer, quick: Path) -> None:
    device = SyncDevice(quick / "state")
    device.enrol(server.url, server.token())
    device.teach(heard("bell", 3))
    with FaultProxy(server.port, lambda: "silent") as proxy:
        device.point_to(proxy.url)
        with pytest.raises(TryLaterError, match="does not answer"):
            device.sync(read_s=0.2, attempts=2)


@pytest.mark.faults
def test_a_cut_upload_sends_at_most_one_chunk_twice(server: ResyncServer, quick: Path) -> None:
    """Row 13, up: cut at random bytes, with a new process's worth of client between."""
    rng, clock, device = np.random.default_rng(13), FakeClock(), SyncDevice(quick / "state", level="embeddings")
    device.enrol(server.url, server.token())
    device.teach(*(heard("bell", 5000 + i, n_windows=1600) for i in range(repetitions(30, 200))))
    n_cuts = 0

    def choose() -> str:
        nonlocal n_cuts
        fault = "cut_up" if rng.random() < 0.4 else "cut_down" if rng.random() < 0.3 else "pass"
        n_cuts += fault != "pass"
        return fault

    with FaultProxy(server.port, choose) as proxy:
        device.point_to(proxy.url)
        for _ in range(1000):
            try:
                device.sync(clock=clock, attempts=1)
                break
            except TryLaterError:
                clock.sleep(3600.0)
        sent, cut = proxy.body_bytes, n_cuts
    with Journal.open(device.state, space=SPACE, read_only=True) as journal:
        n_records = len(journal.records())
    size = n_records * (2 * 1600 * SPACE.dim + 50)
    assert len(of(server, "embedded", "record_id", device.folder.key().device_id)) == n_records
    assert cut > 5
    assert sent <= size * 1.05 + (cut + 2) * (CHUNK_BYTES + 10_000) + cut * 250 * 60


def test_an_upload_that_was_taken_is_not_sent_again(server: ResyncServer, quick: Path) -> None:
    """With the ledger a second sync sends nothing; without it the bytes go again and still count once."""
    device = SyncDevice(quick / "state", level="embeddings")
    device_id = device.enrol(server.url, server.token())
    device.teach(*(heard("bell", 100 + i) for i in range(20)))
    first = device.sync().bytes_by_kind["embeddings"]["up"]
    assert "embeddings" not in device.sync().bytes_by_kind
    with device.outbox() as outbox:
        outbox.forget_answers()
    again = device.sync().bytes_by_kind["embeddings"]["up"]
    assert again > 0.9 * first > 1000
    assert len(of(server, "embedded", "record_id", device_id)) == 20


@pytest.mark.faults
def test_a_clock_that_jumps_ten_years_loses_nothing(
    server: ResyncServer, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 8: the wall clock jumps between any two steps of a sync; order is the journal's."""
    years = 10 * 365 * 86_400.0
    rng, real = np.random.default_rng(8), time.time
    monkeypatch.setattr(time, "time", lambda: real() + float(rng.choice([-years, 0.0, years, -real()])))
    device = SyncDevice(quick / "state", level="clips", clip_bytes=1 << 30)
    device_id = device.enrol(server.url, server.token())
    for i in range(repetitions(4, 50)):
        device.teach(heard("bell", 300 + i), heard("dog", 400 + i), audio=True)
        device.sync(insist=True, batch_bytes=40_000)
    assert_all_there(server, device, device_id, clips=True)
    with Journal.open(device.state, space=SPACE, read_only=True) as journal:
        seqs = {i: journal.records().about(i).seq for i in journal.records()}
    query = "SELECT record_id FROM embedded WHERE device_id = ? ORDER BY rowid"
    order = [seqs[row[0]] for row in server.rows(query, device_id)]
    of_each_sync = [set(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert of_each_sync == [set(sorted(order)[i : i + 2]) for i in range(0, len(order), 2)]


@pytest.mark.faults
def test_thirty_days_offline(server: ResyncServer, quick: Path) -> None:
    """Row 14: the failed visits of a month, then everything at once: time and memory stay flat."""
    clock, device = FakeClock(), SyncDevice(quick / "state", level="embeddings")
    device_id = device.enrol(server.url, server.token())
    n, days = repetitions(300, 10_000), 30
    with FaultProxy(None, lambda: "reset") as proxy:
        device.point_to(proxy.url)
        for day in range(days):
            device.teach(*(heard(f"sound {i % 7}", 10_000 + i) for i in range(day * n // days, (day + 1) * n // days)))
            with pytest.raises(TryLaterError):
                device.sync(clock=clock, attempts=1)
            clock.sleep(86_400.0)
    outbox_bytes = device.folder.outbox_path.stat().st_size
    assert outbox_bytes < 100_000  # what waits is not copied
    device.point_to(server.url)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    report = device.sync(clock=clock, batch_bytes=64 * 1024)
    assert (report.n_embeddings, time.monotonic() - began < 600.0) == (n, True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    assert_all_there(server, device, device_id)


POINTS = (
    "sequence-reserved", "poll-answered", "revision-kept", "statement-answered", "upload-begun", "outcome-received",
    "outcome-kept",
)  # fmt: skip


def run_device(device: SyncDevice, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.simulators.sync_device", str(device.state), *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_killed_at_any_point_a_device_loses_nothing_and_repeats_no_number(server: ResyncServer, quick: Path) -> None:
    """Row 1, device side: kill -9 at each named point, and at random instants."""
    rng, device = np.random.default_rng(1), SyncDevice(quick / "state", level="embeddings")
    device_id = device.enrol(server.url, server.token())
    n_killed = 0
    drills = [(point, nth) for nth in range(1, repetitions(1, 4) + 1) for point in POINTS]
    for seed, (point, nth) in enumerate(drills):
        device.teach(heard("bell", 700 + seed), heard("dog", 900 + seed))
        process = run_device(device, point, str(nth))
        process.communicate()
        n_killed += process.returncode == -9
    assert n_killed >= len(POINTS) - 1
    n_random = 0
    for seed in range(repetitions(2, 1000)):
        device.teach(heard("cat", 2000 + seed))
        process = run_device(device)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(float(rng.uniform(0.0, 0.3)))
        process.kill()
        n_random += process.wait() == -9
        process.stdout.close()
    device.sync(clock=FakeClock(7200.0, boot="the end"))
    print(f"{n_killed} killed at named points, {n_random} at random instants")
    sequences = (device.state / "sequences").read_text().split()
    assert len(sequences) == len(set(sequences)) >= 10
    assert_all_there(server, device, device_id)


def test_without_reserved_numbers_a_killed_device_repeats_one(server: ResyncServer, quick: Path) -> None:
    """The broken variant keeps the counter after the request: its next life is refused, and must ask where to go on."""
    device = SyncDevice(quick / "state")
    device.enrol(server.url, server.token())
    with device.outbox() as outbox:
        outbox.next_sequence()
        kept = outbox.get("sequence")
    lives = []
    for _ in range(2):  # killed before the counter was kept
        with device.outbox() as outbox, SignedClient(server.url, device.folder.key(), outbox) as client:
            client.poll({})
            lives.append(client.audit.by_kind["poll"]["requests"])
        with device.outbox() as outbox:
            outbox.put({"sequence": kept})
    assert lives == [1, 2]  # the second life's first request was refused as replayed


def test_a_server_that_talks_nonsense_is_an_error_and_not_a_loop(server: ResyncServer, quick: Path) -> None:
    device = SyncDevice(quick / "state")
    device.enrol(server.url, server.token())

    class Nonsense(SignedClient):
        def ask(self, *arguments: object, **options: object):  # type: ignore[no-untyped-def, override]
            from edge.sync.client import Answer

            return Answer(202, {"offset": 10**9}, {})

    with (
        device.outbox() as outbox,
        Nonsense(server.url, device.folder.key(), outbox) as client,
        pytest.raises(SyncError, match="goes on at"),
    ):
        send_upload(client, "state", b"x" * 10)
