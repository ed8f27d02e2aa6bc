"""Laws of the augmentations: levels as asked, finite, of the right length, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator

from trainer.distillation import augment
from trainer.distillation.augment import Samples

RATE = 16000

RANDOM: dict[str, Callable[[Samples, Generator], Samples]] = {
    "filter": augment.random_filter,
    "reverberation": lambda x, rng: augment.reverberate(x, rng, RATE),
    "window": lambda x, rng: augment.cut_window(x, len(x), rng),
    "level": augment.set_level,
    "noise": lambda x, rng: augment.coloured_noise(len(x), rng),
}


def tone(n: int, level: float = 0.2) -> Samples:
    return (level * np.sin(np.arange(n) * 0.2)).astype(np.float32)


@pytest.mark.parametrize("name", RANDOM)
@given(seed=st.integers(0, 2**32), n=st.integers(160, 4000), silent=st.booleans())
def test_finite_same_length_seeded(name: str, seed: int, n: int, silent: bool) -> None:
    x = tone(n) * np.float32(0.0 if silent else 1.0)
    before = x.copy()
    once, again = (RANDOM[name](x, np.random.default_rng(seed)) for _ in range(2))
    assert once.shape == (n,)
    assert once.dtype == np.float32
    assert np.isfinite(once).all()
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(x, before)


@given(snr_db=st.floats(-30.0, 30.0), seed=st.integers(0, 99))
def test_mix_has_the_ratio_asked_for(snr_db: float, seed: int) -> None:
    x, other = tone(4000), augment.coloured_noise(4000, np.random.default_rng(seed))
    added = augment.mix(x, other, snr_db) - x
    assert 20.0 * np.log10(augment.rms(x) / augment.rms(added)) == pytest.approx(snr_db, abs=0.01)


def test_mixing_with_silence_stays_finite() -> None:
    silence, x = np.zeros(100, np.float32), tone(100)
    np.testing.assert_array_equal(augment.mix(x, silence, 0.0), x)
    assert np.abs(augment.mix(silence, x, 0.0)).max() < 1e-8


@given(factor=st.floats(0.8, 1.25))
def test_speed_moves_the_pitch_and_the_length(factor: float) -> None:
    x = tone(8000)
    faster = augment.change_speed(x, factor)
    assert len(faster) == pytest.approx(len(x) / factor, abs=2)
    crossings = [np.count_nonzero(np.diff(np.signbit(y))) / len(y) for y in (x, faster)]
    assert crossings[1] / crossings[0] == pytest.approx(factor, rel=0.01)


def test_a_short_clip_is_placed_whole_into_zeros() -> None:
    x = tone(300) + np.float32(1.0)
    for seed in range(5):
        window = augment.cut_window(x, 1000, np.random.default_rng(seed))
        (sounding,) = np.nonzero(window)
        np.testing.assert_array_equal(window[sounding[0] : sounding[0] + 300], x)
        assert len(sounding) == 300


def test_a_window_is_cut_where_there_is_sound() -> None:
    x = np.zeros(160_000, np.float32)
    x[100_000:101_000] = 1.0
    for seed in range(20):
        assert augment.cut_window(x, 16_000, np.random.default_rng(seed)).max() == 1.0


def test_levels_are_between_minus_40_and_minus_1_db_on_the_grid_of_16_bits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        y = augment.set_level(tone(500), rng)
        assert 10 ** (-40.5 / 20) < np.abs(y).max() <= 10 ** (-0.9 / 20)
        np.testing.assert_array_equal(y * 32768, np.rint(y * 32768))


def test_reverberation_outlasts_the_sound() -> None:
    x = np.zeros(8000, np.float32)
    x[:100] = tone(100)
    wet = augment.reverberate(x, np.random.default_rng(0), RATE)
    assert np.abs(wet[200:]).max() > 0.0


def test_noise_has_unit_level_and_a_slope_of_its_own() -> None:
    slopes = []
    for seed in range(8):
        noise = augment.coloured_noise(16000, np.random.default_rng(seed))
        assert np.std(noise) == pytest.approx(1.0, rel=1e-3)
        power = np.abs(np.fft.rfft(noise)) ** 2
        slopes.append(np.log10(power[4000:].mean() / power[10:400].mean()))
    assert np.ptp(slopes) > 0.5
