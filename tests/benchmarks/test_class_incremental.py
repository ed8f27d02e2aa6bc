"""Sessions add up to joint training to the bit; what learns by gradient descent forgets."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.class_incremental import Softmax, course, course_rows, differences, sums_of_sessions
from tests.benchmarks.recordings import recordings


@pytest.mark.parametrize("split", ["by group", "by clip"])
def test_sessions_add_up_to_joint_training_to_the_bit(split: str) -> None:
    lessons = course(recordings(), "sounds", split, 5, np.random.default_rng(0))
    assert set(differences(lessons, sums_of_sessions(lessons)[-1]).values()) == {0}


def test_a_session_left_out_or_learnt_twice_is_noticed() -> None:
    lessons = course(recordings(), "sounds", "by group", 5, np.random.default_rng(0))
    after = sums_of_sessions(lessons)
    assert differences(lessons, after[-2])["statistics"] > 0
    twice = after[-1] + after[0]
    found = differences(lessons, twice)
    assert found["statistics"] > 0
    assert found["LDA"] > 0


def test_gradient_descent_forgets_where_sums_do_not() -> None:
    lessons = course(recordings(n_per_side=10), "sounds", "by group", 5, np.random.default_rng(0))
    last = {row["read-out"]: row["last"] for row in course_rows(lessons, "sounds", "by group", epochs=20)}
    assert last["LDA"] > 0.9
    assert last["softmax, joint SGD"] > 0.9
    assert last["softmax, sequential SGD"] < 0.6


def test_softmax_learns_what_is_separable() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-1.0, 0.1, (40, 2)), rng.normal(1.0, 0.1, (40, 2))])
    labels = np.repeat(["a", "b"], 40)
    model = Softmax(2)
    model.learn(x, labels, rng, epochs=5)
    head = model.head()
    assert (np.array(head.labels)[head.scores(x).argmax(axis=1)] == labels).all()
