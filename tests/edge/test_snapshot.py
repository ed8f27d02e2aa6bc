"""The snapshot is a cache: whatever lies there, the statistics are those of the records, to the bit."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge.journal import Journal
from edge.snapshot import remove_snapshots, restore_statistics, save_snapshot, sum_of
from edge.space import FeatureSpace, Lift
from edge.statistics import SufficientStatistics
from tests.edge.examples import OTHER_SPACE, SPACE, example, image, origins, teach

FEATURES = FeatureSpace(SPACE)


def filled(folder: Path, n: int = 12) -> Journal:
    journal = Journal.open(folder, space=SPACE)
    teach(journal, *(example(f"class {seed % 3}", seed) for seed in range(n)))
    journal.ignore([example("x", 50)], provenance=origins(1))
    return journal


def from_scratch(journal: Journal, space: FeatureSpace = FEATURES) -> SufficientStatistics:
    return sum_of(space, journal.records(space.embedding.sha256).values())


def test_nothing_known_is_zero(tmp_path: Path) -> None:
    with Journal.open(tmp_path, space=SPACE) as journal:
        restored = restore_statistics(journal, FEATURES)
        assert restored.statistics == SufficientStatistics.zero(FEATURES) and not restored.from_snapshot
        save_snapshot(journal, restored.statistics)
        assert restore_statistics(journal, FEATURES).from_snapshot


@pytest.mark.parametrize("space", [FEATURES, FeatureSpace(SPACE, Lift(dim=32))])
def test_a_snapshot_and_what_changed_since_give_the_same_bits(tmp_path: Path, space: FeatureSpace) -> None:
    with filled(tmp_path) as journal:
        save_snapshot(journal, from_scratch(journal, space))
        assert restore_statistics(journal, space).from_snapshot
        changes = (
            lambda: teach(journal, example("new", 70), example("class 0", 71)),
            lambda: journal.forget("class 1"),
            lambda: journal.rename("class 2", "door"),
            journal.undo,
            lambda: journal.merge_classes("class 2", "class 0"),
            lambda: journal.set_kv("calibration", 1),
        )
        for change in changes:
            change()
            restored = restore_statistics(journal, space)
            assert restored.from_snapshot
            assert restored.statistics == from_scratch(journal, space)
            assert restored.statistics.sha256 == from_scratch(journal, space).sha256
    with Journal.open(tmp_path, space=SPACE, read_only=True) as reader:
        assert restore_statistics(reader, space).from_snapshot


def test_after_a_purge_nothing_of_the_sum_is_left(tmp_path: Path) -> None:
    with filled(tmp_path) as journal:
        save_snapshot(journal, from_scratch(journal))
        journal.forget_record(example("class 0", 0).id, purge=True)
        assert not list(tmp_path.glob("*.snapshot"))
        assert restore_statistics(journal, FEATURES).statistics == from_scratch(journal)


def test_a_snapshot_kept_across_a_purge_is_not_used(tmp_path: Path) -> None:
    with filled(tmp_path) as journal:
        save_snapshot(journal, from_scratch(journal))
        (kept,) = tmp_path.glob("*.snapshot")
        content = kept.read_bytes()
        journal.forget_record(example("class 0", 0).id, purge=True)
        kept.write_bytes(content)
        restored = restore_statistics(journal, FEATURES)
        assert not restored.from_snapshot and restored.statistics == from_scratch(journal)


def test_no_altered_snapshot_is_believed(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    with filled(tmp_path) as journal:
        expected = from_scratch(journal)
        save_snapshot(journal, expected)
        (path,) = tmp_path.glob("*.snapshot")
        content = path.read_bytes()
        for _ in range(200):
            altered = bytearray(content)
            place = int(rng.integers(len(content)))
            if rng.random() < 0.3:
                del altered[place:]
            else:
                altered[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(altered)
            restored = restore_statistics(journal, FEATURES)
            assert restored.statistics == expected and not restored.from_snapshot


def test_a_true_snapshot_of_another_history_is_not_believed(tmp_path: Path) -> None:
    with filled(tmp_path / "one") as one, filled(tmp_path / "two", 9) as two:
        teach(two, *(example("other", seed) for seed in range(3)))
        save_snapshot(one, from_scratch(one))
        (path,) = (tmp_path / "one").glob("*.snapshot")
        shutil.copy(path, tmp_path / "two")
        assert one.last_seq == two.last_seq
        restored = restore_statistics(two, FEATURES)
        assert not restored.from_snapshot and restored.statistics == from_scratch(two)


def test_sums_that_are_not_those_of_the_records_are_not_believed(tmp_path: Path) -> None:
    with filled(tmp_path) as journal:
        save_snapshot(journal, sum_of(FEATURES, [example("class 0", 0)]))
        restored = restore_statistics(journal, FEATURES)
        assert not restored.from_snapshot and restored.statistics == from_scratch(journal)


def test_each_feature_space_has_its_own_snapshot(tmp_path: Path) -> None:
    lifted = FeatureSpace(SPACE, Lift(dim=32))
    with filled(tmp_path) as journal:
        save_snapshot(journal, from_scratch(journal))
        save_snapshot(journal, from_scratch(journal, lifted))
        assert len(list(tmp_path.glob("*.snapshot"))) == 2
        assert restore_statistics(journal, lifted).statistics == from_scratch(journal, lifted)
        other = restore_statistics(journal, FeatureSpace(OTHER_SPACE))
        assert other.statistics.n_samples == 0 and not other.from_snapshot
        remove_snapshots(tmp_path)
        assert not list(tmp_path.glob("*.snapshot"))


def test_without_the_checks_a_wrong_sum_would_be_served(tmp_path: Path) -> None:
    """What the checks are for: the same bytes under a recomputed hash, read back by the statistics alone, are wrong."""
    with filled(tmp_path) as journal:
        wrong = sum_of(FEATURES, [example("class 0", 0)])
        save_snapshot(journal, wrong)
        (path,) = tmp_path.glob("*.snapshot")
        body = path.read_bytes()[:-32]
        assert hashlib.sha256(body).digest() == path.read_bytes()[-32:], "its own hash holds"
        assert SufficientStatistics.from_bytes(FEATURES, body[-len(wrong.to_bytes()) :]) != from_scratch(journal)


def test_a_snapshot_follows_images(tmp_path: Path) -> None:
    """In the space that records moved to: from images alone, through later images, forgetting and undoing."""
    other = FeatureSpace(OTHER_SPACE)
    with filled(tmp_path) as journal:
        journal.move([image(example(f"class {seed % 3}", seed), 100 + seed) for seed in range(8)], OTHER_SPACE)
        assert len(journal.records(OTHER_SPACE.sha256)) == 8
        save_snapshot(journal, from_scratch(journal, other))
        changes = (
            lambda: journal.move([image(example("class 0", 0), 200), image(example("class 2", 11), 201)], OTHER_SPACE),
            lambda: journal.rename("class 1", "door"),
            lambda: journal.forget("door"),
            journal.undo,
            lambda: journal.merge_classes("class 2", "class 0"),
        )
        for change in changes:
            change()
            restored = restore_statistics(journal, other)
            assert restored.from_snapshot
            assert restored.statistics.sha256 == from_scratch(journal, other).sha256
        assert len(journal.records(OTHER_SPACE.sha256)) == 9
        journal.forget("class 0", purge=True)
        assert restore_statistics(journal, other).statistics.sha256 == from_scratch(journal, other).sha256
