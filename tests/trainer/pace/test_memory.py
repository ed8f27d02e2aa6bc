"""Out of memory: smaller pieces until it fits, said aloud; other errors pass."""

from __future__ import annotations

import pytest

from trainer.errors import TrainingError
from trainer.pace.memory import in_smaller_batches, is_out_of_memory


def room_for(most: int) -> tuple[list[int], object]:
    tried: list[int] = []

    def work(size: int) -> int:
        tried.append(size)
        if size > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return size

    return tried, work


@pytest.mark.parametrize(("most", "wanted"), [(64, [64]), (20, [64, 32, 16]), (1, [64, 32, 16, 8, 4, 2, 1])])
def test_the_largest_half_that_fits_is_taken_and_said(most: int, wanted: list[int]) -> None:
    tried, work = room_for(most)
    said: list[str] = []
    assert callable(work)
    assert in_smaller_batches(work, 64, said.append) == wanted[-1]
    assert tried == wanted
    assert [words.split()[-4] for words in said] == [str(size) for size in wanted[1:]]


def test_when_not_even_one_fits_a_sentence_says_so() -> None:
    _, work = room_for(0)
    assert callable(work)
    with pytest.raises(TrainingError, match="not even one sample"):
        in_smaller_batches(work, 4, lambda words: None)


def test_other_errors_are_not_taken_for_it() -> None:
    def work(size: int) -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_smaller_batches(work, 4, lambda words: None)
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried ..."))
    assert not is_out_of_memory(RuntimeError("shapes"))
