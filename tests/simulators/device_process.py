"""A simulated microcontroller on a port of its own: in a thread of the test, or as `soundkeep-bridge simulate`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.address import parse_address
from firmware_bridge.simulator import Faults, SimulatedDevice, Simulation


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def simulated_device(
    samples: NDArray[np.int16],
    *,
    address: str | None = None,
    rate: int = 16_000,
    speed: float = 8.0,
    faults: Faults = Faults(),
    **about: Any,
) -> Iterator[Simulation]:
    """Play ``samples`` and then silence for long, so that whoever listens need not guess the end."""
    device = SimulatedDevice(rate, session=about.pop("session", 7), faults=faults, **about)
    quiet = np.zeros(600 * rate, dtype=np.int16)
    place = parse_address(address or f"tcp:127.0.0.1:{free_port()}")
    simulation = Simulation(device, np.concatenate([samples, quiet]), place, speed=speed, faults=faults)
    thread = threading.Thread(target=simulation.run, daemon=True)
    thread.start()
    try:
        yield simulation
    finally:
        simulation.stop()
        thread.join(5.0)
