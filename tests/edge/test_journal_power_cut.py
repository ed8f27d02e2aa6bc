"""Power cuts at every write, with unsynced writes dropped, torn and reordered: nothing acknowledged is lost.

kill -9 does not show this, because the kernel still writes what a dead process left to it. So the writes of a whole run
are recorded, and for every prefix of them the disks that a power cut may leave are made and opened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import SoundkeepError
from edge.journal import Journal
from tests.edge.examples import SPACE, picture
from tests.faults import repetitions
from tests.simulators.journal_script import COMMANDS
from tests.simulators.power_cut import Change, Disk, record

CUTS_PER_WRITE = int(os.environ.get("SOUNDKEEP_POWER_CUTS", repetitions(6, 40)))


@pytest.fixture(scope="module")
def changes(recorder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    return record(recorder, tmp_path_factory.mktemp("root"), "tests.simulators.journal_process")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    seen = []
    with Journal.open(tmp_path_factory.mktemp("expected"), space=SPACE, clock=lambda: 1e9) as journal:
        seen.append(meaning(journal))
        for command in COMMANDS:
            command(journal)
            seen.append(meaning(journal))
    return seen


def meaning(journal: Journal) -> dict[str, Any]:
    return {name: value for name, value in picture(journal).items() if name != "last"}


def test_the_recording_shows_the_order_of_work(changes: list[Change]) -> None:
    """Commit to the log, sync it, rename the mark, sync the directory, and only then say so."""
    order = [c for c in changes if c.kind in "sr" or c.path == "said"]
    for position, change in enumerate(order):
        if change.path == "said" and position > 20 and order[position - 1].kind == "s":
            last = [(c.kind, c.path) for c in order[:position] if not c.path.endswith("-shm")][-3:]
            if last[-1] == ("s", "state") and last[0] == ("s", "state/state.db-wal"):
                assert last[1] == ("r", "state/acknowledged.tmp")
                return
    raise AssertionError("no command was acknowledged in that order")


def disks(changes: list[Change], cuts_per_write: int) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield (commands acknowledged, files found) for the disks that a power cut may leave, no two the same in a row."""
    rng = np.random.default_rng(11)
    disk, acknowledged = Disk(), -1
    for change in changes:
        if change.path == "said":
            acknowledged += change.kind == "w"
        elif change.kind != "m" and not change.path.endswith(("-shm", "writer.lock")):
            disk.apply(Change(change.kind, change.path[6:], change.second[6:], change.offset, change.data))
            for kept in (0.0, 1.0, *([0.5, 0.9] * cuts_per_write)[:cuts_per_write]):
                yield acknowledged, disk.after_power_cut(rng, kept=kept)
    assert acknowledged == len(COMMANDS)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_every_disk_that_a_power_cut_may_leave_is_opened(
    changes: list[Change], pictures: list[dict[str, Any]], quick: Path
) -> None:
    opened: dict[frozenset[tuple[str, bytes]], dict[str, Any]] = {}
    for acknowledged, files in disks(changes, CUTS_PER_WRITE):
        key = frozenset(files.items())
        if key not in opened:
            opened[key] = open_disk(quick / "disk", files)
        assert opened[key] in pictures[max(acknowledged, 0) : max(acknowledged, 0) + 2]
    print(f"{len(opened)} disks opened")
    assert len(opened) > repetitions(450, 2000)


def test_without_waiting_for_the_disk_acknowledged_commands_are_lost(
    recorder: Path, pictures: list[dict[str, Any]], quick: Path
) -> None:
    (quick / "root").mkdir()
    careless = record(recorder, quick / "root", "tests.simulators.journal_process", "careless")
    lost = 0
    for acknowledged, files in disks(careless, 0):
        legal = pictures[max(acknowledged, 0) : max(acknowledged, 0) + 2]
        try:
            lost += open_disk(quick / "disk", files) not in legal
        except (AssertionError, SoundkeepError):
            lost += 1
            shutil.rmtree(quick / "disk")
        if lost == 10:
            return
    raise AssertionError(f"only {lost} disks had lost something")


def open_disk(folder: Path, files: dict[str, bytes]) -> dict[str, Any]:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with Journal.open(folder, space=SPACE, read_only=True) as reader:
        assert reader.findings == ()
    with Journal.open(folder, space=SPACE) as journal:
        assert journal.findings == () and journal.verify().intact
        seen = meaning(journal)
    shutil.rmtree(folder)
    return seen
