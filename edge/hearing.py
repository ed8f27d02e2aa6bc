"""From sound to what can be learnt: embedded windows with their loudness, and the examples made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.audio_files import read_audio
from edge.errors import SilenceError
from edge.records import Twin
from edge.space import EmbeddingSpace
from edge.windows import DIGITAL_SILENCE, SOUND_SHARE, windows_of

FULL_SCALE = 0.999


class WindowEmbedder(Protocol):
    """What this module needs of an embedder: one space, and windows to integers on its grid."""

    @property
    def space(self) -> EmbeddingSpace: ...

    def quantized(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
        """(n, window_length) float32 -> (n, d) int16 and the number of clipped entries."""
        ...


@dataclass(frozen=True, eq=False)
class Levels:
    """Loudness of n windows; full scale is 1. power: mean square. clipped: share of samples at full scale."""

    power: NDArray[np.float64]
    peak: NDArray[np.float64]
    clipped: NDArray[np.float64]

    @staticmethod
    def of(windows: NDArray[np.float32]) -> Levels:
        """windows: (n, window_length) float32, one pass per window so that a long view is never copied."""
        rows = [
            (np.mean(np.square(w, dtype=np.float64)), max(np.max(w), -np.min(w)), np.mean(np.abs(w) >= FULL_SCALE))
            for w in windows
        ]
        power, peak, clipped = np.array(rows, dtype=np.float64).reshape(-1, 3).T
        return Levels(power, peak, clipped)

    def audible(self) -> NDArray[np.bool_]:
        """Which windows are not digital silence, (n,) bool."""
        return np.asarray(self.peak >= DIGITAL_SILENCE)

    def carry_sound(self) -> NDArray[np.bool_]:
        """The rule of ``edge.windows.carries_sound`` on loudness alone, (n,) bool."""
        audible = self.audible()
        loudest = np.max(self.power, initial=0.0, where=audible)
        return np.asarray(audible & (self.power >= SOUND_SHARE**2 * loudest))

    def __getitem__(self, chosen: Any) -> Levels:
        return Levels(self.power[chosen], self.peak[chosen], self.clipped[chosen])


@dataclass(frozen=True, eq=False)
class Heard:
    """A stretch of sound after the embedder: its n windows in order.

    starts: (n,) int64, samples. embeddings: (n, d) int16. samples: (m,) float32, only when the owner keeps clips.
    audio: the same sound in memory, to hear it again with another ear; it goes no further.
    """

    space: EmbeddingSpace
    starts: NDArray[np.int64]
    embeddings: NDArray[np.int16]
    levels: Levels
    samples: NDArray[np.float32] | None = None
    audio: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True, eq=False)
class Example:
    """What one record is made of: the windows of one file or span that are to be learnt.

    embeddings: (n, d) int16, n >= 1. levels: of the same windows. provenance: where it came from, never audio.
    samples: (m,) float32, its audio, only when the owner keeps clips. twin: the same sound through the other ear,
    while a new one is on trial.
    """

    space: EmbeddingSpace
    embeddings: NDArray[np.int16]
    levels: Levels
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: NDArray[np.float32] | None = None
    twin: Twin | None = None

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return str(self.provenance.get("file") or self.provenance.get("source") or "the example")


def hear(samples: NDArray[np.float32], embedder: WindowEmbedder, *, keep_audio: bool = False) -> Heard:
    """Embed every window of a whole sound, one after the other; at least one.

    samples: (m,) float32 at the embedder's sample rate.
    """
    space = embedder.space
    starts, windows = windows_of(samples, space.window_length, space.hop_length)
    embeddings = np.concatenate([embedder.quantized(windows[i : i + 1])[0] for i in range(len(windows))])
    return Heard(space, starts, embeddings, Levels.of(windows), samples if keep_audio else None, samples)


def heard_with(heard: Heard, embedder: WindowEmbedder) -> Heard:
    """Hear the same sound with another ear, where it was not heard with that one. Raises SilenceError when its audio
    is not at hand."""
    if heard.space == embedder.space:
        return heard
    if heard.audio is None:
        raise SilenceError(
            "that was heard before the new ear came into use, and its sound is not at hand any more; wait until the "
            "sound is heard again"
        )
    again = hear(heard.audio, embedder, keep_audio=heard.samples is not None)
    return replace(again, starts=again.starts + heard.starts[0])


def sounding_example(heard: Heard, provenance: Mapping[str, Any], *, twin: WindowEmbedder | None = None) -> Example:
    """Keep the windows that carry sound, for a class. Raises SilenceError when none does.

    twin: the other ear, which hears the same sound and chooses its windows by the same rule.
    """
    example = _example(heard, heard.levels.carry_sound(), provenance)
    return example if twin is None else _with_twin(example, sounding_example(heard_with(heard, twin), provenance))


def background_example(heard: Heard, provenance: Mapping[str, Any], *, twin: WindowEmbedder | None = None) -> Example:
    """Keep every window that is not digital silence: what to stay silent on is also the quiet between two noises."""
    example = _example(heard, heard.levels.audible(), provenance)
    return example if twin is None else _with_twin(example, background_example(heard_with(heard, twin), provenance))


def _with_twin(example: Example, other: Example) -> Example:
    return replace(example, twin=Twin(other.space, other.embeddings))


def _example(heard: Heard, chosen: NDArray[np.bool_], provenance: Mapping[str, Any]) -> Example:
    if not chosen.any():
        name = provenance.get("file") or provenance.get("source") or "the sound"
        raise SilenceError(
            f"{name} is digital silence (no sample reaches 1/32768); wanted a sound; check the microphone or the file"
        )
    return Example(heard.space, heard.embeddings[chosen], heard.levels[chosen], dict(provenance), heard.samples)


def example_of_file(
    path: str | Path,
    embedder: WindowEmbedder,
    *,
    background: bool = False,
    keep_audio: bool = False,
    twin: WindowEmbedder | None = None,
) -> Example:
    """Read, cut and embed one file. Raises AudioError for what is no audio, SilenceError for digital silence."""
    samples = read_audio(path, embedder.space.sample_rate)
    make = background_example if background else sounding_example
    seconds = len(samples) / embedder.space.sample_rate
    provenance = {"file": str(path), "seconds": round(seconds, 3)}
    return make(hear(samples, embedder, keep_audio=keep_audio), provenance, twin=twin)
