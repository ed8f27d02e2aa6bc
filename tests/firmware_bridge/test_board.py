"""The example firmware in QEMU, asked over its serial line: an emulated Cortex-M4F, the C that a board would run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware_bridge import protocol as p
from firmware_bridge.address import parse_address
from firmware_bridge.adpcm import encode_block
from firmware_bridge.connection import Connection
from firmware_bridge.front_end import FRAME_HOP, FRAME_LENGTH, FrontEnd
from firmware_bridge.link_events import Event, Frames, Sound
from firmware_bridge.packet import encode_packet
from firmware_bridge.simulator import logs_of
from tests.export.c.written import written
from tests.faults import repetitions
from tests.simulators.emulated_board import Line, firmware, needs_board, running_board

pytestmark = needs_board
RATE = 16_000
SESSION = 77


def noise(seconds: float, seed: int = 0) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.uniform(0.0, 12_000.0, int(seconds * 10) + 1), RATE // 10)[: int(seconds * RATE)]
    return (loud * rng.uniform(-1.0, 1.0, len(loud))).astype(np.int16)


@contextmanager
def board(samples: NDArray[np.int16] | None = None, speed: float = 0.0) -> Iterator[str]:
    heard = np.zeros(0, dtype=np.int16) if samples is None else samples
    with running_board(firmware(written().path), heard, speed=speed, number=SESSION) as address:
        yield address


def collect(address: str, format: str, enough: Callable[[list[Event]], bool]) -> tuple[list[Event], Any]:
    """What comes over a link in a format, until it is enough; and the link's health."""
    events: list[Event] = []
    until = time.monotonic() + 60.0
    with Connection(parse_address(address), max_events=100_000) as link:
        link.stream(format)
        for event in link.events():
            if isinstance(event, Sound | Frames):
                events.append(event)
                if enough(events):
                    break
            assert time.monotonic() < until, f"{len(events)} blocks came within a minute"
        return events, link.health()


def n_samples(events: list[Event]) -> int:
    return sum(len(e.samples) for e in events if isinstance(e, Sound))


@pytest.mark.faults
def test_a_minute_of_pcm_comes_over_to_the_bit() -> None:
    sound = noise(float(repetitions(15, 60)))
    with board(sound) as address:
        events, health = collect(address, "pcm16", lambda events: n_samples(events) >= len(sound))
    got = np.concatenate([e.samples for e in events if isinstance(e, Sound)])
    assert np.array_equal(got[: len(sound)], sound)
    starts = np.array([e.start for e in events if isinstance(e, Sound)])
    assert np.array_equal(starts, 320 * np.arange(len(starts)))
    assert (health.n_crc, health.n_malformed, health.n_late, health.device["n_dropped"]) == (0, 0, 0, 0)


def test_what_the_microphone_loses_is_counted_to_the_sample() -> None:
    """At twenty times its pace the board cannot judge every window: blocks pass unheard, and their samples count."""
    sound = noise(100.0)
    with board(sound, speed=20.0) as address, Line(address) as line:
        line.send(p.HostHello(p.PROTOCOL_VERSION, 5), p.Start(SESSION, p.PCM16))
        blocks = [line.wait(p.Pcm) for _ in range(800)]
        line.send(p.StatusQuery())
        counted = line.wait(p.Status)
    starts = np.array([b.sample for b in blocks])
    assert np.all(np.diff(starts) % 320 == 0) and np.diff(starts).min() == 320
    assert np.diff(starts).max() > 320, "something was lost"
    for b in blocks:
        assert b.data == sound[b.sample : b.sample + 320].tobytes()
    assert counted.n_dropped == 0, "the line kept up"


def test_adpcm_is_that_of_the_host_to_the_bit() -> None:
    sound = noise(5.0, seed=2)
    with board(sound) as address, Line(address) as line:
        line.send(p.HostHello(p.PROTOCOL_VERSION, 5), p.Start(SESSION, p.ADPCM))
        state = (0, 0)
        for i in range(len(sound) // 320):
            block = line.wait(p.Adpcm)
            wanted, *after = encode_block(sound[320 * i : 320 * (i + 1)], *state)
            state = (after[0], after[1])
            assert (block.sample, block.data) == (320 * i, wanted)


def test_features_are_those_of_the_front_end() -> None:
    sound = noise(5.0, seed=3)
    n_frames = (len(sound) - FRAME_LENGTH) // FRAME_HOP
    with board(sound) as address, Line(address) as line:
        line.send(p.HostHello(p.PROTOCOL_VERSION, 5), p.Start(SESSION, p.LOG_MEL))
        frames = [line.wait(p.Features) for _ in range(n_frames)]
    assert [f.sample for f in frames] == [FRAME_HOP * i for i in range(n_frames)]
    got = np.stack([np.frombuffer(f.data, dtype="<i2") for f in frames])
    wanted = logs_of(FrontEnd()(sound))[:n_frames]
    audible = wanted > -25 * 256
    assert np.abs(got.astype(int) - wanted)[audible].max() <= 1 and audible.mean() > 0.9


@pytest.mark.faults
def test_damaged_packets_are_never_taken_for_whole_ones() -> None:
    """Every answer to a probe is a probe that was sent; a whole one behind garbage is always answered."""
    rng = np.random.default_rng(4)
    n = repetitions(300, 1000)
    with board() as address, Line(address) as line:
        line.send(p.HostHello(p.PROTOCOL_VERSION, 5))
        line.wait(p.DeviceHello)
        sent: set[bytes] = set()
        whole: list[bytes] = []
        answers: list[bytes] = []
        for i in range(n):
            payload = rng.bytes(int(rng.integers(1, 200)))
            packet = bytearray(encode_packet(p.Probe.TYPE, i & 0xFFFF, payload))
            for _ in range(int(rng.integers(1, 4))):
                packet[rng.integers(1, len(packet) - 1)] ^= 1 << int(rng.integers(8))
            good = rng.bytes(24)
            sent |= {payload, good}
            whole.append(good)
            line.send_bytes(bytes(packet) + encode_packet(p.Probe.TYPE, i & 0xFFFF, good))
            if i % 20 == 19:
                answers += [e.payload for e in line.read(0.1) if e.type == p.ProbeAnswer.TYPE]
        answers += [e.payload for e in line.read(0.5) if e.type == p.ProbeAnswer.TYPE]
        line.send(p.StatusQuery())
        counted = line.wait(p.Status)
    assert set(answers) <= sent
    assert [a for a in answers if len(a) == 24 and a in set(whole)] == whole
    assert counted.n_crc + counted.n_malformed >= n - sum(a not in set(whole) for a in answers)


def test_a_command_is_done_once_and_every_copy_is_answered() -> None:
    with board() as address, Line(address) as line:
        line.send(p.HostHello(p.PROTOCOL_VERSION, 5))
        hello = line.wait(p.DeviceHello)
        assert (hello.session, hello.sample_rate, hello.block, hello.name) == (SESSION, RATE, 320, b"mps2-an386")
        for _ in range(3):
            line.send(p.HostLabel(SESSION, 1.0, 1, b"kettle"), seq=9)
            assert line.wait(p.Ack) == p.Ack(SESSION, 9, p.STATUS_DONE)
        line.send(p.Start(SESSION, 128), seq=10)
        assert line.wait(p.Ack) == p.Ack(SESSION, 10, p.STATUS_UNSUPPORTED)
        line.send(p.Start(SESSION + 1, p.PCM16), seq=11)
        assert line.wait(p.Ack) == p.Ack(SESSION + 1, 11, p.STATUS_OTHER_SESSION)
        line.send_bytes(encode_packet(p.Start.TYPE, 12, b"\1\2"))
        line.send_bytes(encode_packet(p.Start.TYPE, 13, p.Stop(SESSION).encode()))
        assert line.wait(p.Ack) == p.Ack(SESSION, 13, p.STATUS_MALFORMED)
        line.send_bytes(encode_packet(200, 14, b"from a newer version"))
        line.send(p.HostHello(p.PROTOCOL_VERSION + 1, 0))
        assert line.wait(p.DeviceHello).version == p.PROTOCOL_VERSION
        line.send(p.StatusQuery())
        counted = line.wait(p.Status)
        assert (counted.n_copies, counted.n_unknown) == (2, 1)
        assert counted.n_refused == 5, "a format, a session, no session, a length, a version"
        line.send(p.HostHello(p.PROTOCOL_VERSION, 6))
        line.wait(p.DeviceHello)
        line.send(p.HostLabel(SESSION, 1.0, 0, b""), seq=9)
        line.wait(p.Ack)
        line.send(p.StatusQuery())
        assert line.wait(p.Status).n_copies == 2, "another host begins its numbers anew"


def test_a_flood_and_a_packet_cut_in_the_middle_hang_nothing() -> None:
    with board() as address:
        with Line(address) as line:
            line.send_bytes(np.random.default_rng(5).bytes(30_000))
            line.send_bytes(b"\1" * 6_000 + b"\0")
            line.send(p.TimeQuery(7))
            assert line.wait(p.TimeAnswer, 30.0).number == 7, "it has read all of that, and answers"
            line.send_bytes(encode_packet(p.Probe.TYPE, 0, b"whole")[:-4])
            time.sleep(0.3)
        with Line(address) as line:
            line.send_bytes(b"\0")
            line.send(p.HostHello(p.PROTOCOL_VERSION, 5))
            line.wait(p.DeviceHello)
            line.send(p.StatusQuery())
            counted = line.wait(p.Status)
    assert counted.n_malformed + counted.n_crc > 60 and counted.n_good == 3


def test_a_board_that_starts_anew_is_another_session() -> None:
    elf = firmware(written().path)
    for number in (1, 2):
        with running_board(elf, noise(1.0), number=number) as address, Connection(parse_address(address)) as link:
            assert link.device.session == number
