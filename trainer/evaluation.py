"""What an embedding is worth: clip means, read out linearly, with groups that nothing trained on.

The read-out is ridge on standardised clip means (constants appended), the few-shot read-out has the whole training pool
as prior, so that the figures stand beside those of other frozen embeddings measured the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edge.errors import NotEnoughSamplesError
from edge.windows import carries_sound, windows_of
from trainer.datasets import Clip, ClipAudio

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClipMeans:
    """Mean embedding of each clip's sound-carrying windows: ``means`` (n, d); ``labels`` and ``held_out`` are (n,)."""

    means: Array
    labels: NDArray[np.str_]
    held_out: NDArray[np.bool_]


def clip_means(
    clips: Sequence[Clip],
    held_out: Callable[[Clip], bool],
    embed: Embed,
    audio: ClipAudio,
    *,
    window_length: int,
    hop_length: int,
) -> ClipMeans:
    """Embed every clip and average its windows that carry sound."""
    means = []
    for clip in clips:
        _, windows = windows_of(audio[clip], window_length, hop_length)
        mask = carries_sound(windows)
        chosen = windows[mask] if mask.any() else windows
        means.append(embed(chosen).astype(np.float64).mean(axis=0))
    return ClipMeans(np.stack(means), np.array([c.label for c in clips]), np.array([held_out(c) for c in clips]))


def _ridge(x: Array, y: Array, ridge: float) -> Array:
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += ridge
    return np.asarray(np.linalg.solve(gram, x.T @ y))


def _check_both_sides(data: ClipMeans) -> None:
    n_held_out = int(np.count_nonzero(data.held_out))
    if not 0 < n_held_out < len(data.held_out):
        raise NotEnoughSamplesError(
            f"{n_held_out} of {len(data.held_out)} clips are held out; wanted clips on both sides: "
            f"give a set with several groups (folds, speakers, files)"
        )


def _standardize(train: Array, *others: Array) -> list[Array]:
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    return [np.hstack([(x - mean) / deviation, np.ones((len(x), 1))]) for x in (train, *others)]


def readout_accuracy(data: ClipMeans, *, ridges: Sequence[float] = (10.0, 30.0, 100.0, 300.0, 1000.0)) -> float:
    """Accuracy of a ridge read-out trained on the training groups and tested on the held-out ones.

    The ridge is chosen by leave-one-out on the training part alone (hat-matrix formula: a left-out prediction is
    (Hy - hy) / (1 - h) with h the diagonal of H; Allen 1974). Raises NotEnoughSamplesError when a side has no clip.
    """
    _check_both_sides(data)
    classes = np.unique(data.labels)
    y = (data.labels[:, None] == classes[None, :]).astype(np.float64)
    train, test = _standardize(data.means[~data.held_out], data.means[data.held_out])
    y_train = y[~data.held_out]
    best, best_accuracy = ridges[0], -1.0
    for ridge in ridges:
        gram = train.T @ train
        gram[np.diag_indices_from(gram)] += ridge
        hat = train @ np.linalg.solve(gram, train.T)
        leverage = np.diag(hat)[:, None]
        left_out = (hat @ y_train - leverage * y_train) / (1.0 - leverage)
        accuracy = float(np.mean(left_out.argmax(1) == y_train.argmax(1)))
        if accuracy > best_accuracy:
            best, best_accuracy = ridge, accuracy
    scores = test @ _ridge(train, y_train, best)
    return float(np.mean(scores.argmax(1) == y[data.held_out].argmax(1)))


def few_shot_accuracy(
    data: ClipMeans, rng: Generator, *, shots: int, ways: int = 10, episodes: int = 200, ridge: float = 100.0
) -> float:
    """Mean accuracy of ``ways``-way episodes from the held-out groups, the training pool being "everything else".

    Each class's column is ridge to 1 on its own ``shots`` clips and 0 on all others, scaled to unit norm under the
    pool. Raises NotEnoughSamplesError when fewer than two classes have more than ``shots`` held-out clips.
    """
    _check_both_sides(data)
    prior, test = _standardize(data.means[~data.held_out], data.means[data.held_out])
    labels = data.labels[data.held_out]
    classes = np.array([c for c in np.unique(labels) if np.count_nonzero(labels == c) > shots])
    if len(classes) < 2:
        raise NotEnoughSamplesError(
            f"{len(classes)} of {len(np.unique(labels))} held-out classes have more than {shots} clips; "
            f"few-shot episodes of {shots} need two such classes; give a set with more clips of each class"
        )
    gram = prior.T @ prior
    gram[np.diag_indices_from(gram)] += ridge
    hits = []
    for _ in range(episodes):
        chosen = rng.choice(classes, min(ways, len(classes)), replace=False)
        support, support_y, query, query_y = [], [], [], []
        for i, label in enumerate(chosen):
            rows = rng.permutation(np.flatnonzero(labels == label))
            support += list(rows[:shots])
            query += list(rows[shots:])
            support_y += [i] * shots
            query_y += [i] * (len(rows) - shots)
        x = test[support]
        targets = np.eye(len(chosen))[support_y]
        weights = np.linalg.solve(gram + x.T @ x, x.T @ targets)
        norms = np.sqrt(np.einsum("ij,ij->j", weights, gram @ weights))
        scores = test[query] @ (weights / norms)
        hits.append(float(np.mean(scores.argmax(1) == np.array(query_y))))
    return float(np.mean(hits))
