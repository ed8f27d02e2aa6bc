"""Recorded sound: WAV, FLAC, OGG and MP3 files, whole or streamed, and folders of them.

Each way in which a file can be wrong ends in one AudioError that names the file. Headers are checked when a source
opens, so a folder with a bad file is refused at once and not after an hour.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.audio_stream import AudioBlock, Pacer, SourceHealth, Speed, Timeline, to_mono
from edge.errors import AudioError

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".caf", ".rf64", ".w64"})
BLOCK_SECONDS = 0.05
PAUSE_SECONDS = 1.0
MIN_SECONDS = 0.01
MAX_PEAK = 100.0
MIN_RATE, MAX_RATE = 1_000, 768_000
MAX_CHANNELS = 64
UNKNOWN_LENGTH = 2**62
STREAMED_BYTES = 0x7FFF0000


def read_audio(path: str | Path, sample_rate: int, *, max_seconds: float = 3600.0) -> NDArray[np.float32]:
    """Read a whole file: channel mean, resampled to ``sample_rate`` (Hz).

    Returns (n,) float32, n >= 1, finite, full scale 1.0; to the bit what ``FileSource`` streams. Raises AudioError for
    a file that is missing, no audio, empty, truncated, damaged, shorter than 10 ms, not finite, or longer than
    ``max_seconds`` (to be streamed instead: an hour at 16 kHz takes 230 MB).
    """
    source = Path(path)
    timeline = Timeline(sample_rate)
    pieces: list[AudioBlock] = []
    with _open(source) as sound:
        timeline.begin(sound.samplerate)
        if sound.frames < UNKNOWN_LENGTH:
            _check_fits(source, sound.frames, sound.samplerate, max_seconds)
        n_read = 0
        for samples in _decode(source, sound):
            n_read += len(samples)
            _check_fits(source, n_read, sound.samplerate, max_seconds)
            pieces += timeline.push(samples)
        pieces += timeline.finish()
    return np.concatenate([block.samples for block in pieces])


class FileSource:
    """One recording, streamed: never more than a block of it in memory.

    speed: "real" lets blocks go at the pace of the clock, "max" at once; the blocks are the same.
    """

    def __init__(
        self,
        path: str | Path,
        sample_rate: int,
        *,
        speed: Speed = "max",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.sample_rate = sample_rate
        self.name = str(path)
        self._path = Path(path)
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._closed = threading.Event()
        self._health = SourceHealth("waiting")

    def __enter__(self) -> FileSource:
        for path in self._paths():
            _open(path).close()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        self._health = SourceHealth("ended")

    def __iter__(self) -> Iterator[AudioBlock]:
        pacer = Pacer(self.sample_rate, clock=self._clock, sleep=self._sleep) if self._speed == "real" else None
        for block in self._blocks():
            if pacer is not None:
                pacer.wait_for(block.end_sample)
            if self._closed.is_set():
                return
            yield block
        self._health = SourceHealth("ended")

    def health(self) -> SourceHealth:
        return self._health

    def _paths(self) -> Sequence[Path]:
        return [self._path]

    def _blocks(self) -> Iterator[AudioBlock]:
        timeline = Timeline(self.sample_rate)
        pause = 0
        for path in self._paths():
            self._health = SourceHealth("running", detail=f"playing {str(path)!r}")
            with _open(path) as sound:
                timeline.begin(sound.samplerate, n_lost=pause)
                for samples in _decode(path, sound):
                    yield from timeline.push(samples)
                yield from timeline.finish()
            pause = round(PAUSE_SECONDS * self.sample_rate)


class FolderSource(FileSource):
    """All recordings under a folder, sorted by path, as one stream: between two files the timeline skips one second.

    Hidden files and folders are left out. Raises AudioError when there is no recording, or a bad one.
    """

    def _paths(self) -> Sequence[Path]:
        return audio_files_of(self._path)


def audio_files_of(folder: Path) -> list[Path]:
    """List the recordings under ``folder``, sorted by path. Raises AudioError when there is none."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not found:
        raise AudioError(
            f"the folder {str(folder)!r} holds no recording; wanted files that end in "
            f"{', '.join(sorted(AUDIO_SUFFIXES))}; name another folder"
        )
    return sorted(found)


def _open(path: Path) -> Any:
    """Open a recording (a ``soundfile.SoundFile``) whose header is plausible and complete. Raises AudioError.

    It is opened by descriptor, so that only the content decides what it is: by name, libsndfile takes any text called
    ``.au`` for sound.
    """
    import soundfile

    name = repr(str(path))
    descriptor = _descriptor(path)
    try:
        sound = _forward_reader()(descriptor, closefd=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{name} is no audio that can be read ({_reason(error)}); wanted WAV, FLAC, OGG or MP3; "
            f"convert it, for example with: ffmpeg -i FILE out.wav"
        ) from error
    try:
        _check_header(path, sound)
    except AudioError:
        sound.close()
        raise
    return sound


@functools.cache
def _forward_reader() -> Any:
    """Return a ``soundfile.SoundFile`` that only reads on.

    The original seeks after every read; that makes MP3 decoders drop what the next packet needs (errors of half of full
    scale at each block) and fails at the end of a FLAC stream of unknown length.
    """
    import soundfile

    return type("ForwardReader", (soundfile.SoundFile,), {"seekable": lambda self: False})


def _descriptor(path: Path) -> int:
    name = repr(str(path))
    try:
        if not path.exists():
            raise AudioError(f"there is no file {name}; wanted a WAV, FLAC, OGG or MP3 file; check the path")
        if not path.is_file():
            raise AudioError(
                f"{name} is not a regular file; wanted a recording; pipe raw PCM into: soundkeep listen --source -"
            )
        if path.stat().st_size == 0:
            raise AudioError(f"{name} is empty (0 bytes); wanted a recording; record it again")
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AudioError(f"{name} cannot be read ({reason}); wanted a readable recording; check the path") from error


def _check_header(path: Path, sound: Any) -> None:
    name, rate, n_frames = repr(str(path)), int(sound.samplerate), int(sound.frames)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name} declares {rate} Hz; wanted {MIN_RATE} to {MAX_RATE} Hz; convert it to 16000 Hz")
    if sound.channels > MAX_CHANNELS:
        raise AudioError(
            f"{name} declares {sound.channels} channels; wanted 1 to {MAX_CHANNELS}; convert it to one channel"
        )
    missing = _missing_bytes(sound.extra_info)
    if missing is not None:
        raise AudioError(
            f"{name} is truncated: its header promises {missing[0]} bytes of sound and {missing[1]} are there; "
            f"copy or record it again"
        )
    if sound.format == "OGG" and not _ogg_ends(path):
        raise AudioError(f"{name} is truncated: its last OGG page is missing; copy or record it again")
    _check_length(path, n_frames, rate)


def _check_length(path: Path, n_frames: int, rate: int) -> None:
    if n_frames < MIN_SECONDS * rate:
        raise AudioError(
            f"{str(path)!r} holds {n_frames} sample{'' if n_frames == 1 else 's'} at {rate} Hz; "
            f"wanted at least {MIN_SECONDS * 1000:.0f} ms of sound; record it again"
        )


def _check_fits(path: Path, n_frames: int, rate: int, max_seconds: float) -> None:
    if n_frames > max_seconds * rate:
        raise AudioError(
            f"{str(path)!r} lasts {n_frames / rate:.0f} s or more; at most {max_seconds:.0f} s fit in memory at once; "
            f"cut it, or stream it with: soundkeep listen --source FILE --speed max"
        )


def _decode(path: Path, sound: Any) -> Iterator[NDArray[np.float32]]:
    """Yield the recording's mono samples in blocks of 50 ms, at its own rate. Raises AudioError for bad content."""
    import soundfile

    name, rate = repr(str(path)), int(sound.samplerate)
    block_length = max(1, round(BLOCK_SECONDS * rate))
    n_read = 0
    while True:
        try:
            frames = sound.read(block_length, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{name} is damaged or truncated after {n_read / rate:.2f} s ({_reason(error)}); "
                f"copy or record it again"
            ) from error
        if len(frames) == 0:
            break
        peak = float(np.max(np.abs(frames)))
        if not peak <= MAX_PEAK:
            found = (
                f"samples as large as {peak:g}" if np.isfinite(peak) else "values that are no numbers (NaN, infinity)"
            )
            raise AudioError(
                f"{name} holds {found} near {n_read / rate:.2f} s; wanted finite samples with full scale 1.0; "
                f"export it again"
            )
        n_read += len(frames)
        yield to_mono(frames)
    _check_length(path, n_read, rate)
    if n_read < sound.frames < UNKNOWN_LENGTH:
        raise AudioError(
            f"{name} is truncated: its header promises {sound.frames / rate:.2f} s of sound and "
            f"{n_read / rate:.2f} s are there; copy or record it again"
        )


def _reason(error: Exception) -> str:
    words = str(getattr(error, "error_string", error)).split(": ")[-1]
    return words.strip().rstrip(".")


def _missing_bytes(log: str) -> tuple[int, int] | None:
    """Find in libsndfile's log a sound chunk that is longer than the file: (bytes promised, bytes there), or None.

    Sizes near 2 or 4 GiB are what recorders write into a pipe, where the length is not known beforehand.
    """
    for promised, there in re.findall(r"(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", log):
        if int(there) < int(promised) < STREAMED_BYTES:
            return int(promised), int(there)
    return None


def _ogg_ends(path: Path) -> bool:
    """Whether the file's last OGG page is whole and flagged as the end of its stream (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * 65_307))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    n_segments = page[26] if len(page) > 26 else 0
    body = sum(page[27 : 27 + n_segments])
    return len(page) >= 27 + n_segments + body and bool(page[5] & 4)
