"""The plan of a training, fixed before it starts: settings, learning rate of each step, rows of each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.errors import ConfigurationError


@dataclass(frozen=True)
class DistilSettings:
    """``learning_rate`` is the peak after ``warmup_steps``; it falls to zero over ``steps`` as a cosine.

    The weights are those of the loss's terms; a term of weight 0 is left out. ``sound_label_weight`` is 0 because
    labels of sounds made the embedding learn its training clips by heart (docs/training.md).
    """

    steps: int = 8000
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_steps: int = 200
    ema_decay: float = 0.999
    scores_weight: float = 30.0
    sound_weight: float = 2.0
    speech_weight: float = 0.7
    sound_label_weight: float = 0.0
    word_label_weight: float = 0.15
    label_smoothing: float = 0.1
    seed: int = 0
    checkpoint_every: int = 250


def learning_rate_at(step: int, s: DistilSettings) -> float:
    """Linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017, without restarts)."""
    if step < s.warmup_steps:
        return s.learning_rate * (step + 1) / s.warmup_steps
    progress = (step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
    return float(s.learning_rate * 0.5 * (1.0 + np.cos(np.pi * min(1.0, progress))))


def batches(n: int, s: DistilSettings, first_step: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of step ``first_step`` and all later ones: shuffled epochs that depend on (seed, epoch) alone.

    Raises ConfigurationError when n rows are fewer than one batch.
    """
    per_epoch = n // s.batch_size
    if per_epoch == 0:
        raise ConfigurationError(
            f"the bank holds {n} windows, fewer than one batch of {s.batch_size}; make more shards or smaller batches"
        )
    step = first_step
    while step < s.steps:
        order = np.random.default_rng([s.seed, step // per_epoch]).permutation(n)
        for i in range(step % per_epoch, per_epoch):
            if step == s.steps:
                return
            yield order[i * s.batch_size : (i + 1) * s.batch_size]
            step += 1
