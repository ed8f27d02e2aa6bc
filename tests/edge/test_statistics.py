"""The laws of what was learnt, on the statistics alone: the samples are gone when a law is checked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import MisuseError, SpaceMismatchError, StatisticsOverflowError
from edge.space import FeatureSpace
from edge.statistics import EXACT_LIMIT, StatisticsAccumulator, SufficientStatistics
from tests.strategies import LABELS, Samples, feature_space, samples

Build = Callable[[Samples], SufficientStatistics]


def build(data: Samples) -> SufficientStatistics:
    return SufficientStatistics.from_samples(data.space, data.features, data.labels)


def order_law(make: Build, data: Samples, order: NDArray[np.intp]) -> bool:
    return make(data.take(order)) == make(data)


def burst_law(make: Build, data: Samples, cuts: list[int]) -> bool:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    parts = [make(data.take(range(a, b))) for a, b in itertools.pairwise(edges)]
    return reduce(add, parts) == make(data)


def tree_law(make: Build, data: Samples) -> bool:
    third = len(data) // 3
    a, b, c = (make(data.take(r)) for r in (range(third), range(third, 2 * third), range(2 * third, len(data))))
    return (a + b) + c == a + (b + c) and c + (a + b) == make(data)


def removal_law(make: Build, data: Samples, kept: int) -> bool:
    first, rest = data.take(range(kept)), data.take(range(kept, len(data)))
    return make(data) - make(rest) == make(first)


@given(samples(), st.randoms(use_true_random=False))
def test_the_order_of_learning_changes_no_bit(data: Samples, random: object) -> None:
    order = np.arange(len(data))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert order_law(build, data, order)
    assert build(data.take(order)).sha256 == build(data).sha256


@given(samples(), st.lists(st.integers(0, 1000), max_size=6))
def test_the_size_of_bursts_changes_no_bit(data: Samples, cuts: list[int]) -> None:
    assert burst_law(build, data, cuts)


@given(samples())
def test_the_merge_tree_changes_no_bit(data: Samples) -> None:
    assert tree_law(build, data)


@given(samples(), st.integers(0, 24))
def test_removal_undoes_learning_to_the_bit(data: Samples, kept: int) -> None:
    assert removal_law(build, data, min(kept, len(data)))


@given(samples())
def test_zero_is_neutral_and_everything_can_be_forgotten(data: Samples) -> None:
    zero, stats = SufficientStatistics.zero(data.space), build(data)
    assert zero + stats == stats == stats + zero == stats - zero
    assert stats - stats == zero
    assert (stats - stats).sha256 == zero.sha256


@given(samples(), st.dictionaries(st.sampled_from(LABELS), st.sampled_from(LABELS)), st.integers(0, 24))
def test_relabelling_is_a_homomorphism(data: Samples, mapping: dict[str, str], cut: int) -> None:
    cut = min(cut, len(data))
    a, b = build(data.take(range(cut))), build(data.take(range(cut, len(data))))
    assert (a + b).relabel(mapping) == a.relabel(mapping) + b.relabel(mapping)
    renamed = Samples(data.space, data.features, tuple(mapping.get(label, label) for label in data.labels))
    assert build(data).relabel(mapping) == build(renamed)


@given(samples(), st.integers(0, 24))
def test_the_accumulator_equals_the_operators(data: Samples, removed: int) -> None:
    removed = min(removed, len(data))
    accumulator = StatisticsAccumulator(SufficientStatistics.zero(data.space))
    for i, label in enumerate(data.labels):
        accumulator.add(data.features[i : i + 1], label)
    assert accumulator.snapshot() == build(data)
    for i in range(removed):
        accumulator.remove(data.features[i : i + 1], data.labels[i])
    assert accumulator.snapshot() == build(data.take(range(removed, len(data))))
    assert accumulator.n_samples == len(data) - removed


@given(samples(max_size=40))
def test_both_kernels_and_plain_integers_agree_to_the_bit(data: Samples) -> None:
    scipy, numpy = (
        SufficientStatistics.from_samples(data.space, data.features, data.labels, kernel=kernel)
        for kernel in ("scipy", "numpy")
    )
    whole = data.features.astype(np.int64)
    assert scipy == numpy
    assert np.array_equal(scipy.gram.astype(np.int64), whole.T @ whole)
    assert np.array_equal(scipy.sums.sum(axis=0).astype(np.int64), whole.sum(axis=0))
    assert not np.any(np.signbit(scipy.gram) & (scipy.gram == 0.0))


def test_large_bursts_are_summed_in_blocks_to_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    space = feature_space(8)
    features = rng.integers(-32767, 32768, (5000, 8)).astype(np.int16)
    labels = [LABELS[i % 3] for i in range(5000)]
    whole = SufficientStatistics.from_samples(space, features, labels)
    assert whole == SufficientStatistics.from_samples(space, features[::-1], labels[::-1])
    assert np.array_equal(whole.gram.astype(np.int64), features.astype(np.int64).T @ features.astype(np.int64))


def off_the_grid(space: FeatureSpace, x: NDArray[np.float64], labels: tuple[str, ...]) -> SufficientStatistics:
    """The same sums of features that were never rounded: what the grid is there to prevent."""
    names = tuple(sorted(set(labels)))
    member = np.array([[label == name for name in names] for label in labels], dtype=np.float64)
    gram, sums = np.zeros((space.dim, space.dim)), np.zeros((len(names), space.dim))
    for row, which in zip(x, member, strict=True):
        gram += np.outer(row, row)
        sums += np.outer(which, row)
    return SufficientStatistics(space, names, member.sum(axis=0), sums, gram)


def test_without_the_grid_every_law_fails() -> None:
    rng = np.random.default_rng(5)
    space = feature_space(6)
    x = rng.standard_normal((60, 6))
    rounded = space.embedding.grid.quantize(x / 8.0)[0]
    labels = tuple(LABELS[i % 4] for i in range(60))
    data = Samples(space, rounded, labels)
    lookup = {row.tobytes(): i for i, row in enumerate(rounded)}
    assert len(lookup) == 60

    def ungridded(part: Samples) -> SufficientStatistics:
        return off_the_grid(space, x[[lookup[row.tobytes()] for row in part.features]], part.labels)

    for make, holds in ((build, True), (ungridded, False)):
        assert order_law(make, data, rng.permutation(60)) is holds
        assert burst_law(make, data, [7, 20, 33]) is holds
        assert tree_law(make, data) is holds
        assert removal_law(make, data, 25) is holds


def near_the_limit(space: FeatureSpace, *, gram: float = 1.0, sums: float = 0.0) -> SufficientStatistics:
    return SufficientStatistics(
        space, ("bell",), np.array([2.0**40]), np.full((1, space.dim), sums), np.diag(np.full(space.dim, gram))
    )


def test_the_guard_looks_at_the_operands_and_counts_exactly() -> None:
    space = feature_space(2)
    unit = near_the_limit(space)
    assert (near_the_limit(space, gram=EXACT_LIMIT - 1.0) + unit).gram[0, 0] == EXACT_LIMIT
    with pytest.raises(StatisticsOverflowError, match=r"gram .* 9007199254740993"):
        near_the_limit(space, gram=float(EXACT_LIMIT)) + unit
    for sign in (1.0, -1.0):
        large = near_the_limit(space, sums=sign * EXACT_LIMIT)
        with pytest.raises(StatisticsOverflowError, match="sums"):
            large + near_the_limit(space, sums=sign)
        assert (large + near_the_limit(space, sums=-sign)).sums[0, 0] == sign * (EXACT_LIMIT - 1)


def test_merging_classes_is_guarded_too() -> None:
    space = feature_space(1)
    stats = SufficientStatistics(space, ("a", "b"), np.ones(2), np.full((2, 1), float(EXACT_LIMIT)), np.ones((1, 1)))
    with pytest.raises(StatisticsOverflowError):
        stats.relabel({"a": "b"})


def test_an_overflow_leaves_the_accumulator_unchanged() -> None:
    space = feature_space(2)
    start = near_the_limit(space, gram=EXACT_LIMIT - 10.0)
    accumulator = StatisticsAccumulator(start)
    with pytest.raises(StatisticsOverflowError):
        accumulator.add(np.array([[1, 2], [3, 3]], dtype=np.int16), "kettle")
    assert accumulator.snapshot() == start
    accumulator.add(np.array([[1, 3]], dtype=np.int16), "kettle")
    assert accumulator.snapshot().gram[1, 1] == EXACT_LIMIT - 1


@given(samples(min_size=1, dim=3), samples(min_size=1, dim=3))
def test_what_was_not_learnt_cannot_be_taken_away(data: Samples, other: Samples) -> None:
    stats, foreign = build(data), build(other)
    with pytest.raises(MisuseError):
        stats - (stats + foreign)
    accumulator = StatisticsAccumulator(stats)
    for label in LABELS:
        held = int(stats.counts[stats.labels.index(label)]) if label in stats.labels else 0
        with pytest.raises(MisuseError):
            accumulator.remove(np.zeros((held + 1, 3), dtype=np.int16), label)
    assert accumulator.snapshot() == stats


def test_removal_of_other_samples_is_noticed_where_it_can_be() -> None:
    space = feature_space(2)
    stats = SufficientStatistics.from_samples(space, np.array([[1, 1]], dtype=np.int16), ["bell"])
    with pytest.raises(MisuseError):
        stats - SufficientStatistics.from_samples(space, np.array([[0, 1]], dtype=np.int16), ["bell"])
    accumulator = StatisticsAccumulator(stats)
    with pytest.raises(MisuseError):
        accumulator.remove(np.array([[0, 1]], dtype=np.int16), "bell")
    assert accumulator.snapshot() == stats


def test_spaces_do_not_mix() -> None:
    a, b = (SufficientStatistics.zero(feature_space(2, backbone=c)) for c in "ab")
    for operation in (lambda: a + b, lambda: a - b):
        with pytest.raises(SpaceMismatchError):
            operation()
    assert a != b
    assert a.sha256 != b.sha256


@pytest.mark.parametrize(
    "features",
    [np.zeros((2, 2)), np.zeros((2, 3), dtype=np.int16), np.zeros(2, dtype=np.int16), np.zeros((2, 2), "<i4")],
)
def test_only_grid_features_are_taken(features: NDArray[np.int16]) -> None:
    with pytest.raises(MisuseError, match="wanted int16"):
        SufficientStatistics.from_samples(feature_space(2), features, ["bell"] * len(features))


def test_malformed_statistics_cannot_be_made() -> None:
    space, zeros = feature_space(2), np.zeros((2, 2))
    for labels, counts in ((("b", "a"), [1.0, 1.0]), (("a", "a"), [1.0, 1.0]), (("a", "b"), [1.0, 0.0])):
        with pytest.raises(MisuseError):
            SufficientStatistics(space, labels, np.array(counts), zeros, zeros)
    with pytest.raises(MisuseError):
        SufficientStatistics(space, (), np.zeros(0), np.zeros((0, 2)), np.zeros((3, 3)))
    with pytest.raises(MisuseError):
        SufficientStatistics.from_samples(space, np.zeros((2, 2), dtype=np.int16), ["bell"])


@given(samples(min_size=1))
def test_statistics_are_values(data: Samples) -> None:
    stats = build(data)
    for array in (stats.counts, stats.sums, stats.gram):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
    with pytest.raises(TypeError):
        hash(stats)
    assert stats != "statistics"


@given(samples(dim=2, max_size=3), samples(dim=2, max_size=3))
def test_the_hash_tells_different_statistics_apart(a: Samples, b: Samples) -> None:
    assert (build(a).sha256 == build(b).sha256) == (build(a) == build(b))


def test_clipped_features_are_counted_but_no_part_of_what_was_learnt() -> None:
    space, one = feature_space(2), np.ones((1, 2), dtype=np.int16)
    clipped = SufficientStatistics.from_samples(space, one, ["bell"], n_clipped=3)
    clean = SufficientStatistics.from_samples(space, one, ["bell"])
    assert (clipped + clipped).n_clipped == 6
    assert (clipped + clean - clipped).n_clipped == 0
    assert (clipped, clipped.sha256) == (clean, clean.sha256)
