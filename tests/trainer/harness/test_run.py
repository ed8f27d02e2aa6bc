"""One method through one course: what is asked, what is kept, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import ConfigurationError
from tests.trainer.harness.synthetic_material import clips_of, context_of, course_of, material_of
from trainer.errors import TrainingError
from trainer.harness.cost import PeakMemory
from trainer.harness.material import Material
from trainer.harness.method import MethodContext, MethodKind
from trainer.harness.run import answers, clip_scores, run_course, run_or_read
from trainer.protocols import Course, Session

MATERIAL = material_of(clips_of(4))
Scores = Callable[[NDArray[np.int64], list[str]], NDArray[np.float64]]


class Scripted:
    """Knows the classes of the sessions so far, and scores as told."""

    def __init__(self, score: Scores, material: Material = MATERIAL) -> None:
        self.name = "scripted"
        self.labels: list[str] = []
        self.n_learnt = 0
        self._score = score
        self._material = material

    def learn(self, session: Session) -> None:
        self.labels += [label for label in session.labels if label not in self.labels]
        self.n_learnt += 1

    def scores(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        return tuple(self.labels), self._score(rows, self.labels)

    def figures(self) -> dict[str, Any]:
        return {"memory_bytes": 7}


def knows_all(rows: NDArray[np.int64], labels: list[str]) -> NDArray[np.float64]:
    truth = MATERIAL.labels_of_rows(rows)
    return np.array([[float(name == label) for label in labels] for name in truth])


def knows_the_latest(rows: NDArray[np.int64], labels: list[str]) -> NDArray[np.float64]:
    return knows_all(rows, labels) * np.array([label in labels[-2:] for label in labels])[None, :] + np.array(
        [0.5 * (label == labels[-1]) for label in labels]
    )


def test_a_matrix_of_sessions_by_sessions() -> None:
    course = course_of(MATERIAL)
    run = run_course(Scripted(knows_all), course, MATERIAL)
    assert run.accuracy == ((1.0, None), (1.0, 1.0))
    assert run.overall == (1.0, 1.0)
    assert run.n_asked == (4, 4)
    assert run.correct == "1" * len(course.test)
    assert run.figures == {"memory_bytes": 7}
    assert len(run.seconds) == 2
    assert run.peak_bytes > 10**6
    forgetful = run_course(Scripted(knows_the_latest), course, MATERIAL)
    assert forgetful.accuracy == ((1.0, None), (0.0, 1.0))
    assert forgetful.overall == (1.0, 0.5)
    assert forgetful.correct.count("1") == 4


def test_only_clips_of_seen_classes_are_asked() -> None:
    course = course_of(MATERIAL)
    asked: list[set[str]] = []

    def note(rows: NDArray[np.int64], labels: list[str]) -> NDArray[np.float64]:
        asked.append(set(MATERIAL.labels_of_rows(rows)))
        return knows_all(rows, labels)

    run_course(Scripted(note), course, MATERIAL)
    assert asked == [set(course.sessions[0].labels), set(course.labels)]


def test_asking_less_often_always_asks_at_the_end() -> None:
    course = course_of(MATERIAL, classes_per_session=1)
    run = run_course(Scripted(knows_all), course, MATERIAL, ask_every=3)
    assert run.overall == (None, None, 1.0, 1.0)
    assert run.accuracy[1] == (None,) * 4


def test_a_clip_is_the_mean_of_its_windows_and_ties_go_by_name() -> None:
    scores = np.array([[0.9, 0.0], [0.0, 0.5], [0.0, 0.5], [1.0, 0.0]])
    assert np.allclose(clip_scores(scores, np.array([3, 3, 3, 5])), [[0.3, 1 / 3], [1.0, 0.0]])
    method = Scripted(lambda rows, labels: np.zeros((len(rows), len(labels))))
    method.labels = ["c1", "c0"]
    own = [i for i, clip in enumerate(MATERIAL.clips) if clip.label in ("c0", "c1")]
    assert answers(method, MATERIAL, own) == {i: MATERIAL.clips[i].label == "c0" for i in own}
    assert answers(method, MATERIAL, []) == {}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_stop_it(value: float) -> None:
    method = Scripted(lambda rows, labels: np.full((len(rows), len(labels)), value))
    with pytest.raises(TrainingError, match=r"scripted gave scores .* not finite"):
        run_course(method, course_of(MATERIAL), MATERIAL)
    wide = Scripted(lambda rows, labels: np.zeros((len(rows), 9)))
    with pytest.raises(TrainingError, match=r"shape \(\d+, 9\)"):
        run_course(wide, course_of(MATERIAL), MATERIAL)


class Counter:
    def __init__(self) -> None:
        self.built = 0

    def __call__(self, context: MethodContext) -> Scripted:
        self.built += 1
        return Scripted(knows_all)


def test_a_finished_run_is_read_and_another_is_refused_by_name(tmp_path: Path) -> None:
    path, build, course = tmp_path / "runs" / "1993.json", Counter(), course_of(MATERIAL)
    kind = MethodKind("scripted", build)
    first = run_or_read(path, kind, context_of(MATERIAL, course), {"backbone": "a"})
    again = run_or_read(path, kind, context_of(MATERIAL, course), {"backbone": "a"})
    assert again == first
    assert build.built == 1
    assert again.accuracy == ((1.0, None), (1.0, 1.0))
    for context, recipe, said in (
        (context_of(MATERIAL, course), {"backbone": "b"}, "backbone was a, now b"),
        (context_of(MATERIAL, course, settings={"ridge": "2"}), {"backbone": "a"}, "settings was {}, now"),
        (context_of(MATERIAL, course, seed=3), {"backbone": "a"}, "seed was 0, now 3"),
        (context_of(MATERIAL, course_of(MATERIAL, order_seed=7)), {"backbone": "a"}, "course was"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            run_or_read(path, kind, context, recipe)
    assert build.built == 1


def test_an_interrupted_run_leaves_nothing_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path, course = tmp_path / "1993.json", course_of(MATERIAL)

    def stopped(rows: NDArray[np.int64], labels: list[str]) -> NDArray[np.float64]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_or_read(path, MethodKind("s", lambda c: Scripted(stopped)), context_of(MATERIAL, course), {})
    assert not list(tmp_path.iterdir())
    for text in ("{", json.dumps({"schema": 99}), json.dumps({"schema": 1, "recipe": {}, "run": {}})):
        path.write_text(text)
        with pytest.raises(TrainingError, match=r"cannot be read .*; delete it to run again"):
            run_or_read(path, MethodKind("s", Counter()), context_of(MATERIAL, course), {})


def test_the_peak_is_counted_afresh() -> None:
    peak = PeakMemory()
    before = peak.host_bytes()
    ballast = np.ones(400_000_000, dtype=np.uint8)
    highest = peak.host_bytes()
    assert highest >= before + 200_000_000
    del ballast
    if not peak.is_afresh:
        pytest.skip("this system keeps one peak for the whole process")
    assert PeakMemory().host_bytes() < highest - 200_000_000


def test_a_course_where_nothing_is_asked() -> None:
    course = Course((Session(1, ("c0",), (0,)),), (), 0, "group", ("c0",))
    run = run_course(Scripted(knows_all), course, MATERIAL)
    assert run.overall == (None,)
    assert run.correct == ""
