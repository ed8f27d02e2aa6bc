"""What a precision costs where it counts: accuracy of a linear read-out on groups that the read-out never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.embedder import Embedder
from edge.errors import AudioError
from trainer.datasets import Clip, ClipAudio, is_held_out, list_clips
from trainer.evaluation import clip_means, readout_accuracy


@dataclass(frozen=True)
class ReadoutAccuracy:
    """Accuracy of a ridge read-out of one set's clip means, trained and tested on separate groups."""

    set_name: str
    n_clips: int
    accuracy: float


def readout_accuracies(embedder: Embedder, sets: Mapping[str, Path]) -> list[ReadoutAccuracy]:
    """Embed every clip of each set (``<set>/<class>/<clip>``) and measure the read-out.

    Raises AudioError for a set without class folders.
    """
    results = []
    for name, folder in sets.items():
        clips = list_clips(folder)
        audio = ClipAudio(embedder.space.sample_rate)
        results.append(ReadoutAccuracy(name, len(clips), readout_of(embedder, clips, audio)))
    return results


def readout_of(
    embedder: Embedder, clips: list[Clip], audio: ClipAudio, step: Callable[[], object] = lambda: None
) -> float:
    """Accuracy on the groups kept out. ``audio`` keeps what it decoded for the next backbone; ``step`` is per clip."""

    def embed(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        step()
        return embedder.embed(windows)

    space = embedder.space
    data = clip_means(clips, is_held_out, embed, audio, window_length=space.window_length, hop_length=space.hop_length)
    return readout_accuracy(data)


def clips_with_groups(folder: Path) -> list[Clip] | str:
    """The clips of a set that a read-out can be measured on, or in words why it cannot."""
    try:
        clips = list_clips(folder)
    except AudioError as e:
        return str(e)
    n_held_out = sum(map(is_held_out, clips))
    if not 0 < n_held_out < len(clips):
        return f"{n_held_out} of {len(clips)} clips are in groups kept out; wanted some on both sides"
    if len({clip.label for clip in clips}) < 2:
        return "all clips are of one class"
    return clips
