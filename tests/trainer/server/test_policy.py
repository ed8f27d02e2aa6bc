"""When a job begins: a pure question of numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigurationError
from trainer.server.policy import DAY_SECONDS, Policy, Situation, reason_to_begin, why_not

NOW = Situation(now=1e9, n_new=50, n_per_class={"bell": 30, "dog": 20}, last_job_at=1e9 - 3600.0, busy=False)


def test_enough_new_clips_begin_a_job() -> None:
    assert reason_to_begin(Policy(), NOW) == "policy: 50 new clips"
    assert reason_to_begin(Policy(), replace(NOW, n_new=49)) is None
    assert reason_to_begin(Policy(min_clips=None), NOW) is None


def test_days_begin_a_job_where_there_is_something_new() -> None:
    policy = Policy(min_clips=None, every_days=7)
    week_ago = replace(NOW, n_new=1, last_job_at=NOW.now - 7 * DAY_SECONDS)
    assert reason_to_begin(policy, week_ago) == "policy: 7 days since the last job, 1 new clips"
    assert reason_to_begin(policy, replace(week_ago, n_new=0)) is None
    assert reason_to_begin(policy, replace(week_ago, now=week_ago.now - DAY_SECONDS)) is None
    assert reason_to_begin(policy, replace(week_ago, last_job_at=None)) == "policy: no job yet, 1 clips"
    assert reason_to_begin(policy, replace(week_ago, last_job_at=NOW.now + 1e9)) is None, "a clock that was set back"


def test_nothing_begins_while_a_job_is_open_or_the_policy_is_off() -> None:
    assert reason_to_begin(Policy(), replace(NOW, busy=True)) is None
    assert reason_to_begin(Policy(on=False), NOW) is None


def test_what_is_missing_is_said() -> None:
    assert why_not(Policy(), NOW.n_per_class) is None
    words = why_not(Policy(), {"bell": 30, "dog": 3})
    assert words is not None and words.startswith("1 classes of the fleet have 4 clips or more; an adaptation wants 2")
    assert reason_to_begin(Policy(), replace(NOW, n_per_class={"bell": 50})) is None


@given(n=st.integers(0, 200), least=st.integers(1, 200))
def test_more_clips_never_stop_a_job(n: int, least: int) -> None:
    policy = Policy(min_clips=least)
    if reason_to_begin(policy, replace(NOW, n_new=n)) is not None:
        assert reason_to_begin(policy, replace(NOW, n_new=n + 1)) is not None


def test_it_survives_as_json() -> None:
    policy = Policy(epochs=3, settings=("rank=4",), pools={"rooms": "/pool"}, every_days=2.5, min_clips=None)
    assert Policy.from_mapping(policy.to_mapping()) == policy


def test_what_the_gates_want_is_no_input_of_a_job() -> None:
    """So the gates can be asked again, with other limits, of a bundle that is made already."""
    assert replace(Policy(), min_map_cosine=0.9, threads=4).deciding == Policy().deciding
    assert replace(Policy(), epochs=3).deciding != Policy().deciding


@pytest.mark.parametrize(
    "changes",
    [
        {"min_classes": 1}, {"min_clips": 0}, {"epochs": 1.5}, {"every_days": -1}, {"max_size_ratio": float("nan")},
        {"settings": ("rank",)}, {"pools": {"a": 1}}, {"on": 1}, {"backbone": 3}, {"n_gpus": None}, {"colour": 1},
    ],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="policy has"):
        Policy.from_mapping(changes)
