"""The server's disk is full: uploads are refused and none is lost, and it works again once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators.fleet_device import SPACE, FleetDevice, sound, statement
from tests.simulators.running_server import ServeProcess
from trainer.server.database import transaction
from trainer.server.opening import open_server
from trainer.server.spaces import know_space

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), bytes(MIB))
        except OSError:
            pass
    return ballast


def test_a_full_disk_refuses_and_forgets_nothing(small_disk: Path) -> None:
    """Faults 4 and 21: what was answered with 2xx is there; the rest is refused as the server's trouble, not ours."""
    data = small_disk / "data"
    server = open_server(data)
    with transaction(server.engine) as session:
        know_space(session, SPACE)
    server.close()
    with ServeProcess(data) as process, process.client() as http:
        device = FleetDevice(http, "kitchen")
        assert device.enrol(process.token).status_code == 201
        records = [sound("bell", seed) for seed in range(3)]
        assert device.upload("state", statement(1, records)).json()["outcome"]["result"] == "created"
        known = device.poll().json()["state"]
        ballast = fill(small_disk)
        more = [sound("bell", seed, n_windows=4) for seed in range(200)]
        answers = [device.upload("state", statement(2, more)) for _ in range(3)]
        assert all(answer.status_code >= 500 for answer in answers), [answer.text for answer in answers]
        assert http.get("/").status_code in (200, 500, 503)
        ballast.unlink()
        assert device.poll().json()["state"] == known, "the statement that was answered still counts"
        assert device.upload("state", statement(2, more)).json()["outcome"]["result"] == "created"
        assert device.poll().json()["state"] != known
        assert process.stop() == 0
