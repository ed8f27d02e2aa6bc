"""The line through two clocks: right where it should be, honest about its error, and deaf to late packets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.timing import MAX_MOMENTS, ClockLine

RATE = 16_000


def line_of(ppm: float, lateness: np.ndarray, seconds: float, step_s: float = 0.02) -> ClockLine:
    line = ClockLine(RATE)
    times = np.arange(0.0, seconds, step_s)
    for at, late in zip(times, np.resize(lateness, len(times)), strict=True):
        line.add(float(at + late), round(at * (1 + 1e-6 * ppm) * RATE))
    return line


@given(st.floats(-200.0, 200.0), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_the_drift_of_a_crystal_is_found_through_a_link_that_is_late_by_up_to_16_ms(ppm: float, seed: int) -> None:
    late = np.random.default_rng(seed).uniform(0.0, 0.016, 5000)
    drift = line_of(ppm, late, 120.0).drift()
    assert drift is not None
    assert drift.ppm == pytest.approx(ppm, abs=max(3.0, 5 * drift.error_ppm))
    assert drift.span_s == pytest.approx(119, abs=1.5)


def test_without_the_least_late_moment_of_each_second_a_busy_host_looks_like_drift() -> None:
    """Switched off: a plain regression through every packet of a link that gets busier."""
    lateness = np.linspace(0.0, 0.2, 6000) * (np.arange(6000) % 7 > 0)
    drift = line_of(0.0, lateness, 120.0).drift()
    assert drift is not None and abs(drift.ppm) < 3.0
    at = np.arange(6000) * 0.02 + lateness
    plain = np.polyfit(at, np.arange(6000) * 0.02, 1)[0]
    assert abs(1e6 * (plain - 1.0)) > 500


def test_nothing_is_said_before_the_fifth_second_and_memory_is_bounded() -> None:
    assert line_of(0.0, np.zeros(1), 3.9).drift() is None
    line = line_of(10.0, np.zeros(1), 2.5 * MAX_MOMENTS, step_s=0.5)
    drift = line.drift()
    assert drift is not None and drift.span_s == pytest.approx(MAX_MOMENTS, abs=2)
    assert drift.ppm == pytest.approx(10.0, abs=0.5)
