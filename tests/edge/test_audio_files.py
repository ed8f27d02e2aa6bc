"""Recordings: every rate, width and channel count is read, and every way of being wrong is one clear sentence."""

from __future__ import annotations

import itertools
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edge.audio_files import FileSource, FolderSource, read_audio
from edge.errors import AudioError

RATE = 16_000


def tone(seconds: float, rate: int, hertz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, samples: NDArray[np.float32], rate: int = RATE, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Largest normalised correlation over all shifts: a lossy format may delay."""
    n = len(a) + len(b)
    shifted = np.fft.irfft(np.fft.rfft(a, n) * np.conj(np.fft.rfft(b, n)), n)
    return float(shifted.max() / np.sqrt(np.sum(a**2) * np.sum(b**2)))


def stream(source: FileSource) -> NDArray[np.float32]:
    with source:
        return np.concatenate([block.samples for block in source])


@pytest.mark.parametrize("rate", [11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_becomes_the_wanted_one(tmp_path: Path, rate: int) -> None:
    samples = read_audio(write(tmp_path / "tone.wav", tone(1.0, rate), rate), RATE)
    assert samples.dtype == np.float32
    assert len(samples) == RATE
    assert np.abs(samples - tone(1.0, RATE))[400:-400].max() < 1e-3


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("n_channels", [1, 2, 8])
def test_every_width_and_channel_count_is_read(tmp_path: Path, subtype: str, n_channels: int) -> None:
    frames = np.repeat(tone(0.5, RATE)[:, None], n_channels, axis=1)
    samples = read_audio(write(tmp_path / "tone.wav", frames, subtype=subtype), RATE)
    assert np.abs(samples - frames[:, 0]).max() < (2**-6 if subtype == "PCM_U8" else 2**-14)


def test_sixteen_bits_are_read_exactly(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(-32768, 32768, 5000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", whole, RATE)
    assert np.array_equal(read_audio(tmp_path / "a.wav", RATE) * 32768.0, whole)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.aiff", "a.caf", "a.rf64"])
def test_every_format_is_read_and_streamed_alike(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, tone(2.0, 44_100), 44_100)
    samples = read_audio(path, RATE)
    assert len(samples) == pytest.approx(2 * RATE, abs=0.1 * RATE)
    assert correlation(samples, tone(2.0, RATE)) > 0.99
    assert np.array_equal(samples, stream(FileSource(path, RATE)))


def test_a_suffix_does_not_matter_but_the_content_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(0.5, RATE))
    assert len(read_audio(path.rename(tmp_path / "a.recording"), RATE)) == RATE // 2
    (tmp_path / "letter.au").write_text("Dear Sir or Madam, " * 500)
    with pytest.raises(AudioError, match="no audio"):
        read_audio(tmp_path / "letter.au", RATE)


def wav_header(n_bytes: int, rate: int = RATE) -> bytes:
    form = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + n_bytes, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return form + struct.pack("<4sI", b"data", n_bytes)


def missing(path: Path) -> None:
    """Leave no file."""


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("this is not a sound\n" * 200)


def random_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(20_000))


def truncated_header(path: Path) -> None:
    path.write_bytes(wav_header(32_000)[:30])


def truncated_wav(path: Path) -> None:
    path.write_bytes(wav_header(32_000) + bytes(9_000))


def no_sample(path: Path) -> None:
    path.write_bytes(wav_header(0))


def one_sample(path: Path) -> None:
    soundfile.write(path, np.array([0.5]), RATE)


def absurd_rate(path: Path) -> None:
    path.write_bytes(wav_header(2000, rate=3) + bytes(2000))


def crowded(path: Path) -> None:
    soundfile.write(path, np.zeros((2000, 65)), RATE)


def not_a_number(path: Path) -> None:
    samples = tone(1.0, RATE)
    samples[9_000] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def infinite(path: Path) -> None:
    soundfile.write(path, np.append(tone(0.1, RATE), np.float32(np.inf)), RATE, subtype="FLOAT")


def integers_as_floats(path: Path) -> None:
    soundfile.write(path, 32767.0 * tone(0.1, RATE), RATE, subtype="FLOAT")


def encoded(suffix: str, share: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        whole = path.with_suffix(suffix)
        soundfile.write(whole, np.random.default_rng(2).standard_normal(48_000) * 0.1, RATE)
        content = whole.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    make.__name__ = f"{share:.0%} of a {suffix}"
    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "there is no file"),
        (a_folder, "not a regular file"),
        (a_pipe, "not a regular file"),
        (empty, "0 bytes"),
        (text, "no audio"),
        (random_bytes, "no audio"),
        (truncated_header, "no audio"),
        (truncated_wav, "promises 32000 bytes of sound and 9000 are there"),
        (no_sample, "0 samples at 16000 Hz; wanted at least 10 ms"),
        (one_sample, "1 sample at 16000 Hz; wanted at least 10 ms"),
        (absurd_rate, "3 Hz; wanted 1000 to"),
        (crowded, "65 channels; wanted 1 to 64"),
        (not_a_number, "no numbers"),
        (infinite, "no numbers"),
        (integers_as_floats, "samples as large as"),
        (encoded(".flac", 0.5), "damaged or truncated after"),
        (encoded(".ogg", 0.5), "truncated"),
        (encoded(".ogg", 0.999), "truncated"),
        (encoded(".mp3", 0.001), "no audio"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_one_sentence_that_names_the_file(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "sound.wav"
    make(path)
    for is_streamed in (False, True):
        with pytest.raises(AudioError, match=words) as caught:
            stream(FileSource(path, RATE)) if is_streamed else read_audio(path, RATE)
        sentence = str(caught.value)
        assert str(path) in sentence
        assert "\n" not in sentence
        assert ";" in sentence, "it says what to do next"
        assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["a\0b.wav", "x" * 5000])
def test_a_path_that_no_disk_can_hold_is_refused(name: str) -> None:
    with pytest.raises(AudioError):
        read_audio(name, RATE)


def test_without_the_check_of_promised_bytes_a_truncated_file_would_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.audio_files._missing_bytes", lambda log: None)
    truncated_wav(tmp_path / "a.wav")
    assert len(read_audio(tmp_path / "a.wav", RATE)) == 4500


@pytest.mark.parametrize("promised", [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000])
def test_a_recorder_that_wrote_into_a_pipe_is_read_to_its_end(tmp_path: Path, promised: int) -> None:
    header = bytearray(wav_header(0))
    header[40:44] = struct.pack("<I", promised)
    (tmp_path / "a.wav").write_bytes(bytes(header) + (tone(0.5, RATE) * 32767).astype("<i2").tobytes())
    assert len(read_audio(tmp_path / "a.wav", RATE)) == RATE // 2


def test_a_flac_stream_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone(1.3, RATE))
    whole = read_audio(path, RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert np.array_equal(read_audio(path, RATE), whole)
    with pytest.raises(AudioError, match="at most 1 s"):
        read_audio(path, RATE, max_seconds=1.0)


def test_mp3_blocks_join_without_a_seam(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", tone(2.0, RATE))
    whole, _ = soundfile.read(path, dtype="float32")
    assert np.abs(read_audio(path, RATE) - whole).max() < 1e-6


def test_seeking_between_blocks_would_break_mp3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp3", tone(2.0, RATE))
    monkeypatch.setattr("edge.audio_files._forward_reader", lambda: soundfile.SoundFile)
    whole, _ = soundfile.read(path, dtype="float32")
    assert np.abs(read_audio(path, RATE) - whole).max() > 0.1


def test_a_long_file_is_streamed_and_never_held(tmp_path: Path) -> None:
    seconds, rate = 2 * 3600, 8_000
    path = tmp_path / "night.wav"
    n_bytes = 2 * seconds * rate
    path.write_bytes(wav_header(n_bytes, rate))
    os.truncate(path, 44 + n_bytes)
    with pytest.raises(AudioError, match="lasts 7200 s"):
        read_audio(path, RATE)
    with FileSource(path, RATE) as source:
        blocks = iter(source)
        next(blocks)
        tracemalloc.start()
        end_sample = max(block.end_sample for block in itertools.islice(blocks, 8_000))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert end_sample > 400 * RATE
    assert peak_bytes < 4_000_000, "the whole of it takes 460 MB"


def test_a_folder_is_one_stream_with_a_gap_between_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "second.flac", tone(0.25, 48_000), 48_000)
    write(tmp_path / "a.wav", tone(0.5, RATE))
    write(tmp_path / ".hidden.wav", tone(0.5, RATE))
    (tmp_path / "notes.txt").write_text("no sound")
    with FolderSource(tmp_path, RATE) as source:
        blocks = list(source)
        assert source.health().n_lost == 0, "a pause between files is no loss"
    gaps = [block for block in blocks if block.n_lost]
    assert [(block.start_sample, block.n_lost) for block in gaps] == [(RATE // 2 + RATE, RATE)]
    assert sum(len(block.samples) for block in blocks) == RATE // 2 + RATE // 4


@pytest.mark.parametrize("make", [empty, text, truncated_wav, no_sample])
def test_a_bad_file_in_a_folder_is_named_when_it_opens(tmp_path: Path, make: Callable[[Path], None]) -> None:
    write(tmp_path / "a.wav", tone(0.5, RATE))
    make(tmp_path / "z.wav")
    with pytest.raises(AudioError, match=r"z\.wav"), FolderSource(tmp_path, RATE):
        pass


def test_a_folder_without_a_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    with (
        pytest.raises(AudioError, match=r"holds no recording; wanted files that end in .*\.wav"),
        FolderSource(tmp_path, RATE),
    ):
        pass


def test_both_speeds_give_the_same_blocks_and_only_one_waits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(1.3, 44_100), 44_100)
    slept: list[float] = []
    with FileSource(path, RATE, speed="max", sleep=slept.append) as source:
        fast = [(block.start_sample, block.n_lost, block.samples.tobytes()) for block in source]
    assert slept == []
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    heard_at = []
    slow = []
    with FileSource(path, RATE, speed="real", clock=lambda: now[0], sleep=sleep) as source:
        for block in source:
            slow.append((block.start_sample, block.n_lost, block.samples.tobytes()))
            heard_at.append((now[0], block.end_sample / RATE))
    assert slow == fast
    assert all(at == pytest.approx(due) for at, due in heard_at)
    assert now[0] == pytest.approx(1.3)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_damaged_bytes_are_refused_or_read_but_never_worse(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(3)
    content = write(tmp_path / f"whole{suffix}", tone(0.3, RATE)).read_bytes()
    path = tmp_path / "damaged"
    for _ in range(60):
        damaged = bytearray(content[: int(rng.integers(1, 2 * len(content)))])
        for place in rng.integers(0, min(len(damaged), 200), 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            samples = read_audio(path, RATE, max_seconds=60.0)
        except AudioError:
            continue
        assert len(samples) > 0
        assert np.isfinite(samples).all()


def test_real_recordings_are_read(shared_data: Path) -> None:
    paths = sorted(shared_data.rglob("*.*"))
    by_suffix = {path.suffix: path for path in paths if path.suffix in {".wav", ".flac", ".ogg", ".mp3"}}
    assert by_suffix, "the folder of recordings holds some"
    for path in by_suffix.values():
        samples = read_audio(path, RATE)
        assert np.isfinite(samples).all()
        assert np.array_equal(samples, stream(FileSource(path, RATE)))
