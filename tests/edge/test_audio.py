"""A user's word becomes a source, and raw PCM on a pipe is one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edge.audio import FileSource, FolderSource, MicrophoneSource, PcmSource, open_source
from edge.errors import AudioError, ConfigurationError, SoundkeepError

RATE = 16_000


def as_float(data: bytes) -> bytes:
    return (np.frombuffer(data, dtype="<i2") / 32768.0).astype(np.float32).tobytes()


@given(st.binary(min_size=2, max_size=6000).filter(lambda data: len(data) % 2 == 0))
def test_raw_pcm_comes_through_exactly(data: bytes) -> None:
    with PcmSource(io.BytesIO(data), RATE, pcm_rate=RATE) as source:
        assert b"".join(block.samples.tobytes() for block in source) == as_float(data)


@pytest.mark.parametrize("sizes", [[1], [3, 1, 7], [1000, 1]])
def test_a_pipe_may_break_samples_anywhere(sizes: list[int]) -> None:
    data = np.random.default_rng(0).integers(-32768, 32768, 500, dtype="<i2").tobytes()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, PcmSource(pipe, RATE) as source:
        heard = b""
        blocks = iter(source)
        place = i = 0
        while place < len(data):
            place += os.write(writing, data[place : place + sizes[i % len(sizes)]])
            i += 1
        os.close(writing)
        heard = b"".join(block.samples.tobytes() for block in blocks)
    assert heard == as_float(data)


@pytest.mark.parametrize(
    ("data", "words", "n_samples"),
    [
        (b"", "held no byte", 0),
        (b"\1", r"ended inside a sample \(1 bytes\)", 0),
        (bytes(1001), "ended inside a sample", 500),
    ],
)
def test_a_stream_that_ends_badly_says_so_after_all_it_had(data: bytes, words: str, n_samples: int) -> None:
    n_heard = 0
    with PcmSource(io.BytesIO(data), RATE) as source:
        with pytest.raises(AudioError, match=words):
            for block in source:
                n_heard += len(block.samples)
        assert source.health().state == "ended"
    assert n_heard == n_samples


def test_each_word_finds_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = tmp_path / "a.wav"
    soundfile.write(recording, np.zeros(RATE), RATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(4000))))
    assert isinstance(open_source("mic", RATE), MicrophoneSource)
    assert open_source("mic: USB Audio ", RATE).name == "mic:USB Audio"
    assert isinstance(open_source("-", RATE), PcmSource)
    assert isinstance(open_source(".", RATE), FolderSource)
    source = open_source("a.wav", RATE, speed="max")
    assert type(source) is FileSource
    with source:
        assert sum(len(block.samples) for block in source) == RATE


@pytest.mark.parametrize(
    ("open_it", "error", "words"),
    [
        (lambda: open_source("", RATE), ConfigurationError, "names nothing"),
        (lambda: open_source("mic:", RATE), ConfigurationError, "names nothing"),
        (lambda: open_source("no/such.wav", RATE), AudioError, "no file or folder 'no/such.wav'; wanted mic"),
        (lambda: open_source("x" * 10_000, RATE), AudioError, "no file or folder"),
        (lambda: open_source("a\0b", RATE), AudioError, "no file or folder"),
        (lambda: open_source(".", RATE, speed="fast"), ConfigurationError, "'real' or 'max'"),  # type: ignore[arg-type]
        (lambda: open_source("-", RATE, pcm_rate=0), ConfigurationError, "0 Hz"),
    ],
)
def test_a_word_that_names_no_source_is_refused(
    open_it: Callable[[], object], error: type[SoundkeepError], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_it()


def test_importing_loads_no_sound_library() -> None:
    script = "import sys, edge.audio, edge.windows, edge.microphone_child; print(*sys.modules)"
    root = Path(__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
    assert not {"sounddevice", "soundfile", "soxr", "scipy"} & set(loaded.split())
