"""The timeline that all sources share: exact places, exact resampling, and a replay's pace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock, Pacer, Timeline, to_mono

RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])


def noise(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def stretch(timeline: Timeline, rate: int, samples: NDArray[np.float32], sizes: list[int]) -> list[AudioBlock]:
    timeline.begin(rate)
    blocks, place = [], 0
    while place < len(samples):
        size = sizes[place % len(sizes)]
        blocks += timeline.push(samples[place : place + size])
        place += size
    return blocks + timeline.finish()


def joined(blocks: list[AudioBlock]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0, dtype=np.float32), *[block.samples for block in blocks]])


@given(RATES, RATES, st.integers(0, 5000), st.lists(st.integers(1, 900), min_size=1, max_size=7))
def test_streaming_equals_resampling_the_whole_to_the_bit(rate: int, wanted: int, n: int, sizes: list[int]) -> None:
    import soxr

    streamed = joined(stretch(Timeline(wanted), rate, noise(n), sizes))
    whole = soxr.resample(noise(n), rate, wanted)
    assert np.array_equal(streamed, whole)
    assert len(streamed) == pytest.approx(n * wanted / rate, abs=0.5 + 1e-9)


@given(RATES, st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 500)), min_size=1, max_size=5))
def test_blocks_and_losses_tile_the_timeline(rate: int, stretches: list[tuple[int, int]]) -> None:
    timeline = Timeline(16_000)
    blocks, n_lost_in = [], 0
    for n, n_lost in stretches:
        timeline.begin(rate, n_lost=n_lost)
        blocks += timeline.push(noise(n)) + timeline.finish()
        n_lost_in += n_lost
    end = 0
    for block in blocks:
        assert len(block.samples) > 0
        assert block.start_sample == end + block.n_lost
        end = block.end_sample
    assert sum(block.n_lost for block in blocks) <= n_lost_in


def test_resampling_keeps_a_tone_and_removes_what_would_alias() -> None:
    seconds = np.arange(48_000) / 48_000
    low, high = (np.sin(2 * np.pi * hertz * seconds).astype(np.float32) for hertz in (1_000, 11_000))
    kept = joined(stretch(Timeline(16_000), 48_000, low, [480]))
    removed = joined(stretch(Timeline(16_000), 48_000, high, [480]))
    wanted = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000)
    assert np.abs(kept - wanted)[500:-500].max() < 1e-3
    assert np.abs(removed)[500:-500].max() < 1e-3


@given(st.integers(0, 50), st.integers(1, 8))
def test_mono_is_the_mean_of_the_channels(n: int, n_channels: int) -> None:
    frames = noise(n * n_channels).reshape(n, n_channels)
    mono = to_mono(frames)
    assert mono.shape == (n,)
    assert mono.dtype == np.float32
    assert np.allclose(mono, frames.astype(np.float64).mean(axis=1), atol=1e-6)


class ManualClock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_pacer_lets_go_when_the_last_sample_was_heard() -> None:
    clock = ManualClock()
    pacer = Pacer(1000, clock=clock.read, sleep=clock.sleep)
    pacer.wait_for(500)
    assert clock.now == pytest.approx(100.5)
    clock.now = 103.0
    pacer.wait_for(2000)
    assert clock.now == 103.0, "what is overdue is let go at once"
    pacer.wait_for(3500)
    assert clock.now == pytest.approx(103.5), "and the lost time is caught up"
