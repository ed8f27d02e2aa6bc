"""The curve of false alarms over misses follows from the scores; intervals know what audio there was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.alarm_curves import HOME, STREAMS, Curve, Outcome, outward_interval, stream_rows
from benchmarks.counting import poisson_interval
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


def test_a_clip_that_nothing_can_reach_is_missed_at_every_threshold() -> None:
    one = outcome(0)
    deaf = Outcome(np.append(one.positives, -np.inf), one.negatives, one.times, one.stream, one.hours)
    curve = Curve((deaf,), 32000)
    assert curve.missed(curve.threshold_at(5.0)) == pytest.approx(
        (Curve((one,), 32000).missed(curve.threshold_at(5.0)) * 30 + 1) / 31
    )
    assert np.isfinite(curve.threshold_at(5.0))


def test_an_average_of_events_is_rounded_outwards() -> None:
    assert outward_interval(0.4, 2.0) == (0.0, poisson_interval(1, 2.0)[1])
    assert outward_interval(3.0, 2.0) == poisson_interval(3, 2.0)


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
