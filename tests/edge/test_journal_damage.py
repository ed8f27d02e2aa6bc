"""Flipped bits and overwritten sectors: always detected and named, and what is intact is served."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.errors import CorruptionError, SoundkeepError
from edge.journal import Journal
from edge.journal_chain import GENESIS, Mark, Row, check_chain, sealed
from edge.journal_log import PAGE_SIZE
from edge.journal_store import line_of
from edge.records import Record
from tests.edge.examples import SPACE, example, teach
from tests.faults import repetitions
from tests.simulators.journal_script import killed_child


def ours(label: str, seed: int) -> Record:
    """Return a record of one window, or of 301, which needs pages of its own."""
    return example(label, seed, n_windows=301 if seed % 8 == 0 else 1)


FLIPS = int(os.environ.get("SOUNDKEEP_BIT_FLIPS", repetitions(24, 2000)))


@pytest.fixture(scope="module")
def sound() -> Iterator[Path]:
    """A state with 40 records of one to 300 windows, a rename, a forgotten class and a purge; its log is empty."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    with Journal.open(root / "sound", space=SPACE) as journal:
        for seed in range(40):
            teach(journal, ours(f"class {seed % 5}", seed))
        journal.rename("class 1", "door")
        journal.forget("class 2")
        journal.forget_record(ours("class 3", 3).id, purge=True)
        for seed in range(100, 104):
            teach(journal, example("late", seed))
    yield root / "sound"
    shutil.rmtree(root)


@pytest.fixture
def state(sound: Path) -> Iterator[Path]:
    copy = sound.parent / "copy"
    shutil.copytree(sound, copy)
    yield copy
    shutil.rmtree(copy)


def known(folder: Path) -> dict[str, bytes]:
    with Journal.open(folder, space=SPACE, read_only=True) as reader:
        return {i: r.embeddings.tobytes() for i, r in reader.records().items()}


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_single_flipped_bit_anywhere_is_named_and_everything_is_served(sound: Path, state: Path) -> None:
    rng = np.random.default_rng(3)
    everything = known(sound)
    size = (sound / "state.db").stat().st_size
    positions = [0, 16, 28, 60, 68, 99, 100, 105, *rng.integers(0, size, FLIPS)]
    for position in positions:
        bit = int(rng.integers(8))
        flip(state / "state.db", int(position), bit)
        page = int(position) // PAGE_SIZE + 1
        with Journal.open(state, space=SPACE, read_only=True) as reader:
            assert [(f.part, f.page) for f in reader.findings] == [("page", page)]
            assert f"bit {bit} of byte {position % PAGE_SIZE} in page {page}" in reader.findings[0].message
            assert {i: r.embeddings.tobytes() for i, r in reader.records().items()} == everything
            assert position > 105 or not reader.verify().intact
        flip(state / "state.db", int(position), bit)


def test_a_writer_puts_a_flipped_bit_right(sound: Path, state: Path) -> None:
    flip(state / "state.db", 3 * PAGE_SIZE + 777, 2)
    with Journal.open(state, space=SPACE) as journal:
        assert [f.page for f in journal.findings] == [4]
        teach(journal, example("new", 1))
        assert journal.verify().intact
    with Journal.open(state, space=SPACE, read_only=True) as reader:
        assert reader.findings == () and len(reader.records()) == len(known(sound)) + 1


def test_a_ruined_sector_is_named_and_other_rows_are_served(sound: Path, state: Path) -> None:
    rng = np.random.default_rng(4)
    everything = known(sound)
    data = (sound / "state.db").read_bytes()
    served = []
    for sector in [0, 1024, 2048, 3072, *range(PAGE_SIZE, len(data), 11 * 512)]:
        ruined = bytearray(data)
        ruined[sector : sector + 512] = rng.bytes(512)
        (state / "state.db").write_bytes(ruined)
        with Journal.open(state, space=SPACE, read_only=True) as reader:
            assert any(f.page == sector // PAGE_SIZE + 1 for f in reader.findings)
            left = {i: r.embeddings.tobytes() for i, r in reader.records().items()}
            assert all(reader.records()[i].id == i for i in left)
            served.append(len(set(left.values()) & set(everything.values())))
    assert np.mean(served) > 0.85 * len(everything), served
    assert min(served[:4]) == len(everything), "the first page holds no rows: without it everything is still served"


def test_damage_that_lost_something_refuses_new_commands_and_says_why(state: Path) -> None:
    data = bytearray((state / "state.db").read_bytes())
    place = data.find(ours("class 4", 4).embeddings.tobytes())
    data[place : place + 16] = bytes(16)
    (state / "state.db").write_bytes(data)
    with Journal.open(state, space=SPACE) as journal:
        (payload,) = (f for f in journal.findings if f.part == "payload")
        assert payload.message == f"the embeddings of row {payload.seq} (taught) were altered"
        assert ours("class 4", 4).id not in journal.records() and ours("class 4", 9).id in journal.records()
        with pytest.raises(CorruptionError, match=r"is damaged .* 'soundkeep memory export'"):
            teach(journal, example("new", 1))
        with pytest.raises(CorruptionError, match="is damaged"):
            journal.undo()


@pytest.mark.parametrize(("name", "part"), [("acknowledged", "mark"), ("state.sums", "sums")])
def test_the_files_beside_are_checked_too(sound: Path, state: Path, name: str, part: str) -> None:
    rng = np.random.default_rng(5)
    size = (state / name).stat().st_size
    for position in {0, size - 1, *rng.integers(0, size, 30).tolist()}:
        flip(state / name, position, int(rng.integers(8)))
        with Journal.open(state, space=SPACE, read_only=True) as reader:
            assert [f.part for f in reader.findings] == [part]
            assert dict.fromkeys(reader.records()) == dict.fromkeys(known(sound))
        shutil.copy(sound / name, state / name)
    for content in (None, b"", (sound / name).read_bytes()[:-1], (sound / name).read_bytes() + b"x"):
        (state / name).unlink() if content is None else (state / name).write_bytes(content)
        with Journal.open(state, space=SPACE, read_only=True) as reader:
            assert [f.part for f in reader.findings] == [part]
    with Journal.open(state, space=SPACE) as journal:
        teach(journal, example("new", 1))
    with Journal.open(state, space=SPACE, read_only=True) as reader:
        assert reader.findings == (), "the next command makes it anew"


def test_a_flipped_bit_in_the_log_is_named(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "whole", space=SPACE) as journal:
        teach(journal, example("a", 1))
    killed_child(
        tmp_path / "whole", tuple(lambda journal, s=s: teach(journal, example("b", s)) for s in range(5)), kill_at=20
    )
    everything = known(tmp_path / "whole")
    assert len(everything) == 6
    log = (tmp_path / "whole" / "state.db-wal").read_bytes()
    rng = np.random.default_rng(6)
    for position in [0, 8, 16, 24, 32, *rng.integers(0, len(log), 60).tolist()]:
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "whole", copy, ignore=shutil.ignore_patterns("*-shm"))
        flip(copy / "state.db-wal", position, int(rng.integers(8)))
        with Journal.open(copy, space=SPACE, read_only=True) as reader:
            assert reader.findings, position
            assert len(reader.records()) >= 5, "only what the flipped frame alone holds may be lost"
        with Journal.open(copy, space=SPACE) as journal, pytest.raises(CorruptionError, match="is damaged"):
            teach(journal, example("new", 1))
        assert (copy / "state.db-wal").stat().st_size == len(log), "nothing is overwritten before somebody has looked"
        shutil.rmtree(copy)


def test_a_program_that_alters_a_row_through_sql_is_caught(state: Path) -> None:
    connection = sqlite3.connect(state / "state.db")
    connection.execute("DROP TRIGGER journal_no_update")
    connection.execute("UPDATE journal SET detail = CAST(replace(detail, 'class 4', 'class 3') AS BLOB) WHERE seq = 6")
    connection.commit()
    connection.close()
    with Journal.open(state, space=SPACE, read_only=True) as reader:
        assert any(f.seq == 6 and "does not match its hash" in f.message for f in reader.findings)
        assert ours("class 4", 4).id not in reader.records() and ours("class 4", 9).id in reader.records()


def test_a_database_that_another_program_only_rearranged_stays_usable(state: Path) -> None:
    connection = sqlite3.connect(state / "state.db")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("VACUUM")
    connection.close()
    with Journal.open(state, space=SPACE) as journal:
        assert {f.part for f in journal.findings} == {"page"}
        teach(journal, example("new", 1))
        assert journal.verify().intact


# ---- the mechanisms switched off ------------------------------------------------------------------------------------


def test_without_page_sums_flips_between_the_rows_go_unnoticed(
    sound: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.page_sums import PageCheck

    monkeypatch.setattr("edge.journal_examination.check_sums", lambda state_dir: (PageCheck(), []))
    data = (sound / "state.db").read_bytes()
    slack = data.rfind(bytes(64)) + 10
    flip(state / "state.db", slack, 0)
    with Journal.open(state, space=SPACE, read_only=True) as reader:
        assert reader.findings == ()


def test_without_the_chain_an_altered_row_would_be_believed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = sqlite3.connect(state / "state.db")
    connection.execute("DROP TRIGGER journal_no_update")
    connection.execute("UPDATE journal SET detail = CAST(replace(detail, 'class 4', 'class 3') AS BLOB) WHERE seq = 6")
    connection.commit()
    connection.close()
    monkeypatch.setattr("edge.journal_chain.row_hash", lambda row: row.hash)
    with Journal.open(state, space=SPACE, read_only=True) as reader:
        assert {f.part for f in reader.findings} == {"page"} and ours("class 3", 4).id in reader.records()


# ---- the chain by itself --------------------------------------------------------------------------------------------


def chain(n: int) -> list[Row]:
    rows: list[Row] = []
    for seq in range(1, n + 1):
        previous = rows[-1].hash if rows else GENESIS
        rows.append(sealed(Row(seq, seq, 1000 * seq, "set", f'{{"key":"k","value":{seq}}}'.encode(), None, previous)))
    return rows


def test_an_untouched_chain_has_no_findings() -> None:
    for n in (0, 1, 5):
        rows = chain(n)
        mark = Mark(n, rows[-1].hash) if n else Mark()
        assert check_chain([line_of(row) for row in rows], mark) == (rows, [])


def test_more_rows_than_acknowledged_are_legal_and_fewer_are_not() -> None:
    rows = chain(5)
    assert check_chain([line_of(row) for row in rows], Mark(3, rows[2].hash)) == (rows, [])
    _, (finding,) = check_chain([line_of(row) for row in rows[:3]], Mark(5, rows[4].hash))
    assert (finding.part, finding.message[:16]) == ("tail", "rows 4 to 5 were")


def test_each_altered_field_is_named_and_only_its_row_is_lost() -> None:
    rows = chain(5)
    mark = Mark(5, rows[4].hash)
    for change in (
        {"unit": 1},
        {"wall_ms": 1},
        {"action": "undone"},
        {"detail": b"{}"},
        {"payload_sha256": bytes(32)},
    ):
        lines = [line_of(row) for row in rows]
        lines[2] = line_of(replace(rows[2], **change))
        intact, findings = check_chain(lines, mark)
        assert [f.seq for f in findings] == [3] and [row.seq for row in intact] == [1, 2, 4, 5]


def test_a_row_proven_by_its_neighbours_is_served_and_named() -> None:
    rows = chain(5)
    mark = Mark(5, rows[4].hash)
    for change in ({"previous": bytes(32)}, {"hash": bytes(32)}):
        lines = [line_of(row) for row in rows]
        lines[2] = line_of(replace(rows[2], **change))
        intact, findings = check_chain(lines, mark)
        assert intact == rows and [f.seq for f in findings] == [3] and "was altered" in findings[0].message


def test_missing_exchanged_and_malformed_rows_are_named() -> None:
    rows = chain(6)
    mark = Mark(6, rows[5].hash)
    lines = [line_of(row) for row in rows]
    intact, findings = check_chain(lines[:2] + lines[4:], mark)
    assert len(intact) == 4 and findings[0].message == "rows 3 to 4 are missing"
    other = sealed(replace(rows[2], detail=b'{"key":"k","value":99}'))
    _, findings = check_chain([*lines[:2], line_of(other), *lines[3:]], mark)
    assert [f.seq for f in findings] == [4] and "exchanged" in findings[0].message
    for malformed in (("x",) * 8, (3, None, 0, b"set", b"{}", None, b"", b""), (3, 3, 3, b"\xff", b"", None, b"", b"")):
        intact, findings = check_chain([*lines[:2], malformed, *lines[3:]], mark)
        assert [row.seq for row in intact] == [1, 2, 4, 5, 6] and findings[0].seq == 3
    _, findings = check_chain(lines, Mark(6, bytes(32)))
    assert "not the row that was acknowledged" in findings[0].message


def test_random_files_never_crash_the_opening(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    header = (b"SQLite format 3\0", b"")
    for trial in range(60):
        folder = tmp_path / str(trial)
        folder.mkdir()
        for name in ("state.db", "state.db-wal", "acknowledged", "state.sums"):
            if rng.random() < 0.8:
                (folder / name).write_bytes(header[int(rng.integers(2))] + rng.bytes(int(rng.integers(0, 20_000))))
        for read_only in (True, False):
            try:
                with Journal.open(folder, read_only=read_only) as journal:
                    assert journal.findings or not journal.records()
            except SoundkeepError as refusal:
                assert "\n" not in str(refusal)
