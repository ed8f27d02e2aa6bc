"""A full disk, files that may not grow, a directory that cannot be written: one sentence, and nothing is lost."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import StateError
from edge.journal import Journal
from tests.edge.examples import SPACE, example, picture, teach


def mounted(folder: Path, *options: str) -> None:
    folder.mkdir()
    command = ["mount", *options, str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and permission to mount a file system")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte in memory."""
    mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "soundkeep-test")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def fill(folder: Path) -> Path:
    """Leave not one free block."""
    ballast = folder / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


def test_a_disk_that_fills_up_loses_nothing_and_works_again(small_disk: Path) -> None:
    acknowledged: list[str] = []
    refusals = 0
    seed = 0
    with Journal.open(small_disk / "state", space=SPACE) as journal:
        with Journal.open(small_disk / "state", space=SPACE, read_only=True) as reader:
            for _ in range(3):
                ballast = None
                for _ in range(30):
                    record = example("a", seed, n_windows=1 + 37 * (seed % 5))
                    seed += 1
                    try:
                        acknowledged += teach(journal, record)
                    except StateError as refusal:
                        refusals += 1
                        assert "is on a full disk: nothing of this command was kept" in str(refusal)
                        assert record.id not in journal.records()
                    assert sorted(acknowledged) == list(journal.records()) == list(reader.records())
                    assert [r.id for r in reader.records().values()] == sorted(acknowledged), "reading never stops"
                    if ballast is None and len(acknowledged) % 4 == 3:
                        ballast = fill(small_disk)
                assert refusals
                if ballast is not None:
                    ballast.unlink()
                teach(journal, record)
                acknowledged = list(journal.records())
        assert journal.verify().intact
        before = picture(journal)
        fill(small_disk)
    with Journal.open(small_disk / "state", space=SPACE, read_only=True) as reader:
        assert picture(reader) == before and reader.verify().intact
    (small_disk / "ballast").unlink()
    with Journal.open(small_disk / "state", space=SPACE) as journal:
        assert picture(journal) == before and journal.findings == () and journal.verify().intact


def test_a_full_disk_at_each_number_of_free_bytes(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    outcomes = set()
    for free in range(0, 160, 4):
        state = small_disk / "state"
        with Journal.open(state, space=SPACE) as journal:
            teach(journal, example("a", 1))
            fill(small_disk)
            with open(ballast, "r+b") as file:
                file.truncate(max(0, ballast.stat().st_size - 1024 * free))
            before = picture(journal)
            try:
                journal.import_records([example("b", seed, n_windows=300) for seed in range(8)])
                outcomes.add("taken")
                before = picture(journal)
            except StateError as refusal:
                assert "full disk" in str(refusal)
                outcomes.add("refused")
            assert picture(journal) == before
        with Journal.open(state, space=SPACE, read_only=True) as reader:
            assert picture(reader) == before and reader.findings == () and reader.verify().intact, free
        ballast.unlink()
        with Journal.open(state, space=SPACE) as journal:
            assert picture(journal) == before and journal.findings == () and journal.verify().intact, free
        for path in state.iterdir():
            assert not path.name.endswith(".tmp")
            path.unlink()
    assert outcomes == {"taken", "refused"}


def test_no_state_can_be_made_on_a_full_disk(small_disk: Path) -> None:
    (small_disk / "state").mkdir()
    ballast = fill(small_disk)
    with pytest.raises(StateError, match="is on a full disk"):
        Journal.open(small_disk / "state", space=SPACE)
    ballast.unlink()
    with Journal.open(small_disk / "state", space=SPACE) as journal:
        teach(journal, example("a", 1))


@pytest.mark.parametrize("limit_kib", [30, 45, 60, 90])
def test_files_that_may_not_grow_further(tmp_path: Path, limit_kib: int) -> None:
    """The limit on file size ends writes short and then refuses them, as a quota or a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(tmp_path, space=SPACE) as journal:
        acknowledged: list[str] = []
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kib * 1024, hard))
        try:
            refused = 0
            for seed in range(12):
                try:
                    acknowledged += teach(journal, example("a", seed, n_windows=100))
                except StateError as refusal:
                    refused += 1
                    assert "all that was learnt before is safe" in str(refusal)
                assert list(journal.records()) == sorted(acknowledged)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert refused and acknowledged
        acknowledged += teach(journal, example("b", 1))
        assert list(journal.records()) == sorted(acknowledged)
    with Journal.open(tmp_path, space=SPACE) as journal:
        assert list(journal.records()) == sorted(acknowledged)
        assert journal.findings == () and journal.verify().intact


@pytest.mark.parametrize("with_log", [False, True])
def test_a_read_only_file_system_is_read_and_not_written(tmp_path: Path, with_log: bool) -> None:
    journal = Journal.open(tmp_path / "state", space=SPACE)
    teach(journal, example("a", 1), example("b", 2))
    if not with_log:
        journal.close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir() if "shm" not in path.name}
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in before.items():
        (copy / name).write_bytes(content)
    journal.close()
    mounted(tmp_path / "seen", "--bind", str(copy))
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path / "seen")], check=True)
        with Journal.open(tmp_path / "seen", space=SPACE, read_only=True) as reader:
            assert reader.findings == () and reader.labels() == ("a", "b") and reader.verify().intact
            assert len(list(reader.records().values())) == 2
        with pytest.raises(StateError, match=r"it is read-only .* make it writable, or choose another with --state"):
            Journal.open(tmp_path / "seen", space=SPACE)
        with pytest.raises(StateError, match="it is read-only"):
            Journal.open(tmp_path / "seen" / "below", space=SPACE)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "seen")], check=True)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_a_directory_without_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; the read-only file system above stands in for it")
    with Journal.open(tmp_path / "state", space=SPACE) as journal:
        teach(journal, example("a", 1))
    os.chmod(tmp_path / "state", 0o500)
    try:
        with Journal.open(tmp_path / "state", space=SPACE, read_only=True) as reader:
            assert reader.labels() == ("a",)
        with pytest.raises(StateError, match="it is read-only"):
            Journal.open(tmp_path / "state" / "below", space=SPACE)
    finally:
        os.chmod(tmp_path / "state", 0o700)
