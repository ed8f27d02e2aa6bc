"""Class-incremental courses: which classes come in which session, which clips are learnt, which are asked. Pure.

A course is values only, so that anything may be said with one, also a session without clips or one that repeats a
class. ``make_course`` makes the ordinary kind: each class in one session, in an order that a written seed gives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge.errors import ConfigurationError, NotEnoughSamplesError
from trainer.datasets import Clip, is_held_out

Split = Literal["group", "clip"]
FIRST_ORDER_SEED = 1993
SPLIT_SEED = 1993
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Session:
    """number: from 1. labels: the classes that come. train: indices of the clips to learn."""

    number: int
    labels: tuple[str, ...]
    train: tuple[int, ...]


@dataclass(frozen=True)
class Course:
    """test: indices of the clips that are asked, of any class of ``labels``; they are in no session.

    labels: all classes, in the order in which they first come. left_out: classes with clips on one side only.
    """

    sessions: tuple[Session, ...]
    test: tuple[int, ...]
    order_seed: int
    split: str
    labels: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Division:
    """Clips on two sides, by index and in their order; only classes that have clips on both."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    labels: tuple[str, ...]
    left_out: tuple[str, ...]


def divide(
    clips: Sequence[Clip],
    *,
    split: Split,
    split_seed: int = SPLIT_SEED,
    held_out: Callable[[Clip], bool] = is_held_out,
) -> Division:
    """Divide clips into what is learnt and what is asked, the same for every order of classes.

    split: ``group`` asks the groups that ``held_out`` names; ``clip`` asks a fifth of each class, drawn with
    ``split_seed`` (at least one clip, of a class with two). Raises NotEnoughSamplesError when no class is left.
    """
    if split == "group":
        asked = {i for i, clip in enumerate(clips) if held_out(clip)}
    else:
        asked = _fifth_of_each_class(clips, split_seed)
    sides = [{clip.label for i, clip in enumerate(clips) if (i in asked) == side} for side in (False, True)]
    labels = sides[0] & sides[1]
    left_out = sides[0] ^ sides[1]
    if not labels:
        raise NotEnoughSamplesError(
            f"of {len(left_out)} classes none has clips on both sides of the split by {split} ({len(asked)} of "
            f"{len(clips)} clips are asked); give a set with several groups in each class, or --split clip"
        )
    kept = [i for i, clip in enumerate(clips) if clip.label in labels]
    return Division(
        tuple(i for i in kept if i not in asked),
        tuple(i for i in kept if i in asked),
        tuple(sorted(labels)),
        tuple(sorted(left_out)),
    )


def make_course(
    clips: Sequence[Clip],
    *,
    split: Split,
    order_seed: int,
    classes_per_session: int = 0,
    sessions: int = 0,
    split_seed: int = SPLIT_SEED,
    held_out: Callable[[Clip], bool] = is_held_out,
) -> Course:
    """Deal classes into sessions in the order that ``order_seed`` gives.

    Give ``classes_per_session`` (the last session may be smaller) or ``sessions`` (whose sizes differ by one at most).
    The order is a permutation of the sorted labels by ``numpy.random.default_rng(order_seed)``. Raises
    ConfigurationError, NotEnoughSamplesError.
    """
    division = divide(clips, split=split, split_seed=split_seed, held_out=held_out)
    order = [division.labels[i] for i in np.random.default_rng(order_seed).permutation(len(division.labels))]
    own: dict[str, list[int]] = defaultdict(list)
    for i in division.train:
        own[clips[i].label].append(i)
    dealt = tuple(
        Session(number, tuple(part), tuple(i for label in part for i in own[label]))
        for number, part in enumerate(_deal(order, classes_per_session, sessions), start=1)
    )
    return Course(dealt, division.test, order_seed, split, tuple(order), division.left_out)


def describe_sizes(course: Course) -> str:
    """Sessions and classes in words, an uneven deal included: ``4 sessions of 3 classes, the last of 1``."""
    sizes = [len(session.labels) for session in course.sessions]
    words = f"{len(sizes)} session{'s' * (len(sizes) > 1)} of {sizes[0]} class{'es' * (sizes[0] > 1)}"
    if len(set(sizes)) == 1:
        return words
    if len(set(sizes[:-1])) == 1:
        return f"{words}, the last of {sizes[-1]}"
    return f"{len(sizes)} sessions of {max(sizes)} or {min(sizes)} classes"


def _deal(order: Sequence[str], classes_per_session: int, sessions: int) -> list[list[str]]:
    if (classes_per_session > 0) == (sessions > 0):
        raise ConfigurationError(
            f"{classes_per_session} classes per session and {sessions} sessions were asked for; give one of the two: "
            f"--classes-per-session or --sessions"
        )
    if max(classes_per_session, sessions) > len(order):
        raise ConfigurationError(
            f"{len(order)} classes cannot be dealt into {sessions or 'sessions of'} "
            f"{'sessions' if sessions else classes_per_session}; ask for fewer"
        )
    if sessions:
        return [list(part) for part in np.array_split(np.array(order, dtype=object), sessions)]
    return [list(order[i : i + classes_per_session]) for i in range(0, len(order), classes_per_session)]


def _fifth_of_each_class(clips: Sequence[Clip], seed: int) -> set[int]:
    rng = np.random.default_rng(seed)
    own: dict[str, list[int]] = defaultdict(list)
    for i, clip in enumerate(clips):
        own[clip.label].append(i)
    asked: set[int] = set()
    for label in sorted(own):
        order = rng.permutation(own[label])
        n_asked = max(1, round(TEST_SHARE * len(order))) if len(order) > 1 else 0
        asked.update(int(i) for i in order[:n_asked])
    return asked
