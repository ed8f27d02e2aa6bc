"""What a backbone is checked and calibrated with: windows of real recordings where there are some, else made sounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edge.audio import audio_files_of, read_audio
from edge.errors import AudioError
from edge.scenes import SOUNDS
from edge.windows import carries_sound, windows_of

WINDOWS_PER_SOUND = 3


def recorded_windows(
    folders: Sequence[Path], n: int, rng: Generator, *, sample_rate: int, window_length: int, hop_length: int
) -> NDArray[np.float32]:
    """Draw windows that carry sound from recordings, an equal share from each folder, a few from each file.

    Returns (n, window_length) float32, or fewer when the folders hold less. Raises AudioError when they hold none.
    """
    chosen: list[NDArray[np.float32]] = []
    for i, folder in enumerate(folders):
        share = n * (i + 1) // len(folders) - n * i // len(folders)
        files = audio_files_of(folder)
        found: list[NDArray[np.float32]] = []
        for j in rng.permutation(len(files)):
            if len(found) >= share:
                break
            _, windows = windows_of(read_audio(files[j], sample_rate), window_length, hop_length)
            found += list(_some(windows, rng))
        chosen += found[:share]
    if not chosen:
        raise AudioError(f"{', '.join(map(str, folders)) or 'no folder'} holds no recording that carries sound")
    return np.stack(chosen)


def synthesised_windows(
    n: int, rng: Generator, *, sample_rate: int, window_length: int, hop_length: int
) -> NDArray[np.float32]:
    """Make windows of every kind of sound that soundkeep can synthesise, at gains of -30 to 0 dB.

    Returns (n, window_length) float32.
    """
    chosen: list[NDArray[np.float32]] = []
    kinds = sorted(SOUNDS)
    while len(chosen) < n:
        kind = SOUNDS[kinds[len(chosen) // WINDOWS_PER_SOUND % len(kinds)]]
        samples = kind.instance(rng).example(rng, sample_rate)
        _, windows = windows_of(samples, window_length, hop_length)
        gain = np.float32(10.0 ** rng.uniform(-1.5, 0.0))
        chosen += [gain * window for window in _some(windows, rng)]
    return np.stack(chosen[:n]).astype(np.float32)


def edge_case_windows(window_length: int) -> NDArray[np.float32]:
    """Return (6, window_length) float32: silence, one bit, an impulse, full-scale noise, a square wave, an offset."""
    rng = np.random.default_rng(0)
    windows = np.zeros((6, window_length), dtype=np.float32)
    windows[1] = rng.integers(-1, 2, window_length) / 32768.0
    windows[2, window_length // 2] = 1.0
    windows[3] = np.clip(rng.standard_normal(window_length), -1.0, 1.0)
    windows[4] = np.where(np.arange(window_length) // 20 % 2, 1.0, -1.0)
    windows[5] = 0.5
    return windows


def parse_sets(pairs: Sequence[str]) -> Mapping[str, Path]:
    """Read ``NAME=DIR`` words; a bare DIR is named by its last part. Raises AudioError for a missing folder."""
    sets: dict[str, Path] = {}
    for pair in pairs:
        name, separator, folder = pair.partition("=")
        path = Path(folder if separator else name)
        if not path.is_dir():
            raise AudioError(f"{path} is no folder; give NAME=DIR with a folder of recordings")
        sets[name if separator else path.resolve().name] = path
    return sets


def _some(windows: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    rows = np.flatnonzero(carries_sound(windows))
    picked = rng.choice(rows, min(WINDOWS_PER_SOUND, len(rows)), replace=False) if len(rows) else rows
    return np.asarray(windows[np.sort(picked)], dtype=np.float32)
