"""The laws of trying again: what an answer means, how long to wait, how many requests an hour may lead nowhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sync.retry import (
    BUDGET_BURST,
    BUDGET_PER_HOUR,
    CAP_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    Moment,
    RequestBudget,
    Verdict,
    delay_s,
    judge,
    retry_after_s,
)


@given(n=st.integers(1, 10_000), seed=st.integers(0, 2**32))
def test_waiting_is_jittered_from_zero_to_a_ceiling_that_doubles(n: int, seed: int) -> None:
    waited = delay_s(n, np.random.default_rng(seed))
    assert 0.0 <= waited <= min(CAP_SECONDS, 2.0 ** min(n - 1, 40))


@given(n=st.integers(1, 20), asked=st.floats(0, 1e9), seed=st.integers(0, 2**32))
def test_what_the_server_asks_for_is_the_least_within_an_hour(n: int, asked: float, seed: int) -> None:
    waited = delay_s(n, np.random.default_rng(seed), retry_after_s=asked)
    assert min(asked, MAX_RETRY_AFTER_SECONDS) <= waited <= max(CAP_SECONDS, MAX_RETRY_AFTER_SECONDS)


def test_a_fleet_does_not_come_back_in_step() -> None:
    waits = [delay_s(10, np.random.default_rng(seed)) for seed in range(200)]
    per_tenth = np.histogram(waits, bins=10, range=(0.0, 512.0))[0]
    assert per_tenth.max() < 45  # without jitter all 200 would be in one


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("3", 3.0), (" 7 ", 7.0), ("-1", None), ("9" * 40, 3600.0), ("1e9", None),
     ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)  # fmt: skip
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


@pytest.mark.parametrize(
    ("status", "kind", "verdict"),
    [
        (None, None, Verdict.LATER), (200, None, Verdict.TAKEN), (202, None, Verdict.TAKEN),
        (302, None, Verdict.LATER), (401, "bad-signature", Verdict.STOPPED), (403, "revoked", Verdict.STOPPED),
        (403, None, Verdict.LATER), (403, "bad-token", Verdict.REFUSED), (404, "not-found", Verdict.REFUSED),
        (404, None, Verdict.LATER), (408, None, Verdict.LATER), (409, "replayed", Verdict.REPLAYED),
        (409, "offset", Verdict.ELSEWHERE), (409, None, Verdict.LATER), (413, None, Verdict.REFUSED),
        (422, "refused", Verdict.REFUSED), (429, "too-many", Verdict.LATER), (500, None, Verdict.LATER),
        (503, "revoked", Verdict.LATER), (101, None, Verdict.LATER),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int | None, kind: str | None, verdict: Verdict) -> None:
    assert judge(status, kind) is verdict


STEPS = st.lists(
    st.tuples(st.floats(0, 4000), st.booleans(), st.sampled_from(["take", "give"])), min_size=1, max_size=400
)


@given(steps=STEPS)
def test_no_hour_sees_more_than_sixty(steps: list[tuple[float, bool, str]]) -> None:
    """Whatever happens when: seconds pass, the device restarts (its boot's clock begins anew), a request is taken."""
    boot, since_boot, passed = 0, 0.0, 0.0
    bucket, taken = RequestBudget.full(Moment("0", 0.0)), []
    for seconds, restarts, _ in steps:
        passed += seconds
        since_boot += seconds
        if restarts:
            boot, since_boot = boot + 1, 0.0
        bucket, wait_s = bucket.take(Moment(str(boot), since_boot))
        assert 0.0 <= bucket.tokens <= BUDGET_BURST
        if wait_s == 0.0:
            taken.append(passed)
        else:
            assert wait_s <= 3600.0 / BUDGET_PER_HOUR
    for i, start in enumerate(taken):
        assert sum(1 for t in taken[i:] if t - start < 3600.0) <= BUDGET_BURST + BUDGET_PER_HOUR


@given(jump=st.floats(-1e12, 1e12), tokens=st.floats(0, BUDGET_BURST))
def test_a_clock_that_goes_backwards_gains_nothing_and_loses_nothing(jump: float, tokens: float) -> None:
    bucket = RequestBudget(tokens, Moment("a", 1000.0)).refilled(Moment("a", 1000.0 - abs(jump)))
    assert bucket.tokens == tokens
    assert RequestBudget(tokens, Moment("a", 1000.0)).refilled(Moment("a", float("nan"))).tokens == tokens


def test_a_request_that_led_somewhere_costs_nothing() -> None:
    bucket = RequestBudget.full(Moment("a", 0.0))
    for _ in range(1000):
        bucket, wait_s = bucket.take(Moment("a", 0.0))
        assert wait_s == 0.0
        bucket = bucket.give_back(Moment("a", 0.0))
    assert bucket.tokens == BUDGET_BURST
