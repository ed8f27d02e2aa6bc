"""The map between two spaces: laws on single embeddings and on bare sums, and what a bundle must say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import linear_map
from edge.bundle import open_bundle
from edge.errors import BundleError, MisuseError, SpaceMismatchError
from edge.linear_map import LinearMap, ParentMap, parent_map
from edge.npy import write_float32
from edge.scatter import within_scatter
from edge.space import EmbeddingSpace, FeatureSpace
from edge.statistics import SufficientStatistics, require_possible
from tests.simulators.small_backbone import DIM, write_small_bundle

OLD = EmbeddingSpace("a" * 64, 16_000, 16_000, 4_000, 12)
NEW = EmbeddingSpace("b" * 64, 16_000, 16_000, 4_000, 12)


def units(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim)) + 2.0 * rng.standard_normal(dim)
    return OLD.grid.quantize(x / np.linalg.norm(x, axis=1, keepdims=True))[0]


def rotation(dim: int, seed: int = 0) -> LinearMap:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    return LinearMap(q.astype(np.float32), np.zeros(dim, np.float32))


def arbitrary(d_old: int, d_new: int, seed: int) -> LinearMap:
    rng = np.random.default_rng(seed)
    return LinearMap(rng.standard_normal((d_old, d_new)).astype("f4"), rng.standard_normal(d_new).astype("f4"))


def summed(x: np.ndarray, space: EmbeddingSpace, n_classes: int) -> SufficientStatistics:
    return SufficientStatistics.from_samples(FeatureSpace(space), x, [f"c{i % n_classes}" for i in range(len(x))])


def test_the_identity_moves_nothing_but_the_length() -> None:
    x = units(50, 12)
    assert np.abs(LinearMap.identity(12).embeddings(x, OLD, NEW).astype(int) - x).max() <= 1
    assert len(LinearMap.identity(12).embeddings(x[:0], OLD, NEW)) == 0


def test_a_rotation_turns_embeddings_and_back() -> None:
    x, there = units(50, 12), rotation(12)
    back = LinearMap(np.ascontiguousarray(there.matrix.T), there.offset)
    again = back.embeddings(there.embeddings(x, OLD, NEW), NEW, OLD)
    assert np.abs(again.astype(int) - x).max() <= 3


@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), d_new=st.integers(1, 20))
def test_a_mapped_embedding_depends_on_itself_alone(seed: int, n: int, d_new: int) -> None:
    x, linear, new = units(n, 12, seed), arbitrary(12, d_new, seed), replace(NEW, dim=d_new)
    together = linear.embeddings(x, OLD, new)
    for i in range(n):
        assert np.array_equal(linear.embeddings(x[i : i + 1], OLD, new)[0], together[i])
    shuffled = np.random.default_rng(seed).permutation(n)
    assert np.array_equal(linear.embeddings(x[shuffled], OLD, new), together[shuffled])


def test_the_sums_behind_it_are_exact_whatever_the_order() -> None:
    """What float32 sums cannot promise: adding the same products in another order gives the same bits."""
    x, linear = units(30, 12), arbitrary(12, 9, 1)
    turned = np.random.default_rng(0).permutation(12)
    other = LinearMap(np.ascontiguousarray(linear.matrix[turned]), linear.offset)
    same = other.embeddings(np.ascontiguousarray(x[:, turned]), OLD, replace(NEW, dim=9))
    assert np.array_equal(same, linear.embeddings(x, OLD, replace(NEW, dim=9)))
    scores = x.astype(np.float32) @ linear.matrix
    assert not np.array_equal(scores, x.astype(np.float32)[:, turned] @ linear.matrix[turned])


def test_silence_stays_silence() -> None:
    zeros = np.zeros((2, 12), dtype=np.int16)
    assert not np.any(arbitrary(12, 9, 0).embeddings(zeros, OLD, replace(NEW, dim=9)))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), k=st.integers(1, 5), d_new=st.integers(1, 20))
def test_mapped_sums_are_possible_whole_and_of_the_same_counts(seed: int, n: int, k: int, d_new: int) -> None:
    stats = summed(units(n, 12, seed), OLD, k)
    space = FeatureSpace(replace(NEW, dim=d_new))
    mapped = arbitrary(12, d_new, seed).statistics(stats, space)
    assert mapped.labels == stats.labels and np.array_equal(mapped.counts, stats.counts)
    assert np.array_equal(mapped.gram, np.rint(mapped.gram)) and np.array_equal(mapped.sums, np.rint(mapped.sums))
    assert np.array_equal(mapped.gram, mapped.gram.T)
    require_possible(mapped.counts, mapped.sums, mapped.gram)
    scale = NEW.grid.scale
    within = within_scatter(mapped)
    assert np.linalg.eigvalsh(within)[0] >= -1e-8 * np.trace(mapped.gram) / d_new
    assert np.all(np.linalg.norm(mapped.sums, axis=1) <= mapped.counts * scale)
    assert np.trace(mapped.gram) == pytest.approx(n * scale**2, rel=1e-3, abs=2 * d_new**2)
    assert SufficientStatistics.from_bytes(space, mapped.to_bytes()) == mapped


def test_sums_of_mapped_embeddings_and_mapped_sums_agree_where_no_length_changes() -> None:
    """A rotation keeps every length, so mapping sums is exact but for rounding: half a step an entry of each window."""
    x, linear, space = units(400, 12), rotation(12), FeatureSpace(NEW)
    one_by_one = summed(linear.embeddings(x, OLD, NEW), NEW, 4)
    mapped = linear.statistics(summed(x, OLD, 4), space)
    assert np.abs(one_by_one.sums - mapped.sums).max() <= 100.0
    assert np.abs(one_by_one.gram - mapped.gram).max() / np.abs(one_by_one.gram).max() < 1e-4


def test_what_is_lost_where_lengths_change() -> None:
    """The stated approximation: a map that changes lengths bends means a little; it never bends them far."""
    rng = np.random.default_rng(3)
    x = units(400, 12)
    bent = LinearMap((np.eye(12) + 0.1 * rng.standard_normal((12, 12))).astype("f4"), np.zeros(12, "f4"))
    one_by_one = summed(bent.embeddings(x, OLD, NEW), NEW, 4)
    mapped = bent.statistics(summed(x, OLD, 4), FeatureSpace(NEW))
    difference = np.linalg.norm(one_by_one.means - mapped.means, axis=1) / np.linalg.norm(one_by_one.means, axis=1)
    assert 0.0 < difference.max() < 0.05
    assert np.abs(one_by_one.gram - mapped.gram).max() / np.abs(one_by_one.gram).max() < 0.1


def test_without_the_repair_rounding_leaves_a_negative_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mechanism switched off: classes of one sound, three times, have no scatter; rounding makes it negative."""
    stats = summed(np.vstack([units(5, 12)] * 3), OLD, 5)
    repaired = rotation(12).statistics(stats, FeatureSpace(NEW))
    assert np.linalg.eigvalsh(within_scatter(repaired))[0] >= 0.0
    monkeypatch.setattr(linear_map, "_missing", lambda gram, sums, counts: 0.0)
    bare = rotation(12).statistics(stats, FeatureSpace(NEW))
    assert np.linalg.eigvalsh(within_scatter(bare))[0] < -0.1


def test_nothing_learnt_maps_to_nothing() -> None:
    zero = SufficientStatistics.zero(FeatureSpace(OLD))
    assert rotation(12).statistics(zero, FeatureSpace(NEW)) == SufficientStatistics.zero(FeatureSpace(NEW))


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpaceMismatchError, match="from 12 to 9"):
        arbitrary(12, 9, 0).embeddings(units(1, 12), OLD, NEW)
    with pytest.raises(MisuseError, match="wanted float32"):
        LinearMap(np.eye(3, dtype=np.float32), np.zeros(4, np.float32))
    for value in (np.inf, np.nan, 1e30):
        with pytest.raises(MisuseError, match="finite"):
            LinearMap(np.full((3, 3), value, np.float32), np.zeros(3, np.float32))


def linked(seed: int = 0) -> ParentMap:
    return ParentMap(arbitrary(12, DIM, seed), OLD, "c" * 64, 0.97, 0.2, 300, 100)


def test_a_bundle_carries_its_map(tmp_path: Path) -> None:
    without = write_small_bundle(tmp_path / "without")
    assert parent_map(without) is None and "parent" not in without.manifest.extra
    made = write_small_bundle(tmp_path / "with", parent=linked(), extra={"export": {"a": 1}})
    again = parent_map(open_bundle(made.path))
    assert again is not None and again.space == OLD and again.bundle_sha256 == "c" * 64
    assert np.array_equal(again.map.matrix, linked().map.matrix)
    assert np.array_equal(again.map.offset, linked().map.offset)
    assert (again.held_out_cosine, again.held_out_error, again.n_windows, again.n_held_out) == (0.97, 0.2, 300, 100)
    assert made.manifest.extra["export"] == {"a": 1} and made.space == open_bundle(tmp_path / "without").space


def test_a_map_that_does_not_fit_its_bundle_is_refused(tmp_path: Path) -> None:
    other = replace(linked(), map=arbitrary(12, DIM - 1, 0))
    with pytest.raises(BundleError, match="wanted little-endian float32"):
        write_small_bundle(tmp_path / "width", parent=other)
    short = replace(linked(), space=replace(OLD, dim=11))
    with pytest.raises(BundleError, match="has 13 rows; wanted 12"):
        write_small_bundle(tmp_path / "rows", parent=short)
    assert not list(tmp_path.iterdir())


def test_a_map_without_its_space_or_of_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lies = [
        ({}, "does not say of which space|held_out|description"),
        ({**linked().described(), "space": "0" * 64}, "does not match its description"),
        ({**linked().described(), "description": {}}, "cannot be used"),
        ({**linked().described(), "n_windows": "many"}, "no numbers"),
        ({**linked().described(), "bundle": 3}, "no name"),
    ]
    for i, (said, sentence) in enumerate(lies):
        monkeypatch.setattr(ParentMap, "described", lambda self, said=said: said)
        with pytest.raises(BundleError, match=sentence):
            write_small_bundle(tmp_path / str(i), parent=linked())


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.ones((13, DIM), dtype=np.float32)
    rows[3, 3] = np.nan
    monkeypatch.setattr(LinearMap, "to_bytes", lambda self: write_float32(rows))
    with pytest.raises(BundleError, match="not finite"):
        write_small_bundle(tmp_path / "nan", parent=linked())
