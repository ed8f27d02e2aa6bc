"""Statistics as bytes: the same back, canonical, and nothing altered is ever accepted."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import CorruptionError, SoundkeepError, SpaceMismatchError, StateError
from edge.space import FeatureSpace, canonical_json
from edge.statistics import SufficientStatistics
from edge.statistics_file import MAGIC
from tests.strategies import Samples, feature_space, samples


def build(data: Samples) -> SufficientStatistics:
    return SufficientStatistics.from_samples(data.space, data.features, data.labels, n_clipped=len(data))


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


@given(samples())
def test_round_trip(data: Samples) -> None:
    stats = build(data)
    back = SufficientStatistics.from_bytes(data.space, stats.to_bytes())
    assert back == stats
    assert back.n_clipped == stats.n_clipped
    assert back.sha256 == stats.sha256
    assert back.to_bytes() == stats.to_bytes() == build(data.take(range(len(data) - 1, -1, -1))).to_bytes()


@given(samples(max_size=6, dim=2), st.data())
def test_no_altered_byte_and_no_truncation_is_accepted(data: Samples, choice: st.DataObject) -> None:
    stored = build(data).to_bytes()
    place = choice.draw(st.integers(0, len(stored) - 1))
    flipped = bytearray(stored)
    flipped[place] ^= choice.draw(st.integers(1, 255))
    for bad in (bytes(flipped), stored[:place], stored + b"\0"):
        with pytest.raises(CorruptionError):
            SufficientStatistics.from_bytes(data.space, bad)


@given(samples(max_size=6, dim=2), st.data())
def test_bytes_that_carry_their_own_hash_are_judged_by_content(data: Samples, choice: st.DataObject) -> None:
    """Whoever can compute SHA-256 may write anything; only possible statistics come out of it."""
    body = bytearray(build(data).to_bytes()[:-32])
    place = choice.draw(st.integers(0, len(body) - 1))
    body[place] ^= choice.draw(st.integers(1, 255))
    try:
        stats = SufficientStatistics.from_bytes(data.space, sealed(bytes(body)))
    except SoundkeepError:
        return
    assert np.all(stats.counts >= 1)
    assert np.all(np.abs(stats.gram) <= 2.0**53)
    assert np.all(np.isfinite(stats.means))


def test_another_space_and_a_newer_format_are_named() -> None:
    space = feature_space(2)
    stored = SufficientStatistics.zero(space).to_bytes()
    with pytest.raises(SpaceMismatchError, match="belong to feature space"):
        SufficientStatistics.from_bytes(feature_space(2, backbone="a"), stored)
    newer = stored[:-32].replace(b'"version":1', b'"version":2')
    with pytest.raises(StateError, match="version 2") as caught:
        SufficientStatistics.from_bytes(space, sealed(newer))
    assert not isinstance(caught.value, CorruptionError)


def with_header(space: FeatureSpace, header: bytes, numbers: bytes = b"") -> bytes:
    return sealed(MAGIC + len(header).to_bytes(4, "little") + header + numbers)


def test_hostile_headers() -> None:
    space = feature_space(1)
    good = {"dim": 1, "labels": ["a"], "n_clipped": 0, "space": space.sha256, "version": 1}
    numbers = np.array([1, 3, 9], dtype="<i8").tobytes()
    assert SufficientStatistics.from_bytes(space, with_header(space, canonical_json(good), numbers)).n_samples == 1
    bad = [
        b"[]",
        b"{}",
        b"\xff",
        canonical_json({**good, "labels": [1]}),
        canonical_json({**good, "labels": "a"}),
        canonical_json({**good, "dim": 2}),
        canonical_json({**good, "n_clipped": -1}),
        canonical_json({**good, "n_clipped": True}),
    ]
    for header in bad:
        with pytest.raises(CorruptionError):
            SufficientStatistics.from_bytes(space, with_header(space, header, numbers))
    with pytest.raises(CorruptionError, match="header of"):
        SufficientStatistics.from_bytes(space, sealed(MAGIC + b"\xff\xff\xff\xff"))


@pytest.mark.parametrize(
    "numbers", [(0, 0, 0), (-1, 3, 9), (1, 3, 8), (1, 3, -9), (1, 2**53 + 1, 2**53), (1, 0, 2**62)]
)
def test_impossible_numbers(numbers: tuple[int, int, int]) -> None:
    space = feature_space(1)
    header = canonical_json({"dim": 1, "labels": ["a"], "n_clipped": 0, "space": space.sha256, "version": 1})
    with pytest.raises(CorruptionError):
        SufficientStatistics.from_bytes(space, with_header(space, header, np.array(numbers, dtype="<i8").tobytes()))
