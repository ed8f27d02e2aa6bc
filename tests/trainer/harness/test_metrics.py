"""Measures against hand-made matrices, intervals against the tables, and when "better" may be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.harness.synthetic_material import run_of
from trainer.harness.metrics import area_over_budgets, compare, matrix, measures, t_interval

BY_HAND = [[0.9, None, None], [0.7, 0.8, None], [0.75, 0.5, 1.0]]


def test_measures_by_hand() -> None:
    found = measures(run_of(BY_HAND, overall=[0.9, 0.75, 0.7]))
    assert found.last == 0.7
    assert found.average == pytest.approx((0.9 + 0.75 + 0.7) / 3)
    assert found.forgetting == pytest.approx(((0.9 - 0.75) + (0.8 - 0.5)) / 2)
    assert found.new_class == pytest.approx((0.8 + 1.0) / 2)
    assert found.backward_transfer == pytest.approx(((0.75 - 0.9) + (0.5 - 0.8)) / 2)


def test_forgetting_counts_from_the_best_and_is_never_negative() -> None:
    rises = measures(run_of([[0.5, None, None], [0.9, 0.5, None], [0.7, 0.6, 1.0]]))
    assert rises.forgetting == pytest.approx((0.2 + 0.0) / 2)
    assert rises.backward_transfer == pytest.approx((0.2 + 0.1) / 2)


def test_one_session_forgets_nothing_and_says_so() -> None:
    found = measures(run_of([[0.6]]))
    assert (found.last, found.average) == (0.6, 0.6)
    assert (found.forgetting, found.new_class, found.backward_transfer) == (None, None, None)


def test_sessions_without_test_clips_and_those_not_asked_do_not_count() -> None:
    run = run_of([[0.5, None, None], [0.5, None, None], [0.4, None, 1.0]], overall=[0.5, None, 0.8])
    found = measures(run)
    assert found.average == pytest.approx(0.65)
    assert found.forgetting == pytest.approx(0.1)
    assert found.new_class == 1.0
    assert math.isnan(matrix(run)[1, 1])


def test_five_orders_use_2_776() -> None:
    d = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = t_interval(d)
    assert found.high is not None
    assert (found.high - found.mean) / (np.std(d, ddof=1) / math.sqrt(5)) == pytest.approx(2.776, abs=5e-4)
    assert found.sign == 1
    assert t_interval([1.0]).sign == 0
    assert t_interval([1.0]).low is None
    assert math.isnan(t_interval([]).mean)


@given(st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=8))
def test_an_interval_holds_its_mean_and_turns_with_its_sign(d: list[float]) -> None:
    a, b = t_interval(d), t_interval([-x for x in d])
    assert a.low is not None
    assert a.high is not None
    assert a.low <= a.mean <= a.high
    assert a.sign == -b.sign


def seeded(last: list[float], correct: str) -> list:
    return [run_of([[value]], order_seed=1993 + i, correct=correct) for i, value in enumerate(last)]


def test_better_needs_both_intervals() -> None:
    base, good = seeded([0.5, 0.52, 0.48], "10" * 50), seeded([0.9, 0.92, 0.89], "11" * 45 + "10" * 5)
    assert compare(good, base).verdict == "better"
    assert compare(base, good).verdict == "worse"
    same = compare(base, base)
    assert (same.verdict, same.orders.mean) == ("not separated", 0.0)


def test_no_order_effect_is_no_proof() -> None:
    """Two heads that no order changes differ by one clip of 400: the interval over orders has no width at all."""
    a, b = seeded([0.5025] * 5, "1" * 201 + "0" * 199), seeded([0.5] * 5, "1" * 200 + "0" * 200)
    found = compare(a, b)
    assert found.orders.sign == 1
    assert found.clips.sign == 0
    assert found.verdict == "not separated"


def test_orders_that_disagree_are_not_separated() -> None:
    a, b = seeded([0.9, 0.4, 0.9], "1" * 100), seeded([0.5, 0.5, 0.5], "0" * 100)
    assert compare(a, b).verdict == "not separated"


def test_area_over_budgets() -> None:
    area, mean = area_over_budgets([8.0, 12.0, 24.0], [0.5, 0.7, 0.7])
    assert area == pytest.approx(4 * 0.6 + 12 * 0.7)
    assert mean == pytest.approx(area / 16.0)
    assert area_over_budgets([1.0, 3.0], [0.4, 0.4])[1] == pytest.approx(0.4)
