"""What the journal's commands mean, who may open it, and what it says when it cannot."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import CorruptionError, LabelError, MisuseError, SpaceMismatchError, StateError, StateLockedError
from edge.journal import Journal
from edge.records import BACKGROUND
from tests.edge.examples import OTHER_SPACE, SPACE, example, origins, picture, teach


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "state", space=SPACE) as opened:
        yield opened


def test_an_empty_journal_knows_nothing(journal: Journal) -> None:
    assert not journal.records() and not journal.history() and journal.labels() == () and journal.last_seq == 0
    assert journal.verify().intact
    with pytest.raises(StateError, match="nothing can be undone"):
        journal.undo()


def test_what_is_taught_is_known_after_reopening(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        outcome = journal.teach([example("door", 1), example("bell", 2)], provenance=origins(2))
        assert outcome.new_ids == (example("door", 1).id, example("bell", 2).id) and outcome.duplicate_ids == ()
        before = picture(journal)
    with Journal.open(tmp_path, space=SPACE) as journal:
        assert picture(journal) == before
        assert list(journal.records()) == sorted(outcome.new_ids)
        assert journal.records()[outcome.new_ids[0]] == example("door", 1)
        assert journal.provenance(outcome.new_ids[1]) == origins(2)[1]
        assert journal.labels() == ("bell", "door")


def test_the_same_example_twice_is_one_example(journal: Journal) -> None:
    teach(journal, example("door", 1))
    seq = journal.last_seq
    again = journal.teach([example("door", 1), example("door", 2), example("door", 2)], provenance=origins(3))
    assert again.new_ids == (example("door", 2).id,)
    assert again.duplicate_ids == (example("door", 1).id, example("door", 2).id)
    assert journal.last_seq == seq + 1 and len(journal.records()) == 2
    assert journal.teach([example("door", 1)], provenance=origins(1)).new_ids == () and journal.last_seq == seq + 1


def test_each_taught_file_is_one_command_for_undo(journal: Journal) -> None:
    teach(journal, example("door", 1), example("door", 2))
    assert journal.undo().action == "taught"
    assert list(journal.records()) == [example("door", 1).id]
    assert [entry.undone for entry in journal.history()] == [False, True]


def test_undo_is_repeatable_and_never_redoes(journal: Journal) -> None:
    pictures = [journal.records().keys()]
    teach(journal, example("a", 1))
    pictures.append(journal.records().keys())
    teach(journal, example("b", 2))
    pictures.append(journal.records().keys())
    journal.rename("a", "c")
    pictures.append(journal.records().keys())
    journal.merge_classes("b", "c")
    pictures.append(journal.records().keys())
    journal.forget("c")
    actions = []
    while pictures:
        actions.append(journal.undo().action)
        assert journal.records().keys() == pictures.pop()
    assert actions == ["forgotten", "merged", "renamed", "taught", "taught"]
    with pytest.raises(StateError, match="nothing can be undone"):
        journal.undo()
    teach(journal, example("d", 3))
    assert journal.undo().seq == journal.history()[-1].seq


def test_forget_then_teach_again(journal: Journal) -> None:
    teach(journal, example("door", 1))
    assert journal.forget("door").n_records == 1
    assert not journal.records() and journal.labels() == ()
    assert teach(journal, example("door", 1)) == (example("door", 1).id,)


def test_a_single_record_is_forgotten_by_a_prefix_of_its_id(journal: Journal) -> None:
    one, two = teach(journal, example("door", 1), example("door", 2))
    journal.forget_record(one[:8])
    assert list(journal.records()) == [two]
    for wrong in (one[:8], one, two[:7], "", "zz" * 32):
        with pytest.raises(MisuseError, match="0 records are named"):
            journal.forget_record(wrong)


def test_ignored_records_belong_to_the_background_and_can_be_forgotten(journal: Journal) -> None:
    outcome = journal.ignore([example("whatever", 5)], provenance=[{"event": "e7"}])
    assert journal.records()[outcome.new_ids[0]].label == BACKGROUND and journal.labels() == ()
    assert journal.provenance(outcome.new_ids[0]) == {"event": "e7"}
    assert journal.forget(BACKGROUND).n_records == 1 and not journal.records()
    with pytest.raises(LabelError, match="reserved"):
        teach(journal, example("x", 1).relabel(BACKGROUND))


def test_rename_gives_new_ids_and_keeps_the_switch(journal: Journal) -> None:
    teach(journal, example("door", 1), example("bell", 2))
    journal.enable("door", False)
    entry = journal.rename("door", " gate ")
    assert (entry.action, entry.n_records) == ("renamed", 1)
    assert journal.labels() == ("bell", "gate") and journal.disabled_labels() == {"gate"}
    assert example("gate", 1).id in journal.records() and example("door", 1).id not in journal.records()
    with pytest.raises(LabelError, match="is taken"):
        journal.rename("gate", "bell")
    with pytest.raises(LabelError, match="is taken"):
        journal.rename("gate", "gate")
    with pytest.raises(LabelError, match="no sound is known as 'door'; taught are: bell, gate"):
        journal.rename("door", "x")
    with pytest.raises(LabelError, match="reserved"):
        journal.rename("gate", BACKGROUND)


def test_merging_keeps_the_second_class_and_counts_nothing_twice(journal: Journal) -> None:
    teach(journal, example("a", 1), example("a", 2), example("b", 1), example("b", 3))
    journal.enable("a", False)
    assert journal.merge_classes("a", "b").n_records == 2
    assert set(journal.records()) == {example("b", seed).id for seed in (1, 2, 3)}
    assert journal.disabled_labels() == frozenset()
    with pytest.raises(LabelError, match="with itself"):
        journal.merge_classes("b", "b")
    journal.undo()
    assert journal.labels() == ("a", "b") and len(journal.records()) == 4 and journal.disabled_labels() == {"a"}


def test_classes_are_switched_off_and_on(journal: Journal) -> None:
    teach(journal, example("a", 1))
    assert journal.enable("a", True) is None
    assert journal.enable("a", False) is not None and journal.disabled_labels() == {"a"}
    journal.undo()
    assert journal.disabled_labels() == frozenset()
    journal.enable("a", False)
    journal.forget("a")
    teach(journal, example("a", 4))
    assert journal.disabled_labels() == frozenset(), "a class that is taught anew begins switched on"
    with pytest.raises(LabelError, match="no sound is known"):
        journal.enable("b", False)


def test_an_import_is_one_command(journal: Journal) -> None:
    teach(journal, example("a", 1))
    outcome = journal.import_records([example("a", 1), example("a", 2), example("b", 3)])
    assert len(outcome.new_ids) == 2 and outcome.duplicate_ids == (example("a", 1).id,)
    assert journal.history()[-1].n_records == 2
    journal.undo()
    assert list(journal.records()) == [example("a", 1).id]
    assert journal.import_records([example("a", 1)]).new_ids == ()
    assert journal.history()[-1].undone, "an import of nothing new is no command"


def test_records_of_another_space_are_refused_and_kept_apart(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        teach(journal, example("a", 1))
        with pytest.raises(SpaceMismatchError, match="does not fit space"):
            teach(journal, example("a", 2), example("a", 2, space=OTHER_SPACE))
        assert len(journal.records()) == 1
    with Journal.open(tmp_path, space=OTHER_SPACE) as journal:
        teach(journal, example("a", 1, space=OTHER_SPACE))
        assert [r.space_sha256 for r in journal.records().values()] == [OTHER_SPACE.sha256]
        assert len(journal.records(SPACE.sha256)) == 1
    with Journal.open(tmp_path) as journal:
        assert len(journal.records()) == 2 and journal.labels() == ("a",)
        assert journal.spaces() == {SPACE.sha256: SPACE, OTHER_SPACE.sha256: OTHER_SPACE}
        teach(journal, example("b", 2))
    with Journal.open(tmp_path / "new") as journal, pytest.raises(SpaceMismatchError, match="was ever kept"):
        teach(journal, example("a", 1))


def test_a_view_stays_as_it_was(journal: Journal) -> None:
    teach(journal, example("a", 1), example("a", 2))
    before = journal.records()
    journal.forget("a")
    assert len(before) == 2 and before[example("a", 1).id] == example("a", 1)
    assert before.about(example("a", 1).id).n_windows == 3 and "nobody" not in before


def test_settings_are_kept_and_undo_passes_over_them(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        teach(journal, example("a", 1))
        journal.set_kv("calibration", {"ridge": 0.25, "folds": [1, 2]})
        seq = journal.last_seq
        journal.set_kv("calibration", {"folds": [1, 2], "ridge": 0.25})
        assert journal.last_seq == seq, "the same value again is no row"
        assert journal.undo().action == "taught"
        with pytest.raises(MisuseError, match="not plain JSON"):
            journal.set_kv("x", float("nan"))
    with Journal.open(tmp_path, read_only=True) as journal:
        assert journal.get_kv("calibration") == {"ridge": 0.25, "folds": [1, 2]} and journal.get_kv("nothing") is None


def test_nothing_is_taught_when_one_of_several_is_refused(journal: Journal) -> None:
    with pytest.raises(MisuseError, match="2 records came with 1"):
        journal.teach([example("a", 1), example("a", 2)], provenance=origins(1))
    with pytest.raises(MisuseError, match="provenance"):
        journal.teach([example("a", 1), example("a", 2)], provenance=[{}, {"bad": object()}])
    assert not journal.records() and journal.last_seq == 0


def test_order_is_by_seq_whatever_the_clock_says(tmp_path: Path) -> None:
    ten_years = 3.2e8
    times = iter([1e9, 1e9 + ten_years, 1e9 - ten_years, 0.0, -5.0, float("nan"), float("inf"), 1e300, 1e9])
    seen = {}
    for name, clock in (("jumping", lambda: next(times)), ("steady", lambda: 1e9)):
        with Journal.open(tmp_path / name, space=SPACE, clock=clock) as journal:
            teach(journal, example("a", 1))
            teach(journal, example("b", 2))
            journal.rename("a", "c")
            journal.forget("b")
            journal.undo()
            journal.merge_classes("b", "c")
        with Journal.open(tmp_path / name) as journal:
            assert journal.verify().intact
            seen[name] = picture(journal)
    assert seen["jumping"]["records"] == seen["steady"]["records"]
    assert seen["jumping"]["history"] == seen["steady"]["history"]


# ---- who may open it ------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_lock(journal: Journal) -> None:
    with pytest.raises(StateLockedError, match=f"process {os.getpid()};"):
        Journal.open(journal.state_dir, space=SPACE)
    journal.close()
    Journal.open(journal.state_dir, space=SPACE).close()


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from edge.journal import Journal\n"
        "j = Journal.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read(); os._exit(9)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        with pytest.raises(StateLockedError, match=f"process {child.pid};"):
            Journal.open(tmp_path)
        child.kill()
    Journal.open(tmp_path).close()


def test_readers_see_each_command_while_a_writer_runs(journal: Journal) -> None:
    teach(journal, example("a", 1))
    with Journal.open(journal.state_dir, read_only=True) as reader:
        assert reader.labels() == ("a",)
        teach(journal, example("b", 2))
        assert reader.labels() == ("a", "b") and reader.last_hash == journal.last_hash
        journal.undo()
        assert reader.labels() == ("a",) and reader.verify().intact
        with pytest.raises(StateError, match="for reading only"):
            reader.forget("a")


def test_reading_a_state_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "none", read_only=True) as reader:
        assert not reader.records() and reader.verify().intact
    assert not (tmp_path / "none").exists()


def test_the_state_is_private(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state", space=SPACE) as journal:
        teach(journal, example("a", 1))
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0
        for path in (tmp_path / "state").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_many_threads_may_use_one_journal(journal: Journal) -> None:
    def work(first: int) -> None:
        for seed in range(first, first + 10):
            teach(journal, example(f"class {seed % 3}", seed))
            assert example(f"class {seed % 3}", seed).id in journal.records()

    threads = [threading.Thread(target=work, args=(100 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.records()) == 40 and journal.verify().intact


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, space=SPACE)
    journal.close()
    journal.close()
    with pytest.raises(StateError, match="is closed"):
        teach(journal, example("a", 1))


# ---- places it cannot use -------------------------------------------------------------------------------------------


def test_a_file_is_no_state_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for read_only in (False, True):
        with pytest.raises(StateError, match="is a file, not a directory"):
            Journal.open(tmp_path / "file", read_only=read_only)
    with pytest.raises(StateError, match="cannot be opened"):
        Journal.open(tmp_path / "file" / "below")


def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        teach(journal, example("a", 1))
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = (tmp_path / "state.db").read_bytes()
    for read_only in (False, True):
        with pytest.raises(StateError, match=r"written by a newer soundkeep \(schema 2, this one knows 1\)"):
            Journal.open(tmp_path, read_only=read_only)
    assert (tmp_path / "state.db").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 8192])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.db").write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(CorruptionError, match="holds nothing that can be read as a soundkeep journal"):
            Journal.open(tmp_path, read_only=read_only)
    assert (tmp_path / "state.db").read_bytes() == content


def test_another_program_s_database_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("CREATE TABLE journal (seq INTEGER PRIMARY KEY, unit)")
    connection.close()
    with pytest.raises(CorruptionError, match="soundkeep journal"):
        Journal.open(tmp_path)


def test_a_database_that_vanished_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        teach(journal, example("a", 1))
    (tmp_path / "state.db").unlink()
    for read_only in (False, True):
        with pytest.raises(CorruptionError, match="is missing although 2 rows were acknowledged"):
            Journal.open(tmp_path, read_only=read_only)


def test_the_journal_table_only_grows(journal: Journal) -> None:
    teach(journal, example("a", 1))
    journal.close()
    connection = sqlite3.connect(journal.state_dir / "state.db")
    for statement in ("DELETE FROM journal", "UPDATE journal SET wall_ms = 0", "UPDATE payload SET provenance = ''"):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
    connection.close()
