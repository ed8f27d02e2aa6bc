"""Laws of a course: sessions partition classes and clips, nothing asked is learnt, seeds decide and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigurationError, NotEnoughSamplesError
from trainer.datasets import Clip
from trainer.protocols import Course, Session, Split, describe_sizes, divide, make_course

SPLITS: tuple[Split, ...] = ("group", "clip")


def clips_of(n_classes: int, n_groups: int, n_each: int = 1) -> list[Clip]:
    return [
        Clip(Path(f"{label}/{group}-{n}.wav"), "set", f"class {label}", str(group))
        for label in range(n_classes)
        for group in range(1, n_groups + 1)
        for n in range(n_each)
    ]


sets = st.builds(clips_of, st.integers(1, 9), st.integers(3, 5), st.integers(1, 3))


@given(sets, st.sampled_from(SPLITS), st.integers(0, 2**31), st.data())
def test_sessions_partition_classes_and_clips(clips: list[Clip], split: Split, seed: int, data: st.DataObject) -> None:
    n = len({c.label for c in clips})
    each = data.draw(st.integers(1, n))
    course = make_course(clips, split=split, order_seed=seed, classes_per_session=each)
    dealt = [label for session in course.sessions for label in session.labels]
    assert tuple(dealt) == course.labels
    assert sorted(dealt) == sorted({c.label for c in clips})
    assert all(len(s.labels) == each for s in course.sessions[:-1])
    learnt = [c for session in course.sessions for c in session.train]
    assert len(set(learnt)) == len(learnt)
    assert sorted([*learnt, *course.test]) == list(range(len(clips)))
    for session in course.sessions:
        assert {clips[c].label for c in session.train} == set(session.labels)


@given(sets, st.integers(0, 2**31))
def test_no_group_is_on_both_sides(clips: list[Clip], seed: int) -> None:
    course = make_course(clips, split="group", order_seed=seed, sessions=1)
    learnt = {clips[c].group for session in course.sessions for c in session.train}
    assert not learnt & {clips[c].group for c in course.test}


@given(sets, st.sampled_from(SPLITS), st.integers(0, 2**31), st.integers(0, 2**31))
def test_every_order_asks_the_same_and_a_seed_says_everything(clips: list[Clip], split: Split, a: int, b: int) -> None:
    first, second = (make_course(clips, split=split, order_seed=seed, sessions=1) for seed in (a, b))
    assert first.test == second.test
    assert set(first.sessions[0].train) == set(second.sessions[0].train)
    assert first == make_course(clips, split=split, order_seed=a, sessions=1)


def test_orders_differ_and_are_known() -> None:
    clips = clips_of(10, 3)
    orders = {make_course(clips, split="group", order_seed=s, sessions=2).labels for s in range(1993, 1998)}
    assert len(orders) == 5
    first = make_course(clips, split="group", order_seed=1993, sessions=2).labels
    assert "".join(label[-1] for label in first) == "4059368271"


@given(st.integers(2, 40), st.integers(0, 2**31))
def test_by_clip_a_fifth_of_each_class_is_asked(n: int, seed: int) -> None:
    clips = clips_of(2, 1, n)
    division = divide(clips, split="clip", split_seed=seed)
    for label in division.labels:
        asked = sum(clips[c].label == label for c in division.test)
        assert asked == max(1, round(0.2 * n))
    assert division == divide(clips, split="clip", split_seed=seed)


def test_classes_on_one_side_only_are_left_out_and_named() -> None:
    clips = [*clips_of(2, 3), Clip(Path("x/1.wav"), "set", "lonely", "1"), Clip(Path("y/3.wav"), "set", "asked", "3")]
    course = make_course(clips, split="group", order_seed=0, sessions=1)
    assert course.left_out == ("asked", "lonely")
    assert set(course.labels) == {"class 0", "class 1"}
    assert not {6, 7} & {*course.test, *course.sessions[0].train}
    with pytest.raises(NotEnoughSamplesError, match="none has clips on both sides"):
        divide(clips[-2:], split="group")
    assert divide([clips[0]] * 2, split="clip").left_out == ()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"classes_per_session": 3}, "4 sessions of 3 classes, the last of 1"),
        ({"classes_per_session": 5}, "2 sessions of 5 classes"),
        ({"classes_per_session": 1}, "10 sessions of 1 class"),
        ({"sessions": 1}, "1 session of 10 classes"),
        ({"sessions": 4}, "4 sessions of 3 or 2 classes"),
    ],
)
def test_an_uneven_deal_is_said(how: dict[str, int], words: str) -> None:
    assert describe_sizes(make_course(clips_of(10, 3), split="group", order_seed=0, **how)) == words


@pytest.mark.parametrize("how", [{}, {"sessions": 2, "classes_per_session": 2}])
def test_one_way_of_dealing_is_wanted(how: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="give one of the two"):
        make_course(clips_of(4, 3), split="group", order_seed=0, **how)
    with pytest.raises(ConfigurationError, match="4 classes cannot be dealt into 5 sessions"):
        make_course(clips_of(4, 3), split="group", order_seed=0, sessions=5)


def test_sessions_without_clips_and_with_old_classes_can_be_said() -> None:
    course = Course(
        (Session(1, ("a",), (0,)), Session(2, ("b",), ()), Session(3, ("a",), (1,))), (2,), 0, "group", ("a", "b")
    )
    assert course.sessions[1].train == ()
