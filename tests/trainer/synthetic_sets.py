"""Class-folder sets of synthesised sounds, as a user's recordings would lie on the disk."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

from edge.scenes import SOUNDS

SAMPLE_RATE = 16000


def write_set(
    folder: Path, *, n_classes: int = 3, n_groups: int = 3, seconds: float = 1.5, words: bool = False, seed: int = 0
) -> Path:
    """Write ``<folder>/<class>/<group>.wav`` and ``meta.csv``: one clip of each class in each group 1, 2, ..."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in sorted(SOUNDS)[:n_classes]:
        instrument = SOUNDS[name].instance(rng)
        (folder / name).mkdir(parents=True)
        for group in range(1, n_groups + 1):
            samples = np.resize(instrument.example(rng, SAMPLE_RATE), int(seconds * SAMPLE_RATE))
            soundfile.write(folder / name / f"{group}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
            rows.append((f"{name}/{group}.wav", name, str(group), name if words else ""))
    with (folder / "meta.csv").open("w", newline="") as f:
        columns = ("clip", "class", "fold_or_speaker", *(("word",) if words else ()))
        csv.writer(f).writerows([columns, *(row[: len(columns)] for row in rows)])
    return folder
