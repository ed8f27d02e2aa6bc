"""Sound, wherever it comes from: ``open_source`` turns a user's word into an AudioSource.

>>> with open_source("kitchen.wav", 16_000, speed="max") as source:  # doctest: +SKIP
...     for block in source:
...         print(block.start_sample, len(block.samples))
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge.audio_files import BLOCK_SECONDS, FileSource, FolderSource, audio_files_of, read_audio
from edge.audio_stream import AudioBlock, AudioSource, SourceHealth, SourceState, Speed, Timeline
from edge.errors import AudioError, ConfigurationError
from edge.microphone import MicrophoneSource

__all__ = [
    "AudioBlock",
    "AudioSource",
    "FileSource",
    "FolderSource",
    "MicrophoneSource",
    "PcmSource",
    "SourceHealth",
    "SourceState",
    "Speed",
    "audio_files_of",
    "open_source",
    "read_audio",
]

POLL_SECONDS = 0.2


class PcmSource:
    """Raw PCM from a stream, usually standard input: int16, little-endian, one channel, at a declared rate.

    It comes at the pace of its writer, whatever ``--speed`` says. Raises AudioError when the stream ends inside a
    sample (after everything before it was yielded) or holds nothing.
    """

    def __init__(
        self, stream: BinaryIO, sample_rate: int, *, pcm_rate: int = 16_000, name: str = "standard input"
    ) -> None:
        if pcm_rate < 1_000:
            raise ConfigurationError(f"the rate of raw PCM is {pcm_rate} Hz; wanted at least 1000 Hz")
        self.sample_rate = sample_rate
        self.name = name
        self._stream = stream
        self._pcm_rate = pcm_rate
        self._closed = threading.Event()
        self._health = SourceHealth("waiting")

    def __enter__(self) -> PcmSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        self._health = SourceHealth("ended")

    def __iter__(self) -> Iterator[AudioBlock]:
        timeline = Timeline(self.sample_rate)
        timeline.begin(self._pcm_rate)
        n_bytes, odd = 0, b""
        for chunk in self._chunks():
            n_bytes += len(chunk)
            self._health = SourceHealth("running")
            whole, odd = _split_at_sample(odd + chunk)
            yield from timeline.push(np.frombuffer(whole, dtype="<i2").astype(np.float32) / np.float32(32768.0))
        yield from timeline.finish()
        self._health = SourceHealth("ended")
        if odd and not self._closed.is_set():
            raise AudioError(
                f"{self.name} ended inside a sample ({n_bytes} bytes); wanted raw int16 PCM, two bytes a sample; "
                f"check the writer, or name a file instead of -"
            )
        if n_bytes == 0 and not self._closed.is_set():
            raise AudioError(f"{self.name} held no byte; wanted raw int16 PCM at {self._pcm_rate} Hz; check the writer")

    def health(self) -> SourceHealth:
        return self._health

    def _chunks(self) -> Iterator[bytes]:
        """Yield what the stream holds, as it comes, until it ends or the source is closed."""
        n_max = 2 * max(1, round(BLOCK_SECONDS * self._pcm_rate))
        descriptor = _pollable(self._stream)
        while not self._closed.is_set():
            if descriptor is None:
                chunk = self._stream.read(n_max)
            elif not select.select([descriptor], [], [], POLL_SECONDS)[0]:
                continue
            else:
                chunk = os.read(descriptor, n_max)
            if not chunk:
                return
            yield chunk


def _split_at_sample(data: bytes) -> tuple[bytes, bytes]:
    n_whole = len(data) - len(data) % 2
    return data[:n_whole], data[n_whole:]


def _pollable(stream: BinaryIO) -> int | None:
    """Return the stream's descriptor where waiting for it can be interrupted, else None."""
    if os.name != "posix":
        return None
    try:
        return stream.fileno()
    except (OSError, io.UnsupportedOperation):
        return None


def open_source(spec: str, sample_rate: int, *, speed: Speed = "real", pcm_rate: int = 16_000) -> AudioSource:
    """Find the source that ``spec`` names; it opens in a ``with``.

    spec: ``mic`` (the default microphone), ``mic:NAME`` (the one whose name holds NAME), ``-`` (raw PCM on standard
    input, at ``pcm_rate`` Hz), or the path of a recording or a folder of them (``./mic`` for a file called mic).
    sample_rate: Hz, of the blocks. speed: "real" or "max", for recordings.
    Raises ConfigurationError for a spec that names nothing, AudioError for a path that is not there.
    """
    if speed not in ("real", "max"):
        raise ConfigurationError(f"the speed is {speed!r}; wanted 'real' or 'max'")
    if spec == "-":
        return PcmSource(sys.stdin.buffer, sample_rate, pcm_rate=pcm_rate)
    if spec == "mic":
        return MicrophoneSource(sample_rate)
    if spec.startswith("mic:") and spec[4:].strip():
        return MicrophoneSource(sample_rate, device=spec[4:].strip())
    if not spec.strip() or spec == "mic:":
        raise ConfigurationError(f"the source {spec!r} names nothing; wanted mic, mic:NAME, a file, a folder or -")
    if os.path.isdir(spec):
        return FolderSource(Path(spec), sample_rate, speed=speed)
    if not os.path.exists(spec):
        raise AudioError(
            f"there is no file or folder {spec!r}; wanted mic, mic:NAME, a file, a folder or -; check the path"
        )
    return FileSource(Path(spec), sample_rate, speed=speed)
