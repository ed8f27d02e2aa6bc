"""Scenes: a stretch of audible household life, and the truth about it.

A scene is a background with sounds laid into it one after another, each once through the same room. What is heard and
when is known, so a scene can teach, test and demonstrate without a single recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from edge.sounds import SOUNDS, TEN_TEST_SOUNDS, Instrument, SoundRecipe, Voice
from edge.sounds.blocks import Samples
from edge.sounds.rooms import (
    BACKGROUNDS,
    background,
    impulse_response,
    mix_at_snr,
    reverberated,
    rms,
)

__all__ = [
    "BACKGROUNDS",
    "SOUNDS",
    "TEN_TEST_SOUNDS",
    "Instrument",
    "Occurrence",
    "Scene",
    "SoundRecipe",
    "Voice",
    "background",
    "impulse_response",
    "make_scene",
    "mix_at_snr",
    "scene_from_clips",
]


@dataclass(frozen=True)
class Occurrence:
    """A sound in a scene, from sample ``onset`` up to ``offset``. ``label`` None: a sound that nobody taught."""

    label: str | None
    onset: int
    offset: int


@dataclass(frozen=True, eq=False)
class Scene:
    """samples: (n,) float32 mono, peak at most 1. truth: in order of onset, never overlapping."""

    samples: Samples
    sample_rate: int
    truth: tuple[Occurrence, ...]

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def _without_edges(clip: Samples) -> Samples:
    """Cut the quiet beginning and end of a clip: below a hundredth of its peak."""
    loud = np.flatnonzero(np.abs(clip) > 0.01 * np.max(np.abs(clip), initial=0.0))
    return clip[loud[0] : loud[-1] + 1] if len(loud) else clip[:0]


def scene_from_clips(
    rng: Generator,
    sample_rate: int,
    clips: Sequence[tuple[str | None, Samples]],
    *,
    gap_s: tuple[float, float] = (1.2, 2.2),
    background_kind: str | None = "fan",
    snr_db: float = 25.0,
    reverberation_s: float = 0.0,
) -> Scene:
    """Lay clips one after another into a background.

    clips: (label or None, (n,) float32) in the order of the scene; their levels are kept. gap_s: range of the quiet
    before each and after the last. snr_db: ratio of the median clip's RMS to that of the background.
    reverberation_s: RT60 of the room around all clips, 0 for none. The truth spans the dry sound.
    """
    room = impulse_response(rng, sample_rate, reverberation_s) if reverberation_s > 0.0 else None
    truth: list[Occurrence] = []
    placed: list[tuple[int, Samples]] = []
    levels: list[float] = []
    at = 0
    for label, clip in clips:
        at += round(float(rng.uniform(*gap_s)) * sample_rate)
        dry = _without_edges(clip)
        placed.append((at, dry if room is None else reverberated(dry, room)))
        levels.append(rms(dry))
        truth.append(Occurrence(label, at, at + len(dry)))
        at += len(dry)
    n = at + round(gap_s[1] * sample_rate)
    samples = np.zeros(n, dtype=np.float32)
    for start, sound in placed:
        end = min(n, start + len(sound))
        samples[start:end] += sound[: end - start]
    if background_kind is not None:
        bed = background(background_kind, n / sample_rate, rng, sample_rate)[:n]
        gain = (float(np.median(levels)) if levels else 0.1) * 10.0 ** (-snr_db / 20.0) / max(rms(bed), 1e-9)
        samples += np.float32(gain) * bed
    largest = float(np.max(np.abs(samples), initial=0.0))
    return Scene(samples / np.float32(max(1.0, largest)), sample_rate, tuple(truth))


def make_scene(
    rng: Generator,
    sample_rate: int,
    known: Sequence[Instrument],
    unknown: Sequence[Instrument] = (),
    *,
    repeats: int = 2,
    gap_s: tuple[float, float] = (1.2, 2.2),
    background_kind: str | None = "fan",
    snr_db: float = 25.0,
    reverberation_s: float = 0.25,
) -> Scene:
    """Draw ``repeats`` new examples of every known thing and one of every unknown thing, shuffled into one scene.

    The truth carries the name of a known thing and None for an unknown one.
    """
    clips: list[tuple[str | None, Samples]] = [
        (thing.name, thing.example(rng, sample_rate)) for thing in known for _ in range(repeats)
    ]
    clips += [(None, thing.example(rng, sample_rate)) for thing in unknown]
    shuffled = [clips[i] for i in rng.permutation(len(clips))]
    return scene_from_clips(
        rng,
        sample_rate,
        shuffled,
        gap_s=gap_s,
        background_kind=background_kind,
        snr_db=snr_db,
        reverberation_s=reverberation_s,
    )
