"""Windows: the stream and the whole give the same ones, a gap begins afresh, and silence is told from sound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock
from edge.errors import ConfigurationError
from edge.windows import Window, Windower, carries_sound, is_digital_silence, windows_of

LENGTHS = st.integers(1, 12).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


def ramp(n: int, start: int = 0) -> NDArray[np.float32]:
    return np.arange(start, start + n, dtype=np.float32)


def cut(samples: NDArray[np.float32], sizes: list[int], start_sample: int = 0) -> list[AudioBlock]:
    """Cut into blocks of the given sizes, over and over; 0 is no size."""
    blocks: list[AudioBlock] = []
    place = 0
    while place < len(samples):
        size = sizes[len(blocks) % len(sizes)]
        blocks.append(AudioBlock(samples[place : place + size], start_sample + place))
        place += size
    return blocks


def push_all(windower: Windower, blocks: list[AudioBlock]) -> list[Window]:
    return [window for block in blocks for window in windower.push(block)]


@given(LENGTHS, st.integers(0, 60), st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_stream_has_the_windows_of_the_whole_however_it_is_cut(
    lengths: tuple[int, int], n: int, sizes: list[int], start: int
) -> None:
    window_length, hop_length = lengths
    found = push_all(Windower(window_length, hop_length), cut(ramp(n), sizes, start))
    starts, windows = windows_of(ramp(n), window_length, hop_length)
    if n < window_length:
        assert found == []
        return
    assert [window.start_sample for window in found] == list(start + starts)
    assert np.array_equal(np.stack([window.samples for window in found]), windows)


@given(LENGTHS, st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=5))
def test_no_window_spans_a_gap_and_every_start_is_exact(
    lengths: tuple[int, int], stretches: list[tuple[int, int]]
) -> None:
    window_length, hop_length = lengths
    windower = Windower(window_length, hop_length)
    place, expected, found = 0, [], []
    for i, (n, n_lost) in enumerate(stretches):
        n_missing = n_lost if i > 0 else 0
        place += n_missing
        found += windower.push(AudioBlock(ramp(n, place), place, n_missing))
        expected += [place + hop for hop in range(0, n - window_length + 1, hop_length)]
        place += n
    assert [window.start_sample for window in found] == expected
    assert all(np.array_equal(window.samples, ramp(window_length, window.start_sample)) for window in found)
    assert windower.n_gaps == len(stretches) - 1


@pytest.mark.parametrize("second", [AudioBlock(ramp(6, 9), 9), AudioBlock(ramp(6, 6), 6, n_lost=1)])
def test_a_gap_is_seen_in_the_start_alone_and_in_the_loss_alone(second: AudioBlock) -> None:
    windower = Windower(8, 4)
    assert push_all(windower, [AudioBlock(ramp(6), 0), second]) == []
    assert windower.n_gaps == 1


def test_without_the_reset_a_window_would_span_the_gap() -> None:
    """The same blocks with the gap hidden: the property above rests on the reset."""
    assert len(push_all(Windower(8, 4), [AudioBlock(ramp(6), 0), AudioBlock(ramp(6, 9), 6)])) == 2


def test_a_streamed_window_outlives_the_buffers_and_cannot_be_written() -> None:
    samples = ramp(8)
    (window,) = Windower(8, 4).push(AudioBlock(samples, 0))
    samples[:] = -1.0
    assert np.array_equal(window.samples, ramp(8))
    with pytest.raises(ValueError, match="read-only"):
        window.samples[0] = 1.0


def test_a_short_sound_is_padded_at_its_end_to_one_window() -> None:
    starts, windows = windows_of(ramp(3, 1), 5, 2)
    assert starts.tolist() == [0]
    assert windows.tolist() == [[1.0, 2.0, 3.0, 0.0, 0.0]]
    assert windows_of(ramp(0), 5, 2)[1].tolist() == [[0.0] * 5]


@pytest.mark.parametrize(("window_length", "hop_length"), [(0, 1), (4, 0), (4, 5), (-1, -1)])
def test_lengths_that_are_no_lengths_are_refused(window_length: int, hop_length: int) -> None:
    with pytest.raises(ConfigurationError, match="1 <= hop_length <= window_length"):
        Windower(window_length, hop_length)
    with pytest.raises(ConfigurationError, match="1 <= hop_length <= window_length"):
        windows_of(ramp(10), window_length, hop_length)


@given(
    st.lists(st.sampled_from([0.0, 1e-5, 1e-3, 0.05, 0.09, 0.11, 0.5, 1.0]), min_size=1, max_size=8), st.integers(0, 6)
)
def test_the_rule_of_sound_holds_at_every_gain(levels: list[float], gain_bits: int) -> None:
    windows = np.array(levels, dtype=np.float32)[:, None] * np.ones(64, dtype=np.float32)
    sound = carries_sound(windows)
    loudest = max(levels)
    audible = loudest >= 1 / 32768
    assert sound.any() == audible
    if audible:
        assert sound[int(np.argmax(levels))]
        assert sound.tolist() == [level >= 0.1 * loudest and level >= 1 / 32768 for level in levels]
        louder = carries_sound(windows * np.float32(2.0**gain_bits))
        assert np.all(louder[sound])


def test_silence_is_less_than_one_step_of_sixteen_bits() -> None:
    step = np.float32(1 / 32768)
    assert is_digital_silence(np.zeros(0, dtype=np.float32))
    assert is_digital_silence(np.full(9, 0.99 * step, dtype=np.float32))
    assert not is_digital_silence(np.array([0.0, step, 0.0], dtype=np.float32))
    assert not is_digital_silence(np.array([0.0, -step, 0.0], dtype=np.float32))


def test_one_click_in_a_quiet_window_keeps_it_only_by_its_power() -> None:
    windows = np.zeros((3, 100), dtype=np.float32)
    windows[0, 50] = 0.5
    windows[1] = 0.2
    assert carries_sound(windows).tolist() == [True, True, False]
    windows[0, 50] = 0.1
    assert carries_sound(windows).tolist() == [False, True, False]
