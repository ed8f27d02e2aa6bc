"""What every source of sound yields, and what all of them share: one channel, one rate, one timeline.

A source's timeline counts samples at its ``sample_rate`` from 0. Sound that is missing moves the timeline on: each
block satisfies ``start_sample == end of the previous block + n_lost``, so a gap is neither overlooked nor guessed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Speed = Literal["real", "max"]
SourceState = Literal["running", "waiting", "silent", "ended"]


@dataclass(frozen=True, eq=False)
class AudioBlock:
    """A stretch of sound without a gap.

    samples: (n,) float32, n >= 1, one channel, full scale 1.0, at the source's ``sample_rate``.
    start_sample: place of the first sample on the source's timeline.
    n_lost: samples of the timeline that are missing just before this block; more than 0 marks a gap.
    """

    samples: NDArray[np.float32]
    start_sample: int
    n_lost: int = 0

    @property
    def end_sample(self) -> int:
        return self.start_sample + len(self.samples)


@dataclass(frozen=True)
class SourceHealth:
    """How a source is doing.

    state: "running"; "waiting" for a device or for sound; "silent", delivering exact zeros for long; "ended".
    n_overflows: how often the device or our queue had to drop sound.
    n_lost: samples of sound lost so far, at the source's ``sample_rate`` (the pause between two files is no loss).
    n_away: those of them that passed while the device was away (unplugged, frozen).
    n_reopened: how often the device was opened again after a failure.
    detail: one sentence for people, or "".
    """

    state: SourceState
    n_overflows: int = 0
    n_lost: int = 0
    n_away: int = 0
    n_reopened: int = 0
    detail: str = ""


class AudioSource(Protocol):
    """Sound from anywhere. Opens in a ``with``; iterate once, inside it.

    Leaving the ``with`` (or ``__exit__`` from another thread) ends a running iteration within half a second. Blocks
    come in order; the end of the stream ends the iteration. Raises AudioError or DeviceError for sound that cannot be
    had.
    """

    @property
    def sample_rate(self) -> int: ...

    @property
    def name(self) -> str: ...

    def __enter__(self) -> AudioSource: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def __iter__(self) -> Iterator[AudioBlock]: ...

    def health(self) -> SourceHealth: ...


def to_mono(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the channels. frames: (n, c) float32. Returns (n,) float32."""
    if frames.shape[1] == 1:
        return frames[:, 0]
    return np.asarray(frames.mean(axis=1, dtype=np.float32))


class Timeline:
    """Resamples stretches of mono sound, whatever their rates, onto one timeline of blocks.

    A stretch is sound without a gap. n samples at rate r become round(n * sample_rate / r) samples, to the bit the same
    for every way of cutting the stretch into pieces (soxr, quality HQ, streaming).
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._next_sample = 0
        self._n_lost = 0
        self._resampler: Any = None

    def begin(self, source_rate: int, *, n_lost: int = 0) -> None:
        """Start a stretch at ``source_rate`` Hz, ``n_lost`` samples (at ``sample_rate``) after the last one."""
        self._n_lost += n_lost
        self._resampler = None
        if source_rate != self.sample_rate:
            import soxr

            self._resampler = soxr.ResampleStream(source_rate, self.sample_rate, 1, dtype="float32")

    def push(self, samples: NDArray[np.float32]) -> list[AudioBlock]:
        """Continue the stretch. samples: (n,) float32 at the stretch's rate. Returns no block or one."""
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        return self._place(samples)

    def finish(self) -> list[AudioBlock]:
        """End the stretch: what the resampler still held. Returns no block or one."""
        if self._resampler is None:
            return []
        tail = self._resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        self._resampler = None
        return self._place(tail)

    def _place(self, samples: NDArray[np.float32]) -> list[AudioBlock]:
        if len(samples) == 0:
            return []
        block = AudioBlock(samples, self._next_sample + self._n_lost, self._n_lost)
        self._next_sample, self._n_lost = block.end_sample, 0
        return [block]


class Pacer:
    """Holds a replay to real time: a block is let go when its last sample would have been heard."""

    def __init__(
        self,
        sample_rate: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sample_rate = sample_rate
        self._clock = clock
        self._sleep = sleep
        self._start = clock()

    def wait_for(self, end_sample: int) -> None:
        """Sleep until ``end_sample`` is due; return at once when it is overdue."""
        remaining = self._start + end_sample / self._sample_rate - self._clock()
        if remaining > 0.0:
            self._sleep(remaining)
