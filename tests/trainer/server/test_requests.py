"""Enrolment and signed requests over a real socket, on both engines."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from edge.sync.keys import DeviceKey
from edge.sync.signing import REPLAY_WINDOW
from tests.simulators.fleet_device import FleetDevice, sound, statement
from tests.simulators.running_server import running_server
from trainer.server.database import transaction
from trainer.server.devices import revoke_device
from trainer.server.enrolment import ROOT_PATH, fingerprint, make_token
from trainer.server.limits import ServerSettings
from trainer.server.opening import Server
from trainer.server.tables import Device, LabelRule, PublishedBundle


@pytest.fixture
def http(any_engine_server: Server) -> Iterator[httpx.Client]:
    with running_server(any_engine_server) as client:
        yield client


@pytest.fixture
def device(http: httpx.Client, any_engine_server: Server) -> FleetDevice:
    enrolled = FleetDevice(http, "kitchen")
    assert enrolled.enrol(make_token(any_engine_server)).status_code == 201
    return enrolled


def kind(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) >= {"error", "kind"}
    return answer.status_code, answer.json()["kind"]


def test_a_token_enrols_one_device_and_repeats_give_the_same_answer(
    http: httpx.Client, any_engine_server: Server
) -> None:
    token = make_token(any_engine_server)
    one, two = FleetDevice(http, "one"), FleetDevice(http, "two")
    first, again = one.enrol(token), one.enrol(token)
    assert (first.status_code, again.status_code) == (201, 201) and first.json() == again.json()
    assert first.json()["device_id"] == one.id and first.json()["root"] is None
    assert kind(two.enrol(token)) == (403, "bad-token")
    assert kind(two.enrol("A" * 22)) == (403, "bad-token")
    assert kind(two.enrol("é" * 22)) == (403, "bad-token")
    assert two.enrol(make_token(any_engine_server)).json()["server"] == first.json()["server"]


def test_many_first_devices_at_once_meet_one_server(http: httpx.Client, any_engine_server: Server) -> None:
    tokens = [make_token(any_engine_server) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda token: FleetDevice(http, "one of many").enrol(token), tokens))
    assert [answer.status_code for answer in answers] == [201] * 8, [answer.text for answer in answers]
    assert len({answer.json()["server"] for answer in answers}) == 1


def test_a_token_carries_the_hash_of_the_first_root(http: httpx.Client, any_engine_server: Server) -> None:
    path = any_engine_server.data_dir / ROOT_PATH
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a root")
    token = make_token(any_engine_server)
    assert len(token) == 44 and token[22:] == fingerprint(b"a root")
    assert token[22:] == base64.urlsafe_b64encode(hashlib.sha256(b"a root").digest()).decode()[:22]
    answer = FleetDevice(http).enrol(token)
    assert base64.b64decode(answer.json()["root"]) == b"a root"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 60_000,
        json.dumps({"token": "A" * 22, "public_key": "AA", "name": "x"}).encode(),
        b'{"token": 5, "public_key": "", "name": ""}',
    ],
)
def test_a_malformed_enrolment_is_refused(http: httpx.Client, body: bytes) -> None:
    assert kind(FleetDevice(http).ask("POST", "/v1/enrol", body)) == (422, "refused")


def test_unsigned_and_wrongly_signed_requests(http: httpx.Client, device: FleetDevice) -> None:
    assert kind(http.post("/v1/poll", content=b"{}")) == (401, "bad-signature")
    assert kind(FleetDevice(http).poll()) == (401, "unknown-device")
    headers = device.signed("POST", "/v1/poll", b"{}")
    assert kind(http.post("/v1/poll", content=b'{"slot":"x"}', headers=headers)) == (401, "bad-signature")
    assert kind(http.post("/v1/poll?x=1", content=b"{}", headers=headers)) == (401, "bad-signature")
    stranger = FleetDevice(http, key=DeviceKey.generate())
    forged = {**stranger.signed("POST", "/v1/poll", b"{}"), "x-soundkeep-device": device.id}
    assert kind(http.post("/v1/poll", content=b"{}", headers=forged)) == (401, "bad-signature")
    assert http.post("/v1/poll", content=b"{}", headers=headers).status_code == 200  # none of that used it up


def test_a_request_counts_once_and_order_does_not_matter(http: httpx.Client, device: FleetDevice) -> None:
    def poll(sequence: int) -> httpx.Response:
        return http.post("/v1/poll", content=b"{}", headers=device.signed("POST", "/v1/poll", b"{}", sequence=sequence))

    assert [poll(n).status_code for n in (50, 20, 49, 50, 20)] == [200, 200, 200, 409, 409]
    assert poll(5000).status_code == 200
    late = poll(5000 - REPLAY_WINDOW)
    assert kind(late) == (409, "replayed") and late.json()["sequence_top"] == 5000
    assert poll(5001 - REPLAY_WINDOW).status_code == 200


def test_a_revoked_device_is_told_so(http: httpx.Client, device: FleetDevice, any_engine_server: Server) -> None:
    assert device.poll().status_code == 200
    revoke_device(any_engine_server, "kitchen", "it was stolen")
    answer = device.poll()
    assert kind(answer) == (403, "revoked") and "stolen" in answer.json()["error"]
    assert kind(device.enrol(make_token(any_engine_server))) == (403, "revoked")
    assert kind(device.upload("state", statement(1, [sound("bell", 1)]))) == (403, "revoked")


def test_the_poll_answers_what_the_server_holds(
    http: httpx.Client, device: FleetDevice, any_engine_server: Server
) -> None:
    report = {
        "version": "1",
        "bundle": {"name": "ear", "version": 2, "sha256": "0" * 64, "space": "1" * 64},
        "slot": "factory",
        "setting": "statistics",
        "revision": 0,
    }
    answer = device.poll(**report, unknown="x")
    assert answer.json() == {
        "time": 1_800_000_000,
        "revision": 0,
        "state": None,
        "private_labels": [],
        "bundles": None,
        "limits": {"max_upload_bytes": 64 << 20, "chunk_bytes": 256 << 10},
    }
    sent = statement(3, [sound("bell", 1)])
    assert device.upload("state", sent).json()["outcome"]["result"] == "created"
    with transaction(any_engine_server.engine) as session:
        row = session.get(Device, device.id)
        assert row is not None and row.report == report and row.n_bytes_up == len(sent)
        session.add(LabelRule(device_id="", label="bell", action="private"))
        session.add(LabelRule(device_id="", label="dog", action="private"))
        session.add(LabelRule(device_id=device.id, label="dog", action="merge", target="cat"))
        session.add(
            PublishedBundle(
                sha256="2" * 64, name="ear", version=3, space_sha256="1" * 64, status="published", created_at=1.0,
                published_at=2.0,
            )
        )  # fmt: skip
    answer = device.poll(**report)
    assert answer.json()["revision"] == 3 and answer.json()["state"] == hashlib.sha256(sent).hexdigest()
    assert answer.json()["private_labels"] == ["bell"]
    assert answer.json()["bundles"] == {"name": "ear", "version": 3}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5",
        b'{"slot": "\\ud800"}',
        b'{"slot": "a\\u0000b"}',
        b'{"revision": 1e400}',
        b'{"bundle": []}',
        b'{"slot": "%s"}' % (b"x" * 200),
        b'{"revision": 1' + b"0" * 5000 + b"}",
    ],
)
def test_a_malformed_report_is_refused(device: FleetDevice, body: bytes) -> None:
    assert kind(device.ask("POST", "/v1/poll", body)) == (422, "refused")


def test_requests_are_limited_per_minute(any_engine_server: Server) -> None:
    server = replace(any_engine_server, settings=ServerSettings(max_requests_per_minute=5))
    with running_server(server) as http:
        one, other = FleetDevice(http), FleetDevice(http)
        assert one.enrol(make_token(server)).status_code == other.enrol(make_token(server)).status_code == 201
        answers = [one.poll() for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert kind(answers[-1]) == (429, "too-many") and 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert other.poll().status_code == 200


def test_bundles_are_for_enrolled_devices_only(
    http: httpx.Client, device: FleetDevice, any_engine_server: Server
) -> None:
    folder = any_engine_server.data_dir / "repository"
    for name, data in (("metadata/timestamp.json", b"{}"), ("targets/ear-2.skb", bytes(range(100)))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "targets" / "link").symlink_to("/etc/passwd")
    assert device.ask("GET", "/v1/bundles/metadata/timestamp.json").content == b"{}"
    part = device.ask("GET", "/v1/bundles/targets/ear-2.skb", range="bytes=90-")
    assert (part.status_code, part.content) == (206, bytes(range(90, 100)))
    assert kind(http.get("/v1/bundles/targets/ear-2.skb")) == (401, "bad-signature")
    for name in ("..%2Ftimestamp.json", "%2e%2e%2fserver.db", "..", ".hidden", "link", "nothing.json", "a%00b"):
        assert device.ask("GET", f"/v1/bundles/targets/{name}").status_code == 404, name


def test_nothing_else_is_there(http: httpx.Client) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/v1", "/v1/polls"):
        assert kind(http.get(path)) == (404, "not-found")
    assert http.get("/v1/poll").status_code == 405
    assert "access-control-allow-origin" not in http.options("/v1/poll", headers={"origin": "http://evil"}).headers
    assert http.get("/v1/health").json()["status"] == "ok"
