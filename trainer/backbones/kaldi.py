"""The Kaldi filter bank as one matrix product and a logarithm, in float64, so that torch and ONNX Runtime agree.

What Kaldi does to a frame before it takes the power is linear (remove the mean, pre-emphasise, window, transform), so
it is folded into one matrix. A mean taken off the whole clip first changes nothing: the mean of each frame is removed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.errors import AudioError, ConfigurationError

FRAME_LENGTH, FRAME_HOP, N_FFT = 400, 160, 512
"""25 ms and 10 ms at 16 kHz, and the next power of two."""

PRE_EMPHASIS = 0.97
LOWEST_FREQUENCY = 20.0
SMALLEST_ENERGY = 1.1920929e-07
"""The float32 epsilon: energies below it read as it, so silence is ln of it, -15.942."""

WINDOWS = ("hanning", "povey")


def n_frames_of(n_samples: int) -> int:
    """Frames that fit whole into ``n_samples``; 0 when none does."""
    return max(0, (n_samples - FRAME_LENGTH) // FRAME_HOP + 1)


def padded_frames(n_frames: int) -> int:
    """Frames that a transformer is given: the next multiple of 32 (98 -> 128, 498 -> 512, 998 -> 1024)."""
    return -(-n_frames // 32) * 32


def fit_frames(features: Tensor, n_frames: int) -> Tensor:
    """Cut features (n, t, n_mels) to ``n_frames``, or fill up with 0.0 behind."""
    got = int(features.shape[1])
    if got >= n_frames:
        return features[:, :n_frames]
    return nn.functional.pad(features, (0, 0, 0, n_frames - got))


def frame_window(name: str) -> NDArray[np.float64]:
    """Symmetric Hann window (400,), or that to the power 0.85, which Kaldi calls Povey."""
    if name not in WINDOWS:
        raise ConfigurationError(f"a filter bank has no window {name!r}; wanted {' or '.join(WINDOWS)}")
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FRAME_LENGTH) / (FRAME_LENGTH - 1))
    return np.asarray(hann**0.85 if name == "povey" else hann)


def mel_triangles(n_mels: int, sample_rate: int) -> NDArray[np.float64]:
    """Return triangles (n_fft / 2, n_mels) of unit peak, linear and equally spaced in m(f) = 1127 ln(1 + f / 700).

    They reach from 20 Hz to half the sample rate; the bin at half the sample rate weighs nothing and is left out.
    """

    def mel(hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1127.0 * np.log(1.0 + np.asarray(hz) / 700.0))

    edges = np.linspace(mel(LOWEST_FREQUENCY), mel(sample_rate / 2), n_mels + 2)
    bins = mel(np.arange(N_FFT // 2) * sample_rate / N_FFT)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def frame_transform(window: str, scale: float) -> NDArray[np.float64]:
    """Return the matrix (400, 512) from a frame to the real, then the imaginary parts of its bins 0 to 255.

    In order: times ``scale``, minus the frame's mean, y[j] = x[j] - 0.97 x[j-1] (with x[-1] := x[0]), window, DFT.
    """
    centre = np.eye(FRAME_LENGTH) - 1.0 / FRAME_LENGTH
    emphasis = np.eye(FRAME_LENGTH) - PRE_EMPHASIS * np.eye(FRAME_LENGTH, k=-1)
    emphasis[0, 0] -= PRE_EMPHASIS
    phase = 2.0 * np.pi * np.outer(np.arange(N_FFT // 2), np.arange(FRAME_LENGTH)) / N_FFT
    dft = np.concatenate([np.cos(phase), -np.sin(phase)])
    return np.asarray(((dft * frame_window(window)) @ emphasis @ centre).T * scale)


class KaldiFilterbank(nn.Module):
    """Waveform (n, samples) in -1..1 to natural-log mel energies (n, n_frames, n_mels) float32; no dither, no padding.

    window: one of ``WINDOWS``. scale: what the waveform is multiplied by, 32768 where int16 was meant.
    """

    def __init__(self, window: str, *, scale: float = 1.0, n_mels: int = 128, sample_rate: int = 16000) -> None:
        super().__init__()
        self.register_buffer("transform", torch.tensor(frame_transform(window, scale)), persistent=False)
        self.register_buffer("triangles", torch.tensor(mel_triangles(n_mels, sample_rate)), persistent=False)

    transform: Tensor
    triangles: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        n_frames = n_frames_of(int(waveform.shape[1]))
        if n_frames == 0:
            raise AudioError(
                f"a waveform of {int(waveform.shape[1])} samples holds no frame; wanted {FRAME_LENGTH} or more"
            )
        spectrum = torch.matmul(_frames(waveform.double(), n_frames), self.transform)
        real, imaginary = spectrum.split(N_FFT // 2, dim=2)
        energy = torch.matmul(real * real + imaginary * imaginary, self.triangles)
        return torch.log(energy.clamp(min=SMALLEST_ENERGY)).float()


def _frames(waveform: Tensor, n_frames: int) -> Tensor:
    """Overlapping frames (n, n_frames, 400), joined from pieces that both lengths are multiples of.

    Slices with a step trace into as few nodes for a long window as for a short one.
    """
    piece = math.gcd(FRAME_LENGTH, FRAME_HOP)
    hop, length = FRAME_HOP // piece, FRAME_LENGTH // piece
    n_pieces = (n_frames - 1) * hop + length
    pieces = waveform[:, : n_pieces * piece].reshape(-1, n_pieces, piece)
    return torch.cat([pieces[:, j : j + (n_frames - 1) * hop + 1 : hop] for j in range(length)], dim=2)
