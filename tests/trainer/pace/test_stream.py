"""A stream of classes: exact while the backbone is frozen, mixed while it moves, and it says what it was given."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import MisuseError, SpaceMismatchError
from tests.trainer.pace.small_lessons import QUICK, bits, quick, sounds, student, ticking, unchanged
from trainer.analytic import AnalyticClassifier, AnalyticSettings
from trainer.pace.embedding import embed_features
from trainer.pace.stream import ClassStream

N_CLASSES, N_EACH = 6, 12
FEATURES, TARGETS = sounds(N_CLASSES, N_EACH, noise=1.2)
NEW, NEW_TARGETS = sounds(N_CLASSES, 10, noise=1.2, seed=9)
ALL = torch.cat([FEATURES, NEW])
ANALYTIC = AnalyticSettings(lift_dim=64, ridge=16.0)


def stream_of(said: list[str] | None = None, **changes: Any) -> ClassStream:
    words = [] if said is None else said
    return ClassStream(student(), ALL, quick(**changes), ANALYTIC, name="test", clock=ticking(), say=words.append)


def teach(stream: ClassStream, number: int, rows: NDArray[np.int64]) -> str:
    labels = [f"c{int(TARGETS[r])}" for r in rows]
    return stream.learn(number, rows, labels, n_clips=len(rows)).what


def rows_of(*classes: int) -> NDArray[np.int64]:
    return np.concatenate([np.arange(c * N_EACH, (c + 1) * N_EACH) for c in classes]).astype(np.int64)


@given(st.permutations(range(N_CLASSES * N_EACH)), st.lists(st.integers(0, N_CLASSES * N_EACH), max_size=5))
@settings(max_examples=8)
def test_frozen_is_the_same_to_the_bit_for_every_grouping_and_equal_to_joint(order: list[int], cuts: list[int]) -> None:
    """Windows in any order, any sessions, sessions of one window or none: the end is that of learning at once."""
    joint, sessions = stream_of(first_session="none"), stream_of(first_session="none")
    before = bits(joint.adaptation.base)
    teach(joint, 1, rows_of(*range(N_CLASSES)))
    edges = [0, *sorted(cuts), len(order)]
    for number, (start, end) in enumerate(itertools.pairwise(edges), start=1):
        assert teach(sessions, number, np.array(order[start:end], dtype=np.int64)) == "frozen"
    assert sessions.classifier.statistics == joint.classifier.statistics
    assert np.array_equal(sessions.classifier.head.weights, joint.classifier.head.weights)
    assert sessions.recomputed().statistics.gram.tolist() == joint.classifier.statistics.gram.tolist()
    assert unchanged(sessions.adaptation.current, before)


def accuracy(stream: ClassStream, classifier: AnalyticClassifier, classes: tuple[int, ...]) -> float:
    """On new sounds of some classes, among all classes known."""
    chosen = [i for i, t in enumerate(NEW_TARGETS.tolist()) if t in classes]
    labels, scores = classifier.scores(stream.embed(len(FEATURES) + np.array(chosen, dtype=np.int64)))
    return float(
        np.mean([labels[k] == f"c{int(NEW_TARGETS[i])}" for k, i in zip(scores.argmax(1), chosen, strict=True)])
    )


def test_recomputed_is_a_fresh_classifier_under_the_final_backbone_and_mixed_is_not() -> None:
    stream = stream_of()
    for number, classes in enumerate(((0, 1), (2, 3), (4, 5)), start=1):
        teach(stream, number, rows_of(*classes))
    assert [r.what for r in stream.adaptation.reports] == ["first", "later", "frozen"]
    fresh = AnalyticClassifier(16, settings=ANALYTIC, space_name="test recomputed")
    embeddings = embed_features(stream.adaptation.current, FEATURES).numpy()
    fresh.learn(embeddings, [f"c{int(t)}" for t in TARGETS])
    recomputed, mixed = stream.recomputed().statistics, stream.classifier.statistics
    assert recomputed == fresh.statistics
    assert mixed.labels == recomputed.labels and mixed.counts.tolist() == recomputed.counts.tolist()
    same = [np.array_equal(a, b) for a, b in zip(mixed.sums, recomputed.sums, strict=True)]
    assert same == [False, False, True, True, True, True], "only what came before the last move is mixed"
    assert not np.array_equal(mixed.gram, recomputed.gram)
    with pytest.raises(SpaceMismatchError):
        _ = mixed + recomputed
    with pytest.raises(MisuseError, match="belong to a training run"):
        stream.recomputed().statistics.to_bytes()


def test_old_classes_are_read_better_when_they_are_recomputed() -> None:
    """The gap: a backbone that moved far leaves the mixed statistics behind, not the recomputed ones."""
    stream = stream_of(backbone_learning_rate=0.02, later_learning_rate=0.05, boundary_weight=0.0)
    for number, classes in enumerate(((0, 1, 2), (3, 4, 5)), start=1):
        teach(stream, number, rows_of(*classes))
    mixed = accuracy(stream, stream.classifier, (0, 1, 2))
    recomputed = accuracy(stream, stream.recomputed(), (0, 1, 2))
    assert recomputed > mixed + 0.15, (mixed, recomputed)


def test_sessions_out_of_the_ordinary_are_handled_and_said() -> None:
    said: list[str] = []
    stream = stream_of(said, adapted_sessions=9, epochs=1)
    assert teach(stream, 1, np.zeros(0, dtype=np.int64)) == "empty"
    assert teach(stream, 2, rows_of(0)) == "one class"
    assert stream.classifier.statistics.labels == ("c0",), "the classifier learns it all the same"
    lonely = np.concatenate([rows_of(1), rows_of(2)[:1]])
    assert teach(stream, 3, lonely) == "first"
    assert teach(stream, 4, rows_of(0, 1)[6:]) == "later"
    assert said[:2] == [
        "session 1 has no clips; the backbone stays as it is",
        "session 2 has one class, which no classifier can be trained on; the backbone stays as it is",
    ]
    assert "session 4 repeats c0, c1; what is known of them grows" in said
    known = stream.classifier.statistics
    assert known.labels == ("c0", "c1", "c2")
    assert known.counts.tolist() == [12 + 6, 12 + 12, 1]
    assert np.isfinite(stream.classifier.scores(stream.embed(rows_of(3)))[1]).all()
    assert stream.recomputed().statistics.counts.tolist() == known.counts.tolist()


def test_a_stream_of_nothing() -> None:
    stream = stream_of()
    assert teach(stream, 1, np.zeros(0, dtype=np.int64)) == "empty"
    assert stream.classifier.statistics.n_samples == stream.recomputed().statistics.n_samples == 0
    assert stream.embed(np.zeros(0, dtype=np.int64)).shape == (0, 16)
    assert stream.figures()["adapted_sessions"] == [] and stream.figures()["lowest_block"] is None


def test_targets_count_from_zero_by_name() -> None:
    lesson = stream_of().lesson(3, np.array([40, 0, 14], dtype=np.int64), ["z", "a", "z"])
    assert (lesson.number, lesson.n_classes, lesson.targets.tolist()) == (3, 2, [1, 0, 1])
    assert torch.equal(lesson.features, ALL[[40, 0, 14]])


def test_figures_say_what_the_sessions_did() -> None:
    stream = stream_of(misread_share=0.0)
    for number, classes in enumerate(((0, 1), (2, 3), (4, 5)), start=1):
        teach(stream, number, rows_of(*classes))
    figures = stream.figures()
    assert figures["adapted_sessions"] == [1, 2] == list(range(1, QUICK["adapted_sessions"] + 1))
    assert figures["lowest_block"] == stream.adaptation.lowest_block
    assert len(figures["cka"]) == 4 and len(figures["boundary_points"]) == 2
    assert figures["memory_bytes"] == 8 * (6 + 6 * 64 + 64 * 65 // 2)
    assert figures["adaptation_seconds"]["backbone"] == 2.0


def test_chance_of_the_session_does_not_touch_what_was_learnt_before() -> None:
    """The classifier's sums of session 1 are those under f_1, whatever comes later."""
    stream = stream_of()
    teach(stream, 1, rows_of(0, 1))
    first = stream.classifier.statistics
    teach(stream, 2, rows_of(2, 3))
    assert np.array_equal(stream.classifier.statistics.sums[:2], first.sums)
