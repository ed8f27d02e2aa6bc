"""Bytes to and from a microcontroller, whatever carries them: a serial port, TCP, UDP, a pseudo-terminal.

A transport waits at most as long as it is told, never swallows a failure, and never hangs in ``write``: a device that
takes no bytes for a second is taken for gone. ``dialled`` opens what an address names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edge.errors import ConfigurationError
from firmware_bridge.address import Address
from firmware_bridge.errors import LinkError, LinkLostError

READ_BYTES = 65_536
MAX_DATAGRAM = 65_535
CONNECT_SECONDS = 3.0
WRITE_SECONDS = 1.0


@dataclass(frozen=True)
class TransportHealth:
    """Bytes read and written since it was opened; ``is_open`` until it was closed or found lost."""

    is_open: bool
    n_read: int = 0
    n_written: int = 0


class Transport(Protocol):
    """An open way to one device. One thread may read while another writes; ``close`` may come from any."""

    @property
    def name(self) -> str: ...

    def read(self, timeout: float) -> bytes:
        """Return what has come, b"" when nothing came in ``timeout`` seconds. Raises LinkLostError at the end."""
        ...

    def write(self, data: bytes) -> None:
        """Hand over all of ``data``. Raises LinkLostError when it is not taken within a second."""
        ...

    def close(self) -> None:
        """Idempotent; a read that waits ends."""
        ...

    def health(self) -> TransportHealth: ...


def dialled(address: Address) -> Transport:
    """Open what ``address`` names. Raises LinkError with what to do about it."""
    if address.kind == "serial":
        return SerialTransport(address)
    if address.kind == "tcp":
        return TcpTransport.connect(address)
    if address.kind == "udp":
        return UdpTransport(address)
    return PtyTransport()


class DescriptorTransport:
    """What sockets and pseudo-terminals share: one non-blocking descriptor. Subclasses say what bytes cost."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._health = TransportHealth(True)
        os.set_blocking(descriptor, False)

    def read(self, timeout: float) -> bytes:
        until = time.monotonic() + timeout
        while self._health.is_open:
            remaining = until - time.monotonic()
            try:
                ready = select.select([self._descriptor], [], [], min(0.1, max(0.0, remaining)))[0]
                data = self._take() if ready else b""
            except BlockingIOError:
                data = b""
            except (OSError, ValueError) as error:
                raise self._lost(error) from error
            if data:
                self._health = replace(self._health, n_read=self._health.n_read + len(data))
                return data
            if remaining <= 0.0:
                return b""
        raise LinkLostError(f"{self.name} was closed")

    def write(self, data: bytes) -> None:
        left, until = memoryview(data), time.monotonic() + WRITE_SECONDS
        while left:
            if not self._health.is_open:
                raise LinkLostError(f"{self.name} was closed")
            try:
                n = self._give(left)
            except BlockingIOError:
                n = 0
            except (OSError, ValueError) as error:
                raise self._lost(error) from error
            left = left[n:]
            self._health = replace(self._health, n_written=self._health.n_written + n)
            if left and n == 0:
                if time.monotonic() > until:
                    raise self._lost(TimeoutError(f"it took no bytes for {WRITE_SECONDS:g} s"))
                select.select([], [self._descriptor], [], 0.05)

    def close(self) -> None:
        if self._health.is_open:
            self._health = replace(self._health, is_open=False)
            self._release()

    def health(self) -> TransportHealth:
        return self._health

    def _lost(self, error: BaseException) -> LinkLostError:
        was_open = self._health.is_open
        self.close()
        return LinkLostError(f"{self.name} is gone ({_why(error)})" if was_open else f"{self.name} was closed")

    def _take(self) -> bytes:
        raise NotImplementedError

    def _give(self, data: memoryview) -> int:
        raise NotImplementedError

    def _release(self) -> None:
        raise NotImplementedError


class TcpTransport(DescriptorTransport):
    """A connected stream."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        super().__init__(name, connection.fileno())
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @classmethod
    def connect(cls, address: Address) -> TcpTransport:
        try:
            connection = socket.create_connection((address.place, address.number), timeout=CONNECT_SECONDS)
        except ConnectionRefusedError as error:
            raise LinkError(
                f"nothing listens on {address}: the connection was refused; start the device, and check the port"
            ) from error
        except (OSError, UnicodeError) as error:
            raise LinkError(f"{address} cannot be reached ({_why(error)}); check the host and the network") from error
        return cls(connection, str(address))

    def _take(self) -> bytes:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the device closed the connection")
        return data

    def _give(self, data: memoryview) -> int:
        return self._socket.send(data)

    def _release(self) -> None:
        with contextlib.suppress(OSError):  # the other side was quicker
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class TcpListener:
    """Waits on a port for whoever dials: the device's side of TCP, for the simulator. Opens in ``__init__``."""

    def __init__(self, address: Address) -> None:
        self.address = address
        try:
            self._socket = socket.create_server((address.place, address.number))
        except (OSError, UnicodeError) as error:
            raise _port_error(address, error) from error

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def accept(self, timeout: float) -> TcpTransport | None:
        """Return a connection, None when nobody dialled in ``timeout`` seconds."""
        self._socket.settimeout(timeout)
        try:
            connection, _ = self._socket.accept()
        except TimeoutError:
            return None
        return TcpTransport(connection, str(self.address))

    def close(self) -> None:
        self._socket.close()


class UdpTransport(DescriptorTransport):
    """Datagrams of whole packets. Without a host: whoever sends first is the device, until it is silent and another
    sends; what others send meanwhile is left out."""

    SILENT_SECONDS = 3.0

    def __init__(self, address: Address) -> None:
        self._socket = _udp_socket(address)
        super().__init__(str(address), self._socket.fileno())
        self._peer: Any = None
        self._heard_at = 0.0
        self._fixed = bool(address.place)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def _take(self) -> bytes:
        if self._fixed:
            try:
                return self._socket.recv(MAX_DATAGRAM)
            except ConnectionRefusedError:
                return b""  # nobody listens there yet
        data, peer = self._socket.recvfrom(MAX_DATAGRAM)
        now = time.monotonic()
        if peer != self._peer and self._peer is not None and now - self._heard_at < self.SILENT_SECONDS:
            return b""
        self._peer, self._heard_at = peer, now
        return data

    def _give(self, data: memoryview) -> int:
        try:
            if self._fixed:
                return self._socket.send(data)
            if self._peer is None:
                return len(data)  # nobody has sent yet: there is nobody to send to, as on any lossy link
            return self._socket.sendto(data, self._peer)
        except ConnectionRefusedError:
            return len(data)

    def _release(self) -> None:
        self._socket.close()


class PtyTransport(DescriptorTransport):
    """Our end of a new pseudo-terminal; the other end is ``path``, which opens like a serial port."""

    def __init__(self) -> None:
        if os.name != "posix":
            raise ConfigurationError("this system has no pseudo-terminals; use tcp:HOST:PORT")
        import pty
        import tty

        ours, self._theirs = pty.openpty()
        tty.setraw(self._theirs)  # held open, so that whoever opens and leaves does not end it
        self.path = os.ttyname(self._theirs)
        super().__init__(f"pty {self.path}", ours)

    def _take(self) -> bytes:
        return os.read(self._descriptor, READ_BYTES)

    def _give(self, data: memoryview) -> int:
        return os.write(self._descriptor, data)

    def _release(self) -> None:
        os.close(self._descriptor)
        os.close(self._theirs)


class SerialTransport:
    """A serial port, USB or not, taken for ourselves alone. The one place that knows pyserial."""

    def __init__(self, address: Address) -> None:
        try:
            import serial
        except ImportError as error:
            raise ConfigurationError(
                "serial ports need the package pyserial, which is not installed; "
                "install it with `pip install 'soundkeep[bridge]'`"
            ) from error
        self.name = str(address)
        self._health = TransportHealth(True)
        self._failures = (serial.SerialException, OSError, TypeError, ValueError)
        try:
            self._port = serial.Serial(
                address.place, address.number, timeout=0.1, write_timeout=WRITE_SECONDS, exclusive=True
            )
        except (serial.SerialException, OSError, ValueError) as error:
            raise _serial_error(address, error) from error

    def set_baud(self, baud: int) -> None:
        """Go on at another speed; what came at the old one and was not read is dropped. Raises LinkLostError."""
        try:
            self._port.baudrate = baud
            self._port.reset_input_buffer()
        except self._failures as error:
            raise self._lost(error) from error

    def read(self, timeout: float) -> bytes:
        until = time.monotonic() + timeout
        while self._health.is_open:
            try:
                self._port.timeout = min(0.1, max(0.0, until - time.monotonic()))
                data: bytes = self._port.read(1)
                if data and (n := min(self._port.in_waiting, READ_BYTES)):
                    data += self._port.read(n)
            except self._failures as error:
                raise self._lost(error) from error
            if data:
                self._health = replace(self._health, n_read=self._health.n_read + len(data))
                return data
            if time.monotonic() >= until:
                return b""
        raise LinkLostError(f"{self.name} was closed")

    def write(self, data: bytes) -> None:
        if not self._health.is_open:
            raise LinkLostError(f"{self.name} was closed")
        try:
            self._port.write(data)
        except self._failures as error:
            raise self._lost(error) from error
        self._health = replace(self._health, n_written=self._health.n_written + len(data))

    def close(self) -> None:
        if self._health.is_open:
            self._health = replace(self._health, is_open=False)
            with contextlib.suppress(*self._failures):  # it is gone already
                self._port.close()

    def health(self) -> TransportHealth:
        return self._health

    def _lost(self, error: BaseException) -> LinkLostError:
        was_open = self._health.is_open
        self.close()
        return LinkLostError(f"{self.name} is gone ({_why(error)})" if was_open else f"{self.name} was closed")


def serial_ports() -> list[str]:
    """Return the paths of serial devices that are there now."""
    return sorted(str(path) for pattern in ("ttyUSB*", "ttyACM*", "cu.usb*") for path in Path("/dev").glob(pattern))


def _udp_socket(address: Address) -> socket.socket:
    try:
        if not address.place:
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind(("", address.number))
        else:
            family, kind, protocol, _, peer = socket.getaddrinfo(address.place, address.number, type=socket.SOCK_DGRAM)[
                0
            ]
            bound = socket.socket(family, kind, protocol)
            bound.connect(peer)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    except (OSError, UnicodeError) as error:
        raise _port_error(address, error) from error
    return bound


def _port_error(address: Address, error: BaseException) -> LinkError:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return LinkError(f"the port of {address} is in use by another program; end that, or choose another port")
    if isinstance(error, PermissionError):
        return LinkError(f"the port of {address} may not be used; choose one above 1023")
    return LinkError(f"{address} cannot be opened ({_why(error)}); check the host and the port")


def _serial_error(address: Address, error: BaseException) -> LinkError:
    number = getattr(error, "errno", None)
    if number is None and "exclusively lock" in str(error):
        number = errno.EBUSY
    if number in (errno.EBUSY, errno.EAGAIN):
        return LinkError(
            f"{address.place} is in use by another program; end that (`fuser {address.place}` names it), "
            "or give another port"
        )
    if number == errno.EACCES:
        return LinkError(
            f"{address.place} may not be opened by this user; join the group that owns it "
            "(`sudo usermod -aG dialout $USER`, then log in again)"
        )
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        there = ", ".join(serial_ports()) or "none"
        return LinkError(f"there is no serial port {address.place}; there are: {there}; check the cable and the name")
    if isinstance(error, ValueError):
        return LinkError(f"{address.place} does not run at {address.number} baud; give another rate after the @")
    return LinkError(f"{address.place} cannot be opened ({_why(error)}); check the path")


def _why(error: BaseException) -> str:
    if str(error) == "Write timeout":  # pyserial's words
        return f"it took no bytes for {WRITE_SECONDS:g} s"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((words or type(error).__name__).split())[:200]
