"""Made-up recordings, embedded: five kinds of sound around their own means, half of each held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.embedded import Clips, Embedded
from edge.space import EmbeddingSpace

SPACE = EmbeddingSpace("0" * 64, sample_rate=16000, window_length=16000, hop_length=4000, dim=8)
KINDS = ("bell", "dog", "rain", "saw", "siren")


def recordings(n_per_side: int = 6, windows: int = 4, seed: int = 0) -> Embedded:
    """Two clips come of each source; all windows of a clip but the last carry sound; classes lie in a row."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(KINDS, 2 * n_per_side)
    n = len(labels)
    held_out = np.tile(np.arange(2 * n_per_side) >= n_per_side, len(KINDS))
    sources = np.array([f"{label}{i // 2}" for label in KINDS for i in range(2 * n_per_side)])
    clips = Clips(
        tuple(Path(f"esc50/{label}/{i}.wav") for i, label in enumerate(labels)),
        np.full(n, "esc50"),
        labels,
        np.full(n, ""),
        np.where(held_out, "3", np.where(np.arange(n) % 2 == 0, "1", "2")),
        sources,
        held_out,
        np.full(n, 2.0),
    )
    means = rng.standard_normal((len(KINDS), SPACE.dim)) * 4000.0
    clip = np.repeat(np.arange(n), windows)
    x = np.repeat(means, 2 * n_per_side, axis=0)[clip] + 600.0 * rng.standard_normal((len(clip), SPACE.dim))
    starts = np.tile(np.arange(windows) * SPACE.hop_length, n)
    sounding = np.tile(np.arange(windows) < windows - 1, n)
    return Embedded(
        SPACE, clips, np.rint(x).astype(np.int16), clip, starts, sounding, np.ones(len(clip), dtype=np.bool_)
    )
