"""A bank without audio: small "spectrograms" made from hidden causes, and teachers that know one cause each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.backbones.log_mel import FrontEndSettings
from trainer.backbones.student import StudentSettings
from trainer.distillation.schedule import DistilSettings

SMALL = StudentSettings(frontend=FrontEndSettings(n_mels=16), widths=(6, 6, 8, 12, 16), strides=(1, 2, 2, 2), dim=8)
N_MELS, N_FRAMES, N_CAUSES = 16, 16, 3


def settings(**changes: object) -> DistilSettings:
    values: dict[str, object] = {"steps": 20, "batch_size": 32, "warmup_steps": 5, "checkpoint_every": 1000}
    return DistilSettings(**{**values, **changes})  # type: ignore[arg-type]


def write_bank(folder: Path, *, n_shards: int = 2, shard_size: int = 128, seed: int = 0) -> Path:
    """Five groups of causes in each window: one each for sound, scores, speech, sound label and word label."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    patterns = rng.standard_normal((5, N_CAUSES, N_MELS, N_FRAMES)) * 0.5
    readings = rng.standard_normal((3, N_CAUSES, 6))
    for number in range(n_shards):
        causes = rng.standard_normal((shard_size, 5, N_CAUSES))
        shown = np.einsum("ngc,gcmt->nmt", causes, patterns)
        rows = np.flatnonzero(rng.random(shard_size) < 0.6)
        labels = np.full((2, shard_size, 2), -1, dtype=np.int16)
        labels[:, :, 0] = causes[:, 3:].argmax(axis=2).T
        np.savez(
            folder / f"shard-{number:05d}.npz",
            log_mel=shown[:, None].astype(np.float16),
            sound=(causes[:, 0] @ readings[0]).astype(np.float16),
            sound_scores=(1.0 / (1.0 + np.exp(-causes[:, 1] @ readings[1]))).astype(np.float16),
            speech=(causes[rows, 2] @ readings[2]).astype(np.float16),
            sound_rows=np.arange(shard_size, dtype=np.int32),
            speech_rows=rows.astype(np.int32),
            sound_label=labels[0],
            word_label=labels[1],
            share=np.ones(shard_size, dtype=np.float32),
        )
    names = [f"cause {i}" for i in range(N_CAUSES)]
    (folder / "bank.json").write_text(json.dumps({"sounds": names, "words": names}))
    return folder


def linear_r2(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Share of y (n, m) that a linear read-out of x (n, d), fitted on the even rows, explains on the odd ones."""
    design = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
    weights = np.linalg.lstsq(design[::2], y[::2].astype(np.float64), rcond=None)[0]
    rest = y[1::2] - design[1::2] @ weights
    return float(1.0 - np.sum(rest**2) / np.sum((y[1::2] - y[1::2].mean(axis=0)) ** 2))
