"""Prior statistics: the sums of a broad pool of sound in a backbone's own space, shipped as "everything else"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.audio import audio_files_of, read_audio
from edge.embedder import Embedder
from edge.errors import AudioError
from edge.space import FeatureSpace
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from edge.windows import carries_sound, is_digital_silence, windows_of


@dataclass(frozen=True)
class PriorReport:
    """The statistics and what went into them. Seconds count audio once, however much its windows overlap."""

    statistics: SufficientStatistics
    n_files: int
    n_windows: int
    seconds: float


def prior_statistics(
    embedder: Embedder,
    clips: Mapping[str, Path],
    backgrounds: Mapping[str, Path],
    *,
    progress: Callable[[Path], object] = lambda path: None,
) -> PriorReport:
    """Fold folders of recordings into statistics in the base-embedding space of ``embedder``.

    clips: sets of short sounds by name; a file gives its windows that carry sound, as in teaching. backgrounds: sets of
    long recordings; a file gives every window but digital silence, as a device hears them. The class of a file is its
    set's name, with the first subfolder if it lies in one. Raises AudioError when a set gives no window.
    """
    space = embedder.space
    accumulator = StatisticsAccumulator(SufficientStatistics.zero(FeatureSpace(space)))
    n_files = n_windows = n_samples = 0
    for sets, chosen in ((clips, carries_sound), (backgrounds, _is_heard)):
        for name, folder in sets.items():
            before = n_windows
            for path in audio_files_of(folder):
                samples = read_audio(path, space.sample_rate)
                _, windows = windows_of(samples, space.window_length, space.hop_length)
                features, n_clipped = embedder.quantized(windows[chosen(windows)])
                if len(features):
                    accumulator.add(features, _label(name, folder, path), n_clipped)
                n_files, n_windows, n_samples = n_files + 1, n_windows + len(features), n_samples + len(samples)
                progress(path)
            if n_windows == before:
                raise AudioError(f"{folder} gives no window that carries sound; wanted recordings with sound in them")
    return PriorReport(accumulator.snapshot(), n_files, n_windows, n_samples / space.sample_rate)


def count_recordings(clips: Mapping[str, Path], backgrounds: Mapping[str, Path]) -> int:
    """Return how many files ``prior_statistics`` will read."""
    return sum(len(audio_files_of(folder)) for sets in (clips, backgrounds) for folder in sets.values())


def _label(name: str, folder: Path, path: Path) -> str:
    inside = path.relative_to(folder).parts[:-1]
    return f"{name}/{inside[0]}" if inside else name


def _is_heard(windows: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.array([not is_digital_silence(window) for window in windows], dtype=np.bool_)
