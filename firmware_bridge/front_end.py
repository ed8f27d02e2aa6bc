"""The front end of soundkeep's own ears in NumPy: what a microcontroller makes its log-mel features with.

It is here for the simulator and for tests: the firmware has its own in C, the ear has it in its graph. One frame is
made of ``FRAME_LENGTH`` samples; frames begin every ``FRAME_HOP``. Constants and formulas are those of
``trainer.backbones.log_mel``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.feature_input import FeatureInput
from firmware_bridge.errors import LinkError

SAMPLE_RATE, FRAME_LENGTH, FRAME_HOP, N_FFT, N_BANDS = 16_000, 400, 160, 512, 64
MIN_HZ, MAX_HZ = 50.0, 7800.0
FRONT_END = "678f6231ce299910baf09d86d6cddb966ae4e35c90fcefda668f6f714aad3bc6"
"""Hash of this front end, as ``soundkeep-export features`` finds it in an ear."""


class FrontEnd:
    """Makes frames of a stream. Keeps the samples that the next frame needs too."""

    def __init__(self) -> None:
        n = np.arange(FRAME_LENGTH)
        hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * n / FRAME_LENGTH)
        self._window = hann * (2.0 / hann.sum())
        self._filters = _filters()
        self._pending = np.zeros(0, dtype=np.float64)

    def __call__(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Take (n,) samples; return the frames that they complete, (m, N_BANDS) float32 powers."""
        pending = np.concatenate([self._pending, samples.astype(np.float64) / 32768.0])
        m = max(0, (len(pending) - FRAME_LENGTH) // FRAME_HOP + 1)
        if m == 0:
            self._pending = pending
            return np.zeros((0, N_BANDS), dtype=np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(pending, FRAME_LENGTH)[::FRAME_HOP][:m]
        self._pending = pending[m * FRAME_HOP :].copy()
        spectrum = np.fft.rfft(frames * self._window, N_FFT)
        return np.asarray((np.abs(spectrum) ** 2) @ self._filters, dtype=np.float32)

    @property
    def n_waiting(self) -> int:
        """Samples that are held for frames to come."""
        return len(self._pending)

    def reset(self) -> None:
        self._pending = self._pending[:0]


def check_is_ours(takes: FeatureInput) -> None:
    """Raises LinkError when an ear has another front end than this one."""
    if takes.front_end != FRONT_END:
        raise LinkError(
            f"this ear's front end is {takes.front_end[:16]}, and the simulator knows {FRONT_END[:16]} only; "
            "simulate PCM or ADPCM"
        )


def _filters() -> NDArray[np.float64]:
    edges = np.linspace(_mel(MIN_HZ), _mel(MAX_HZ), N_BANDS + 2)
    bins = np.array([_mel(k * SAMPLE_RATE / N_FFT) for k in range(N_FFT // 2 + 1)])[:, None]
    rising = (bins - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)))


def _mel(hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hz / 700.0))
