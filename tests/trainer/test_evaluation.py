"""The measures on constructed embeddings of which the answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.errors import NotEnoughSamplesError
from tests.trainer.synthetic_sets import write_set
from trainer.datasets import ClipAudio, is_held_out, list_clips
from trainer.evaluation import ClipMeans, clip_means, few_shot_accuracy, readout_accuracy


def embeddings(distance: float, *, n_classes: int = 6, per_class: int = 30, seed: int = 0) -> ClipMeans:
    """Classes ``distance`` deviations apart in twelve dimensions; two thirds of the clips to train on."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((12, 12)))[0][:n_classes] * distance
    labels = np.repeat(np.arange(n_classes), per_class)
    means = centres[labels] + rng.standard_normal((len(labels), 12))
    return ClipMeans(means, np.array([f"class {i}" for i in labels]), np.arange(len(labels)) % 3 == 0)


def test_readout_knows_what_is_apart_and_guesses_what_is_not() -> None:
    assert readout_accuracy(embeddings(12.0)) == 1.0
    assert readout_accuracy(embeddings(0.0)) == pytest.approx(1 / 6, abs=0.12)


def test_readout_is_of_the_held_out_groups() -> None:
    """Labels shuffled among the held-out clips alone leave nothing to be right about."""
    data = embeddings(12.0)
    labels = data.labels.copy()
    labels[data.held_out] = np.random.default_rng(1).permutation(labels[data.held_out])
    assert readout_accuracy(ClipMeans(data.means, labels, data.held_out)) < 0.4


def test_few_shots_know_what_is_apart_and_more_shots_know_more() -> None:
    assert few_shot_accuracy(embeddings(20.0), np.random.default_rng(0), shots=1, episodes=20) > 0.99
    near = embeddings(3.0)
    one, five = (few_shot_accuracy(near, np.random.default_rng(0), shots=k, episodes=40) for k in (1, 5))
    assert 0.3 < one < five
    guess = few_shot_accuracy(embeddings(0.0), np.random.default_rng(0), shots=5, ways=2, episodes=100)
    assert guess == pytest.approx(0.5, abs=0.08)


def test_the_pool_is_everything_else() -> None:
    """Most of the noise lies in directions that the pool shows; a constant pool does not show them."""
    rng = np.random.default_rng(0)
    data = embeddings(3.0)
    loud = data.means @ np.diag([30.0] * 3 + [1.0] * 9) + rng.standard_normal(data.means.shape)
    knowing = ClipMeans(loud, data.labels, data.held_out)
    scale = loud[~data.held_out].std(axis=0)
    blind_pool = np.where(data.held_out[:, None], loud, rng.standard_normal(loud.shape) * scale)
    blind = ClipMeans(blind_pool, data.labels, data.held_out)
    scores = [few_shot_accuracy(d, np.random.default_rng(1), shots=5, episodes=40) for d in (knowing, blind)]
    assert scores[0] > scores[1] - 0.02


def test_one_sided_or_tiny_sets_are_refused() -> None:
    data = embeddings(5.0, per_class=3)
    with pytest.raises(NotEnoughSamplesError, match="0 of 18 clips are held out"):
        readout_accuracy(ClipMeans(data.means, data.labels, np.zeros(18, bool)))
    with pytest.raises(NotEnoughSamplesError, match="18 of 18"):
        few_shot_accuracy(ClipMeans(data.means, data.labels, np.ones(18, bool)), np.random.default_rng(0), shots=1)
    with pytest.raises(NotEnoughSamplesError, match="0 of 6 held-out classes have more than 1 clips"):
        few_shot_accuracy(data, np.random.default_rng(0), shots=1)


def test_clip_means_leave_out_windows_without_sound(tmp_path: Path) -> None:
    import soundfile

    clips = list_clips(write_set(tmp_path / "set", n_classes=2))
    half = np.concatenate([np.full(2000, 0.5), np.zeros(2000)]).astype(np.float32)
    soundfile.write(clips[0].path, half, 16000, subtype="FLOAT")
    data = clip_means(
        clips, is_held_out, lambda w: np.abs(w).mean(axis=1, keepdims=True), ClipAudio(16000),
        window_length=1000, hop_length=1000,
    )  # fmt: skip
    assert data.means[0, 0] == pytest.approx(0.5, abs=1e-3)
    assert data.means.shape == (6, 1)
    assert data.held_out.tolist() == [False, False, True] * 2
