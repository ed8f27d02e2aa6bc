"""From sound to examples: which windows are learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import SilenceError
from edge.hearing import Levels, background_example, example_of_file, hear, sounding_example
from edge.windows import carries_sound
from tests.bundles import HOP_LENGTH, SAMPLE_RATE, WINDOW_LENGTH, SpectrumEmbedder, tone, write_wav

EAR = SpectrumEmbedder()


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_the_rule_on_levels_is_the_rule_on_windows(loudness: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    windows = np.stack([level * rng.uniform(-1, 1, 50) for level in loudness]).astype(np.float32)
    windows[rng.random(len(windows)) < 0.3] *= 1e-4
    levels = Levels.of(windows)
    assert levels.carry_sound().tolist() == carries_sound(windows).tolist()


def test_levels_tell_power_peak_and_clipping() -> None:
    windows = np.array([[0.0, 0.0], [0.5, -1.0]], dtype=np.float32)
    levels = Levels.of(windows)
    assert levels.power.tolist() == [0.0, 0.625]
    assert levels.peak.tolist() == [0.0, 1.0]
    assert levels.clipped.tolist() == [0.0, 0.5]
    assert levels.audible().tolist() == [False, True]
    assert len(Levels.of(windows[:0]).power) == 0


def test_a_class_learns_the_loud_windows_and_the_background_all_that_sound() -> None:
    rng = np.random.default_rng(0)
    quiet = 0.001 * rng.standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    heard = hear(np.concatenate([quiet, tone(900.0, 1.0, rng), np.zeros(SAMPLE_RATE, np.float32)]), EAR)
    sounding, background = sounding_example(heard, {}), background_example(heard, {})
    assert len(sounding.embeddings) < len(background.embeddings) < len(heard)
    assert len(background.embeddings) == len(heard) - 3  # one second of digital silence holds three whole windows


def test_a_sound_shorter_than_a_window_is_one_window() -> None:
    heard = hear(np.full(10, 0.5, dtype=np.float32), EAR)
    assert heard.starts.tolist() == [0]
    assert len(sounding_example(heard, {}).embeddings) == 1


def test_windows_start_every_hop() -> None:
    heard = hear(np.ones(WINDOW_LENGTH + 3 * HOP_LENGTH + 1, dtype=np.float32), EAR)
    assert heard.starts.tolist() == [0, 2000, 4000, 6000]
    assert heard.embeddings.shape == (4, EAR.space.dim)


def test_digital_silence_is_refused_by_name(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "mute.wav", np.zeros(SAMPLE_RATE, dtype=np.float32))
    for background in (False, True):
        with pytest.raises(SilenceError, match=r"mute\.wav is digital silence .* check the microphone"):
            example_of_file(path, EAR, background=background)


def test_an_example_says_where_it_came_from_and_keeps_audio_only_when_asked(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "bell.wav", tone(900.0, 1.5, np.random.default_rng(1)))
    example = example_of_file(path, EAR)
    assert example.provenance == {"file": str(path), "seconds": 1.5}
    assert example.name == str(path)
    assert example.samples is None
    kept = example_of_file(path, EAR, keep_audio=True)
    assert kept.samples is not None and len(kept.samples) == round(1.5 * SAMPLE_RATE)
