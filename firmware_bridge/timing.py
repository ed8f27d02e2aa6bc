"""How fast a device's clock runs beside ours: a straight line through (our second, its sample counter). No I/O.

A packet is late by what the link and both programs made it wait, never early. So of each of its seconds only the least
late moment is kept, and the line goes through those. The result is told and never acted upon: sound is not resampled
for it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

MAX_MOMENTS = 900
MIN_MOMENTS = 5


@dataclass(frozen=True)
class Drift:
    """ppm: parts per million by which the device is fast. error_ppm: standard error. span_s: seconds looked at."""

    ppm: float
    error_ppm: float
    span_s: float


class ClockLine:
    """sample_rate: Hz, what the device says it samples at. Remembers the last fifteen minutes, a moment a second."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._moments: deque[tuple[float, float]] = deque(maxlen=MAX_MOMENTS)
        self._bucket: int | None = None

    def add(self, at_s: float, sample: int) -> None:
        """At our second ``at_s`` its counter was heard to be at ``sample``; both only grow within one session."""
        late = at_s - sample / self._rate
        bucket = sample // self._rate
        if bucket != self._bucket:
            self._bucket = bucket
            self._moments.append((at_s, late))
        elif late < self._moments[-1][1]:
            self._moments[-1] = (at_s, late)

    def drift(self) -> Drift | None:
        """The line through what was kept, least squares; None before the fifth second."""
        n = len(self._moments)
        if n < MIN_MOMENTS:
            return None
        at, late = np.array(self._moments, dtype=np.float64).T
        x = at - at.mean()
        y = late - late.mean()
        spread = float(x @ x)
        slope = float(x @ y) / spread
        residual = y - slope * x
        error = math.sqrt(float(residual @ residual) / (n - 2) / spread)
        return Drift(-1e6 * slope, 1e6 * error, float(at[-1] - at[0]))
