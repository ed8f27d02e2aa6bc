"""Windows: blocks of sound in, overlapping pieces of fixed length out. No I/O.

A taught sound and a heard one are cut by the same rule: ``Windower`` on a stream and ``windows_of`` on the whole give
the same windows, however the stream was cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock
from edge.errors import ConfigurationError

DIGITAL_SILENCE = 1.0 / 32768.0
SOUND_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Window:
    """samples: (window_length,) float32, read-only. start_sample: place of the first one on the source's timeline.

    features: from a source that sends features, (n_bands, n_frames) float32: what the ear takes. No sound is at hand
    then; samples are only as loud as it was.
    """

    start_sample: int
    samples: NDArray[np.float32]
    features: NDArray[np.float32] | None = None

    @property
    def heard(self) -> NDArray[np.float32]:
        """What the ear takes."""
        return self.samples if self.features is None else self.features


class CutsWindows(Protocol):
    """What the loop needs of a windower. n_gaps: how often it had to begin afresh."""

    @property
    def n_gaps(self) -> int: ...

    def push(self, block: AudioBlock) -> list[Window]: ...


class Windower:
    """Cuts a stream of blocks into windows; a gap (lost sound, or a start that does not continue) begins afresh.

    window_length, hop_length: samples, 1 <= hop_length <= window_length; else ConfigurationError.
    """

    def __init__(self, window_length: int, hop_length: int) -> None:
        _check_lengths(window_length, hop_length)
        self.window_length = window_length
        self.hop_length = hop_length
        self.n_gaps = 0
        self._pending = np.zeros(0, dtype=np.float32)
        self._pending_start = 0
        self._next_sample: int | None = None

    def push(self, block: AudioBlock) -> list[Window]:
        """Take a block; return the windows that it completes, in order."""
        if block.n_lost > 0 or block.start_sample != self._next_sample:
            self.n_gaps += self._next_sample is not None
            self._pending = self._pending[:0]
            self._pending_start = block.start_sample
        self._next_sample = block.end_sample
        pending = np.concatenate([self._pending, block.samples])
        windows, offset = [], 0
        while offset + self.window_length <= len(pending):
            samples = pending[offset : offset + self.window_length].copy()
            samples.flags.writeable = False
            windows.append(Window(self._pending_start + offset, samples))
            offset += self.hop_length
        self._pending = pending[offset:].copy()
        self._pending_start += offset
        return windows


def windows_of(
    samples: NDArray[np.float32], window_length: int, hop_length: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Cut a whole sound into windows: at least one, zero-padded at its end when the sound is shorter than a window.

    samples: (m,) float32. A tail shorter than a hop is left out, as on a stream. Raises ConfigurationError for lengths
    that are no lengths. Returns starts (n,) int64 and windows (n, window_length) float32, a read-only view (overlapping
    windows share memory), n = 1 + max(0, m - window_length) // hop_length.
    """
    _check_lengths(window_length, hop_length)
    whole = np.ascontiguousarray(samples, dtype=np.float32)
    if len(whole) < window_length:
        whole = np.concatenate([whole, np.zeros(window_length - len(whole), dtype=np.float32)])
    windows = np.lib.stride_tricks.sliding_window_view(whole, window_length)[::hop_length]
    return np.arange(len(windows), dtype=np.int64) * hop_length, windows


def is_digital_silence(samples: NDArray[np.float32]) -> bool:
    """Whether no sample reaches one step of 16-bit audio: |x| < 1/32768 everywhere (also when there is no sample)."""
    return len(samples) == 0 or bool(max(np.max(samples), -np.min(samples)) < DIGITAL_SILENCE)


def carries_sound(windows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which windows of one sound to learn and to judge it by.

    The rule: a window carries sound when it is not digital silence and its RMS is at least a tenth (-20 dB) of the
    loudest window's RMS. So the pause before a knock and the reverberation after it are left out, whatever the gain;
    the loudest window always stays, unless all are digital silence.

    windows: (n, window_length) float32. Returns (n,) bool.
    """
    loud = np.array([not is_digital_silence(window) for window in windows], dtype=np.bool_)
    power = np.array([np.mean(np.square(window, dtype=np.float64)) for window in windows], dtype=np.float64)
    power[~loud] = 0.0
    return np.asarray(loud & (power >= SOUND_SHARE**2 * power.max(initial=0.0)))


def _check_lengths(window_length: int, hop_length: int) -> None:
    if not 1 <= hop_length <= window_length:
        raise ConfigurationError(
            f"windows of {window_length} samples every {hop_length} samples cannot be cut; "
            "wanted 1 <= hop_length <= window_length"
        )
