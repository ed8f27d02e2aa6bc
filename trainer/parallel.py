"""One process or several: which share of the work is ours, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class World:
    """``size`` processes that do the same work on different rows; this is number ``rank``."""

    rank: int = 0
    size: int = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of ``tensor`` over all processes, the same in each; the tensor itself when there is one."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def first(self, number: int) -> int:
        """``number`` as the first process has it, in all of them: what decides shapes must not differ by a rounding."""
        device = "cuda" if self.size > 1 and torch.cuda.is_available() else "cpu"
        told = torch.tensor(number if self.rank == 0 else 0, dtype=torch.int64, device=device)
        return int(self.sum(told))

    def mine(self, n: int) -> range:
        """Which of n pieces of work are this process's: every ``size``-th."""
        return range(self.rank, n, self.size)


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the processes that torchrun started (its environment says so); a world of one otherwise."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        yield World(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
