"""Slots: which moves there are, three starts and no more, nothing older and nothing rejected comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import SyncError
from edge.sync.slots import FILE, STATES, TRIAL_STARTS, Slots, load_slots, save_slots

A, B = "a" * 64, "b" * 64


def on_trial(before: Slots | None = None, sha256: str = A, version: int = 2) -> Slots:
    slots = (before or Slots()).admit(sha256, "ear", version)
    for state in ("VERIFIED", "PREPARED", "TRIAL"):
        slots = slots.move(sha256, state)  # type: ignore[arg-type]
    return slots


def test_a_trial_gets_three_starts_and_then_the_ear_before_is_used() -> None:
    first = on_trial().move(A, "COMMITTED")
    slots = on_trial(first, B, 3)
    assert (slots.active, slots.fallback) == (B, A)
    for left in range(TRIAL_STARTS - 1, -1, -1):
        slots = slots.start()
        assert slots.trial is not None and slots.trial.boots_left == left
    slots = slots.start()
    assert slots.trial is None and slots.active == A and slots.slots[B].state == "ROLLED_BACK"
    assert slots.start() == slots
    with pytest.raises(SyncError, match="turned down before"):
        slots.admit(B, "ear", 3)


def test_a_start_that_is_counted_after_loading_never_counts() -> None:
    """The broken variant: an ear that takes the process down while it loads is started for ever."""
    slots = on_trial()
    for _ in range(10):
        loading = slots  # the process dies here, before it comes to ``start``
    assert loading.trial is not None and loading.trial.boots_left == TRIAL_STARTS
    for _ in range(TRIAL_STARTS + 1):
        slots = slots.start()  # counted, and then the process dies
    assert slots.trial is None


def test_nothing_older_and_nothing_twice() -> None:
    slots = on_trial().move(A, "COMMITTED")
    assert slots.watermark == {"ear": 2}
    for version in (1, 2):
        with pytest.raises(SyncError, match="an older ear is never taken"):
            slots.admit(B, "ear", version)
    with pytest.raises(SyncError, match="in use already"):
        slots.admit(A, "ear", 9)
    with pytest.raises(SyncError, match="an older ear"):
        Slots().admit(B, "ear", 4, in_use=("ear", 4))
    assert slots.admit(B, "another", 1).slots[B].state == "DOWNLOADED"
    refused = slots.admit(B, "ear", 3).move(B, "REJECTED", "it hears nothing")
    with pytest.raises(SyncError, match="it hears nothing"):
        refused.admit(B, "ear", 3)
    with pytest.raises(SyncError, match="on trial"):
        on_trial().admit(B, "ear", 7)


def test_the_owner_ends_a_trial() -> None:
    slots = on_trial(on_trial().move(A, "COMMITTED"), B, 3).owner_chose()
    assert slots.active is None and slots.trial is None and slots.slots[B].state == "ROLLED_BACK"


@given(moves=st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(STATES)), max_size=20))
def test_any_moves_leave_slots_that_the_file_gives_back(moves: list[tuple[str, str]]) -> None:
    slots = Slots().admit(A, "ear", 1).admit(B, "ear", 2)
    for sha256, state in moves:
        try:
            slots = slots.move(sha256, state)  # type: ignore[arg-type]
        except SyncError:
            continue
        assert sum(slot.state == "TRIAL" for slot in slots.slots.values()) <= 2
        assert slots.active is None or slots.slots[slots.active].state in ("TRIAL", "COMMITTED")
    assert Slots.from_bytes(slots.to_bytes()) == slots


def test_a_damaged_file_is_said_and_means_no_slot(tmp_path: Path) -> None:
    assert load_slots(tmp_path) == (Slots(), None)
    save_slots(tmp_path, on_trial())
    assert load_slots(tmp_path) == (on_trial(), None)
    whole = (tmp_path / FILE).read_bytes()
    for position in range(0, len(whole), 7):
        altered = bytearray(whole)
        altered[position] ^= 1
        (tmp_path / FILE).write_bytes(altered)
        slots, finding = load_slots(tmp_path)
        assert slots == Slots() and finding is not None and "is damaged" in finding
    for n_bytes in range(0, len(whole), 11):
        (tmp_path / FILE).write_bytes(whole[:n_bytes])
        assert load_slots(tmp_path)[1] is not None
