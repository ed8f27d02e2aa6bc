"""Scores of taught sounds on clips and on hours of everything else, and the curve of false alarms over misses."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.counting import first_crossings, poisson_interval

Array = NDArray[np.float64]
MISSED = (0.05, 0.1, 0.2, 0.5)
RATES = (0.5, 1.0, 5.0, 20.0)
HOME = ("speech", "rooms", "ambience", "words")
STREAMS = (*HOME, "other sounds")


@dataclass(frozen=True, eq=False)
class Outcome:
    """One draw of taught sounds. positives: (p,) best score of each test clip in its own class.

    negatives: (n, k) scores of the windows of everything else, times (n,) in samples, stream (n,) index into STREAMS.
    hours: (len(STREAMS),) of distinct audio behind them.
    """

    positives: Array
    negatives: Array
    times: NDArray[np.int64]
    stream: NDArray[np.int64]
    hours: Array

    def events(self, threshold: float, refractory: int) -> NDArray[np.int64]:
        """False alarms of all taught sounds by stream, (len(STREAMS),)."""
        counts = np.zeros(len(STREAMS), dtype=np.int64)
        for column in self.negatives.T:
            begins = first_crossings(column >= threshold, self.times, refractory)
            counts += np.bincount(self.stream[begins], minlength=len(STREAMS))
        return counts


@dataclass(frozen=True, eq=False)
class Curve:
    """Draws under one threshold for all classes, as it is served. refractory: samples. counted: streams in the rate."""

    outcomes: tuple[Outcome, ...]
    refractory: int
    counted: tuple[str, ...] = STREAMS

    @functools.cached_property
    def _counted(self) -> NDArray[np.bool_]:
        return np.array([name in self.counted for name in STREAMS])

    @property
    def positives(self) -> Array:
        """Scores of all test clips of all draws."""
        return np.concatenate([o.positives for o in self.outcomes])

    def missed(self, threshold: float) -> float:
        """Share of test clips without a window at the threshold."""
        return float(np.mean(self.positives < threshold))

    def threshold_missing(self, share: float) -> float:
        """The threshold that misses this share of test clips."""
        return float(np.quantile(self.positives, share))

    def by_stream(self, threshold: float) -> tuple[Array, Array]:
        """False alarms of one draw on average, and hours of distinct audio, by stream."""
        events = np.mean([o.events(threshold, self.refractory) for o in self.outcomes], axis=0)
        return np.asarray(events), np.asarray(np.mean([o.hours for o in self.outcomes], axis=0))

    def rate(self, threshold: float) -> float:
        """False alarms an hour of all taught sounds together."""
        events, hours = self.by_stream(threshold)
        return float(events[self._counted].sum() / hours[self._counted].sum())

    def interval(self, threshold: float) -> tuple[float, float]:
        """95 % interval of the rate, as if one draw's events were all: draws hear the same hours and add no audio."""
        events, hours = self.by_stream(threshold)
        return outward_interval(float(events[self._counted].sum()), float(hours[self._counted].sum()))

    def threshold_at(self, rate: float, *, steps: int = 14) -> float:
        """The lowest threshold, by bisection, with at most this many false alarms an hour."""
        reached = np.concatenate([self.positives, *(o.negatives.ravel() for o in self.outcomes)])
        reached = reached[np.isfinite(reached)]
        low, high = float(reached.min()), float(reached.max()) + 1e-6
        for _ in range(steps):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self.rate(middle) > rate else (low, middle)
        return high

    def points(self, n: int = 30) -> Iterator[Mapping[str, float]]:
        """The curve: threshold, share missed, false alarms an hour with their interval."""
        for share in np.linspace(0.02, 0.9, n):
            threshold = self.threshold_missing(float(share))
            low, high = self.interval(threshold)
            yield {
                "threshold": threshold,
                "missed": self.missed(threshold),
                "rate": self.rate(threshold),
                "low": low,
                "high": high,
            }

    def summary(self) -> dict[str, float]:
        """Rates at given misses, and misses at given rates with their thresholds."""
        row = {f"FA/h at {share:.0%} missed": self.rate(self.threshold_missing(share)) for share in MISSED}
        for rate in RATES:
            threshold = self.threshold_at(rate)
            row[f"missed at {rate:g}/h"] = self.missed(threshold)
            row[f"threshold at {rate:g}/h"] = threshold
        return row


def outward_interval(events: float, hours: float) -> tuple[float, float]:
    """95 % interval of the rate of an average number of events, rounded outwards to whole ones."""
    return poisson_interval(math.floor(events), hours)[0], poisson_interval(math.ceil(events), hours)[1]


def stream_rows(curve: Curve, threshold: float) -> list[dict[str, object]]:
    """Events, hours, rate and interval of each stream at one threshold."""
    events, hours = curve.by_stream(threshold)
    rows: list[dict[str, object]] = []
    home = np.array([name in HOME for name in STREAMS])
    names, at_home = (*STREAMS, "home", "all"), (events[home].sum(), hours[home].sum())
    for name, n, h in zip(names, (*events, at_home[0], events.sum()), (*hours, at_home[1], hours.sum()), strict=True):
        if h > 0.0:
            low, high = outward_interval(float(n), float(h))
            rows.append(
                {"stream": name, "hours": float(h), "events": float(n), "rate": float(n / h), "low": low, "high": high}
            )
    return rows


def draw_curves(path: Path, curves: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> None:
    """Plot false alarms an hour over missed sounds, one line per step, to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    for name, points in curves.items():
        shown = [p for p in points if p["rate"] > 0.0]
        axes.plot([100.0 * p["missed"] for p in shown], [p["rate"] for p in shown], label=name)
    last = [p for p in list(curves.values())[-1] if p["rate"] > 0.0]
    axes.fill_between(
        [100.0 * p["missed"] for p in last],
        [p["low"] for p in last],
        [p["high"] for p in last],
        alpha=0.15,
        linewidth=0,
    )
    axes.set(
        yscale="log",
        ylim=(0.1, 1000.0),
        xlabel="missed sounds, %",
        ylabel="false alarms an hour, all taught sounds",
        title=title,
    )
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
