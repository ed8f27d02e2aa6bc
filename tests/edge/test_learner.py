"""The learner: after any commands its sums are the fold of what the journal knows, and its live head the fitted one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import (
    LabelError,
    NotExactError,
    SoundkeepError,
    SpaceMismatchError,
    StateError,
    StatisticsOverflowError,
)
from edge.hearing import Example, Levels
from edge.journal import Journal
from edge.learner import Learner
from edge.readout import Readout
from edge.records import BACKGROUND, Record
from edge.snapshot import sum_of
from edge.space import EmbeddingSpace, FeatureSpace, Lift
from edge.statistics import SufficientStatistics

SPACE = EmbeddingSpace("a" * 64, 8000, 4000, 2000, 6)
FEATURES = FeatureSpace(SPACE)
LABELS = ("bell", "hum", "beep")


def example(seed: int, n: int = 3, *, space: EmbeddingSpace = SPACE) -> Example:
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(-16384, 16385, (n, space.dim)).astype(np.int16)
    return Example(space, embeddings, Levels(np.full(n, 0.1), np.full(n, 0.5), np.zeros(n)), {"file": f"{seed}.wav"})


@contextmanager
def learner_in(folder: Path, *, live: bool = False, features: FeatureSpace = FEATURES) -> Iterator[Learner]:
    with Journal.open(folder, space=features.embedding) as journal:
        yield Learner(journal, features, live=live)


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    with learner_in(tmp_path, live=True) as made:
        yield made


def fold(learner: Learner) -> SufficientStatistics:
    return sum_of(learner.space, learner.records.values())


def probe(n: int = 40) -> NDArray[np.int16]:
    return np.random.default_rng(99).integers(-16384, 16385, (n, SPACE.dim)).astype(np.int16)


# ---- laws -----------------------------------------------------------------------------------------------------------


def test_nothing_taught_is_nothing_known(learner: Learner) -> None:
    assert learner.classes() == [] and learner.labels == () and learner.n_windows == 0
    assert learner.statistics() == SufficientStatistics.zero(FEATURES)
    labels, z = learner.judge(probe(2))
    assert labels == () and z.shape == (2, 0)


COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("teach"), st.sampled_from(LABELS), st.integers(0, 8)),
        st.tuples(st.just("ignore"), st.integers(0, 8)),
        st.tuples(st.just("forget"), st.sampled_from(LABELS)),
        st.tuples(st.just("forget_record"), st.integers(0, 5)),
        st.tuples(st.just("rename"), st.sampled_from(LABELS), st.sampled_from((*LABELS, "new"))),
        st.tuples(st.just("merge"), st.sampled_from(LABELS), st.sampled_from(LABELS)),
        st.tuples(st.just("purge"), st.sampled_from(LABELS)),
        st.tuples(st.just("undo")),
    ),
    max_size=12,
)


def carry_out(learner: Learner, command: tuple[object, ...]) -> None:
    match command:
        case ("teach", str(label), int(seed)):
            learner.teach(label, [example(seed), example(seed + 1, n=1)])
        case ("ignore", int(seed)):
            learner.ignore([example(seed)])
        case ("forget", str(label)):
            learner.forget(label)
        case ("purge", str(label)):
            learner.forget(label, purge=True)
        case ("forget_record", int(i)):
            ids = list(learner.records)
            if i < len(ids):
                learner.forget_record(ids[i])
        case ("rename", str(old), str(new)):
            learner.rename(old, new)
        case ("merge", str(a), str(b)):
            learner.merge_classes(a, b)
        case ("undo",):
            learner.undo()


@given(commands=COMMANDS)
@settings(max_examples=25)
def test_after_any_commands_the_sums_are_the_fold_and_the_live_head_is_the_fitted_one(
    tmp_path_factory: pytest.TempPathFactory, commands: list[tuple[object, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    with learner_in(folder, live=True) as learner:
        for command in commands:
            with suppress(SoundkeepError):  # refused, and must have changed nothing
                carry_out(learner, command)
            assert learner.statistics() == fold(learner)
        assert learner.labels == tuple(sorted({learner.records[i].label for i in learner.records} - {BACKGROUND}))
        labels, live = learner.judge(probe())
        fitted = learner.head()
        assert labels == fitted.labels
        np.testing.assert_allclose(live, fitted.scores(probe()), rtol=1e-9, atol=1e-9)
        known = learner.statistics_sha256
    with learner_in(folder) as again:
        assert again.statistics_sha256 == known


def test_the_law_fails_when_the_sums_do_not_follow(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mechanism switched off: without subtraction, forgetting leaves sums that no fold gives."""
    learner.teach("bell", [example(1)])
    monkeypatch.setattr(learner, "_count", lambda record, sign: None)
    learner.forget("bell")
    assert learner.statistics() != fold(learner)


@given(order=st.permutations(range(6)))
@settings(max_examples=10)
def test_the_order_of_teaching_changes_no_bit(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    names = []
    for sequence in (range(6), order):
        with learner_in(tmp_path_factory.mktemp("state")) as learner:
            for i in sequence:
                learner.teach(LABELS[i % 3], [example(i)])
            names.append(learner.statistics_sha256)
    assert names[0] == names[1]


def test_forgetting_is_as_if_it_had_never_been_taught(tmp_path: Path) -> None:
    with learner_in(tmp_path / "a") as a, learner_in(tmp_path / "b") as b:
        for seed, label in enumerate(("bell", "hum", "bell", "beep")):
            a.teach(label, [example(seed)])
            if label != "bell":
                b.teach(label, [example(seed)])
        a.forget("bell")
        assert a.statistics_sha256 == b.statistics_sha256
        np.testing.assert_array_equal(a.head().scores(probe()), b.head().scores(probe()))


def test_a_lift_changes_the_sums_and_not_the_records(tmp_path: Path) -> None:
    lifted = FeatureSpace(SPACE, Lift(dim=16, shift=5))
    with learner_in(tmp_path) as plain:
        plain.teach("bell", [example(1)])
    with learner_in(tmp_path, features=lifted) as learner:
        learner.teach("hum", [example(2)])
        assert learner.statistics() == fold(learner)
        assert learner.statistics().dim == 16 and learner.n_records == 2


# ---- commands -------------------------------------------------------------------------------------------------------


def test_what_was_taught_is_known_at_once(learner: Learner) -> None:
    learner.teach("bell", [example(1), example(2)])
    learner.teach("hum", [example(3)])
    assert learner.classes() == [
        {"label": "bell", "n_records": 2, "n_windows": 6, "enabled": True},
        {"label": "hum", "n_records": 1, "n_windows": 3, "enabled": True},
    ]
    labels, z = learner.judge(example(3).embeddings)
    assert labels[int(z.mean(axis=0).argmax())] == "hum"


def test_labels_are_normalised_and_bad_ones_refused(learner: Learner) -> None:
    learner.teach("  cafe\u0301 ", [example(1)])
    assert learner.labels == ("caf\u00e9",)
    for bad in ("", " ", "x" * 201, "a\nb", BACKGROUND):
        with pytest.raises(LabelError):
            learner.teach(bad, [example(2)])
    assert learner.n_records == 1


def test_the_same_example_counts_once_and_is_told(learner: Learner) -> None:
    first = learner.teach("bell", [example(1)])
    again = learner.teach("bell", [example(1), example(2)])
    assert first.duplicate_ids == frozenset()
    assert again.duplicate_ids == {again.records[0].id}
    assert [a.kind for a in again.advice] == ["duplicate"]
    assert learner.n_records == 2


def test_the_same_example_twice_in_one_command_counts_once(learner: Learner) -> None:
    learner.teach("bell", [example(1), example(1)])
    assert learner.n_records == 1 and learner.n_windows == 3
    assert learner.statistics() == fold(learner)


def test_ignored_sounds_move_the_background_and_are_no_class(learner: Learner) -> None:
    learner.teach("bell", [example(1)])
    before = learner.judge(probe())[1]
    learner.ignore([example(50)])
    labels, after = learner.judge(probe())
    assert labels == ("bell",) and not np.allclose(before, after)
    assert learner.n_records == 2 and [c["label"] for c in learner.classes()] == ["bell"]
    learner.undo()
    np.testing.assert_allclose(learner.judge(probe())[1], before, rtol=1e-9)


def test_a_disabled_class_is_not_judged_and_not_forgotten(learner: Learner) -> None:
    learner.teach("bell", [example(1)])
    learner.teach("hum", [example(2)])
    assert learner.enable(" bell ", False) == "bell"
    labels, z = learner.judge(probe(3))
    assert labels == ("hum",) and z.shape == (3, 1)
    assert learner.classes()[0]["enabled"] is False
    learner.enable("bell", True)
    assert learner.judge(probe(3))[0] == ("bell", "hum")


def test_another_space_is_refused(learner: Learner) -> None:
    other = EmbeddingSpace("b" * 64, 8000, 4000, 2000, 6)
    with pytest.raises(SpaceMismatchError, match=r"9\.wav lives in the embedding space"):
        learner.teach("bell", [example(9, space=other)])
    with pytest.raises(SpaceMismatchError, match="use the bundle"):
        learner.import_records([Record(other.sha256, "bell", example(9).embeddings)], provenance={})
    assert learner.n_records == 0


def test_import_merges_exactly_and_counts_nothing_twice(tmp_path: Path) -> None:
    with learner_in(tmp_path / "a") as a, learner_in(tmp_path / "b") as b, learner_in(tmp_path / "c") as c:
        a.teach("bell", [example(1), example(2)])
        b.teach("bell", [example(2)])
        b.teach("hum", [example(3)])
        for source in (a, b, a):
            c.import_records(list(source.records.values()), provenance={"source": "import"})
        assert c.n_records == 3
        nearly = Record(SPACE.sha256, "hum", (example(3).embeddings + 1).astype(np.int16))
        assert c.import_records([nearly], provenance={}).n_near_duplicates == 1
        c.undo()
        c.undo()
        assert c.statistics_sha256 == a.statistics_sha256


# ---- when something refuses -----------------------------------------------------------------------------------------


def test_when_the_journal_refuses_nothing_was_counted(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    learner.teach("bell", [example(1)])
    before = learner.statistics()

    def full(*args: object, **kwargs: object) -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr(learner.journal, "teach", full)
    with pytest.raises(StateError, match="full"):
        learner.teach("bell", [example(2)])
    assert learner.statistics() == before and learner.n_records == 1


def test_a_sum_that_would_stop_being_exact_is_refused_before_it_is_written(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner.teach("bell", [example(1)])
    monkeypatch.setattr("edge.statistics.EXACT_LIMIT", 2**30)
    with pytest.raises(StatisticsOverflowError, match=r"2\^53"):
        learner.teach("bell", [example(2, n=8)])
    assert learner.n_records == 1 and learner.statistics() == fold(learner)


def test_a_live_head_that_is_not_exact_gives_way_to_the_fitted_one(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner.teach("bell", [example(1)])

    def inexact() -> None:
        raise NotExactError("the residual is too large")

    monkeypatch.setattr(learner._live, "head", inexact)
    monkeypatch.setattr(learner, "_serving", None)
    labels, z = learner.judge(probe())
    np.testing.assert_array_equal(z, learner.head().scores(probe()))
    assert labels == ("bell",)


def test_another_readout_changes_heads_and_not_what_was_learnt(learner: Learner) -> None:
    learner.teach("bell", [example(1)])
    before, known = learner.judge(probe())[1], learner.statistics_sha256
    learner.use_readout(Readout(ridge=64.0))
    assert learner.statistics_sha256 == known
    assert not np.allclose(learner.judge(probe())[1], before)
    np.testing.assert_allclose(learner.judge(probe())[1], learner.head().scores(probe()), rtol=1e-9)


def test_a_snapshot_makes_the_next_start_the_same(tmp_path: Path) -> None:
    with learner_in(tmp_path) as learner:
        learner.teach("bell", [example(i) for i in range(5)])
        learner.ignore([example(7)])
        learner.save_snapshot()
        known = learner.statistics()
    assert list(tmp_path.glob("*.snapshot"))
    with learner_in(tmp_path) as again:
        assert again.statistics() == known
        again.forget("bell")
        assert again.statistics() == fold(again)
