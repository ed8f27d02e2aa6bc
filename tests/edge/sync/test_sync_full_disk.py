"""A device's disk is full while it syncs or changes its ear: one sentence, nothing lost, and it goes on (fault 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import SoundkeepError
from edge.sync.slots import Slots, change_slots, load_slots, save_slots
from tests.edge.sync.test_faults import assert_all_there
from tests.edge.test_journal_full_disk import fill, small_disk
from tests.simulators.resync_server import ResyncServer
from tests.simulators.sync_device import SPACE, FakeClock, SyncDevice, heard

__all__ = ["small_disk"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResyncServer]:
    with ResyncServer(tmp_path_factory.mktemp("server"), SPACE) as running:
        yield running


def leave(folder: Path, kib: int) -> Path:
    ballast = fill(folder)
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - 1024 * kib))
    return ballast


def test_a_sync_on_a_full_disk_loses_nothing_and_goes_on(server: ResyncServer, small_disk: Path) -> None:
    device, outcomes = SyncDevice(small_disk / "state", level="embeddings"), set()
    device_id = device.enrol(server.url, server.token())
    enrolment = device.folder.load()
    assert enrolment is not None
    for i, kib in enumerate((0, 4, 8, 16, 32, 64, 128)):
        device.teach(*(heard("bell", 100 * i + j) for j in range(4)))
        ballast = leave(small_disk, kib)
        for work in (
            lambda: device.sync(clock=FakeClock()),
            lambda: device.folder.save(replace(enrolment, name="another " * 1000)),
        ):
            try:
                work()
                outcomes.add("done")
            except SoundkeepError as error:
                outcomes.add("refused")
                assert ("make room" in str(error) or "free some space" in str(error)) and "\n" not in str(error)
        found = device.folder.load()
        assert found is not None and found.device_id == device_id and found.level == "embeddings"
        ballast.unlink()
        device.folder.save(enrolment)
        device.sync(clock=FakeClock())
        assert_all_there(server, device, device_id)
    assert outcomes == {"done", "refused"}


def test_slots_that_cannot_be_written_stay_as_they_were(small_disk: Path) -> None:
    first = Slots().admit("a" * 64, "ear", 2)
    save_slots(small_disk, first)
    many = first
    for i in range(150):
        many = many.admit(f"{i:064x}", "another", i + 1)
    ballast = fill(small_disk)
    with pytest.raises(SoundkeepError, match="make r"):
        change_slots(small_disk, lambda slots: many)
    assert load_slots(small_disk) == (first, None)
    ballast.unlink()
    assert change_slots(small_disk, lambda slots: many) == many == load_slots(small_disk)[0]
