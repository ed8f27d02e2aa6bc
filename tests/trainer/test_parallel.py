"""One process or several: shares of work, and sums that real processes agree on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.parallel import World, joined_world

WORKER = """
import torch
from trainer.parallel import joined_world
with joined_world() as world:
    tensor = torch.tensor([float(world.rank + 1), 10.0], dtype=torch.float64)
    same = world.sum(tensor)
    assert same is tensor
    print(world.rank, world.size, same.tolist(), list(world.mine(5)))
assert not torch.distributed.is_initialized()
"""


@given(st.integers(0, 50), st.integers(1, 7))
def test_shares_cover_all_work_once(n: int, size: int) -> None:
    shares = [list(World(rank, size).mine(n)) for rank in range(size)]
    assert sorted(i for share in shares for i in share) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_the_sum_is_the_tensor_itself() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert World().sum(tensor) is tensor and tensor.tolist() == [1.0, 2.0]


def test_without_torchrun_there_is_one_process_and_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    with joined_world() as world:
        assert world == World(0, 1)
        assert not torch.distributed.is_initialized()


def test_two_processes_agree() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120) for process in running]
        assert [process.returncode for process in running] == [0, 0], [words for _, words in said]
        assert [out.strip() for out, _ in said] == [
            "0 2 [3.0, 20.0] [0, 2, 4]",
            "1 2 [3.0, 20.0] [1, 3]",
        ]
    finally:
        for process in running:
            process.kill()
            process.wait()
