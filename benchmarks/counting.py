"""Counting false alarms: events and not windows, hours of distinct audio, and what so few events can say.

A run of windows above the threshold is one event, and so is everything until the score has stayed below it for the
refractory time: merging is bounded by time, never by the number of runs, so one long burst counts once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edge.errors import MisuseError

Array = NDArray[np.float64]


def first_crossings(hits: NDArray[np.bool_], times: NDArray[np.int64], refractory: int) -> NDArray[np.int64]:
    """Indices of the windows that begin an event: hits that follow at least ``refractory`` samples without one.

    hits: (n,). times: (n,) starts of the windows in samples, increasing. A hit whose predecessor lies ``refractory``
    samples back or less belongs to the same event.
    """
    at = np.flatnonzero(hits)
    if len(at) == 0:
        return at.astype(np.int64)
    begins = np.concatenate([[True], np.diff(times[at]) > refractory])
    return np.asarray(at[begins], dtype=np.int64)


def held_for(z: Array, times: NDArray[np.int64], k: int, hop: int) -> Array:
    """The level that the last k windows all reached: (n,), the minimum of each window and its k - 1 predecessors.

    z: (n,). times: (n,) samples; windows that are not ``hop`` apart are no neighbours. -inf where there are too few.
    """
    if k < 1:
        raise MisuseError(f"k is {k}; wanted 1 or more windows in a row")
    held = z.copy()
    for back in range(1, k):
        earlier = np.full(len(z), -np.inf)
        neighbours = times[back:] - times[:-back] == back * hop
        earlier[back:][neighbours] = z[:-back][neighbours]
        held = np.minimum(held, earlier)
    return held


def timeline(starts: NDArray[np.int64], clip: NDArray[np.int64], gap: int) -> NDArray[np.int64]:
    """Lay clips behind each other: times (n,) in samples, with at least ``gap`` samples between two clips' windows.

    starts: (n,) samples within the clip. clip: (n,) which clip, windows of one clip lying together.
    """
    times = np.zeros(len(starts), dtype=np.int64)
    begins = np.flatnonzero(np.concatenate([[True], np.diff(clip) != 0])) if len(clip) else np.zeros(0, dtype=np.int64)
    base = 0
    for begin, end in zip(begins, [*begins, len(starts)][1:], strict=True):
        times[begin:end] = base + starts[begin:end] - starts[begin]
        base = int(times[end - 1]) + gap + 1
    return times


def distinct_hours(recordings: Iterable[tuple[str, float]]) -> float:
    """Hours of audio in (name, seconds) pairs; a recording that is played again adds nothing."""
    return math.fsum(dict(recordings).values()) / 3600.0


def poisson_interval(events: float, exposure: float, *, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a Poisson rate: ``events`` in ``exposure`` hours.

    With 0 events the lower end is 0 and the upper -ln((1 - level) / 2) / exposure. Raises MisuseError without exposure.
    Source: Garwood 1936, by the inverse of the incomplete gamma function.
    """
    from scipy.special import gammaincinv

    if not exposure > 0.0 or events < 0.0:
        raise MisuseError(f"a rate of {events} events in {exposure} hours has no interval; wanted hours above 0")
    tail = (1.0 - level) / 2.0
    low = 0.0 if events == 0.0 else float(gammaincinv(events, tail))
    return low / exposure, float(gammaincinv(events + 1.0, 1.0 - tail)) / exposure


def auroc(known: Array, unknown: Array) -> float:
    """Chance that a known example scores above an unknown one, ties half: area under the receiver's curve.

    known (n,), unknown (m,): scores. Raises MisuseError when one is empty. Source: Mann and Whitney 1947.
    """
    if len(known) == 0 or len(unknown) == 0:
        raise MisuseError(f"{len(known)} known and {len(unknown)} unknown scores; wanted at least one of each")
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, side="left")
    ties = np.searchsorted(ordered, known, side="right") - below
    return float((np.sum(below) + 0.5 * np.sum(ties)) / (len(known) * len(unknown)))
