"""``serve`` as a process: its words, its limits against hostile clients, kill -9 at every commit, restarts."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from edge.space import canonical_json
from edge.sync.state_message import decode_state
from tests.faults import repetitions
from tests.simulators.crashing_server import POINTS
from tests.simulators.fleet_device import SPACE, FleetDevice, embeddings, sound, statement, statistics_of
from tests.simulators.postgresql import PostgreSQL
from tests.simulators.running_server import ServeProcess, resident_bytes, wait_for
from tests.trainer.server.test_uploads import clips
from trainer.cli import main
from trainer.server.collecting import sweep
from trainer.server.database import reading, transaction
from trainer.server.opening import open_server
from trainer.server.spaces import know_space
from trainer.server.tables import Clip, Embedded, Outcome, State

SOUNDS = [sound(label, seed, n_windows=5) for seed, label in enumerate(("bell", "bell", "dog", "kettle"))]
REFUSE_SECONDS = 1.0


def prepared(data: Path, database: str | None = None) -> None:
    """Make a data folder whose server knows the space of the tests."""
    server = open_server(data, database=database)
    with transaction(server.engine) as session:
        know_space(session, SPACE)
    server.close()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    data = tmp_path_factory.mktemp("serving")
    prepared(data)
    with ServeProcess(data) as process:
        yield process


@pytest.fixture(scope="module")
def device(serving: ServeProcess) -> Iterator[FleetDevice]:
    with serving.client() as http:
        enrolled = FleetDevice(http, "kitchen")
        assert enrolled.enrol(serving.token).status_code == 201
        assert enrolled.upload("state", statement(1, SOUNDS)).json()["outcome"]["result"] == "created"
        yield enrolled


def test_no_torch_is_in_the_server(serving: ServeProcess, device: FleetDevice) -> None:
    assert device.http.get("/").status_code == 200
    mapped = Path(f"/proc/{serving.pid}/maps").read_text()
    assert "torch" not in mapped and "sqlite" in mapped


def test_the_operator_file_is_private(serving: ServeProcess) -> None:
    data = serving.data
    for name in ("operator_password", "server.json"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600
    assert len(serving.token) in (22, 44)


def raw(device: FleetDevice, head: bytes, body: bytes = b"", timeout_s: float = 5.0) -> tuple[bytes, float]:
    """Send bytes as they are; returns the beginning of the answer and how long it took."""
    address = device.http.base_url
    started = time.monotonic()
    with socket.create_connection((address.host, address.port or 80), timeout=timeout_s) as connection:
        connection.sendall(head)
        try:
            for start in range(0, len(body), 1 << 16):
                connection.sendall(body[start : start + (1 << 16)])
        except OSError:
            pass  # the server has answered and hung up
        answer = connection.recv(4096)
    return answer, time.monotonic() - started


def test_greedy_requests_are_refused_at_once_and_cost_no_memory(serving: ServeProcess, device: FleetDevice) -> None:
    """Fault 18."""
    for _ in range(3):
        device.poll()
    before, worst = resident_bytes(serving.pid), 0.0

    def refused(answer: bytes, seconds: float, *statuses: int) -> None:
        nonlocal worst
        worst = max(worst, seconds)
        assert int(answer.split(b" ", 2)[1]) in statuses, answer[:200]

    host = b"host: 127.0.0.1\r\n"
    lying = b"POST /v1/uploads?kind=state HTTP/1.1\r\n" + host + b"content-length: 999999999999\r\n\r\n"
    refused(*raw(device, lying), 413)
    refused(*raw(device, lying.replace(b"999999999999", b"9" * 4000)), 413, 400)
    refused(*raw(device, lying.replace(b"999999999999", b"-5")), 413, 400)
    chunked = b"POST /v1/poll HTTP/1.1\r\n" + host + b"transfer-encoding: chunked\r\n\r\n"
    refused(*raw(device, chunked, (b"10000\r\n" + bytes(65536) + b"\r\n") * 64), 413)
    refused(*raw(device, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n" + host + b"\r\n"), 400, 404)
    many = [b"x-%d: %s\r\n" % (i, b"y" * 100) for i in range(2000)]
    refused(*raw(device, b"GET / HTTP/1.1\r\n" + host + b"".join(many) + b"\r\n"), 200, 400)
    labels = json.dumps({"labels": [f"label {i}" for i in range(10**6)]}).encode()
    for body, statuses in ((b"[" * 65_000, (422,)), (b'{"a":' * 10_000, (422,)), (labels, (413,))):
        started = time.monotonic()
        answer = device.ask("POST", "/v1/poll", body)
        worst = max(worst, time.monotonic() - started)
        assert answer.status_code in statuses
    for label in ("\u202eevil", "e\u0301", "a\u2028b", "\x00", "x" * 201, "_background"):
        answer = device.poll(slot=label)
        assert answer.status_code in (200, 422)
    for data in (million_labels(), deep_header()):
        chunks = [data[start : start + (1 << 18)] for start in range(0, len(data), 1 << 18)]
        device.begin("state", data)
        for i, chunk in enumerate(chunks):
            started = time.monotonic()
            answer = device.go_on(data, i << 18, chunk)
        worst = max(worst, time.monotonic() - started)
        assert answer.status_code == 422, answer.text
    assert worst <= REFUSE_SECONDS
    assert resident_bytes(serving.pid) - before < 64 << 20
    assert device.poll().json()["revision"] == 1


def million_labels() -> bytes:
    """A statement whose header names a million labels, with both hashes right."""
    labels = [f"label {i:07d}" for i in range(10**6)]
    header = canonical_json({"dim": 8, "labels": labels, "n_clipped": 0, "space": "0" * 64, "version": 1})
    return _forged(header)


def deep_header() -> bytes:
    return _forged(b"[" * 1_000_000)


def _forged(header: bytes) -> bytes:
    data = statement(2, SOUNDS)
    n_header = struct.unpack_from("<I", data, 12)[0]
    start = 16 + n_header + 8 + 32 * len(SOUNDS)
    inner = data[start : start + 24] + struct.pack("<I", len(header)) + header
    body = data[:start] + inner + hashlib.sha256(inner).digest()
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "plain http on 0.0.0.0"),
        (["--tls-cert", __file__], "belong together"),
        (["--database", "mysql://x/y"], "neither sqlite nor postgresql"),
        (["--blobs", "nonsense://x"], "blob store"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, options: list[str], words: str) -> None:
    answer = CliRunner().invoke(main, ["serve", "--data", str(tmp_path), "--port", "0", *options])
    assert answer.exit_code == 2 and words in answer.stderr


def test_a_taken_port_is_said(tmp_path: Path, serving: ServeProcess) -> None:
    port = str(httpx.URL(serving.url).port)
    answer = CliRunner().invoke(main, ["serve", "--data", str(tmp_path), "--port", port])
    assert answer.exit_code == 2 and "choose another with --port" in answer.stderr


def test_devices_command(tmp_path: Path, serving: ServeProcess, device: FleetDevice) -> None:
    data = serving.data

    def run(*words: str, code: int = 0) -> str:
        answer = CliRunner().invoke(main, [*words, "--data", str(data)])
        assert answer.exit_code == code, answer.output
        return answer.stdout

    listed = json.loads(run("--json", "devices", "list"))
    assert (listed["id"], listed["statement"]["n_records"]) == (device.id, 4)
    assert "kitchen" in run("devices", "list") and "bell" in run("devices", "show", device.id[:6])
    token = json.loads(run("--json", "devices", "token"))["token"]
    other = FleetDevice(device.http, "garage")
    assert other.enrol(token).status_code == 201
    run("devices", "release", "garage", code=2)
    assert "revoked" in run("devices", "revoke", "garage", "--reason", "sold")
    assert other.poll().json()["kind"] == "revoked"
    assert "removed" in run("devices", "remove", "garage")
    assert other.poll().json()["kind"] == "unknown-device"
    run("devices", "show", "garage", code=2)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_ends_in_peace(tmp_path: Path, workers: str) -> None:
    with ServeProcess(tmp_path, "--workers", workers) as process:
        with process.client() as http:
            wait_for(lambda: http.get("/v1/health").status_code == 200)
        assert process.stop(signal.SIGTERM if workers == "1" else signal.SIGINT) == 0


CASES = [(point, nth) for point, nth in itertools.product(POINTS, (1, 2, 3))]
FEW = [("before commit", 2), ("after commit", 2), ("after blob", 1), ("before removal", 1)]


@pytest.mark.faults
@pytest.mark.parametrize(("point", "nth"), CASES if repetitions(0, 1) else FEW)
def test_killed_anywhere_an_upload_counts_once(tmp_path: Path, point: str, nth: int) -> None:
    """Faults 1 and 21: what was answered is there after kill -9, what was not is taken up when it is sent again."""
    data = tmp_path / "data"
    prepared(data)
    crash = {"SOUNDKEEP_CRASH": f"{point}:{nth}"}
    steps = (
        ("state", statement(1, SOUNDS)),
        ("embeddings", embeddings(SOUNDS)),
        ("clips", clips(SOUNDS)),
        ("state", statement(2, SOUNDS[:3])),
    )
    key, sequence, token = None, 0, ""
    for n_crashing in range(len(steps)) if repetitions(0, 1) else (3,):
        home = data if n_crashing == 3 else tmp_path / f"data {n_crashing}"
        if home != data:
            prepared(home)
        answers: list[int] = []
        with ServeProcess(home, module="tests.simulators.crashing_server", environment=crash) as process:
            token = process.token
            with process.client() as http:
                device = FleetDevice(http)
                assert device.enrol(token).status_code == 201
                for kind, upload in steps[:n_crashing]:
                    assert device.upload(kind, upload).status_code == 200
                (home / "armed").touch()
                try:
                    answers.append(device.upload(*steps[n_crashing]).status_code)
                except httpx.TransportError:
                    process.wait_until_dead()
            process.kill()
        key, sequence = device.key, device.sequence
        (home / "armed").unlink()
        server = open_server(home)
        if answers == [200]:
            with reading(server.engine) as session:
                name = hashlib.sha256(steps[n_crashing][1]).hexdigest()
                assert session.get(Outcome, (device.id, name)) is not None
        with ServeProcess(home) as process, process.client() as http:
            device = FleetDevice(http, key=key, sequence=sequence)
            for kind, upload in steps[n_crashing:]:
                assert device.upload(kind, upload).json()["outcome"]["result"] == "created"
        sweep(server)
        with reading(server.engine) as session:
            state = session.scalars(select(State)).one()
            assert (state.revision, state.n_records) == (2, 3)
            assert state.statistics_sha256 == statistics_of(SOUNDS[:3]).sha256
            assert decode_state(server.blobs.get(state.blob_sha256)).statistics.sha256 == state.statistics_sha256
            assert set(session.scalars(select(Embedded.record_id))) == {record.id for record in SOUNDS[:3]}
            named = {state.blob_sha256, *session.scalars(select(Clip.wav_sha256))}
        assert len(named) == 4 and set(server.blobs.names()) == named
        server.close()


@pytest.mark.faults
def test_two_processes_on_postgresql_count_once(tmp_path: Path, postgresql_url: str) -> None:
    """Fault 21: the same uploads to both at once; 0 double effects, 0 lost answers, no refusal for being two."""
    prepared(tmp_path, postgresql_url)
    n_devices, n_statements = repetitions(3, 8), repetitions(6, 40)
    with ServeProcess(tmp_path) as one, ServeProcess(tmp_path) as two, one.client() as first, two.client() as second:
        server = open_server(tmp_path)
        devices = []
        for i in range(n_devices):
            device = FleetDevice(first, f"device {i}")
            token = json.loads(
                CliRunner().invoke(main, ["--json", "devices", "token", "--data", str(tmp_path)]).stdout
            )["token"]
            assert device.enrol(token).status_code == 201
            devices.append(device)

        def converse(job: tuple[int, httpx.Client, int]) -> list[tuple[str, str]]:
            i, http, start = job
            device = FleetDevice(http, key=devices[i].key, sequence=start)
            told = []
            for revision in range(1, n_statements + 1):
                heard = [sound("bell", 1000 * i + revision + j) for j in range(3)]
                uploads = [("state", statement(revision, heard)), ("embeddings", embeddings(heard))]
                for kind, upload in uploads:
                    answer = device.upload(kind, upload)
                    assert answer.status_code in (200, 422), answer.text
                    told.append((hashlib.sha256(upload).hexdigest(), answer.json()["outcome"]["result"]))
            return told

        jobs = [(i, http, start) for i in range(n_devices) for http, start in ((first, 10), (second, 500))]
        with ThreadPoolExecutor(len(jobs)) as pool:
            told = list(pool.map(converse, jobs))
        with reading(server.engine) as session:
            assert session.scalar(select(func.count()).select_from(State)) == n_devices
            for i, device in enumerate(devices):
                state = session.get(State, device.id)
                heard = [sound("bell", 1000 * i + n_statements + j) for j in range(3)]
                assert state is not None and state.revision == n_statements
                assert state.statistics_sha256 == statistics_of(heard).sha256
                own = Embedded.device_id == device.id
                assert set(session.scalars(select(Embedded.record_id).where(own))) == {record.id for record in heard}
                created = [{name for name, result in told[2 * i + j] if result == "created"} for j in (0, 1)]
                statements = set(session.scalars(select(Outcome.sha256).where(Outcome.device_id == device.id)))
                last = hashlib.sha256(statement(n_statements, heard)).hexdigest()
                assert last in statements and last in created[0] | created[1]
            assert set(server.blobs.names()) == set(session.scalars(select(State.blob_sha256)))
        server.close()


@pytest.mark.faults
def test_requests_succeed_after_postgresql_was_restarted(
    tmp_path: Path, postgresql_cluster: PostgreSQL, postgresql_url: str
) -> None:
    prepared(tmp_path, postgresql_url)
    with ServeProcess(tmp_path) as process, process.client() as http:
        device = FleetDevice(http)
        assert device.enrol(process.token).status_code == 201
        for revision in range(1, 1 + repetitions(2, 10)):
            assert device.upload("state", statement(2 * revision, SOUNDS)).status_code == 200
            postgresql_cluster.stop()
            try:
                for answer in (device.poll(), device.upload("state", statement(2 * revision + 1, SOUNDS[:2]))):
                    assert answer.status_code == 503 and answer.json()["kind"] == "unavailable"
                    assert int(answer.headers["retry-after"]) > 0
            finally:
                postgresql_cluster.start()
            assert device.poll().json()["revision"] == 2 * revision
            answer = device.upload("state", statement(2 * revision + 1, SOUNDS[:2]))
            assert answer.json()["outcome"]["result"] == "created"
        assert process.stop() == 0


def test_slow_clients_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow loris: a head or a body that never ends is not waited for; without the patient protocol it is."""
    from tests.simulators.running_server import running_server
    from trainer.server import serving as module

    monkeypatch.setattr(module, "HEAD_SECONDS", 0.3)
    server = open_server(tmp_path)
    with running_server(server, body_seconds=0.3) as http:
        device = FleetDevice(http)
        body_head = b"POST /v1/poll HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\nx"
        answer, seconds = raw(device, body_head)
        assert b" 408 " in answer and seconds < 3.0
        answer, seconds = raw(device, b"POST /v1/poll HTTP/1.1\r\nhost:")
        assert answer == b"" and seconds < 3.0
        answer, seconds = raw(device, b"")
        assert answer == b"" and seconds < 3.0
        assert http.get("/v1/health").status_code == 200
    monkeypatch.setattr(module.PatientProtocol, "_wait_for_head", lambda self: None)
    with running_server(server) as http, pytest.raises(TimeoutError):
        raw(FleetDevice(http), b"POST /v1/poll HTTP/1.1\r\nhost:", timeout_s=1.0)
    server.close()
