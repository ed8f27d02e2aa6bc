"""The Kaldi filter bank against its description in NumPy and against kaldi-native-fbank."""

from __future__ import annotations

import kaldi_native_fbank as native
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge.errors import AudioError, ConfigurationError
from tests.golden.make_backbone_golden import kaldi, numbers, stored, waveform
from trainer.backbones.kaldi import KaldiFilterbank, fit_frames, mel_triangles, n_frames_of, padded_frames

KINDS = {"hanning": 1.0, "povey": 32768.0}
NATIVE_BANDS = 120
"""kaldi-native-fbank refuses 128 bands of 512 bins, because one band holds no bin."""


def native_bank(samples: NDArray[np.float32], window: str, scale: float) -> NDArray[np.float32]:
    options = native.FbankOptions()
    options.frame_opts.samp_freq = 16000
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = NATIVE_BANDS
    options.mel_opts.low_freq = 20.0
    options.energy_floor = 0.0
    fbank = native.OnlineFbank(options)
    fbank.accept_waveform(16000, (samples * scale).tolist())
    fbank.input_finished()
    frames = np.array([fbank.get_frame(i) for i in range(fbank.num_frames_ready)], dtype=np.float32)
    return np.maximum(frames, np.float32(np.log(1.1920929e-07)))


def sounds() -> dict[str, NDArray[np.float32]]:
    t = np.arange(32000) / 16000.0
    noise = numbers("noise", 32000)
    return {
        "noise": (0.3 * noise).astype(np.float32),
        "tone in noise": (0.4 * np.sin(2 * np.pi * 1000 * t) + 0.01 * noise).astype(np.float32),
        "clicks": ((np.arange(32000) % 4000 == 0) * 0.9 + 1e-4 * noise).astype(np.float32),
        "silence": np.zeros(32000, dtype=np.float32),
    }


@pytest.mark.parametrize("window", KINDS)
@pytest.mark.parametrize("sound", sounds())
def test_it_is_the_bank_of_kaldi(window: str, sound: str) -> None:
    samples = sounds()[sound]
    bank = KaldiFilterbank(window, scale=KINDS[window], n_mels=NATIVE_BANDS)
    got = bank(torch.from_numpy(samples)[None])[0].numpy()
    difference = np.abs(got - native_bank(samples, window, KINDS[window]))
    assert got.shape == (198, NATIVE_BANDS)
    # Kaldi counts in float32: beside a strong tone its weak bands are rounding, which ours is not.
    assert difference.mean() <= (3e-5 if sound == "tone in noise" else 1e-5)
    assert difference.max() <= 5e-3


@pytest.mark.parametrize("window", KINDS)
def test_it_is_the_description_to_the_last_digits(window: str) -> None:
    got = KaldiFilterbank(window, scale=KINDS[window])(torch.from_numpy(waveform())[None])[0].numpy()
    np.testing.assert_allclose(got, stored("kaldi")[window], atol=2e-6, rtol=0)


def test_the_stored_answers_are_those_of_the_generator() -> None:
    short = waveform()[:1000]
    for window, scale in KINDS.items():
        np.testing.assert_allclose(kaldi(short, window, scale), stored("kaldi")[window][:4], atol=1e-6)


def test_silence_reads_the_smallest_energy() -> None:
    got = KaldiFilterbank("povey", scale=32768.0)(torch.zeros(1, 16000))
    assert got.shape == (1, 98, 128)
    assert torch.allclose(got, torch.full_like(got, -15.942385))


def test_a_constant_changes_nothing() -> None:
    samples = torch.from_numpy(sounds()["noise"])[None]
    bank = KaldiFilterbank("hanning")
    assert (bank(samples + 0.5) - bank(samples)).abs().max() < 1e-3


def test_one_band_of_128_holds_no_bin() -> None:
    weight = mel_triangles(128, 16000)
    assert weight.shape == (256, 128)
    assert int((weight.sum(axis=0) == 0.0).sum()) == 1
    assert weight.max() <= 1.0


@pytest.mark.parametrize(
    ("n_samples", "n_frames", "seen"), [(16000, 98, 128), (80000, 498, 512), (160000, 998, 1024), (399, 0, 0)]
)
def test_frames(n_samples: int, n_frames: int, seen: int) -> None:
    assert n_frames_of(n_samples) == n_frames
    assert padded_frames(n_frames) == seen


def test_fit_frames_fills_up_with_zeros_and_cuts() -> None:
    bank = torch.ones(2, 5, 3)
    assert torch.equal(fit_frames(bank, 7)[:, 5:], torch.zeros(2, 2, 3))
    assert torch.equal(fit_frames(bank, 4), bank[:, :4])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="hamming"):
        KaldiFilterbank("hamming")
    with pytest.raises(AudioError, match="399 samples"):
        KaldiFilterbank("povey")(torch.zeros(1, 399))
