"""Power cuts at every write of slots, enrolment, key, trust and outbox: what was acknowledged is there (fault 2)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import SoundkeepError, TrustError
from tests.faults import repetitions
from tests.simulators.device_files import LOOK_STEPS, NOW, STEPS, known, look
from tests.simulators.power_cut import Change, Disk, record
from tests.simulators.signed_fleet import SignedFleet
from trainer.server.repository import first_root_bytes

MODULE = "tests.simulators.device_files"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two states of one repository, and its first root file."""
    folder = tmp_path_factory.mktemp("fleet")
    signed = SignedFleet(folder)
    for n in range(2):
        signed.publish(n + 2)
        signed.refresh()
        signed.copy(str(n))
    assert signed.now == NOW
    (folder / "root.json").write_bytes(first_root_bytes(signed.data))
    return folder


@pytest.fixture(scope="module")
def pictures(fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    state = tmp_path_factory.mktemp("expected")
    seen = [known(state)]
    for step in STEPS:
        step(state, fleet)
        seen.append(known(state))
    return seen


def disks(changes: list[Change], cuts_per_write: int) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield (steps acknowledged, files found below the state directory)."""
    rng, disk, acknowledged = np.random.default_rng(2), Disk(), 0
    for change in changes:
        if change.path == "said":
            acknowledged += change.kind == "w"
        elif change.kind != "m" and not change.path.endswith(("-shm", ".lock")):
            disk.apply(Change(change.kind, change.path[6:], change.second[6:], change.offset, change.data))
            for kept in (0.0, 1.0, *([0.5, 0.9] * cuts_per_write)[:cuts_per_write]):
                yield acknowledged, disk.after_power_cut(rng, kept=kept)


def start(folder: Path, files: dict[str, bytes], fleet: Path, acknowledged: int) -> dict[str, Any]:
    """What a device finds on that disk; asserts that nothing older than what it looked at is trusted any more."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "sync").mkdir(parents=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    seen = known(folder)
    if acknowledged > LOOK_STEPS[1]:
        with pytest.raises(TrustError):
            look(folder, fleet / "0", fleet / "root.json")
    assert [offer.version for offer in look(folder, fleet / "1", fleet / "root.json")][-1] == 3
    return seen


def is_legal(seen: dict[str, Any], pictures: list[dict[str, Any]], acknowledged: int) -> bool:
    """The state after what was acknowledged, or after the step that was on its way; numbers may be skipped."""
    return any(
        {**seen, "sequence": 0} == {**legal, "sequence": 0} and seen["sequence"] >= legal["sequence"]
        for legal in pictures[acknowledged : acknowledged + 2]
    )


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_every_disk_that_a_power_cut_may_leave_is_started_from(
    recorder: Path, fleet: Path, pictures: list[dict[str, Any]], quick: Path
) -> None:
    (quick / "root").mkdir()
    changes = record(recorder, quick / "root", MODULE, str(fleet))
    assert sum(change.path == "said" and change.kind == "w" for change in changes) == len(STEPS)
    started: set[tuple[int, frozenset[tuple[str, bytes]]]] = set()
    for acknowledged, files in disks(changes, repetitions(0, 40)):
        key = acknowledged, frozenset(files.items())
        if key not in started:
            started.add(key)
            seen = start(quick / "disk", files, fleet, acknowledged)
            assert is_legal(seen, pictures, acknowledged), (acknowledged, sorted(files))
    print(f"{len(changes)} changes recorded, {len(started)} disks started from")
    assert len(started) > repetitions(120, 350)


def test_without_waiting_for_the_disk_something_is_lost(
    recorder: Path, fleet: Path, pictures: list[dict[str, Any]], quick: Path
) -> None:
    (quick / "root").mkdir()
    lost = 0
    for acknowledged, files in disks(record(recorder, quick / "root", MODULE, str(fleet), "careless"), 0):
        try:
            lost += not is_legal(start(quick / "disk", files, fleet, acknowledged), pictures, acknowledged)
        except (SoundkeepError, AssertionError, pytest.fail.Exception):
            lost += 1
        if lost == 5:
            return
    raise AssertionError(f"only {lost} disks had lost something")
