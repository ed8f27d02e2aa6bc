"""A head on its way to a simulated device: the old one or the new one, whatever happens to the link."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from firmware_bridge.address import parse_address
from firmware_bridge.connection import Connection
from firmware_bridge.errors import LinkError
from firmware_bridge.head_transfer import CHUNK_BYTES, seconds_on_the_line, send_head
from firmware_bridge.heads import DeviceHead
from firmware_bridge.simulator import Faults, Simulation
from tests.simulators.device_process import simulated_device

EAR = b"earearea"
HEAD = DeviceHead(3, tuple("abcde"), 32, 2, 0, EAR, np.random.default_rng(0).bytes(10_007))
SILENCE = np.zeros(1600, dtype=np.int16)


def connected(simulation: Simulation) -> Connection:
    return Connection(parse_address(simulation.where))


@pytest.mark.parametrize("flip", [0.0, 2e-5])
def test_a_head_arrives_whole_also_through_a_damaged_line(flip: float) -> None:
    with simulated_device(SILENCE, bank_bytes=16_384, ear=EAR, faults=Faults(flip=flip)) as simulation:
        with connected(simulation) as link:
            seconds = send_head(link, HEAD)
        assert simulation.device.bank.in_use == (3, HEAD.data) and 0.0 < seconds < 5.0
        assert simulation.device.played.n_commands == 2 + -(-len(HEAD.data) // CHUNK_BYTES)


def test_what_does_not_fit_is_refused_before_a_byte_is_sent() -> None:
    with simulated_device(SILENCE, bank_bytes=4096, ear=EAR) as simulation, connected(simulation) as link:
        with pytest.raises(LinkError, match="10007 bytes, and simulated device has room for 4096"):
            send_head(link, HEAD)
        with pytest.raises(LinkError, match="was built with ear"):
            send_head(link, replace(HEAD, ear=b"anotherr", data=b"x"))
        assert simulation.device.bank.in_use == (0, b"") and simulation.device.played.n_commands == 0
    with (
        simulated_device(SILENCE) as simulation,
        connected(simulation) as link,
        pytest.raises(LinkError, match="recognises nothing by itself"),
    ):
        send_head(link, HEAD)


def test_a_device_that_starts_anew_in_between_keeps_what_it_has_and_says_so() -> None:
    with simulated_device(SILENCE, bank_bytes=16_384, ear=EAR) as simulation, connected(simulation) as link:
        send_head(link, HEAD)
        taken = simulation.device.bank.obey

        def fall_over(packet: object) -> int:
            simulation.device.bank.obey = taken  # type: ignore[method-assign]
            simulation.device.restart(99)
            return 0

        simulation.device.bank.obey = fall_over  # type: ignore[method-assign, assignment]
        with pytest.raises(LinkError, match="did not acknowledge"):
            send_head(link, replace(HEAD, version=4))
        assert simulation.device.bank.in_use == (3, HEAD.data)


def test_two_seconds_are_enough_for_a_head_at_921600_baud() -> None:
    """256 numbers and 32 classes in float32, and 128 kB, the largest that would do."""
    assert seconds_on_the_line(32 * 256 * 4 + 256, 921_600) < 0.4
    assert seconds_on_the_line(128 * 1024, 921_600) < 2.0
