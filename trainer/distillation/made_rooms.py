"""Made rooms for the prior: plain noises at many levels and synthesised backgrounds, as folders of long recordings.

Recordings of real rooms never hold plain noise at every level, and a microphone's own hiss is just that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from edge.scenes import BACKGROUNDS, background
from trainer.distillation.augment import coloured_noise

SLOPES = {"white": 0.0, "pink": 0.5, "brown": 1.0}
NOISE_LEVELS_DBFS = tuple(range(-70, -9, 5))
ROOM_LEVELS_DBFS = (-60, -45, -30, -18)


def make_rooms(directory: Path, *, seconds: float = 10.0, sample_rate: int = 16000, seed: int = 0) -> int:
    """Write ``<kind>/<level>.flac`` (16 bits, mono) of every noise and background; return the number of files.

    Levels are RMS in dBFS; what would exceed full scale is clipped, as a microphone clips.
    """
    rng = np.random.default_rng(seed)
    n = int(seconds * sample_rate)
    jobs = [(kind, level) for kind in SLOPES for level in NOISE_LEVELS_DBFS]
    jobs += [(kind, level) for kind in BACKGROUNDS for level in ROOM_LEVELS_DBFS]
    for kind, level in tqdm(jobs, desc="rooms", unit="file"):
        samples = _noise(kind, n, rng) if kind in SLOPES else background(kind, seconds, rng, sample_rate)
        rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) + 1e-12
        scaled = np.clip(samples * np.float32(10.0 ** (level / 20.0) / rms), -1.0, 1.0)
        path = directory / kind / f"{-level:02d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, scaled, sample_rate, subtype="PCM_16")
    return len(jobs)


def _noise(kind: str, n: int, rng: Generator) -> NDArray[np.float32]:
    return coloured_noise(n, rng, slope=SLOPES[kind])
