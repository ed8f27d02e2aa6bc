"""What a listener does when nothing was learnt for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.config import LearnSettings
from edge.errors import ApiError
from edge.hearing import Example, Levels
from edge.idle import IdleWork
from edge.journal import Journal
from edge.learner import Learner
from edge.manifest import DetectionDefaults
from edge.readout import CALIBRATION, Readout, readout_of
from edge.ridge_selection import CalibrationRecord
from edge.space import EmbeddingSpace, FeatureSpace

SPACE = EmbeddingSpace("a" * 64, 8000, 4000, 2000, 8)
FEATURES = FeatureSpace(SPACE)


def example(label: int, seed: int) -> Example:
    """Two classes that only a small ridge tells apart well."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 100.0, (4, 8))
    x[:, label] += 500.0
    x[:, 7] += rng.normal(0.0, 7000.0)
    return Example(SPACE, x.astype(np.int16), Levels(np.full(4, 0.1), np.full(4, 0.5), np.zeros(4)), {})


def call(work: Callable[[], Any]) -> Future[Any]:
    """Do it at once, as a loop with nothing else to do."""
    answer: Future[Any] = Future()
    answer.set_result(work())
    return answer


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    with Journal.open(tmp_path, space=SPACE) as journal:
        learner = Learner(journal, FEATURES, readout=Readout(ridge=2.0**10), live=True)
        for seed in range(16):
            learner.teach(f"class {seed % 2}", [example(seed % 2, seed)])
        yield learner


def test_the_choice_is_kept_and_used_and_what_was_learnt_is_untouched(learner: Learner) -> None:
    known = learner.statistics_sha256
    chosen = IdleWork(lambda: learner, call, idle_seconds=0.0, default_ridge=2.0**10).work()
    assert chosen is not None and chosen.statistics_sha256 == known
    assert learner.readout.ridge == chosen.ridge < 2.0**10
    assert learner.statistics_sha256 == known
    journal = learner.journal
    assert CalibrationRecord.from_dict(journal.get_kv(CALIBRATION + FEATURES.sha256)) == chosen
    assert readout_of(DetectionDefaults(ridge=2.0), LearnSettings(), journal, FEATURES).ridge == chosen.ridge
    assert readout_of(DetectionDefaults(), LearnSettings(ridge=8.0), journal, FEATURES).ridge == 8.0
    probe = np.random.default_rng(0).integers(-9000, 9000, (5, 8)).astype(np.int16)
    np.testing.assert_allclose(learner.judge(probe)[1], learner.head().scores(probe), rtol=1e-9)
    assert list(journal.state_dir.glob("*.snapshot"))


def test_without_a_preferred_ridge_there_is_a_snapshot_and_no_choice(learner: Learner) -> None:
    assert IdleWork(lambda: learner, call, idle_seconds=0.0, default_ridge=None).work() is None
    assert learner.readout.ridge == 2.0**10
    assert list(learner.journal.state_dir.glob("*.snapshot"))


def test_a_choice_that_something_learnt_overtook_is_dropped(learner: Learner) -> None:
    calls = 0

    def overtaken(work: Callable[[], Any]) -> Future[Any]:
        nonlocal calls
        calls += 1
        if calls == 3:
            learner.teach("class 0", [example(0, 99)])
        return call(work)

    IdleWork(lambda: learner, overtaken, idle_seconds=0.0, default_ridge=2.0**10).work()
    assert calls == 3 and learner.readout.ridge == 2.0**10
    assert learner.journal.get_kv(CALIBRATION + FEATURES.sha256) is None


def test_it_waits_until_nothing_was_learnt_for_a_while_and_then_works_once(learner: Learner) -> None:
    now, done = [0.0], threading.Event()
    calls: list[int] = []

    def counting(work: Callable[[], Any]) -> Future[Any]:
        calls.append(1)
        done.set()
        return call(work)

    idle = IdleWork(
        lambda: learner, counting, idle_seconds=30.0, default_ridge=None, poll_seconds=0.002, clock=lambda: now[0]
    )
    with idle:
        time.sleep(0.05)
        assert not calls, "nothing was learnt since the start"
        learner.teach("class 0", [example(0, 50)])
        time.sleep(0.05)
        assert not calls, "not idle for long enough"
        now[0] = 31.0
        assert done.wait(5.0)
        time.sleep(0.05)
    assert len(calls) == 1


def test_when_it_fails_somebody_is_told_and_nothing_else_happens(learner: Learner) -> None:
    now, told = [0.0], threading.Event()

    def refusing(work: Callable[[], Any]) -> Future[Any]:
        raise ApiError("too much waits already")

    def tell(words: str) -> None:
        assert "left undone" in words
        told.set()

    idle = IdleWork(
        lambda: learner,
        refusing,
        idle_seconds=1.0,
        default_ridge=None,
        tell=tell,
        poll_seconds=0.002,
        clock=lambda: now[0],
    )
    with idle:
        learner.teach("class 1", [example(1, 51)])
        time.sleep(0.05)
        now[0] = 2.0
        assert told.wait(5.0)
