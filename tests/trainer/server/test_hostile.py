"""What a stranger, a device of bad will or a wrong clock may try: on both engines, over real sockets."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import event, func, select

from edge.errors import MisuseError, StateError
from edge.sync.state_message import encode_state
from tests.simulators.fleet_device import FleetDevice, sound, statement, statistics_of
from tests.simulators.running_server import running_server
from tests.simulators.signed_fleet import SignedFleet, tiny_bundle
from tests.trainer.server import fleets
from tests.trainer.server.test_uploads import wav
from trainer.cli import main
from trainer.server import queue, uploads
from trainer.server.database import reading, transaction
from trainer.server.devices import remove_device, revoke_device, show_device
from trainer.server.enrolment import REMEMBERED_PER_MINUTE, make_token
from trainer.server.keeper import drop_what_waited_too_long
from trainer.server.labels import LabelRules
from trainer.server.material import TRAIN, job_folder
from trainer.server.opening import Server
from trainer.server.polling import poll
from trainer.server.publishing import publish_bundle, register_bundle
from trainer.server.refusals import KEPT, Refused, remember_refusal
from trainer.server.repository import ensure_repository, refresh_timestamp
from trainer.server.rotation import rotate
from trainer.server.stage import run_stage
from trainer.server.status_visitors import VisitorRules
from trainer.server.supervisor import Supervisor
from trainer.server.tables import Base, Clip, Device, Embedded, Job, Refusal, State
from trainer.server.uploads import begin_upload

SOUNDS = [sound(label, seed) for seed, label in enumerate(("bell", "bell", "dog"))]
YEAR = 365 * 86_400.0


@dataclass
class House:
    server: Server
    http: httpx.Client
    device: FleetDevice


@pytest.fixture
def house(any_engine_server: Server) -> Iterator[House]:
    with running_server(any_engine_server) as http:
        house = House(any_engine_server, http, FleetDevice(http, "kitchen"))
        assert house.device.enrol(make_token(any_engine_server)).status_code == 201
        yield house


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path)


def count(server: Server, table: type[Base]) -> int:
    with reading(server.engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_labels_that_no_database_can_store_are_refused_in_words(house: House) -> None:
    for label in ("\0", "\ud800", "a\0b", "a\nb"):
        stated = statistics_of(SOUNDS)
        object.__setattr__(stated, "labels", tuple(sorted([label, "bell"])))
        answer = house.device.upload("state", encode_state(1, [r.id for r in SOUNDS], stated))
        assert answer.status_code == 422 and "cannot be printed" in answer.text, answer.text


def test_names_of_uploads_are_looked_at_before_the_database_is(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for name in ("%00", "%00%0Asoundkeep.server%20a%20line%20of%20mine", "x" * 64, "A" * 64):
        assert house.device.ask("HEAD", f"/v1/uploads/{name}").status_code == 404
        assert house.device.ask("PATCH", f"/v1/uploads/{name}?offset=0").status_code == 404
    assert not [record for record in caplog.records if record.name.startswith("soundkeep")]


def test_hostile_json_is_malformed_and_no_more(house: House) -> None:
    bodies = [b'{"revision": 1e400}', b'{"revision": NaN}', b'{"version": "\\u0000"}', b'{"version": "\\ud800"}']
    bodies += [b"[" * 60_000, b'{"a":' * 10_000, b"\xff\xfe{}", b'{"bundle": {"version": 1e5}}']
    bodies += [b'{"revision": ' + b"9" * n + b"}" for n in (4000, 5000)]
    for body in bodies:
        assert house.device.ask("POST", "/v1/poll", body).status_code == 422, body[:40]
        assert house.device.ask("POST", "/v1/enrol", body).status_code == 422, body[:40]


def test_requests_of_a_removed_device_are_worth_nothing_when_it_comes_back(house: House) -> None:
    kept = [house.device.signed("POST", "/v1/poll", b"{}") for _ in range(3)]
    remove_device(house.server, house.device.id)
    assert house.device.enrol(make_token(house.server)).status_code == 201
    codes = [house.http.post("/v1/poll", content=b"{}", headers=headers).status_code for headers in kept]
    assert codes == [409] * 3 and house.device.poll().status_code == 200


def test_an_upload_that_is_judged_while_its_device_is_revoked_does_not_count(house: House) -> None:
    data = statement(1, SOUNDS)
    revoke_device(house.server, house.device.id)  # after the signature was checked
    with pytest.raises(Refused, match="revoked this device"):
        begin_upload(house.server, house.device.id, "state", hashlib.sha256(data).hexdigest(), len(data), data)
    assert count(house.server, State) == 0 and not set(house.server.blobs.names())


def test_large_uploads_are_checked_few_at_a_time_and_wait_where_they_are(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty at once, of one device that asks again and again, took five gigabytes."""
    data = statement(1, SOUNDS)
    monkeypatch.setattr(uploads, "_LARGE_BYTES", 100)
    monkeypatch.setattr(uploads, "_ROOM_SECONDS", 0.1)
    with uploads._room_for(101), uploads._room_for(101):
        answer = house.device.upload("state", data, chunk=100)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert house.device.offset(data) == len(data) and count(house.server, State) == 0
    assert house.device.begin("state", data).json()["outcome"]["result"] == "created"
    assert house.device.offset(data) is None and count(house.server, State) == 1


def test_strangers_leave_few_rows_behind(house: House) -> None:
    for _ in range(REMEMBERED_PER_MINUTE + 15):
        assert FleetDevice(house.http).enrol("A" * 22).status_code == 403
    assert count(house.server, Refusal) == REMEMBERED_PER_MINUTE


def test_old_refusals_are_forgotten(any_engine_server: Server) -> None:
    server, ids = any_engine_server, [fleets.enrol(any_engine_server, name) for name in "ab"]
    with transaction(server.engine) as session:
        for i in range(KEPT + 30):
            for device_id in (ids[0], None):
                remember_refusal(session, float(i), device_id, "state", f"reason {i}")
        remember_refusal(session, 1.0, ids[1], "state", "the only one")
    drop_what_waited_too_long(server)
    with reading(server.engine) as session:
        left = [(r.device_id, r.reason) for r in session.scalars(select(Refusal).order_by(Refusal.id))]
    assert len(left) == 2 * KEPT + 1 and (ids[1], "the only one") in left
    assert next(reason for device, reason in left if device == ids[0]) == "reason 30", "the newest are kept"


def test_a_device_cannot_take_the_name_of_another_ones_id(sqlite_server: Server) -> None:
    victim = fleets.enrol(sqlite_server, "victim")
    for name in (victim, victim[:12]):
        with transaction(sqlite_server.engine) as session:
            key = hashlib.sha256(name.encode()).digest()
            session.add(Device(id=key.hex()[:32], name=name, public_key=key, status="active", enrolled_at=2.0))
    assert show_device(sqlite_server, victim)["id"] == victim
    with pytest.raises(MisuseError, match="2 devices are called"):
        show_device(sqlite_server, victim[:12])


def test_many_devices_of_one_name_cost_no_square(sqlite_server: Server) -> None:
    """The policy asks for the names of all devices once a minute."""
    reads = 0

    class Name(str):
        def __eq__(self, other: object) -> bool:
            nonlocal reads
            reads += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    LabelRules([], {f"{i:032x}": Name(f"device {i % 500}") for i in range(1000)})
    assert reads < 20_000


def test_a_stage_does_not_get_the_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDKEEP_KEY_PASSPHRASE", "open sesame")
    words = "import os; print([v for v in os.environ.values() if 'sesame' in v])"
    assert run_stage(["-c", words], tmp_path / "log", go_on=lambda: True).words == "[]"


def test_who_loses_a_stage_leaves_that_of_its_successor_alone(tmp_path: Path) -> None:
    """A worker that was suspended longer than its lease comes back while another one does the same stage."""
    log, stop, ended = tmp_path / "log", threading.Event(), []
    words = ["-c", "import time; print('ready', flush=True); time.sleep(60)"]
    first = threading.Thread(target=lambda: ended.append(run_stage(words, log, go_on=lambda: True)))
    first.start()
    while not log.exists() or "\nready" not in log.read_text():
        stop.wait(0.02)
    finishing = ["-c", "import time; time.sleep(1.5); print('finished')"]
    second = run_stage(finishing, log, go_on=lambda: True)
    first.join(10.0)
    assert ended[0].returncode == -9 and second.done and second.words == "finished"


def test_a_lease_of_a_clock_that_ran_ahead_ends(any_engine_server: Server) -> None:
    server = any_engine_server
    number = queue.enqueue(server, "me")
    ahead = replace(server, clock=lambda: server.clock() + 10 * YEAR)
    assert queue.claim(ahead, "another machine:1:1") is not None
    queue.cancel(server, number)
    assert queue.claim(server, "w2") is None
    with reading(server.engine) as session:
        assert session.get_one(Job, number).status == "cancelled"


def test_the_bundle_published_last_is_the_newest_whatever_the_clock_says(sqlite_server: Server, tmp_path: Path) -> None:
    server, device_id = sqlite_server, fleets.enrol(sqlite_server, "d")
    ensure_repository(server.data_dir, now=server.clock())
    for version, back in ((1, 0.0), (2, 86_400.0)):
        earlier = replace(server, clock=lambda back=back: server.clock() - back)  # type: ignore[misc]
        bundle = tiny_bundle(tmp_path / str(version), version)
        register_bundle(earlier, bundle)
        publish_bundle(earlier, bundle.sha256)
    assert poll(server, device_id, b"{}")["bundles"] == {"name": "tiny", "version": 2}


def test_a_clock_that_ran_ahead_signs_nothing_that_devices_would_remember(fleet: SignedFleet) -> None:
    """The server's clock jumps ahead and is corrected: devices go on, and take what is published next."""
    fleet.publish(1)
    for years, words in ((10, "the root metadata ended"), (3, "the targets metadata ended")):
        with pytest.raises(StateError, match=words):
            refresh_timestamp(fleet.data, fleet.now + years * YEAR)
        assert fleet.device("d").offers()
    fleet.publish(2)
    assert max(offer.version for offer in fleet.device("d").offers()) == 2


def test_a_clock_behind_the_last_signature_signs_nothing(fleet: SignedFleet) -> None:
    """Half a year ahead is signed, and seen; then the operator is told what helps, and it does."""
    fleet.publish(1)
    assert refresh_timestamp(fleet.data, fleet.now + YEAR / 2) and fleet.device("d").offers()
    with pytest.raises(StateError, match=r"correct the clock, or if it is right now, .*rotate timestamp"):
        fleet.publish(2)
    rotate(fleet.data, "timestamp", fleet.keys, now=fleet.now)
    fleet.publish(3)
    assert max(offer.version for offer in fleet.device("d").offers()) == 3


def test_what_is_read_is_one_picture(any_engine_server: Server) -> None:
    server = any_engine_server
    fleets.enrol(server, "a")
    with reading(server.engine) as session:
        before = session.scalar(select(func.count()).select_from(Device))
        fleets.enrol(server, "b")
        assert session.scalar(select(func.count()).select_from(Device)) == before
    assert count(server, Device) == 2


def test_the_database_is_for_its_owner_alone_in_any_folder(tmp_path: Path) -> None:
    """Also in a folder that the operator made, whose rights are not ours to change."""
    folder = tmp_path / "fleet"
    folder.mkdir(mode=0o755)
    words = (
        f"import pathlib; from trainer.server.opening import open_server; open_server(pathlib.Path({str(folder)!r}))"
    )
    subprocess.run([sys.executable, "-c", f"import os; os.umask(0o022); {words}"], check=True)
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir() if path.is_file()} == {0}


def test_a_proxy_that_nobody_spoke_of_opens_no_page(tmp_path: Path) -> None:
    rules = VisitorRules(tmp_path)
    assert rules.refusal("127.0.0.1", {"host": "127.0.0.1:8738"}) is None
    for name in ("x-forwarded-for", "forwarded", "via", "x-real-ip"):
        refused = rules.refusal("127.0.0.1", {"host": "127.0.0.1:8738", name: "203.0.113.7"})
        assert refused is not None and refused.status_code == 401


def test_the_keeper_asks_one_question_about_waiting_clips_of_all_devices(any_engine_server: Server) -> None:
    server, n = any_engine_server, 40
    with transaction(server.engine) as session:
        for i in range(n):
            session.add(Device(id=f"{i:032x}", name="d", public_key=b"k" * 32, status="active", enrolled_at=1.0))
        session.flush()
        for i in range(n):
            content = f"{i:064x}"
            own = {"device_id": f"{i:032x}", "content_sha256": content}
            session.add(Clip(**own, wav_sha256=server.blobs.put(wav(i)), n_bytes=1, received_at=1.0))
            session.add(
                State(
                    device_id=f"{i:032x}", revision=1, blob_sha256="b", space_sha256="s", statistics_sha256="s",
                    n_records=1, n_windows=1, labels={}, accepted_at=1.0,
                )
            )  # fmt: skip
            if i:  # the first device moved and never sent embeddings
                session.add(
                    Embedded(**own, record_id=content, space_sha256="s", label="l", n_windows=1, embeddings=b"",
                             received_at=1.0)
                )  # fmt: skip
    asked: list[str] = []
    event.listen(server.engine, "before_cursor_execute", lambda c, cursor, words, *rest: asked.append(words))
    drop_what_waited_too_long(server)
    assert count(server, Clip) == n - 1 and len(asked) < 25, len(asked)


def test_recordings_in_a_folder_that_a_job_left_are_removed_while_the_server_runs(sqlite_server: Server) -> None:
    """A clip is forgotten while a killed server's job waits: it goes on in another folder, the first one is left."""
    server = sqlite_server
    supervisor = Supervisor(server, look_s=0.05, policy_s=0.1)
    supervisor.start()
    try:
        left = job_folder(server.data_dir, "a" * 64) / TRAIN
        threading.Event().wait(0.5)
        left.mkdir(parents=True)
        for _ in range(100):
            if not left.exists():
                break
            threading.Event().wait(0.05)
        assert not left.exists()
    finally:
        supervisor.stop()


@pytest.mark.parametrize(
    "words",
    [
        ("policy", "--set", "settings=5"),
        ("policy", "--set", "pools=5"),
        ("policy", "--set", "settings=none"),
        ("cancel", "9" * 30),
        ("show", "-1"),
    ],
)
def test_senseless_commands_are_one_sentence(sqlite_server: Server, words: tuple[str, ...]) -> None:
    told = CliRunner().invoke(main, ["jobs", *words, "--data", str(sqlite_server.data_dir)])
    assert told.exit_code != 0 and isinstance(told.exception, SystemExit), told.exception
    assert "Traceback" not in told.output
