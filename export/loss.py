"""What int8 costs where it counts: accuracy of a linear read-out on groups that the read-out never saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.embedder import Embedder
from trainer.datasets import ClipAudio, is_held_out, list_clips
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
    space, results = embedder.space, []
    for name, folder in sets.items():
        clips = list_clips(folder)
        data = clip_means(
            clips,
            is_held_out,
            embedder.embed,
            ClipAudio(space.sample_rate),
            window_length=space.window_length,
            hop_length=space.hop_length,
        )
        results.append(ReadoutAccuracy(name, len(clips), readout_accuracy(data)))
    return results
