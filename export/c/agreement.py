"""What the C code answers beside the bundle on a device: how far its embeddings are, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.embedder import Embedder
from edge.space import EmbeddingSpace, l2_normalize
from export.c.host import pcm_of
from trainer.datasets import ClipAudio, is_held_out, list_clips
from trainer.evaluation import ClipMeans, clip_means, readout_accuracy

RIDGE = 100.0


class WindowEmbedder(Protocol):
    """Windows (n, window_length) float32 to embeddings (n, dim) float32."""

    @property
    def space(self) -> EmbeddingSpace: ...

    def embed(self, windows: NDArray[np.float32]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Distance:
    """Between embeddings of unit length. largest: length of the largest difference of ``n_windows``."""

    n_windows: int
    largest: float
    mean_cosine: float
    least_cosine: float


@dataclass(frozen=True)
class SetAgreement:
    """A read-out of one set's clip means, trained on some groups and asked about ``n_kept_out`` clips of others:
    trained on the bundle's embeddings and asked with both (agreement, and how often each is right), and trained anew on
    the C code's."""

    set_name: str
    n_clips: int
    n_kept_out: int
    agreement: float
    accuracy_bundle: float
    accuracy_c: float
    accuracy_c_own_readout: float


def distance(bundle: WindowEmbedder, c: WindowEmbedder, windows: NDArray[np.float32]) -> Distance:
    """Compare both on ``windows`` (n, window_length) float32, rounded to int16 first."""
    heard = pcm_of(windows).astype(np.float32) / np.float32(32768.0)
    a, b = l2_normalize(bundle.embed(heard)), l2_normalize(c.embed(heard))
    cosine = np.einsum("ij,ij->i", a, b)
    largest = float(np.linalg.norm(a - b, axis=1).max())
    return Distance(len(windows), largest, float(cosine.mean()), float(cosine.min()))


def agreements(bundle: Embedder, c: WindowEmbedder, sets: Mapping[str, Path], *, most: int = 0) -> list[SetAgreement]:
    """Measure on every set ``<set>/<class>/<clip>``. most: clips of each set, evenly chosen; 0: all."""
    found = []
    for name, folder in sets.items():
        clips = list_clips(folder)
        if most and len(clips) > most:
            clips = [clips[i] for i in np.linspace(0, len(clips) - 1, most).astype(int)]
        audio = ClipAudio(bundle.space.sample_rate)
        a, b = (
            clip_means(
                clips,
                is_held_out,
                ear.embed,
                audio,
                window_length=bundle.space.window_length,
                hop_length=bundle.space.hop_length,
            )
            for ear in (bundle, c)
        )
        right, theirs, ours = _answers(a, b)
        found.append(
            SetAgreement(
                name,
                len(clips),
                len(right),
                float(np.mean(theirs == ours)),
                float(np.mean(theirs == right)),
                float(np.mean(ours == right)),
                readout_accuracy(b),
            )
        )
    return found


def _answers(bundle: ClipMeans, c: ClipMeans) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The right class of each clip kept out, and what one read-out answers for either embedding of it."""
    classes = np.unique(bundle.labels)
    train, out = bundle.means[~bundle.held_out], bundle.held_out
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6

    def features(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.hstack([(x - mean) / deviation, np.ones((len(x), 1))])

    x = features(train)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += RIDGE
    targets = (bundle.labels[~out][:, None] == classes[None, :]).astype(np.float64)
    weights = np.linalg.solve(gram, x.T @ targets)
    right = np.searchsorted(classes, bundle.labels[out])
    return (
        right,
        (features(bundle.means[out]) @ weights).argmax(axis=1),
        (features(c.means[out]) @ weights).argmax(axis=1),
    )
