"""The curve of false alarms over misses follows from the scores; intervals know what audio there was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.alarm_curves import HOME, STREAMS, Curve, Outcome, stream_rows
from benchmarks.degrade import gain, loudest_second


def outcome(seed: int) -> Outcome:
    rng = np.random.default_rng(seed)
    n = 400
    return Outcome(
        rng.normal(4.0, 1.0, 30),
        rng.standard_normal((n, 3)),
        np.arange(n, dtype=np.int64) * 4000,
        np.sort(rng.integers(0, len(STREAMS), n)),
        np.full(len(STREAMS), 0.25),
    )


def test_a_curve_trades_misses_for_false_alarms() -> None:
    curve = Curve((outcome(0), outcome(1)), 32000)
    points = list(curve.points(12))
    assert all(a["missed"] <= b["missed"] for a, b in itertools.pairwise(points))
    assert all(p["low"] <= p["rate"] <= p["high"] for p in points)
    assert curve.rate(curve.threshold_at(1.0)) <= 1.0
    assert curve.rate(np.inf) == 0.0


def test_streams_of_the_home_are_counted_apart_from_other_sounds() -> None:
    whole = Curve((outcome(0),), 32000)
    home = Curve((outcome(0),), 32000, HOME)
    rows = {row["stream"]: row for row in stream_rows(whole, 1.0)}
    assert rows["home"]["rate"] == pytest.approx(home.rate(1.0))
    assert rows["all"]["rate"] == pytest.approx(whole.rate(1.0))
    assert rows["home"]["hours"] == pytest.approx(1.0)
    assert home.rate(1.0) != whole.rate(1.0)


def test_more_draws_of_the_same_hours_do_not_narrow_the_interval() -> None:
    one, many = Curve((outcome(0),), 32000), Curve((outcome(0),) * 10, 32000)
    assert one.interval(1.5) == pytest.approx(many.interval(1.5))


def test_gain_clips_at_full_scale_and_the_loudest_second_is_found() -> None:
    x = np.concatenate([np.full(100, 0.1), np.full(100, 0.8)]).astype(np.float32)
    assert gain(6.0)(0, x).max() == 1.0
    assert gain(-20.0)(0, x).max() == pytest.approx(0.08)
    assert loudest_second(x, 100) == pytest.approx(0.8)
