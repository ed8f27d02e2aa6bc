"""A trial teaches held-out sounds, counts what it should, and every step of the cure is the score that it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.alarm_trial import SHIPPED, STEPS, Lesson, Step, Trial, negatives, own_distance, scores_of, stream_of
from benchmarks.draws import clips_by_label, taught
from benchmarks.embedded import Embedded, prior_of
from edge.heads import Background, DetectionHead, fit_detection
from tests.benchmarks.recordings import recordings


def lesson(data: Embedded) -> Lesson:
    """Teach the dog and the bell from held-out clips; a quarter of the rest is the room."""
    own = clips_by_label(data, data.where(sets=("esc50",), held_out=True, labels=("bell", "dog")))
    others = negatives(data, set(own))
    return Lesson(
        {label: tuple(clips[:3]) for label, clips in own.items()},
        {label: tuple(clips[4:]) for label, clips in own.items()},
        tuple(others[::4]),
    )


def head_of(data: Embedded) -> DetectionHead:
    known = taught(data, [c for clips in lesson(data).teach.values() for c in clips])
    prior = prior_of(data, data.where(sets=("esc50",), held_out=False))
    return fit_detection(known, Background.from_statistics(prior, 1.0, None, 16.0, known.space), ridge=16.0)


def test_negatives_are_held_out_and_hold_no_taught_sound() -> None:
    data = recordings()
    found = negatives(data, {"bell", "dog"})
    assert found
    assert all(data.clips.held_out[c] and data.clips.labels[c] not in {"bell", "dog"} for c in found)


def test_what_goes_on_for_long_is_ambience_and_not_another_sound() -> None:
    data = recordings()
    kinds = {str(data.clips.labels[c]): stream_of(data, c) for c in range(len(data.clips))}
    assert kinds["rain"] == "ambience"
    assert kinds["siren"] == "other sounds"


def test_a_taught_sound_is_heard_and_the_rest_is_not() -> None:
    data = recordings(n_per_side=12)
    curve = Trial(data, None, 16.0).curves([lesson(data)], SHIPPED, 3)["clean"]
    assert curve.rate(curve.threshold_missing(0.2)) == 0.0


def test_own_distance_is_the_score_of_the_taught_mean() -> None:
    data = recordings()
    head = head_of(data)
    known = taught(data, [c for clips in lesson(data).teach.values() for c in clips])
    means = known.means
    assert own_distance(head) == pytest.approx(np.diag(means @ head.weights - head.offset), rel=1e-9)


def test_each_score_is_the_one_before_less_one_term() -> None:
    data = recordings()
    head, x = head_of(data), data.features[:20]
    z, rivals, own = (scores_of(head, x, score) for score in ("z", "rivals", "own distance"))
    assert np.array_equal(z, head.z(x))
    assert rivals == pytest.approx(z - head.rivals.against(x, head.admitted))
    assert own == pytest.approx(rivals - 0.25 * own_distance(head))


def test_the_room_that_is_taught_is_not_counted() -> None:
    data = recordings(n_per_side=12)
    trial, one = Trial(data, None, 16.0), lesson(data)
    whole = trial.curves([one], SHIPPED, 3)["clean"].outcomes[0]
    rest = trial.curves([one], replace(SHIPPED, aside=18.0), 3)["clean"].outcomes[0]
    room = sum(float(data.clips.seconds[c]) for c in one.room) / 3600.0
    assert rest.hours.sum() == pytest.approx(whole.hours.sum() - room)
    taught_room = trial.curves([one], replace(SHIPPED, aside=18.0, minutes=5.0), 3)["clean"].outcomes[0]
    assert taught_room.hours.sum() == rest.hours.sum()
    assert not np.array_equal(taught_room.negatives, rest.negatives)


def test_new_kinds_are_left_out_of_the_prior() -> None:
    data = recordings()
    trial = Trial(data, None, 16.0)
    known = trial.curves([lesson(data)], Step("known"), 3)["clean"].positives
    new = trial.curves([lesson(data)], Step("new", new_kinds=True), 3)["clean"].positives
    assert not np.array_equal(known, new)


def test_the_steps_build_on_each_other() -> None:
    names = [step.name for step in STEPS]
    assert len(set(names)) == len(names)
    sizes = [len(step.sets) for step in STEPS]
    assert sizes == sorted(sizes)
