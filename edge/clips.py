"""Audio of taught examples, kept only when the owner gives it a budget of bytes; the oldest goes first.

The journal never holds audio. A clip is named after the content hash of its record's embeddings, so that renaming a
class moves no file, and after a running number, so that "oldest" needs no clock. 16-bit mono WAV.
"""

from __future__ import annotations

import io
import re
import wave
from collections.abc import Container
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edge.durable import remove_file, write_file
from edge.errors import MisuseError, StateError

FOLDER = "clips"
MAX_CLIP_BYTES = 1 << 28

CLIP_NAME = re.compile(r"([0-9]{12})-([0-9a-f]{64})\.wav\Z")
_CONTENT = re.compile(r"[0-9a-f]{64}\Z")


class ClipStore:
    """The clips of one state directory. ``max_bytes``: 0 (the default) keeps nothing. For the one writer only."""

    def __init__(self, state_dir: Path, *, max_bytes: int = 0) -> None:
        self._folder = Path(state_dir) / FOLDER
        self._max_bytes = max_bytes

    def keep(self, content_sha256: str, samples: NDArray[np.float32], sample_rate: int) -> bool:
        """Keep one clip and drop the oldest ones that the budget has no room for; False when it was not kept.

        content_sha256: ``Record.content_sha256``. samples: (n,) float32 in [-1, 1], mono; sample_rate in Hz.
        Raises StateError when the disk refuses; the example itself is in the journal already.
        """
        if not _CONTENT.match(content_sha256):
            raise MisuseError(
                f"content_sha256 {content_sha256[:80]!r} is not 64 hex digits; pass Record.content_sha256"
            )
        data = _wav(samples, sample_rate)
        if len(data) > min(self._max_bytes, MAX_CLIP_BYTES):
            return False
        try:
            kept = self._listed()
            if any(content == content_sha256 for _, content, _ in kept):
                return True
            self._folder.mkdir(mode=0o700, exist_ok=True)
            total = sum(path.stat().st_size for _, _, path in kept)
            number = 1 + max((number for number, _, _ in kept), default=0)
            for _, _, path in kept:
                if total + len(data) <= self._max_bytes:
                    break
                total -= path.stat().st_size
                remove_file(path)
            write_file(self._folder / f"{number:012d}-{content_sha256}.wav", [data])
        except OSError as error:
            raise StateError(
                f"the clip could not be kept in {self._folder} ({error.strerror}); free some space"
            ) from error
        return True

    def load(self, content_sha256: str) -> tuple[NDArray[np.float32], int] | None:
        """Return samples (n,) float32 and the sample rate in Hz, or None when there is no such clip."""
        path = next((path for _, content, path in self._listed() if content == content_sha256), None)
        if path is None:
            return None
        try:
            return read_clip(str(path))
        except (wave.Error, EOFError, OSError) as error:
            raise StateError(f"the clip {path} cannot be read ({error}); remove it") from error

    def contents(self) -> tuple[str, ...]:
        """Return the content hashes of all clips, oldest first."""
        return tuple(content for _, content, _ in self._listed())

    def retain(self, contents: Container[str]) -> None:
        """Remove every clip that is not of ``contents``, and what a crash left half-written. Raises OSError."""
        for _, content, path in self._listed():
            if content not in contents:
                remove_file(path)
        if self._folder.is_dir():
            for leftover in self._folder.glob("*.tmp"):
                remove_file(leftover)

    def _listed(self) -> list[tuple[int, str, Path]]:
        if not self._folder.is_dir():
            return []
        matches = ((CLIP_NAME.match(path.name), path) for path in self._folder.iterdir())
        return sorted((int(match[1]), match[2], path) for match, path in matches if match is not None)


def read_clip(file: str | IO[bytes]) -> tuple[NDArray[np.float32], int]:
    """Return samples (n,) float32 and the sample rate in Hz of a WAV file that a device kept, to the bit.

    file: a path or an open file. Raises wave.Error, EOFError, OSError.
    """
    with wave.open(file, "rb") as sound:
        if (sound.getnchannels(), sound.getsampwidth()) != (1, 2) or sound.getnframes() * 2 > MAX_CLIP_BYTES:
            raise wave.Error("it is not 16-bit mono")
        data, rate = sound.readframes(sound.getnframes()), sound.getframerate()
    return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(32768.0), rate


def _wav(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    pcm = np.clip(np.rint(samples.astype(np.float64) * 32768.0), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.tobytes())
    return buffer.getvalue()
