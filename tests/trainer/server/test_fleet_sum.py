from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import MisuseError, SpaceMismatchError, StatisticsOverflowError
from edge.statistics import EXACT_LIMIT, SufficientStatistics
from edge.statistics_file import PackedStatistics, read_packed
from tests.strategies import LABELS, Samples, feature_space, samples
from trainer.server.fleet_sum import FleetSum

DIM = 3
SPACE = feature_space(DIM)
devices = st.lists(samples(dim=DIM, max_size=6), max_size=6)


def statistics_of(device: Samples) -> SufficientStatistics:
    return SufficientStatistics.from_samples(device.space, device.features, device.labels)


def packed(statistics: SufficientStatistics) -> PackedStatistics:
    return read_packed(statistics.space, statistics.to_bytes())


def plus(parts: list[SufficientStatistics]) -> SufficientStatistics:
    total = SufficientStatistics.zero(SPACE)
    for part in parts:
        total = total + part
    return total


def one_class(label: str, count: int, sums: list[int], gram: list[list[int]]) -> PackedStatistics:
    arrays = (np.array(a, dtype=np.float64) for a in ([count], [sums], gram))
    return PackedStatistics.of(SufficientStatistics(feature_space(len(sums)), (label,), *arrays))


def test_no_device_knows_nothing() -> None:
    assert FleetSum(SPACE).statistics() == SufficientStatistics.zero(SPACE)
    assert FleetSum(SPACE).packed().sha256 == SufficientStatistics.zero(SPACE).sha256


@given(devices, st.randoms())
def test_any_order_and_any_tree_give_the_bits_of_plus(fleet: list[Samples], random: object) -> None:
    known = [statistics_of(device) for device in fleet]
    wanted = plus(known)
    assert FleetSum.of(SPACE, map(packed, known)).statistics() == wanted
    groups = [packed(statistics) for statistics in known]
    while len(groups) > 1:
        random.shuffle(groups)  # type: ignore[attr-defined]
        groups.append(FleetSum.of(SPACE, [groups.pop(), groups.pop()]).packed())
    tree = FleetSum.of(SPACE, groups).packed()
    assert tree.unpacked() == wanted
    assert tree.sha256 == wanted.sha256


@given(devices, st.data())
def test_a_device_that_was_taken_out_was_never_there(fleet: list[Samples], data: st.DataObject) -> None:
    known = [packed(statistics_of(device)) for device in fleet]
    gone = data.draw(st.sets(st.integers(0, len(known) - 1)) if known else st.just(set()))
    total = FleetSum.of(SPACE, known)
    for i in gone:
        total.subtract(known[i])
    assert total.statistics() == plus([known[i].unpacked() for i in range(len(known)) if i not in gone])


@given(devices, st.dictionaries(st.sampled_from(LABELS), st.sampled_from((*LABELS, "sound"))))
def test_names_of_the_fleet_are_relabelling_before_the_sum(fleet: list[Samples], names: dict[str, str]) -> None:
    known = [statistics_of(device) for device in fleet]
    total = FleetSum(SPACE)
    for statistics in known:
        total.add(packed(statistics), names)
    assert total.statistics() == plus([statistics.relabel(names) for statistics in known])
    for statistics in known:
        total.subtract(packed(statistics), names)
    assert total.statistics() == SufficientStatistics.zero(SPACE)


@given(samples(dim=DIM))
def test_the_packed_form_is_the_stored_one(device: Samples) -> None:
    statistics = statistics_of(device)
    for form in (packed(statistics), PackedStatistics.of(statistics)):
        assert form.unpacked() == statistics
        assert form.sha256 == statistics.sha256


class RoundedSum(FleetSum):
    """The same sum in float32: what happens without exact numbers."""

    number = np.float32


def test_in_float32_order_and_removal_change_bits() -> None:
    """The mechanism switched off: integers are what makes the laws above true."""
    rng = np.random.default_rng(0)
    features = rng.integers(-32767, 32767, (40, 5, DIM), dtype=np.int16)
    known = [PackedStatistics.of(SufficientStatistics.from_samples(SPACE, x, ["bell"] * 5)) for x in features]
    forwards, backwards = RoundedSum.of(SPACE, known), RoundedSum.of(SPACE, known[::-1])
    assert not np.array_equal(forwards.packed().gram, backwards.packed().gram)
    exact = FleetSum.of(SPACE, known)
    assert not np.array_equal(forwards.packed().gram, exact.packed().gram)
    for total in (forwards, exact):
        total.subtract(known[0])
    assert exact.packed().sha256 == FleetSum.of(SPACE, known[1:]).packed().sha256
    assert not np.array_equal(forwards.packed().gram, RoundedSum.of(SPACE, known[1:]).packed().gram)


def test_what_would_pass_two_to_the_53_is_refused_and_changes_nothing() -> None:
    half = EXACT_LIMIT // 2
    large = one_class("bell", 1, [half], [[half + 1]])
    total = FleetSum.of(large.space, [large])
    before = total.packed().sha256
    with pytest.raises(StatisticsOverflowError, match="gram of the fleet would reach"):
        total.add(large)
    assert total.packed().sha256 == before

    total = FleetSum.of(large.space, [one_class("bell", 1, [EXACT_LIMIT], [[1]])])
    before = total.packed().sha256
    with pytest.raises(StatisticsOverflowError, match="sums of the fleet would reach"):
        total.add(one_class("ring", 1, [1], [[1]]), {"ring": "bell"})
    assert total.packed().sha256 == before


def test_what_was_never_added_cannot_be_taken_out() -> None:
    total = FleetSum.of(feature_space(1), [one_class("bell", 2, [4], [[8]])])
    for wrong in (
        one_class("bell", 3, [4], [[8]]),
        one_class("dog", 1, [2], [[4]]),
        one_class("bell", 1, [4], [[9]]),
        one_class("bell", 2, [3], [[8]]),
    ):
        with pytest.raises(MisuseError, match="not part of the fleet's sum"):
            total.subtract(wrong)
    assert total.packed().unpacked() == one_class("bell", 2, [4], [[8]]).unpacked()


def test_two_spaces_have_two_sums() -> None:
    with pytest.raises(SpaceMismatchError):
        FleetSum(SPACE).add(one_class("bell", 1, [1], [[1]]))
