"""Running out of memory as an answer: the same work again in half the pieces, until one piece is too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from trainer.errors import TrainingError

T = TypeVar("T")
Say = Callable[[str], None]


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch could not allocate, on a GPU or on the CPU."""
    words = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in words or "can't allocate" in words


def halved(size: int, error: Exception, say: Say) -> int:
    """Half of ``size`` samples at once, said aloud; other errors are raised again.

    Raises TrainingError when ``size`` is 1.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise TrainingError(
            "not even one sample of the session fits into memory; take a smaller backbone, shorter windows or LoRA on "
            "fewer blocks"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    say(f"out of memory: going on with {(size + 1) // 2} samples at once")
    return (size + 1) // 2


def in_smaller_batches(work: Callable[[int], T], batch_size: int, say: Say) -> T:
    """What ``work`` gives for the largest batch size, from ``batch_size`` down by halves, that fits into memory."""
    while True:
        try:
            return work(batch_size)
        except RuntimeError as error:
            batch_size = halved(batch_size, error, say)
