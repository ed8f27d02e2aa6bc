"""Uploads: resumed anywhere, counted once, consistent with the statement, and gone when the device forgot them."""

from __future__ import annotations

import hashlib
import io
import random
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import func, select

from edge.records import Record
from edge.statistics import SufficientStatistics
from edge.sync.clip_pack import PackedClip, encode_clips
from edge.sync.state_message import decode_state, encode_state
from tests.faults import repetitions
from tests.simulators.fleet_device import (
    SPACE,
    FleetDevice,
    embeddings,
    sound,
    statement,
    statistics_of,
    unit_rows,
)
from tests.simulators.running_server import running_server
from trainer.server import effects
from trainer.server.collecting import sweep
from trainer.server.database import reading, transaction
from trainer.server.devices import release_device, remove_device
from trainer.server.enrolment import make_token
from trainer.server.keeper import Keeper, drop_what_waited_too_long
from trainer.server.limits import ServerSettings
from trainer.server.opening import Server
from trainer.server.spaces import know_space
from trainer.server.tables import Base, Chunk, Clip, Device, Embedded, LabelRule, Outcome, Refusal, State, Upload

OTHER = replace(SPACE, backbone_sha256="0" * 64)


@dataclass
class House:
    """A server, its client and one enrolled device."""

    server: Server
    http: httpx.Client
    device: FleetDevice

    def enrol(self, name: str = "another") -> FleetDevice:
        device = FleetDevice(self.http, name)
        assert device.enrol(make_token(self.server)).status_code == 201
        return device

    def count(self, table: type[Base]) -> int:
        with reading(self.server.engine) as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    def fleet(self) -> str:
        """The hash of the sum over the devices' statements."""
        with reading(self.server.engine) as session:
            blobs = list(session.scalars(select(State.blob_sha256)))
        total = SufficientStatistics.zero(statistics_of([]).space)
        for blob in blobs:
            total = total + decode_state(self.server.blobs.get(blob)).statistics
        return total.sha256

    def blobs(self) -> set[str]:
        return set(self.server.blobs.names())


@pytest.fixture
def house(any_engine_server: Server) -> Iterator[House]:
    with running_server(any_engine_server) as http:
        house = House(any_engine_server, http, FleetDevice(http))
        house.device = house.enrol("kitchen")
        yield house


def outcome(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in (200, 422), answer.text
    told: dict[str, Any] = answer.json()["outcome"]
    return told


def result(answer: httpx.Response) -> str:
    return str(outcome(answer)["result"])


def wav(seed: int = 0, *, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.random.default_rng(seed).integers(-999, 999, 400, dtype=np.int16).tobytes())
    return file.getvalue()


def clips(records: Sequence[Record]) -> bytes:
    return encode_clips(PackedClip.of(record.content_sha256, wav(i)) for i, record in enumerate(records))


SOUNDS = [sound(label, seed) for seed, label in enumerate(("bell", "bell", "dog", "kettle"))]


def test_the_newest_statement_counts(house: House) -> None:
    one, two = statement(1, SOUNDS[:2]), statement(2, SOUNDS)
    assert outcome(house.device.upload("state", one)) == {"result": "created", "reason": None, "items": {}}
    assert result(house.device.upload("state", two)) == "created"
    assert result(house.device.upload("state", one)) == "created"  # remembered, and without effect
    old = outcome(house.device.upload("state", statement(1, SOUNDS[2:])))
    assert (old["result"], old["revision"]) == ("superseded", 2)
    assert house.fleet() == statistics_of(SOUNDS).sha256
    assert house.blobs() == {hashlib.sha256(two).hexdigest()}


def test_embeddings_and_clips_follow_the_statement(house: House) -> None:
    device = house.device
    early = outcome(device.upload("embeddings", embeddings(SOUNDS[:2])))
    assert early["result"] == "rejected"
    assert set(early["items"].values()) == {"rejected: not in the latest statement"}
    assert result(device.upload("state", statement(1, SOUNDS))) == "created"
    assert result(device.upload("embeddings", embeddings(SOUNDS[:2]))) == "created"  # not the old rejection
    later = outcome(device.upload("embeddings", embeddings([*SOUNDS, sound("cat", 99)])))
    assert [later["items"][record.id] for record in SOUNDS] == ["duplicate", "duplicate", "created", "created"]
    assert later["items"][sound("cat", 99).id] == "rejected: not in the latest statement"
    sent = outcome(device.upload("clips", clips([*SOUNDS, sound("cat", 99)])))
    assert sorted(sent["items"].values())[:4] == ["created"] * 4 and house.count(Clip) == 4
    known = PackedClip.of(SOUNDS[0].content_sha256, wav(3)).known_already()
    missing = PackedClip.of(SOUNDS[1].content_sha256, wav(77)).known_already()
    told = outcome(device.upload("clips", encode_clips([known, missing])))["items"]
    assert told == {SOUNDS[0].content_sha256: "created", SOUNDS[1].content_sha256: "missing"}
    bad = outcome(device.upload("clips", encode_clips([PackedClip.of(SOUNDS[0].content_sha256, wav(0, rate=8000))])))
    assert bad["result"] == "rejected" and "8000 Hz" in bad["reason"]

    assert result(device.upload("state", statement(2, SOUNDS[2:]))) == "created"
    assert house.count(Embedded) == 2 and house.count(Clip) == 2
    left = {hashlib.sha256(wav(i)).hexdigest() for i in (2, 3)}
    assert house.blobs() == left | {hashlib.sha256(statement(2, SOUNDS[2:])).hexdigest()}
    assert result(device.upload("state", statement(3, SOUNDS))) == "created"
    again = outcome(device.upload("embeddings", embeddings(SOUNDS[:2])))  # taught again after it was forgotten
    assert set(again["items"].values()) == {"created"}


def test_what_one_device_has_another_cannot_claim(house: House) -> None:
    other = house.enrol()
    for device in (house.device, other):
        device.upload("state", statement(1, SOUNDS))
        device.upload("embeddings", embeddings(SOUNDS))
    house.device.upload("clips", clips(SOUNDS))
    probe = [PackedClip.of(record.content_sha256, wav(i)).known_already() for i, record in enumerate(SOUNDS)]
    assert set(outcome(other.upload("clips", encode_clips(probe)))["items"].values()) == {"missing"}


def test_clips_move_with_a_device_to_another_space(house: House) -> None:
    with transaction(house.server.engine) as session:
        know_space(session, OTHER)
    house.device.upload("state", statement(1, SOUNDS))
    house.device.upload("embeddings", embeddings(SOUNDS))
    house.device.upload("clips", clips(SOUNDS))
    moved = [sound(record.label, 50 + i, space=OTHER) for i, record in enumerate(SOUNDS)]
    assert result(house.device.upload("state", statement(2, moved, OTHER))) == "created"
    assert house.count(Embedded) == 0 and house.count(Clip) == 4
    house.device.upload("embeddings", embeddings(moved, OTHER))
    short = [PackedClip.of(record.content_sha256, wav(i)).known_already() for i, record in enumerate(moved)]
    assert set(outcome(house.device.upload("clips", encode_clips(short)))["items"].values()) == {"created"}
    later = replace(house.server, clock=lambda: house.server.clock() + 2 * house.server.settings.moving_clips_seconds)
    drop_what_waited_too_long(later)
    assert house.count(Clip) == 4
    with reading(house.server.engine) as session:
        kept = set(session.scalars(select(Clip.content_sha256)))
    assert kept == {record.content_sha256 for record in moved}


def test_a_contradiction_is_found_when_the_last_embeddings_arrive(house: House) -> None:
    lie = encode_state(1, [record.id for record in SOUNDS], statistics_of([*SOUNDS[:3], sound("kettle", 1234)]))
    assert result(house.device.upload("state", lie)) == "created"
    assert result(house.device.upload("embeddings", embeddings(SOUNDS[:3]))) == "created"
    caught = outcome(house.device.upload("embeddings", embeddings(SOUNDS[3:])))
    assert caught["result"] == "rejected" and "do not add up" in caught["reason"]
    with reading(house.server.engine) as session:
        row = session.get(Device, house.device.id)
        assert row is not None and row.status == "quarantined" and "do not add up" in (row.status_reason or "")
        assert session.scalar(select(func.count()).select_from(Embedded)) == 3
    assert house.device.poll().status_code == 200
    release_device(house.server, "kitchen")
    assert result(house.device.upload("state", statement(2, SOUNDS))) == "created"
    assert result(house.device.upload("embeddings", embeddings(SOUNDS))) == "created"


def test_a_statement_that_contradicts_embeddings_changes_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.device.upload("state", statement(1, SOUNDS))
    house.device.upload("embeddings", embeddings(SOUNDS))
    lie = encode_state(2, [record.id for record in SOUNDS[:3]], statistics_of([*SOUNDS[:2], sound("dog", 1234)]))
    before = house.fleet()
    caught = house.device.upload("state", lie)
    assert (caught.status_code, result(caught)) == (422, "rejected")
    assert house.fleet() == before and house.count(Embedded) == 4
    monkeypatch.setattr(effects, "require_agreement", lambda session, state: None)  # without the check it would count
    lie = encode_state(3, [record.id for record in SOUNDS[:3]], statistics_of([*SOUNDS[:2], sound("dog", 1234)]))
    assert result(house.device.upload("state", lie)) == "created" and house.fleet() != before


def test_private_labels_are_held_back_and_removed(house: House) -> None:
    device = house.device
    device.upload("state", statement(1, SOUNDS))
    device.upload("embeddings", embeddings(SOUNDS))
    device.upload("clips", clips(SOUNDS))
    with transaction(house.server.engine) as session:
        session.add(LabelRule(device_id="", label="bell", action="private"))
    assert result(device.upload("state", statement(2, SOUNDS))) == "created"
    with reading(house.server.engine) as session:
        state = session.get(State, device.id)
        assert state is not None and state.held_back == "waits for a statement without label 'bell'"
    assert house.count(Embedded) == 2 and house.count(Clip) == 2
    refused = outcome(device.upload("embeddings", embeddings(SOUNDS[:1])))
    assert refused["items"] == {SOUNDS[0].id: "rejected: label 'bell' is private"}
    assert result(device.upload("state", statement(3, SOUNDS[2:]))) == "created"
    with reading(house.server.engine) as session:
        state = session.get(State, device.id)
        assert state is not None and state.held_back is None


def test_poison_leaves_the_fleet_as_it_was(house: House) -> None:
    house.device.upload("state", statement(1, SOUNDS))
    before, s = house.fleet(), statistics_of(SOUNDS)
    bad = encode_state(2, [record.id for record in SOUNDS], replace(s, gram=s.gram * 3.0))
    for data in (bad, bad, statement(2, [sound("bell", 1, space=OTHER)], OTHER), b"SKSTATE\0 and so on"):
        answer = house.device.upload("state", data)
        assert answer.status_code == 422 and answer.json()["kind"] == "refused"
        assert answer.json()["error"] == answer.json()["outcome"]["reason"]
        assert house.fleet() == before
    assert house.count(Refusal) == 3  # a repeat is answered from the ledger
    assert len(house.blobs()) == 1


def test_uploads_resume_after_cuts_at_any_byte_and_restarts(any_engine_server: Server) -> None:
    """Fault 13: a cut costs at most one chunk, across restarts of the server, and what arrives is whole."""
    rng = random.Random(13)
    many = [sound("bell", 1000 + i, n_windows=40) for i in range(30)]
    data, chunk = embeddings(many), 4096
    n_cuts = 0
    with running_server(any_engine_server) as http:
        device = FleetDevice(http)
        device.enrol(make_token(any_engine_server))
        assert result(device.upload("state", statement(1, many))) == "created"
        assert device.offset(data) is None and device.begin("embeddings", data).json() == {"offset": 0}
    answer: httpx.Response | None = None
    while answer is None or answer.status_code == 202:
        with running_server(any_engine_server) as http:
            device.http = http
            for _ in range(rng.randrange(1, 4)):
                at = device.offset(data)
                assert at is not None
                piece = data[at : at + chunk]
                if rng.random() < 0.5:  # the connection ends within the body
                    _send_part(device, data, at, piece, rng.randrange(len(piece)))
                    n_cuts += 1
                    assert device.offset(data) == at
                answer = device.go_on(data, at, piece)
                if answer.status_code != 202:
                    break
                wrong = device.go_on(data, at, piece)
                assert (wrong.status_code, wrong.json()["kind"]) == (409, "offset")
                assert wrong.json()["offset"] == at + len(piece)
    assert result(answer) == "created" and n_cuts >= 2
    with reading(any_engine_server.engine) as session:
        assert session.scalar(select(func.count()).select_from(Embedded)) == len(many)
        assert session.scalar(select(func.count()).select_from(Chunk)) == 0
        assert session.scalar(select(func.count()).select_from(Upload)) == 0


def _send_part(device: FleetDevice, data: bytes, offset: int, piece: bytes, n_bytes: int) -> None:
    import socket

    target = f"/v1/uploads/{hashlib.sha256(data).hexdigest()}?offset={offset}"
    headers = device.signed("PATCH", target, piece)
    head = [f"PATCH {target} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(piece)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    address = device.http.base_url
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode() + piece[:n_bytes])


def test_bytes_that_do_not_match_their_name_are_refused_and_may_be_sent_again(house: House) -> None:
    data = statement(1, SOUNDS)
    name = hashlib.sha256(data).hexdigest()
    target = f"/v1/uploads?kind=state&sha256={name}&size={len(data)}"
    assert house.device.ask("POST", target, data[:-1] + b"x").status_code == 422
    assert house.device.ask("POST", target, data[:100]).json() == {"offset": 100}
    assert house.device.go_on(data, 100, data[100:-1] + b"x").status_code == 422
    assert house.device.offset(data) is None
    assert result(house.device.upload("state", data)) == "created"


def test_limits_of_uploads(any_engine_server: Server) -> None:
    settings = ServerSettings(max_upload_bytes=10_000, max_bytes_per_day=9_000, max_unfinished_uploads=2)
    with running_server(replace(any_engine_server, settings=settings)) as http:
        device = FleetDevice(http)
        device.enrol(make_token(any_engine_server))
        assert device.begin("clips", bytes(10_001)).status_code == 413
        assert device.begin("nonsense", b"x").status_code == 422
        assert device.ask("POST", "/v1/uploads?kind=state&sha256=x&size=1").status_code == 422
        assert device.ask("POST", "/v1/uploads").status_code == 422
        first, second, third = (bytes([i]) * 9_500 for i in range(3))
        assert device.begin("clips", first).status_code == device.begin("clips", second).status_code == 202
        busy = device.begin("clips", third)
        assert (busy.status_code, busy.json()["kind"]) == (429, "too-many") and int(busy.headers["retry-after"]) > 0
        assert device.go_on(first, 0, first + b"more").status_code == 413
        assert device.go_on(first, 0, first[:8_000]).json() == {"offset": 8_000}
        spent = device.go_on(first, 8_000, first[8_000:])
        assert spent.status_code == 429 and int(spent.headers["retry-after"]) <= 86_400
        assert device.offset(first) == 8_000
        assert device.go_on(third, 0, b"").status_code == 404
        tomorrow = replace(any_engine_server, settings=settings, clock=lambda: any_engine_server.clock() + 86_400)
        with running_server(tomorrow) as later:
            device.http = later
            assert device.go_on(first, 8_000, first[8_000:]).status_code == 422  # whole, and no clips


def test_unfinished_uploads_are_dropped_after_a_week(house: House) -> None:
    house.device.begin("clips", bytes(1000), bytes(500))
    house.device.begin("clips", b"x" * 1000)
    clock = house.server.clock
    Keeper(replace(house.server, clock=lambda: clock() + 7 * 86_400 - 1), ()).round()
    assert (house.count(Upload), house.count(Chunk)) == (2, 1)
    Keeper(replace(house.server, clock=lambda: clock() + 7 * 86_400 + 1), ()).round()
    assert (house.count(Upload), house.count(Chunk)) == (0, 0)


def test_a_removed_device_leaves_nothing(house: House) -> None:
    other = house.enrol()
    house.device.upload("state", statement(1, SOUNDS[:2]))
    before = house.fleet(), house.blobs()
    other.upload("state", statement(1, SOUNDS))
    other.upload("embeddings", embeddings(SOUNDS))
    other.upload("clips", clips(SOUNDS))
    other.upload("state", b"nonsense")
    other.begin("clips", bytes(1000), bytes(500))
    assert (house.fleet(), house.blobs()) != before
    remove_device(house.server, other.id)
    assert (house.fleet(), house.blobs()) == before
    tables = [table for table in Base.metadata.sorted_tables if "device_id" in table.c]
    with reading(house.server.engine) as session:
        for table in tables:
            assert not session.execute(select(table).where(table.c.device_id == other.id)).all(), table.name
    assert other.poll().json()["kind"] == "unknown-device"


def test_orphans_are_swept(house: House) -> None:
    house.device.upload("state", statement(1, SOUNDS))
    kept = house.blobs()
    house.server.blobs.put(b"nobody names this")
    assert sweep(house.server) == 1 and house.blobs() == kept


@pytest.mark.faults
def test_replayed_and_shuffled_uploads_count_once(any_engine_server: Server) -> None:
    """Fault 12: every batch 1 to 10 times, shuffled over all devices; the fleet is what one delivery gives."""
    rng = random.Random(12)
    n_devices = repetitions(3, 50)
    with running_server(replace(any_engine_server, settings=ServerSettings(max_requests_per_minute=10**6))) as http:
        house = House(any_engine_server, http, FleetDevice(http))
        devices = [house.enrol(f"device {i}") for i in range(n_devices)]
        sends, expected = [], statistics_of([])
        for i, device in enumerate(devices):
            heard = [sound(label, 100 * i + j) for j, label in enumerate(("bell", "dog", "kettle"))]
            for revision in (1, 2, 3):
                sends += [(device, statement(revision, heard[:revision]))] * rng.randrange(1, 11)
            expected = expected + statistics_of(heard)
        rng.shuffle(sends)
        for device, data in sends:
            assert result(device.upload("state", data)) in ("created", "superseded")
        assert house.fleet() == expected.sha256
        assert house.count(State) == n_devices and len(house.blobs()) == n_devices
        assert house.count(Outcome) == 3 * n_devices


def test_the_fleet_of_a_delta_protocol_would_double(house: House) -> None:
    """What absolute statements are for: adding up everything that arrives counts repeats twice."""
    data = statement(1, SOUNDS)
    total = statistics_of([])
    for _ in range(2):
        assert result(house.device.upload("state", data)) == "created"
        total = total + decode_state(data).statistics
    assert total.sha256 != house.fleet() == statistics_of(SOUNDS).sha256


def test_rows_are_checked_before_they_are_kept(house: House) -> None:
    rows = (unit_rows(np.random.default_rng(0), 3) // 2).astype(np.int16)
    short = Record(SPACE.sha256, "bell", rows)
    told = outcome(house.device.upload("embeddings", embeddings([short])))
    assert told["items"] == {short.id: "rejected: a row is not of unit length"}
