"""What goes wrong around an exchange, and what must then still hold: each of these was a fault once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edge.sync.background
import edge.sync.client
from edge.errors import SyncError
from edge.journal import Journal
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from edge.sync.background import BackgroundSync
from edge.sync.client import SignedClient
from edge.sync.device_file import Enrolment
from edge.sync.knowledge import from_journal, from_learner
from edge.sync.printable import printable
from edge.sync.retry import StoppedError, TryLaterError
from edge.sync.session import one_at_a_time, sync_once
from tests.bundles import TONES, tone
from tests.simulators.ears import write_ear
from tests.simulators.resync_server import ResyncServer
from tests.simulators.sync_device import ABOUT, SPACE, SyncDevice, heard
from tests.simulators.upgrading import upgrading_listener


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResyncServer]:
    with ResyncServer(tmp_path_factory.mktemp("server"), SPACE) as running:
        yield running


def sync_now(device: SyncDevice, enrolment: Enrolment, *, meanwhile: Callable[[], object] = lambda: None) -> object:
    """What the command does; meanwhile: done once it has read what is known, before anything was sent."""
    with Journal.open(device.state, space=SPACE, read_only=True) as journal:

        def knowledge(hidden: frozenset[str]) -> object:
            told = from_journal(journal, FeatureSpace(SPACE), hidden)
            meanwhile()
            return told

        return sync_once(device.state, enrolment, knowledge, ABOUT)  # type: ignore[arg-type]


def n_of(server: ResyncServer, table: str, device_id: str) -> int:
    return int(server.rows(f"SELECT count(*) FROM {table} WHERE device_id = ?", device_id)[0][0])


# ---- what the owner says meanwhile ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["nothing", "private"])
def test_what_the_owner_keeps_back_meanwhile_does_not_leave(server: ResyncServer, quick: Path, change: str) -> None:
    device = SyncDevice(quick / "state", level="embeddings")
    device_id = device.enrol(server.url, server.token())
    device.teach(heard("bell", 1), heard("secret", 2))
    enrolment = device.folder.load()
    assert enrolment is not None
    kept_back = (
        replace(enrolment, level="nothing") if change == "nothing" else replace(enrolment, private_labels=("secret",))
    )
    with pytest.raises(TryLaterError, match="what may leave this device was changed meanwhile"):
        sync_now(device, enrolment, meanwhile=lambda: device.folder.save(kept_back))
    assert n_of(server, "state", device_id) == 0
    if change == "private":
        sync_now(device, enrolment)  # as the caller read it before; what counts is what is on the disk
        assert server.rows("SELECT n_records FROM state WHERE device_id = ?", device_id) == [(1,)]


def test_a_visit_that_waited_for_another_one_does_as_the_owner_said_meanwhile(
    server: ResyncServer, quick: Path
) -> None:
    device = SyncDevice(quick / "state")
    device.enrol(server.url, server.token())
    device.teach(heard("bell", 1))
    enrolment = device.folder.load()
    assert enrolment is not None
    raised: list[BaseException] = []

    def visit() -> None:
        try:
            sync_now(device, enrolment)
        except TryLaterError as error:
            raised.append(error)

    with one_at_a_time(device.folder):
        thread = threading.Thread(target=visit)
        thread.start()
        time.sleep(0.2)
        device.folder.save(replace(enrolment, device_id="0" * 32))  # `sync off`, and enrolled again
    thread.join(10.0)
    assert "was changed meanwhile" in str(raised[0])


def test_a_device_that_is_enrolled_anew_does_not_rest_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.sync.background, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(edge.sync.background, "LOOK_SECONDS", 0.01)
    who, visits = ["the revoked one"], []

    def sync(pause: object) -> str:
        visits.append(who[0])
        if who[0] == "the revoked one":
            raise StoppedError("revoked")
        return "fine"

    with BackgroundSync(sync, who=lambda: who[0]) as background:
        _until(lambda: background.n_failed == 1)
        time.sleep(0.1)
        assert visits == ["the revoked one"]
        who[0] = "another"
        _until(lambda: background.n_synced == 1)
    assert visits == ["the revoked one", "another"]


def _until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- during a trial -------------------------------------------------------------------------------------------------


def test_what_is_purged_during_a_trial_is_told_no_more(quick: Path) -> None:
    """The server hears of the old space while a trial runs, but of what is known now."""
    old, new = (write_ear(quick / f"v{i}", version=i, seed=i) for i in (1, 2))
    state = quick / "state"
    state.mkdir()
    rng = np.random.default_rng(0)
    with upgrading_listener(state, old.path, trial_seconds=600.0) as running:
        for label, hz in TONES.items():
            running.taught_while_running(label, tone(hz, 1.0, rng))
        with Journal.open(state, read_only=True) as journal:
            (bell,) = [r for r in journal.records(old.space.sha256).values() if r.label == "bell"]
        assert _consider(running, new) == "TRIAL"
        running.inbox.call(lambda: running.live.forget("hum", purge=True)).result()
        running.inbox.call(lambda: running.live.rename("bell", "secret")).result()
        running.taught_while_running("drone", tone(600.0, 1.0, rng))
        before = running.ear.before
        assert before is not None
        told = from_learner(before.learner, running.inbox.call, frozenset({"secret"}))
        with Journal.open(state, read_only=True) as journal:
            known = [r for r in journal.records(old.space.sha256).values() if r.label != "secret"]
        assert sorted(r.label for r in known) == ["beep", "drone", "whistle"]
        assert set(told.ids) == {r.id for r in known} and bell.id not in told.ids
        assert told.statistics.sha256 == sum_of(FeatureSpace(old.space), known).sha256


def _consider(running: object, new: object) -> str:
    from tests.simulators.upgrading import Upgrading

    assert isinstance(running, Upgrading)
    return running.upgrade.consider(new.path).state  # type: ignore[attr-defined]


# ---- what the other end says ----------------------------------------------------------------------------------------


def test_a_servers_words_move_no_cursor() -> None:
    assert printable("grün, 音, ok") == "grün, 音, ok"
    assert printable("\x1b[2J\x1b]0;title\x07a\r\nb\u202ec\x9b31m") == "?[2J?]0;title?a??b?c?31m"
    assert len(printable("x" * 10_000)) == 503


@contextmanager
def talking(device: SyncDevice, url: str) -> Iterator[SignedClient]:
    key = device.folder.key_to_enrol()
    with device.outbox() as outbox, SignedClient(url, key, outbox, attempts=1) as client:
        yield client


@contextmanager
def answering(*pieces: bytes, every_s: float = 0.0) -> Iterator[str]:
    """A server that sends the same bytes to whoever comes, piece by piece, until nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(65536)
                    try:
                        for piece in pieces:
                            connection.sendall(piece)
                            stop.wait(every_s)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def test_a_refusal_is_printed_without_its_escape_sequences(quick: Path) -> None:
    body = b'{"error": "\\u001b[2Jgone", "kind": "refused"}'
    head = b"HTTP/1.1 422 no\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    device = SyncDevice(quick / "state")
    with answering(head + body) as url, talking(device, url) as client, pytest.raises(SyncError) as caught:
        client.poll({})
    assert "refused: ?[2Jgone" in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_stopped_device_says_what_to_do(quick: Path) -> None:
    body = b'{"error": "this device is not known here", "kind": "unknown-device"}'
    head = b"HTTP/1.1 401 no\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    device = SyncDevice(quick / "state")
    with answering(head + body) as url, talking(device, url) as client, pytest.raises(StoppedError) as caught:
        client.poll({})
    assert "is not known here; ask its operator for a token, then `soundkeep sync off`" in str(caught.value)


def test_a_download_that_trickles_is_broken_off(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.sync.client, "STREAM_SECONDS", 0.3)
    head = b"HTTP/1.1 200 ok\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n"
    device = SyncDevice(quick / "state")
    with answering(head, *[b"x"] * 1000, every_s=0.02) as url, talking(device, url) as client:
        began = time.monotonic()
        with pytest.raises(TryLaterError, match="not whole after"), client.stream_get("/v1/bundles/x") as answer:
            for _ in answer.chunks:
                pass
        assert 0.2 < time.monotonic() - began < 5.0


def test_an_answer_that_trickles_is_no_answer(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.sync.client, "ANSWER_SECONDS", 0.3)
    head = b"HTTP/1.1 200 ok\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n"
    device = SyncDevice(quick / "state")
    with answering(head, *[b" "] * 1000, every_s=0.02) as url, talking(device, url) as client:
        began = time.monotonic()
        with pytest.raises(TryLaterError, match="does not end"):
            client.poll({})
        assert 0.2 < time.monotonic() - began < 5.0
