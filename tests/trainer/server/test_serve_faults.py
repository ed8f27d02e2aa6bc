"""``serve`` killed while a chunk is on its way, and several workers on PostgreSQL of which one is killed."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from sqlalchemy import select

from tests.faults import repetitions
from tests.simulators.fleet_device import CHUNK, FleetDevice, embeddings, sound, statement, statistics_of
from tests.simulators.running_server import ServeProcess
from tests.trainer.server.test_serve import prepared
from trainer.cli import main
from trainer.server.database import reading
from trainer.server.enrolment import make_token
from trainer.server.opening import Server, open_server
from trainer.server.tables import Embedded, State


def send_part(device: FleetDevice, data: bytes, offset: int, chunk: bytes, n_bytes: int) -> socket.socket:
    """Begin to send a chunk and stop after ``n_bytes`` of it."""
    target = f"/v1/uploads/{hashlib.sha256(data).hexdigest()}?offset={offset}"
    headers = {**device.signed("PATCH", target, chunk), "host": "127.0.0.1", "content-length": str(len(chunk))}
    head = f"PATCH {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection = socket.create_connection((device.http.base_url.host, device.http.base_url.port or 80), timeout=5.0)
    connection.sendall(f"{head}\r\n".encode() + chunk[:n_bytes])
    return connection


@pytest.mark.faults
def test_killed_in_the_middle_of_a_chunk(tmp_path: Path) -> None:
    """Faults 1 and 13: what was answered stays, half a chunk is no chunk, and at most one goes twice."""
    prepared(tmp_path)
    rng = np.random.default_rng(13)
    records = [sound("bell", seed, n_windows=1500) for seed in range(30)]
    data = embeddings(records)
    assert len(data) > 2 * CHUNK
    process = ServeProcess(tmp_path)
    with process.client() as http:
        device = FleetDevice(http)
        assert device.enrol(process.token).status_code == 201
        assert device.upload("state", statement(1, records)).status_code == 200
        assert device.begin("embeddings", data, data[:CHUNK]).status_code == 202
    offset = CHUNK
    for _ in range(repetitions(2, 50)):
        with process.client() as http:
            device.http = http
            chunk = data[offset : offset + CHUNK]
            with send_part(device, data, offset, chunk, int(rng.integers(len(chunk) + 1))):
                time.sleep(float(rng.uniform(0.0, 0.05)))
                process.kill()
        process = ServeProcess(tmp_path)
        with process.client() as http:
            device.http = http
            found = device.offset(data)
            assert found in (offset, offset + len(chunk)) or (found is None and offset + len(chunk) == len(data))
            offset = offset if found is None or found >= len(data) - CHUNK else found
    with process, process.client() as http:
        device.http = http
        assert device.upload("embeddings", data).json()["outcome"]["result"] in ("created", "duplicate")
        assert process.stop() == 0
    server = open_server(tmp_path)
    with reading(server.engine) as session:
        assert sorted(session.scalars(select(Embedded.record_id))) == sorted(record.id for record in records)
    server.close()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_workers_on_postgresql_count_once_and_one_may_be_killed(tmp_path: Path, postgresql_url: str) -> None:
    """Fault 21: one port, two workers, one of them killed: what was answered is there, and the port still answers."""
    prepared(tmp_path, postgresql_url)
    n_devices, n_statements = repetitions(3, 8), repetitions(3, 20)
    with ServeProcess(tmp_path, "--workers", "2") as process:
        devices = []
        for i in range(n_devices):
            said = CliRunner().invoke(main, ["--json", "devices", "token", "--data", str(tmp_path)]).stdout
            devices.append(FleetDevice(process.client(), f"device {i}"))
            assert patient(devices[i], lambda d, t=json.loads(said)["token"]: d.enrol(t)).status_code == 201
        for round_ in range(repetitions(1, 5)):
            with ThreadPoolExecutor(n_devices) as pool:
                jobs = [pool.submit(converse, devices[i], i, round_, n_statements) for i in range(n_devices)]
                time.sleep(0.1)
                # a third child is multiprocessing's own tracker of resources
                children = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
                assert len(children) == 2
                children[round_ % 2].kill()
                answered = [job.result() for job in jobs]
            server = open_server(tmp_path)
            with reading(server.engine) as session:
                for i, revision in enumerate(answered):
                    state = session.get(State, devices[i].id)
                    heard = [sound("bell", 10_000 * i + revision + j) for j in range(3)]
                    assert state is not None and state.revision == revision
                    assert state.statistics_sha256 == statistics_of(heard).sha256
            server.close()
        for device in devices:
            device.http.close()


def converse(device: FleetDevice, i: int, round_: int, n: int) -> int:
    revision = 0
    for revision in range(1 + round_ * n, 1 + (round_ + 1) * n):
        data = statement(revision, [sound("bell", 10_000 * i + revision + j) for j in range(3)])
        answer = patient(device, lambda d, data=data: d.upload("state", data))
        assert answer.json()["outcome"]["result"] in ("created", "duplicate"), answer.text
    return revision


def patient(device: FleetDevice, ask):  # type: ignore[no-untyped-def]
    """Ask again, on a new connection, while the worker that had it is dead."""
    until = time.monotonic() + 60.0
    while True:
        try:
            return ask(device)
        except httpx.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_no_token_looks_like_an_option(sqlite_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in 64 would begin with a hyphen, and `sync enrol URL TOKEN` would refuse it."""
    drawn = iter(["-" + "a" * 21, "--" + "b" * 20, "c-" * 11])
    monkeypatch.setattr("secrets.token_urlsafe", lambda n_bytes: next(drawn))
    assert make_token(sqlite_server).startswith("c-c-")
