"""The replay window: each number at most once, any order within the window, older ones never."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from edge.sync.signing import MAX_SEQUENCE, REPLAY_WINDOW
from trainer.server.replay import ReplayWindow

NEAR = st.integers(1, 3 * REPLAY_WINDOW)
ANY = st.one_of(NEAR, st.integers(1, MAX_SEQUENCE))


def taken(sequences: list[int]) -> list[int]:
    window, accepted = ReplayWindow(), []
    for sequence in sequences:
        after = window.take(sequence)
        if after is not None:
            window = ReplayWindow.from_bytes(after.top, after.to_bytes())  # as a row of the database
            accepted.append(sequence)
    return accepted


@given(st.lists(ANY, max_size=60))
def test_a_number_counts_at_most_once(sequences: list[int]) -> None:
    accepted = taken(sequences + sequences)
    assert len(accepted) == len(set(accepted))


@given(st.integers(1, MAX_SEQUENCE - REPLAY_WINDOW), st.data())
def test_any_order_within_the_window_is_accepted(start: int, data: st.DataObject) -> None:
    numbers = [start + i for i in data.draw(st.sets(st.integers(0, REPLAY_WINDOW - 1), max_size=40))]
    shuffled = data.draw(st.permutations(numbers))
    assert sorted(taken(list(shuffled))) == sorted(numbers)


@given(NEAR, st.integers(0, 2 * REPLAY_WINDOW))
def test_what_is_older_than_the_window_is_refused(top: int, back: int) -> None:
    window = ReplayWindow().take(top)
    assert window is not None
    if top - back >= 1:
        accepted = window.take(top - back)
        assert (accepted is not None) == (0 < back < REPLAY_WINDOW)


@given(st.lists(ANY, max_size=40))
def test_the_bits_stay_small(sequences: list[int]) -> None:
    window = ReplayWindow()
    for sequence in sequences:
        window = window.take(sequence) or window
    assert len(window.to_bytes()) <= REPLAY_WINDOW // 8
    assert window.top == max(sequences, default=0)
