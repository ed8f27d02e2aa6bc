"""The analytic classifier of a run: the device's own bits, whatever the order, the processor and the processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import (
    ConfigurationError,
    MisuseError,
    NotEnoughSamplesError,
    SpaceMismatchError,
    StatisticsOverflowError,
)
from edge.heads import fit_balanced_ridge, fit_lda, fit_ncm, fit_ridge
from edge.space import EmbeddingSpace, FeatureSpace, Grid, Lift, l2_normalize
from edge.statistics import BLOCK_ROWS, SufficientStatistics
from tests.simulators.small_backbone import DIM, write_small_bundle
from trainer.analytic import (
    READ_OUTS,
    AnalyticClassifier,
    AnalyticSettings,
    RunSpace,
    fit_ridge_on,
    sum_over_processes,
    sums_on_device,
)
from trainer.parallel import World

CPU = torch.device("cpu")


def drawn(n: int, d: int = 6, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    """Embeddings about one point of each of three classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, n)
    centres = np.random.default_rng(99).standard_normal((3, d))
    return (centres[classes] + 0.5 * rng.standard_normal((n, d))).astype(np.float32), [f"c{c}" for c in classes]


def classifier_of(d: int = 6, *, name: str = "run", **changes: Any) -> AnalyticClassifier:
    return AnalyticClassifier(
        d, settings=AnalyticSettings(**{"lift_dim": 32, "ridge": 1.0, **changes}), space_name=name
    )


@given(st.integers(0, 40), st.integers(0, 10**6), st.sampled_from([None, 16]))
def test_any_order_and_grouping_gives_the_same_bits(n: int, seed: int, lift_dim: int | None) -> None:
    embeddings, labels = drawn(n, seed=seed)
    rng = np.random.default_rng(seed)
    at_once, in_parts = classifier_of(lift_dim=lift_dim), classifier_of(lift_dim=lift_dim)
    at_once.learn(embeddings, labels)
    for part in np.array_split(rng.permutation(n), int(rng.integers(1, 6))):
        in_parts.learn(embeddings[part], [labels[i] for i in part])
    assert in_parts.statistics == at_once.statistics
    assert in_parts.statistics.sha256 == at_once.statistics.sha256
    if n:
        assert np.array_equal(in_parts.head.weights, at_once.head.weights)


@given(st.integers(0, 30), st.integers(0, 10**6))
def test_statistics_and_heads_are_the_devices_own(n: int, seed: int) -> None:
    """Written out with ``edge`` alone: unit length, grid, lift, sums, read-out."""
    embeddings, labels = drawn(n, seed=seed)
    space = RunSpace(EmbeddingSpace("0" * 64, 16000, 1, 1, 6, Grid()), Lift(32, 3), run="run")
    quantized, _ = Grid().quantize(l2_normalize(embeddings))
    wanted = SufficientStatistics.from_samples(space, space.features(quantized)[0], labels)
    fits: dict[str, Any] = {"ridge": fit_ridge, "balanced": fit_balanced_ridge, "lda": fit_lda, "ncm": fit_ncm}
    assert tuple(fits) == READ_OUTS
    for read_out in READ_OUTS:
        classifier = classifier_of(read_out=read_out)
        classifier.learn(embeddings, labels)
        assert classifier.statistics == wanted
        if n:
            head = fits[read_out](wanted, **({} if read_out == "ncm" else {"ridge": 1.0}))
            assert np.array_equal(classifier.head.weights, head.weights)
            assert np.array_equal(classifier.head.bias, head.bias)
            names, scores = classifier.scores(embeddings)
            assert names == wanted.labels and np.array_equal(scores, head.scores(space.features(quantized)[0]))


@pytest.mark.parametrize("n", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 3])
def test_sums_on_a_device_are_the_same_bits_around_the_blocks(n: int) -> None:
    space = FeatureSpace(EmbeddingSpace("0" * 64, 16000, 1, 1, 5, Grid()))
    features = np.random.default_rng(n).integers(-32767, 32768, (n, 5)).astype(np.int16)
    assert sums_on_device(space, features, "a", CPU) == SufficientStatistics.from_samples(space, features, ["a"] * n)


@pytest.mark.parametrize("n", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1])
def test_features_and_scores_do_not_depend_on_blocks(n: int) -> None:
    embeddings, labels = drawn(max(n, 1))
    classifier = classifier_of()
    classifier.learn(embeddings, labels)
    features = classifier.features(embeddings[:n])
    assert features.shape == (n, 32) and features.dtype == np.int16
    _, scores = classifier.scores(embeddings[:n])
    assert scores.shape == (n, len(set(labels)))
    if n:
        assert np.array_equal(classifier.features(embeddings[n - 1 : n]), features[-1:])
        np.testing.assert_allclose(classifier.scores(embeddings[n - 1 : n])[1], scores[-1:], rtol=1e-12)


def test_sums_on_a_device_that_pass_the_limit_are_refused() -> None:
    """2^53 / 32767^2 rows of the largest number are the last that fit."""
    space = FeatureSpace(EmbeddingSpace("0" * 64, 16000, 1, 1, 1, Grid()))
    most = 2**53 // 32767**2
    full = np.full((most + 1, 1), 32767, dtype=np.int16)
    assert sums_on_device(space, full[:-1], "a", CPU).gram[0, 0] == most * 32767**2
    with pytest.raises(StatisticsOverflowError):
        sums_on_device(space, full, "a", CPU)


@given(st.integers(1, 60), st.integers(0, 10**6), st.sampled_from([1.0, 64.0, 1024.0]))
@settings(max_examples=20)
def test_ridge_on_a_device_is_the_devices_ridge(n: int, seed: int, ridge: float) -> None:
    classifier = classifier_of()
    classifier.learn(*drawn(n, seed=seed))
    ours, theirs = (
        fit_ridge_on(classifier.statistics, ridge=ridge, device=CPU),
        fit_ridge(classifier.statistics, ridge=ridge),
    )
    assert ours.labels == theirs.labels and not ours.bias.any()
    assert np.abs(ours.weights - theirs.weights).max() <= 1e-9 * np.abs(theirs.weights).max()


def test_a_classifier_on_another_device_gives_the_same_statistics_and_answers() -> None:
    """The path that a GPU takes, run on the CPU."""
    embeddings, labels = drawn(50)
    ours, plain = classifier_of(), classifier_of()
    ours._on_device = True
    for classifier in (ours, plain):
        classifier.learn(embeddings[:20], labels[:20])
        classifier.learn(embeddings[20:], labels[20:])
    assert ours.statistics == plain.statistics
    np.testing.assert_allclose(ours.scores(embeddings)[1], plain.scores(embeddings)[1], atol=1e-9)


def test_a_world_of_one_learns_as_one_and_sums_as_they_are() -> None:
    embeddings, labels = drawn(30)
    alone, together = classifier_of(), classifier_of()
    alone.learn(embeddings, labels)
    together.learn_together(embeddings, labels, World())
    assert alone.statistics == together.statistics
    assert sum_over_processes(alone.space, alone.statistics, sorted(set(labels)), World()) is alone.statistics


def test_the_head_follows_what_is_learnt_and_it_tells_classes_apart() -> None:
    embeddings, labels = drawn(90)
    classifier = classifier_of()
    with pytest.raises(NotEnoughSamplesError):
        _ = classifier.head
    names, scores = classifier.scores(embeddings)
    assert names == () and scores.shape == (90, 0), "nothing learnt: nothing named"
    classifier.learn(embeddings, labels)
    first = classifier.head
    assert classifier.head is first
    names, scores = classifier.scores(embeddings)
    assert np.mean([names[i] == label for i, label in zip(scores.argmax(axis=1), labels, strict=True)]) > 0.9
    classifier.learn(embeddings[:1], ["new"])
    assert classifier.head.labels == ("c0", "c1", "c2", "new")
    with pytest.raises(MisuseError, match="2 embeddings came with 1 labels; give one label to each"):
        classifier.learn(embeddings[:2], ["c0"])


def test_the_wide_lift_is_there_and_counted() -> None:
    """The default of 8192 on a few samples, through the sums; memory is one triangle, not 512 MiB."""
    classifier = AnalyticClassifier(16, space_name="wide", settings=AnalyticSettings())
    embeddings, labels = drawn(12, 16)[0], ["one"] * 12
    assert classifier.space.dim == 8192
    classifier.learn(embeddings, labels)
    assert classifier.statistics.gram.shape == (8192, 8192)
    assert classifier.memory_bytes == 8 * (1 + 8192 + 8192 * 8193 // 2)
    features = classifier.features(embeddings).astype(np.float64)
    assert np.array_equal(classifier.statistics.sums[0], features.sum(axis=0))
    assert np.array_equal(classifier.statistics.gram[5], features.T @ features[:, 5])


def test_a_read_out_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigurationError, match="read_out is 'svm'; wanted one of ridge, balanced, lda, ncm"):
        AnalyticSettings(read_out="svm")  # type: ignore[arg-type]


def test_statistics_of_a_run_are_never_written_and_meet_no_others(tmp_path: Path) -> None:
    embeddings, labels = drawn(20, DIM)
    ours = classifier_of(DIM, lift_dim=None)
    ours.learn(embeddings, labels)
    other = classifier_of(DIM, lift_dim=None, name="another run")
    other.learn(embeddings, labels)
    bundle = write_small_bundle(tmp_path / "small")
    space = FeatureSpace(bundle.space)
    theirs = SufficientStatistics.from_samples(space, ours.features(embeddings), labels)
    with pytest.raises(MisuseError, match="belong to a training run"):
        ours.statistics.to_bytes()
    for one, two in ((ours.statistics, theirs), (theirs, ours.statistics), (ours.statistics, other.statistics)):
        with pytest.raises(SpaceMismatchError):
            _ = one + two
    with pytest.raises(SpaceMismatchError):
        ours.add(other.statistics)
    assert SufficientStatistics.from_bytes(space, theirs.to_bytes()) == theirs, "those of a bundle still write"
    same = classifier_of(DIM, lift_dim=None)
    same.learn(embeddings, labels)
    same.add(ours.statistics)
    assert same.statistics.n_samples == 40, "two processes of one run do meet"


def test_a_space_of_a_run_is_equal_to_no_space_of_a_bundle() -> None:
    """Even with the same embedding, lift and an empty name, by value and by hash."""
    plain = FeatureSpace(EmbeddingSpace("0" * 64, 16000, 1, 1, 6, Grid()), Lift(32))
    runs = [RunSpace(plain.embedding, plain.lift, run=name) for name in ("", "a", "b")]
    assert len({s.sha256 for s in (plain, *runs)}) == 4
    assert all(run != plain and plain != run for run in runs) and runs[1] != runs[2]
    assert (
        runs[1] == dataclasses.replace(runs[2], run="a")
        and runs[1].sha256 == RunSpace(plain.embedding, plain.lift, run="a").sha256
    )
    assert plain.storable and not runs[0].storable
