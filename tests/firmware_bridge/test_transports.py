"""What every transport promises, asked of each over real sockets and terminals; and what each says in trouble."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from edge.errors import ConfigurationError, SoundkeepError
from firmware_bridge.address import Address, parse_address
from firmware_bridge.dialling import Backoff
from firmware_bridge.errors import LinkError, LinkLostError
from firmware_bridge.transports import PtyTransport, TcpListener, Transport, UdpTransport, dialled

Pair = Callable[[], "contextmanager[tuple[Transport, Transport]]"]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def tcp_pair() -> Iterator[tuple[Transport, Transport]]:
    listener = TcpListener(Address("tcp", "127.0.0.1", free_port()))
    host = dialled(Address("tcp", "127.0.0.1", listener.port))
    device = listener.accept(5.0)
    assert device is not None
    with ExitStack() as stack:
        for open_one in (listener, host, device):
            stack.callback(open_one.close)
        yield host, device


@contextmanager
def udp_pair() -> Iterator[tuple[Transport, Transport]]:
    port = free_port(socket.SOCK_DGRAM)
    host, device = dialled(Address("udp", "", port)), dialled(Address("udp", "127.0.0.1", port))
    with ExitStack() as stack:
        stack.callback(host.close)
        stack.callback(device.close)
        device.write(b"\0")
        assert host.read(5.0) == b"\0"
        yield host, device


@contextmanager
def serial_pair() -> Iterator[tuple[Transport, Transport]]:
    pytest.importorskip("serial")
    device = PtyTransport()
    host = dialled(Address("serial", device.path, 921_600))
    with ExitStack() as stack:
        stack.callback(device.close)
        stack.callback(host.close)
        yield host, device


PAIRS = [tcp_pair, udp_pair, serial_pair]


def read_all(transport: Transport, n: int) -> bytes:
    data, until = b"", time.monotonic() + 10.0
    while len(data) < n and time.monotonic() < until:
        data += transport.read(0.1)
    return data


@pytest.mark.parametrize("pair", PAIRS)
def test_bytes_arrive_unchanged_both_ways_and_are_counted(pair: Pair) -> None:
    rng = np.random.default_rng(0)
    with pair() as (host, device):
        before = host.health()
        for a, b in ((host, device), (device, host)):
            sent = [rng.bytes(int(n)) for n in rng.integers(1, 900, 40)]
            got = b""
            for piece in sent:  # read in between: a pseudo-terminal holds 4 kB
                a.write(piece)
                got += b.read(0.0)
            assert got + read_all(b, sum(map(len, sent)) - len(got)) == b"".join(sent)
        assert host.health().is_open
        assert host.health().n_read - before.n_read == sum(map(len, sent))
        assert host.health().n_written > 0


@pytest.mark.parametrize("pair", PAIRS)
def test_a_read_waits_no_longer_than_it_was_told(pair: Pair) -> None:
    with pair() as (host, _):
        began = time.monotonic()
        assert host.read(0.0) == b"" and host.read(0.15) == b""
        assert 0.1 < time.monotonic() - began < 1.5


@pytest.mark.parametrize("pair", PAIRS)
def test_closing_from_another_thread_ends_a_read(pair: Pair) -> None:
    with pair() as (host, _):
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                while True:
                    host.read(5.0)
            except LinkLostError as error:
                ended.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        time.sleep(0.1)
        host.close()
        thread.join(2.0)
        assert ended and not host.health().is_open
        host.close()
        with pytest.raises(LinkLostError):
            host.write(b"late")


@pytest.mark.parametrize("pair", [tcp_pair, serial_pair])
def test_a_device_that_goes_away_in_mid_packet_is_lost_in_a_sentence(pair: Pair) -> None:
    with pair() as (host, device):
        device.write(b"\0\x05half of a pack")
        assert read_all(host, 14).endswith(b"pack")
        device.close()
        began = time.monotonic()
        with pytest.raises(LinkLostError, match="gone"):
            while time.monotonic() - began < 5.0:
                host.read(0.2)
        assert time.monotonic() - began < 2.0
        assert not host.health().is_open


@pytest.mark.parametrize("pair", [tcp_pair, serial_pair])
def test_a_device_that_takes_no_bytes_does_not_hang_the_writer(pair: Pair) -> None:
    with pair() as (host, _):
        began = time.monotonic()
        with pytest.raises(LinkLostError):
            for _ in range(400):
                host.write(bytes(65_536))
        assert time.monotonic() - began < 10.0


# ---- sentences ------------------------------------------------------------------------------------------------------


def test_a_refused_connection_says_so_and_what_to_do() -> None:
    with pytest.raises(LinkError, match=r"refused; start the device"):
        dialled(parse_address(f"tcp:127.0.0.1:{free_port()}"))


def test_a_host_that_does_not_exist_says_so() -> None:
    with pytest.raises(LinkError, match="cannot be reached"):
        dialled(parse_address("tcp:no-such-host.invalid:4000"))


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_port_in_use_says_so(kind: str) -> None:
    port = free_port(socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    open_one: Callable[[], UdpTransport | TcpListener] = (
        (lambda: UdpTransport(Address("udp", "", port)))
        if kind == "udp"
        else (lambda: TcpListener(Address("tcp", "127.0.0.1", port)))
    )
    first = open_one()
    try:
        with pytest.raises(LinkError, match="in use by another program"):
            open_one()
    finally:
        first.close()


def test_a_serial_port_that_another_holds_says_so() -> None:
    with serial_pair() as (host, _), pytest.raises(LinkError, match="in use by another program"):
        dialled(parse_address(host.name))


def test_a_serial_port_that_is_not_there_names_those_that_are() -> None:
    pytest.importorskip("serial")
    with pytest.raises(LinkError, match=r"no serial port /dev/ttyNOPE; there are"):
        dialled(parse_address("serial:/dev/ttyNOPE@115200"))


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (PermissionError(13, "Permission denied"), "dialout"),
        (OSError(16, "Device or resource busy"), "in use"),
        (ValueError("Invalid baud rate"), "does not run at"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_what_the_system_says_of_a_serial_port_becomes_a_sentence(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, sentence: str
) -> None:
    """Root may open everything, so a refusal is played by the system call."""
    serial = pytest.importorskip("serial")

    def refuse(*args: object, **options: object) -> None:
        if isinstance(failure, ValueError):
            raise failure
        raise serial.SerialException(failure.errno, str(failure))

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(LinkError, match=sentence):
        dialled(parse_address("serial:/dev/ttyUSB0@921600"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may open everything")
def test_a_serial_port_without_permission_names_the_group() -> None:
    with pytest.raises(LinkError, match="dialout"):
        dialled(parse_address("serial:/dev/mem@921600"))


def test_without_pyserial_a_serial_port_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ConfigurationError, match="pyserial"):
        dialled(parse_address("serial:/dev/ttyUSB0@921600"))


# ---- UDP: who is the device -----------------------------------------------------------------------------------------


def test_a_stranger_does_not_take_the_place_of_a_device_that_speaks() -> None:
    with udp_pair() as (host, device):
        assert isinstance(host, UdpTransport)
        stranger = dialled(Address("udp", "127.0.0.1", host.port))
        stranger.write(b"let me")
        device.write(b"here")
        assert read_all(host, 4) == b"here"
        host.write(b"yes")
        assert device.read(2.0) == b"yes" and stranger.read(0.1) == b""
        stranger.close()


def test_a_device_with_a_new_port_is_heard_once_the_old_one_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UdpTransport, "SILENT_SECONDS", 0.1)
    with udp_pair() as (host, _):
        assert isinstance(host, UdpTransport)
        time.sleep(0.15)
        restarted = dialled(Address("udp", "127.0.0.1", host.port))
        restarted.write(b"again")
        assert read_all(host, 5) == b"again"
        restarted.close()


# ---- dialling again -------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_steady_link() -> None:
    backoff = Backoff(first_s=0.25, max_s=2.0, steady_s=5.0)
    assert [backoff.lost_after(0.0) for _ in range(5)] == [0.25, 0.5, 1.0, 2.0, 2.0]
    assert backoff.lost_after(4.9) == 2.0
    assert backoff.lost_after(5.0) == 0.25


def test_all_refusals_are_ours() -> None:
    assert issubclass(LinkLostError, LinkError) and issubclass(LinkError, SoundkeepError)
