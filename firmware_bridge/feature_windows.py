"""Windows of band powers: frames from a microcontroller in, what the second graph of a bundle takes out. No I/O.

A block of frames stands on the same timeline as sound: a frame takes the place of the ``frame_hop`` samples that it
begins. Sound itself is not here. So that loudness, silence and time are what they were, a block holds samples as loud
as each frame; they are no sound and are never kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock
from edge.errors import BundleError
from edge.feature_input import FeatureInput
from edge.windows import Window

BAND_SUM_PER_POWER = 3.84
"""Sum of the band powers of a sound in the bands, over its mean square, in soundkeep's own front end: each band's peak
is 1, a sine of amplitude 1 has the magnitude 1, and Hann's main lobe spreads it over 1.5 * 512 / 400 bins."""


@dataclass(frozen=True, eq=False)
class FeatureBlock(AudioBlock):
    """Frames without a gap. powers: (n_frames, n_bands) float32, at least one frame."""

    powers: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))


def feature_block(powers: NDArray[np.float32], frame_hop: int, start_sample: int, n_lost: int) -> FeatureBlock:
    """Make a block of frames, with samples as loud as they are. powers: (n_frames, n_bands) float32."""
    loudness = np.sqrt(powers.sum(axis=1, dtype=np.float64) / BAND_SUM_PER_POWER)
    samples = np.repeat(loudness.astype(np.float32), frame_hop)
    return FeatureBlock(samples, start_sample, n_lost, powers)


class FeatureWindower:
    """As ``edge.windows.Windower`` cuts sound: one window per hop, and a gap begins afresh.

    hop_length: samples, a whole number of frames. Raises BundleError when it is none.
    """

    def __init__(self, takes: FeatureInput, hop_length: int) -> None:
        if hop_length % takes.frame_hop:
            raise BundleError(f"windows begin every {hop_length} samples; wanted a multiple of {takes.frame_hop}")
        self.n_gaps = 0
        self._takes = takes
        self._frames_per_hop = hop_length // takes.frame_hop
        self._pending = np.zeros((0, takes.n_bands), dtype=np.float32)
        self._pending_start = 0
        self._next_sample: int | None = None

    def push(self, block: AudioBlock) -> list[Window]:
        """Take a block of frames; return the windows that it completes, in order."""
        assert isinstance(block, FeatureBlock), "a windower of features is given what a FeatureSource yields"
        takes = self._takes
        if block.n_lost > 0 or block.start_sample != self._next_sample:
            self.n_gaps += self._next_sample is not None
            self._pending = self._pending[:0]
            self._pending_start = block.start_sample
        self._next_sample = block.end_sample
        pending = np.concatenate([self._pending, block.powers])
        windows, begin = [], 0
        while begin + takes.n_frames <= len(pending):
            powers = pending[begin : begin + takes.n_frames]
            start = self._pending_start + begin * takes.frame_hop
            loud = feature_block(powers, takes.frame_hop, start, 0).samples
            features = np.ascontiguousarray(powers.T)
            loud.flags.writeable = features.flags.writeable = False
            windows.append(Window(start, loud, features))
            begin += self._frames_per_hop
        self._pending = pending[begin:].copy()
        self._pending_start += begin * takes.frame_hop
        return windows
