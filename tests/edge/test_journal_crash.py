"""kill -9 at every write point and at random instants, files cut off at every byte: nothing acknowledged is lost."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.journal import Journal
from edge.journal_chain import Mark
from edge.snapshot import sum_of
from edge.space import FeatureSpace
from tests.edge.examples import SPACE, example, picture, teach
from tests.faults import repetitions
from tests.simulators.journal_script import COMMANDS, Command, killed_child, run_script

RANDOM_INSTANTS = int(os.environ.get("SOUNDKEEP_RANDOM_KILLS", repetitions(60, 1000)))


def start_states(folder: Path) -> Iterator[Path]:
    """Make four states to begin from: nothing at all, an empty journal, a used one, and one whose writer was killed."""
    yield folder / "nothing"
    Journal.open(folder / "empty", space=SPACE).close()
    yield folder / "empty"
    for name, kill_at in (("used", None), ("killed", 16)):
        killed_child(folder / name, COMMANDS[:3], kill_at=kill_at)
        yield folder / name


def expected_pictures(start: Path, commands: tuple[Command, ...], folder: Path) -> list[dict[str, Any]]:
    """Return what an uninterrupted process knows before the first and after each command."""
    pictures: list[dict[str, Any]] = []
    if start.exists():
        shutil.copytree(start, folder)
    with Journal.open(folder, space=SPACE, clock=lambda: 1e9) as journal:
        pictures.append(picture(journal))
        for command in commands:
            command(journal)
            pictures.append(picture(journal))
    return pictures


def without_scrub(seen: dict[str, Any]) -> dict[str, Any]:
    """A purge that was finished at the next opening has the same meaning but one row more or less at that moment."""
    return {name: value for name, value in seen.items() if name != "last"}


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_killed_at_every_write_point(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.journal_file.LOG_BYTES", 40_000)  # so that the log is moved in the middle of the commands
    points = 0
    for start in list(start_states(quick)):
        commands = COMMANDS if start.name in ("nothing", "empty") else COMMANDS[3:]
        reached: list[str] = []
        scratch = quick / "dry"
        if start.exists():
            shutil.copytree(start, scratch)
        run_script(scratch, commands, lambda number: None, reached.append)
        shutil.rmtree(scratch)
        pictures = expected_pictures(start, commands, quick / "expected")
        shutil.rmtree(quick / "expected")
        for kill_at in range(len(reached)):
            if start.exists():
                shutil.copytree(start, scratch)
            acknowledged = killed_child(scratch, commands, kill_at=kill_at)
            where = f"{start.name}, killed at {reached[kill_at]!r} ({kill_at}), {acknowledged} acknowledged"
            with Journal.open(scratch, space=SPACE, read_only=True) as reader:
                assert reader.findings == () and reader.verify().intact, where
            with Journal.open(scratch, space=SPACE) as journal:
                assert journal.findings == () and journal.verify().intact, where
                seen = without_scrub(picture(journal))
                legal = pictures[max(acknowledged, 0) : max(acknowledged, 0) + 2]
                assert seen in [without_scrub(one) for one in legal], where
            with Journal.open(scratch, space=SPACE) as journal:
                assert without_scrub(picture(journal)) == seen and journal.verify().intact, where
            shutil.rmtree(scratch)
            points += 1
        assert {"log moved", "database rewritten", "mark renamed"} <= set(reached)
    assert points > 220


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_killed_at_random_instants_the_statistics_are_rebuilt_to_the_bit(quick: Path) -> None:
    rng = np.random.default_rng(7)
    pictures = expected_pictures(quick / "nothing", COMMANDS, quick / "expected")
    space = FeatureSpace(SPACE)
    begin = time.monotonic()
    killed_child(quick / "whole", COMMANDS)
    whole = time.monotonic() - begin
    seen_counts = set()
    for trial in range(RANDOM_INSTANTS):
        folder = quick / str(trial)
        acknowledged = killed_child(folder, COMMANDS, after_seconds=float(rng.uniform(0.02, 1.0)) * whole)
        with Journal.open(folder, space=SPACE) as journal:
            assert journal.findings == ()
            legal = [without_scrub(one) for one in pictures[max(acknowledged, 0) : max(acknowledged, 0) + 2]]
            seen = without_scrub(picture(journal))
            assert seen in legal
            known = pictures[max(acknowledged, 0) + legal.index(seen)]["records"]
            forwards = sum_of(space, journal.records().values())
            backwards = sum_of(space, reversed(list(journal.records().values())))
            assert forwards == backwards and forwards.sha256 == backwards.sha256
            assert sorted(known) == list(journal.records())
        seen_counts.add(acknowledged)
        shutil.rmtree(folder)
    assert len(seen_counts) > 3, "the instants were spread over the commands"


def taught_then_killed(folder: Path, n: int) -> None:
    """Leave a state whose last command is the only thing in the log."""
    with Journal.open(folder, space=SPACE) as journal:
        for seed in range(n - 1):
            teach(journal, example("a", seed))
    killed_child(folder, (lambda journal: teach(journal, example("b", 99)),), kill_at=4)
    assert (folder / "state.db-wal").stat().st_size > 0


def test_a_log_cut_at_every_byte_of_its_last_frame(quick: Path) -> None:
    taught_then_killed(quick / "whole", 4)
    log = (quick / "whole" / "state.db-wal").read_bytes()
    mark = (quick / "whole" / "acknowledged").read_bytes()
    with Journal.open(quick / "whole", space=SPACE, read_only=True) as reader:
        everything = list(reader.records())
        last_row = reader.last_seq
    assert len(everything) == 4
    mark_before = previous_mark(quick / "whole", last_row - 1)
    frame = 24 + 4096
    for n_bytes in [*range(len(log) - frame, len(log)), *range(0, len(log) - frame, 997)]:
        cut = quick / "cut"
        if n_bytes % 16 == 0 or not cut.exists():
            shutil.rmtree(cut, ignore_errors=True)
            shutil.copytree(quick / "whole", cut, ignore=shutil.ignore_patterns("*-shm"))
        (cut / "state.db-wal").write_bytes(log[:n_bytes])
        if n_bytes % 64 == 0:
            with Journal.open(cut, space=SPACE, read_only=True) as reader:
                assert any(f"rows {last_row} to {last_row} were acknowledged" in f.message for f in reader.findings)
                assert set(everything) - {example("b", 99).id} <= set(reader.records()) <= set(everything)
        # the same cut before the command was acknowledged: that is what a power cut can leave, and it is no damage
        (cut / "acknowledged").write_bytes(mark_before)
        (cut / "state.db-shm").unlink(missing_ok=True)
        with Journal.open(cut, space=SPACE, read_only=n_bytes % 16 != 0) as journal:
            assert journal.findings == () and len(journal.records()) == 3, n_bytes
            if n_bytes % 256 == 0:
                teach(journal, example("c", 7))
                assert len(journal.records()) == 4 and journal.verify().intact
        if n_bytes % 16 == 0:
            shutil.rmtree(cut)
    assert (quick / "whole" / "acknowledged").read_bytes() == mark


def previous_mark(folder: Path, seq: int) -> bytes:
    """Return the mark as it was at row ``seq``."""
    with Journal.open(folder, space=SPACE, read_only=True) as reader:
        row_hash = reader.hash_at(seq)
    assert row_hash is not None
    return Mark(seq, bytes.fromhex(row_hash)).to_bytes()


def test_a_database_cut_off_anywhere_is_named_and_the_rest_is_served(quick: Path) -> None:
    with Journal.open(quick / "whole", space=SPACE) as journal:
        for seed in range(12):
            teach(journal, example("a", seed, n_windows=60))
        known = {i: r.embeddings.tobytes() for i, r in journal.records().items()}
    data = (quick / "whole" / "state.db").read_bytes()
    most = 0
    for n_bytes in range(len(data) - 1, 0, -811):
        (quick / "whole" / "state.db").write_bytes(data[:n_bytes])
        with Journal.open(quick / "whole", space=SPACE, read_only=True) as reader:
            assert reader.findings, n_bytes
            served = {i: r.embeddings.tobytes() for i, r in reader.records().items()}
            assert served.items() <= known.items()
            most = max(most, len(served))
    assert most > 6
