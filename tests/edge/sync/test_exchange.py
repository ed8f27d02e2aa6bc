"""A device and a real server: what is sent, what counts, what is kept back, and what a forgotten sound leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.journal import Journal
from edge.memory_file import decode_memory
from edge.records import Record
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from edge.sync.client import SignedClient
from edge.sync.exchange import Exchange
from edge.sync.knowledge import from_journal
from edge.sync.outbox import Outbox
from edge.sync.pending import waiting
from edge.sync.retry import StoppedError
from edge.sync.uploads import Outcome
from tests.simulators.resync_server import ResyncServer
from tests.simulators.sync_device import ABOUT, SPACE, SyncDevice, heard


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResyncServer]:
    with ResyncServer(tmp_path_factory.mktemp("server"), SPACE) as running:
        yield running


def enrolled(server: ResyncServer, folder: Path, level: str = "statistics") -> tuple[SyncDevice, str]:
    device = SyncDevice(folder / "state", level=level, clip_bytes=10_000_000)
    return device, device.enrol(server.url, server.token())


def statement(server: ResyncServer, device_id: str) -> tuple[int, str, int]:
    query = "SELECT revision, statistics_sha256, n_records FROM state WHERE device_id = ?"
    return server.rows(query, device_id)[0]  # type: ignore[return-value]


def count(server: ResyncServer, table: str, device_id: str) -> int:
    return int(server.rows(f"SELECT count(*) FROM {table} WHERE device_id = ?", device_id)[0][0])


def test_nothing_taught_sends_no_statement(server: ResyncServer, quick: Path) -> None:
    device, device_id = enrolled(server, quick)
    device.teach()
    assert device.sync().statement == "none"
    assert count(server, "state", device_id) == 0


def test_the_server_holds_the_same_sum_to_the_bit(server: ResyncServer, quick: Path) -> None:
    device, device_id = enrolled(server, quick)
    records = [heard("bell", 1), heard("dog", 2), heard("bell", 3)]
    device.teach(*records)
    assert device.sync().statement == "created"
    assert statement(server, device_id) == (1, sum_of(FeatureSpace(SPACE), records).sha256, 3)
    again = device.sync()
    assert again.statement == "unchanged"
    assert again.bytes_by_kind.keys() == {"poll"}
    assert count(server, "embedded", device_id) == count(server, "clip", device_id) == 0


def test_levels_decide_what_leaves(server: ResyncServer, quick: Path) -> None:
    device, device_id = enrolled(server, quick, "embeddings")
    device.teach(heard("bell", 11), heard("dog", 12), audio=True)
    report = device.sync()
    assert (report.n_embeddings, report.n_clips, count(server, "clip", device_id)) == (2, 0, 0)
    device.level = "clips"
    device.point_to(server.url, device_id)
    report = device.sync()
    assert (report.statement, report.n_embeddings, report.n_clips) == ("unchanged", 0, 2)
    assert count(server, "embedded", device_id) == count(server, "clip", device_id) == 2
    assert device.sync().bytes_by_kind.keys() == {"poll"}


def test_private_labels_stay_here_and_are_taken_back(server: ResyncServer, quick: Path) -> None:
    device, device_id = enrolled(server, quick, "embeddings")
    records = [heard("bell", 21), heard("baby", 22)]
    device.teach(*records)
    device.sync()
    assert count(server, "embedded", device_id) == 2
    enrolment = device.folder.load()
    assert enrolment is not None
    device.folder.save(replace(enrolment, private_labels=("baby",)))
    device.sync()
    assert statement(server, device_id) == (2, sum_of(FeatureSpace(SPACE), records[:1]).sha256, 1)
    assert server.rows("SELECT label FROM embedded WHERE device_id = ?", device_id) == [("bell",)]
    device.folder.save(enrolment)
    assert device.sync().n_embeddings == 1
    assert count(server, "embedded", device_id) == 2


def test_what_is_forgotten_goes_and_what_comes_back_is_sent_again(server: ResyncServer, quick: Path) -> None:
    device, device_id = enrolled(server, quick, "clips")
    device.teach(heard("bell", 31), heard("dog", 32), audio=True)
    device.sync()
    with Journal.open(device.state, space=SPACE) as journal:
        journal.forget("dog")
        device.sync()
        assert count(server, "embedded", device_id) == count(server, "clip", device_id) == 1
        journal.undo()
    report = device.sync()
    assert (report.n_embeddings, report.n_clips) == (1, 1)
    assert count(server, "embedded", device_id) == count(server, "clip", device_id) == 2


def test_a_lost_outbox_costs_only_sending_again(server: ResyncServer, quick: Path) -> None:
    device, device_id = enrolled(server, quick, "clips")
    device.teach(heard("bell", 41), heard("dog", 42), audio=True)
    first = device.sync()
    device.folder.outbox_path.unlink()
    again = device.sync()  # its sequence numbers begin at 1 again: the server says where to go on
    assert (again.n_embeddings, again.n_clips, again.n_refused) == (2, 2, 0)
    assert again.bytes_by_kind["clips"]["up"] >= first.bytes_by_kind["clips"]["up"] * 0.9
    assert count(server, "embedded", device_id) == count(server, "clip", device_id) == 2
    device.folder.outbox_path.write_bytes(b"not a database" * 100)
    with device.outbox() as outbox:
        assert "damaged" in outbox.findings[0]
    device.sync()
    assert count(server, "embedded", device_id) == 2


def test_a_device_restored_from_a_backup_speaks_on(server: ResyncServer, quick: Path) -> None:
    device, device_id = enrolled(server, quick)
    device.teach(heard("bell", 51))
    device.sync()
    backup = device.folder.outbox_path.read_bytes()
    device.teach(heard("dog", 52))
    device.sync()
    device.folder.outbox_path.write_bytes(backup)
    device.teach(heard("cat", 53))
    assert device.sync().statement == "created"
    revision, _, n_records = statement(server, device_id)
    assert (revision, n_records) == (3, 3)


def test_a_refused_statement_is_kept_with_its_reason_and_sent_no_more(server: ResyncServer, quick: Path) -> None:
    device, _ = enrolled(server, quick, "embeddings")
    good = heard("bell", 61)
    device.teach(Record(SPACE.sha256, "bell", good.embeddings // 2))  # no unit vectors: no backbone made these
    report = device.sync()
    assert (report.statement, report.n_embeddings, report.n_refused) == ("rejected", 0, 1)
    with device.outbox() as outbox:
        (refused,) = outbox.refused()
    assert refused.kind == "state" and refused.reason
    assert device.sync().bytes_by_kind.keys() == {"poll"}
    with Journal.open(device.state, space=SPACE) as journal:
        journal.undo()
    device.teach(good)
    assert device.sync().statement == "created"
    with device.outbox() as outbox:
        assert outbox.refused() == []


def test_one_bad_item_does_not_take_the_others_along(quick: Path) -> None:
    """A server that refuses any upload with one example in it: all others arrive, and that one is named."""
    device = SyncDevice(quick / "state", level="embeddings")
    records = [heard("bell", seed) for seed in range(8)]
    device.teach(*records)
    device.point_to("http://127.0.0.1:9")
    arrived: set[str] = set()

    def send(kind: str, data: bytes) -> Outcome:
        ids = {record.id for record in decode_memory(data)[1]}
        if records[5].id in ids:
            return Outcome("rejected", "it is bad")
        arrived.update(ids)
        return Outcome("created", None, dict.fromkeys(ids, "created"))

    enrolment = device.folder.load()
    assert enrolment is not None
    with (
        Journal.open(device.state, space=SPACE, read_only=True) as journal,
        Outbox(device.folder.outbox_path) as outbox,
        SignedClient(enrolment.server, device.folder.key(), outbox) as client,
    ):
        exchange = Exchange(enrolment, device.state, client, outbox, lambda private: known, ABOUT)
        exchange._send = send  # type: ignore[method-assign]
        known = from_journal(journal, FeatureSpace(SPACE), ())
        exchange._send_embeddings(known, waiting(known, "embeddings", outbox, device.state).embeddings)
        assert [(r.item, r.reason) for r in outbox.refused()] == [(records[5].id, "it is bad")]
    assert arrived == {record.id for record in records} - {records[5].id}


def test_clips_that_find_no_room_are_left_out_oldest_first(server: ResyncServer, quick: Path) -> None:
    device, device_id = enrolled(server, quick, "clips")
    for seed in range(70, 74):
        device.teach(heard("bell", seed), audio=True)
    report = device.sync(max_waiting_bytes=2 * 33_000)
    assert (report.n_embeddings, report.n_clips, report.n_dropped) == (4, 2, 2)
    kept = server.rows("SELECT content_sha256 FROM clip WHERE device_id = ?", device_id)
    assert {row[0] for row in kept} == {heard("bell", seed).content_sha256 for seed in (72, 73)}
    with device.outbox() as outbox:
        assert outbox.dropped()[0] == 2


def test_a_revoked_device_stops_and_says_so(server: ResyncServer, quick: Path) -> None:
    from trainer.server.devices import revoke_device

    device, device_id = enrolled(server, quick)
    device.teach(heard("bell", 81))
    revoke_device(server._server, device_id, "lost")
    with pytest.raises(StoppedError, match="does not serve this device"):
        device.sync()
    with device.outbox() as outbox:
        assert "does not serve" in outbox.get("stopped")
