"""Months without a server, in seconds: memory, open files and words stay bounded (fault 23)."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge.sync.background import BackgroundSync
from tests.faults import repetitions
from tests.simulators.sync_device import FakeClock, SyncDevice, heard

MIB = 1 << 20


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_server_that_is_down_for_long_costs_nothing(quick: Path) -> None:
    device, clock, said = SyncDevice(quick / "state", level="embeddings"), FakeClock(), []
    device.teach(*(heard("bell", seed) for seed in range(20)))
    device.point_to(f"http://127.0.0.1:{closed_port()}")

    def visit(pause: object) -> str:
        return device.sync(clock=clock, attempts=2).words

    background = BackgroundSync(visit, tell=said.append, rng=np.random.default_rng(0), clock=lambda: clock.seconds)
    process = psutil.Process(os.getpid())
    n, sizes = repetitions(300, 8640), []
    for i in range(n):
        clock.sleep(background.visit())
        clock.waits.clear()
        if i % (n // 10) == n // 20:
            sizes.append((process.memory_info().rss, process.num_fds()))
    days = clock.seconds / 86_400.0
    grown = (sizes[-1][0] - sizes[1][0]) / MIB
    print(f"{n} visits, {days:.0f} days: {grown:+.2f} MiB, {sizes[-1][1] - sizes[1][1]:+d} files, {len(said)} lines")
    assert background.n_failed == n and background.n_synced == 0
    assert grown < max(2.0, days), "less than 1 MiB a day"
    assert sizes[-1][1] <= sizes[1][1], "no file stays open"
    assert len(said) == 1, "trouble is told once, not at each visit"
