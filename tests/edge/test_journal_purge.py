"""Purging: the bytes are gone from every file of the state directory, and the chain still holds."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from edge.clips import ClipStore
from edge.errors import LabelError, MisuseError, StateError
from edge.journal import Journal
from edge.records import Record, embedding_bytes
from edge.snapshot import save_snapshot, sum_of
from edge.space import FeatureSpace
from tests.edge.examples import OTHER_SPACE, SPACE, example, image, teach
from tests.simulators.journal_script import killed_child

SECRET = {"file": "/home/ann/grandmother's voice.wav"}


def found(state_dir: Path, record: Record) -> list[str]:
    """Return the files that hold the embeddings of ``record``, whole or any 16 bytes of them, or its provenance."""
    stored = embedding_bytes(record.embeddings)
    needles = [stored[start : start + 16] for start in range(0, len(stored) - 15, 16)]
    needles += [json.dumps(SECRET["file"])[1:-1].encode(), b"grandmother"]
    hits = []
    for path in sorted(state_dir.rglob("*")):
        if path.is_file() and any(needle in path.read_bytes() for needle in needles):
            hits.append(path.name)
    return hits


def filled(state_dir: Path, secret: Record) -> Journal:
    """Open a journal that knows ``secret`` among others, with a snapshot and a clip of it."""
    journal = Journal.open(state_dir, space=SPACE)
    for seed in range(6):
        teach(journal, example("a", seed, n_windows=1 + 40 * (seed % 3)))
    journal.teach([secret], provenance=[SECRET])
    ClipStore(state_dir, max_bytes=1 << 20).keep(secret.content_sha256, np.ones(100, dtype=np.float32), 16000)
    ClipStore(state_dir, max_bytes=1 << 20).keep(example("a", 0).content_sha256, np.ones(90, dtype=np.float32), 16000)
    save_snapshot(journal, sum_of(FeatureSpace(SPACE), journal.records().values()))
    for seed in range(6, 9):
        teach(journal, example("b", seed))
    return journal


@pytest.mark.parametrize("n_windows", [1, 5, 3000])
@pytest.mark.parametrize("renamed", [False, True])
def test_a_purged_record_is_nowhere(tmp_path: Path, n_windows: int, renamed: bool) -> None:
    secret = example("voice", 77, n_windows=n_windows)
    with filled(tmp_path, secret) as journal:
        if renamed:
            journal.rename("voice", "person")
            secret = secret.relabel("person")
        assert found(tmp_path, secret), "the search finds what is there"
        if n_windows == 1:
            assert secret.content_sha256 in ClipStore(tmp_path).contents()
        journal.forget_record(secret.id, purge=True)
        assert found(tmp_path, secret) == []
        assert secret.content_sha256 not in ClipStore(tmp_path).contents()
        assert not list(tmp_path.glob("*.snapshot"))
        assert secret.id not in journal.records() and len(journal.records()) == 9
        assert journal.verify().intact and journal.verify().n_purged == 1
    assert found(tmp_path, secret) == []
    with Journal.open(tmp_path, space=SPACE) as journal:
        assert journal.findings == () and journal.verify().intact
        assert journal.history()[-1].detail["purged"]


def test_a_class_is_purged_with_what_was_forgotten_of_it_before(tmp_path: Path) -> None:
    secret = example("voice", 77)
    with filled(tmp_path, secret) as journal:
        teach(journal, example("voice", 78), example("voice", 79))
        journal.forget_record(secret.id)
        journal.undo()
        journal.forget("voice")
        assert found(tmp_path, secret)
        entry = journal.forget("voice", purge=True)
        assert entry.n_records == 0 and len(entry.detail["purged"]) == 3
        for one in (secret, example("voice", 78), example("voice", 79)):
            assert found(tmp_path, one) == []
        with pytest.raises(LabelError, match="no sound is known"):
            journal.forget("voice", purge=True)
        with pytest.raises(MisuseError, match="was purged already"):
            journal.forget_record(secret.id, purge=True)


def test_an_undone_teaching_can_be_purged(tmp_path: Path) -> None:
    secret = example("voice", 77)
    with Journal.open(tmp_path, space=SPACE) as journal:
        journal.teach([secret], provenance=[SECRET])
        journal.undo()
        journal.forget_record(secret.id[:12], purge=True)
        assert found(tmp_path, secret) == [] and journal.verify().intact


def test_undo_across_a_purge_is_refused(tmp_path: Path) -> None:
    with filled(tmp_path, example("voice", 77)) as journal:
        journal.forget("voice", purge=True)
        with pytest.raises(StateError, match=r"was a purge, and what is purged is gone for good"):
            journal.undo()
        teach(journal, example("c", 1))
        assert journal.undo().action == "taught"
        with pytest.raises(StateError, match="was a purge"):
            journal.undo()


def test_the_same_bytes_under_another_name_stand_in_the_way(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        teach(journal, example("a", 1), example("b", 1))
        with pytest.raises(MisuseError, match=r"record .* \('b'\) holds the same embeddings; forget it first"):
            journal.forget_record(example("a", 1).id, purge=True)
        assert len(journal.records()) == 2
        journal.forget("b")
        journal.forget("a", purge=True)
        assert found(tmp_path, example("a", 1)) == []


def test_what_is_purged_may_be_taught_again(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        teach(journal, example("a", 1))
        journal.forget("a", purge=True)
        assert teach(journal, example("a", 1)) == (example("a", 1).id,)
        assert journal.records()[example("a", 1).id] == example("a", 1)
    with Journal.open(tmp_path, space=SPACE) as journal:
        assert journal.verify().intact and len(journal.records()) == 1


def test_a_purge_that_was_killed_is_finished_at_the_next_opening(tmp_path: Path) -> None:
    secret = example("voice", 77)
    unfinished = 0
    for kill_at in range(1, 12):
        folder = tmp_path / str(kill_at)
        filled(folder, secret).close()
        acknowledged = killed_child(
            folder, (lambda journal: journal.forget_record(secret.id, purge=True),), kill_at=kill_at
        )
        with Journal.open(folder, space=SPACE) as journal:
            if secret.id in journal.records():
                assert acknowledged == 0
                continue
            unfinished += acknowledged == 0
            assert found(folder, secret) == [] and journal.verify().intact
    assert unfinished >= 4


def test_a_reader_in_the_way_is_named_and_the_purge_finished_later(tmp_path: Path) -> None:
    secret = example("voice", 77)
    with filled(tmp_path, secret) as journal:
        reader = sqlite3.connect(f"file:{tmp_path / 'state.db'}?mode=ro", uri=True, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM payload").fetchone()
        with pytest.raises(StateError, match="another process reads it; it is removed the next time"):
            journal.forget_record(secret.id, purge=True)
        assert secret.id not in journal.records()
        reader.close()
    with Journal.open(tmp_path, space=SPACE) as journal:
        assert found(tmp_path, secret) == [] and journal.verify().intact


def test_without_rewriting_the_database_remnants_would_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = example("voice", 77)
    monkeypatch.setattr("edge.journal_file.JournalFile.scrub", lambda self: None)
    with filled(tmp_path, secret) as journal:
        journal.forget_record(secret.id, purge=True)
        assert found(tmp_path, secret), "the log still holds it"


def test_a_purge_by_the_name_of_an_image_removes_the_record_and_every_image(tmp_path: Path) -> None:
    secret = example("voice", 77, n_windows=9)
    with filled(tmp_path, secret) as journal:
        older, newer = (image(secret, seed, n_windows=7) for seed in (900, 901))
        stays = image(example("a", 0, n_windows=1), 902)
        for one in (older, newer, stays):
            journal.move([one], OTHER_SPACE)
        assert journal.verify().n_purged == 0
        there = journal.records(OTHER_SPACE.sha256)
        named = next(i for i in there if there.about(i).label == "voice")
        assert journal.clip_content(named) == secret.content_sha256
        assert journal.provenance(named) == SECRET
        images = [Record(OTHER_SPACE.sha256, "voice", one.embeddings) for one in (older, newer)]
        assert all(found(tmp_path, one) for one in images), "the search finds what is there"
        journal.forget_record(named, purge=True)
        assert found(tmp_path, secret) == [] and all(found(tmp_path, one) == [] for one in images)
        assert [r.label for r in journal.records(OTHER_SPACE.sha256).values()] == ["a"]
        assert journal.verify().intact and journal.verify().n_purged == 3
        assert journal.move([newer], OTHER_SPACE) == 0, "what was purged meanwhile gets no image"
    with Journal.open(tmp_path, space=OTHER_SPACE) as journal:
        assert journal.findings == () and len(journal.records()) == 1
