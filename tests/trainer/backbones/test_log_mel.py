"""The front end against its formula, and the law that a gain changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge.scenes import SOUNDS
from trainer.backbones.log_mel import FrontEndSettings, LogMel, dft_kernels, mel_filterbank
from trainer.backbones.student import Student, StudentSettings

SETTINGS = FrontEndSettings()


def reference(waveform: NDArray[np.float32], s: FrontEndSettings) -> NDArray[np.float64]:
    """Level-free log-mel (n_mels, n_frames) by FFT and loops, in float64."""
    n = np.arange(s.frame_length)
    hann = np.sin(np.pi * n / s.frame_length) ** 2
    mel_of = lambda f: 2595.0 * np.log10(1.0 + f / 700.0)  # noqa: E731
    points = np.linspace(mel_of(s.min_frequency), mel_of(s.max_frequency), s.n_mels + 2)
    power = np.zeros((s.n_mels, s.n_frames))
    for t in range(s.n_frames):
        frame = waveform[t * s.frame_hop : t * s.frame_hop + s.frame_length].astype(np.float64) * hann
        spectrum = np.abs(np.fft.rfft(frame, s.n_fft) * 2.0 / hann.sum()) ** 2
        for m in range(s.n_mels):
            for k, value in enumerate(spectrum):
                at = mel_of(k * s.sample_rate / s.n_fft)
                if points[m] < at <= points[m + 1]:
                    power[m, t] += value * (at - points[m]) / (points[m + 1] - points[m])
                elif points[m + 1] < at < points[m + 2]:
                    power[m, t] += value * (points[m + 2] - at) / (points[m + 2] - points[m + 1])
    return np.log(power / (power.mean() + s.level_floor) + s.relative_floor)


def sound(name: str = "doorbell", length: int = 16000) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    samples = np.resize(SOUNDS[name].instance(rng).example(rng, 16000), length)
    return (samples * 0.3 / np.abs(samples).max()).astype(np.float32)


def test_log_mel_is_the_formula() -> None:
    short = FrontEndSettings(window_length=3000)
    waveform = sound(length=3000)
    got = LogMel(short)(torch.from_numpy(waveform)[None]).numpy()
    assert got.shape == (1, 1, short.n_mels, short.n_frames)
    np.testing.assert_allclose(got[0, 0], reference(waveform, short), atol=2e-3)


def test_a_sine_reads_its_amplitude() -> None:
    wave = 0.5 * np.cos(2.0 * np.pi * 32 / SETTINGS.n_fft * np.arange(SETTINGS.frame_length))
    real, imaginary = np.split(dft_kernels(SETTINGS) @ wave, 2)
    assert np.hypot(real, imaginary)[32] == pytest.approx(0.5, rel=1e-3)


def test_mel_filters_are_triangles_of_at_most_one() -> None:
    filters = mel_filterbank(SETTINGS)
    assert filters.shape == (SETTINGS.n_fft // 2 + 1, SETTINGS.n_mels)
    assert filters.min() == 0.0
    assert filters.max() <= 1.0
    assert (filters.sum(axis=0) > 0.0).all()


@pytest.mark.parametrize("gain_db", [-20.0, 6.0])
def test_a_gain_changes_nothing(gain_db: float) -> None:
    torch.manual_seed(0)
    student = Student(StudentSettings(widths=(8, 8, 8, 8, 8), dim=16)).eval()
    windows = torch.from_numpy(np.stack([sound("doorbell"), sound("dog_bark")]))
    gained = windows * 10.0 ** (gain_db / 20.0)
    with torch.no_grad():
        assert (student.features(gained) - student.features(windows)).abs().max() < 0.1
        a, b = student(windows), student(gained)
        assert (torch.linalg.norm(a - b, dim=1) / torch.linalg.norm(a, dim=1)).max() < 0.01


def test_without_the_division_by_the_level_a_gain_changes_every_value() -> None:
    """A floor far above every level makes the level a constant: the division is switched off."""
    windows = torch.from_numpy(sound())[None]
    absolute = LogMel(FrontEndSettings(level_floor=1e6, relative_floor=1e-20))
    with torch.no_grad():
        change = absolute(windows * 0.1) - absolute(windows)
    assert change.median().item() == pytest.approx(np.log(0.01), abs=0.01)


def test_silence_is_finite() -> None:
    with torch.no_grad():
        values = LogMel(SETTINGS)(torch.zeros(1, SETTINGS.window_length))
    assert torch.isfinite(values).all()
    assert torch.equal(values, values[:, :, :1, :1].expand_as(values))
