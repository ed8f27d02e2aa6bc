"""Log-mel front end as plain matrix products, so that it exports into the ONNX graph with the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class FrontEndSettings:
    """Lengths are samples, frequencies Hz, floors powers relative to full scale."""

    sample_rate: int = 16000
    window_length: int = 16000
    frame_length: int = 400
    frame_hop: int = 160
    n_fft: int = 512
    n_mels: int = 64
    min_frequency: float = 50.0
    max_frequency: float = 7800.0
    level_floor: float = 1e-9
    relative_floor: float = 1e-6

    @property
    def n_frames(self) -> int:
        return (self.window_length - self.frame_length) // self.frame_hop + 1


def mel_filterbank(settings: FrontEndSettings) -> NDArray[np.float64]:
    """Return triangular filters (n_fft // 2 + 1, n_mels) of unit peak, equally spaced on the mel scale.

    mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy 1987).
    """

    def to_mel(hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0))

    edges = np.linspace(to_mel(settings.min_frequency), to_mel(settings.max_frequency), settings.n_mels + 2)
    bins = to_mel(np.arange(settings.n_fft // 2 + 1) * settings.sample_rate / settings.n_fft)[:, None]
    rising = (bins - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def dft_kernels(settings: FrontEndSettings) -> NDArray[np.float64]:
    """Return Hann-windowed cosine and sine rows (2 * (n_fft // 2 + 1), frame_length), of unit gain for a sine.

    The window is the periodic Hann window; the factor 2 / sum(hann) makes the magnitude of a sine its amplitude.
    """
    n = np.arange(settings.frame_length)
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * n / settings.frame_length)
    phase = 2.0 * np.pi * np.outer(np.arange(settings.n_fft // 2 + 1), n) / settings.n_fft
    return np.asarray(np.concatenate([np.cos(phase), -np.sin(phase)]) * (2.0 * hann / hann.sum()))


class LogMel(nn.Module):
    """Waveform (n, window_length) in -1..1 to level-free log-mel (n, 1, n_mels, n_frames).

    Each window is divided by its own mean band power (plus ``level_floor``) before the logarithm, so a change of gain
    changes nothing until the sound sinks into the floor: a microphone's gain is not part of what a sound is.
    """

    def __init__(self, settings: FrontEndSettings) -> None:
        super().__init__()
        self.settings = settings
        kernels = torch.tensor(dft_kernels(settings), dtype=torch.float32)[:, None, :]
        filters = torch.tensor(mel_filterbank(settings).T.copy(), dtype=torch.float32)
        self.register_buffer("kernels", kernels, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    kernels: Tensor
    filters: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = nn.functional.conv1d(waveform[:, None, :], self.kernels, stride=self.settings.frame_hop)
        real, imaginary = spectrum.split(self.settings.n_fft // 2 + 1, dim=1)
        mel = torch.matmul(self.filters, real * real + imaginary * imaginary)
        level = mel.mean(dim=(1, 2), keepdim=True) + self.settings.level_floor
        return torch.log(mel / level + self.settings.relative_floor)[:, None]
