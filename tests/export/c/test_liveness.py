from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from export.c.liveness import ALIGNMENT, Tensor, least, naive, overlapping, pack, peak


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    n = draw(st.integers(0, 12))
    made = []
    for i in range(n):
        first = draw(st.integers(0, 10))
        made.append(Tensor(f"t{i}", draw(st.integers(1, 400)), first, first + draw(st.integers(0, 5))))
    return made


@given(tensors())
def test_no_two_tensors_alive_together_share_a_byte(known: list[Tensor]) -> None:
    offsets = pack(known)
    assert overlapping(known, offsets) == []
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())


@given(tensors())
def test_the_plan_lies_between_what_must_be_and_what_no_sharing_needs(known: list[Tensor]) -> None:
    assert least(known) <= peak(known, pack(known)) <= naive(known)


@given(tensors(), st.randoms(use_true_random=False))
def test_the_order_in_which_tensors_are_named_does_not_matter(known: list[Tensor], random: object) -> None:
    shuffled = list(known)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert pack(shuffled) == pack(known)


def test_nothing_needs_nothing() -> None:
    assert pack([]) == {} and peak([], {}) == least([]) == naive([]) == 0


def test_a_chain_needs_its_largest_pair() -> None:
    chain = [Tensor(f"t{i}", size, i, i + 1) for i, size in enumerate((80, 160, 40, 120, 8))]
    assert peak(chain, pack(chain)) == least(chain) == 240


def test_the_check_finds_an_overlap() -> None:
    known = [Tensor("a", 16, 0, 2), Tensor("b", 16, 2, 3)]
    assert overlapping(known, {"a": 0, "b": 8}) == [("a", "b")]
    assert overlapping([known[0], Tensor("b", 16, 3, 4)], {"a": 0, "b": 8}) == []
