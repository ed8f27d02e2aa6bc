"""Where a microcontroller is: ``serial:/dev/ttyUSB0@921600``, ``tcp:HOST:PORT``, ``udp:PORT``, ``udp:HOST:PORT``.

Text in, frozen values out; nothing is opened here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge.errors import ConfigurationError

DEFAULT_BAUD = 921_600
WANTED = "wanted serial:/dev/ttyUSB0@921600, tcp:HOST:PORT, udp:PORT, udp:HOST:PORT or pty"


@dataclass(frozen=True)
class Address:
    """kind: how to open it. place: path of a serial port, or a host ("": anybody who sends). number: baud or port."""

    kind: Literal["serial", "tcp", "udp", "pty"]
    place: str = ""
    number: int = 0

    def __str__(self) -> str:
        if self.kind == "pty":
            return "pty"
        if self.kind == "serial":
            return f"serial:{self.place}@{self.number}"
        host = f"[{self.place}]" if ":" in self.place else self.place
        return f"{self.kind}:{host}:{self.number}" if host else f"{self.kind}:{self.number}"


def parse_address(text: str) -> Address:
    """Read an address. Raises ConfigurationError for what is none."""
    kind, _, rest = text.partition(":")
    if text == "pty":
        return Address("pty")
    if kind == "serial":
        path, _, baud = rest.rpartition("@") if "@" in rest else (rest, "", str(DEFAULT_BAUD))
        return Address("serial", _present(text, path), _number(text, baud, "baud rate", 300, 12_000_000))
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        return Address("tcp", _present(text, _bare(host)), _number(text, port, "port", 1, 65_535))
    if kind == "udp":
        host, _, port = rest.rpartition(":")
        return Address("udp", _bare(host), _number(text, port, "port", 1, 65_535))
    raise ConfigurationError(f"{text!r:.80} is no address of a device; {WANTED}")


def _bare(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _present(text: str, place: str) -> str:
    if not place or any(c.isspace() or not c.isprintable() for c in place):
        raise ConfigurationError(f"{text!r:.80} names no device; {WANTED}")
    return place


def _number(text: str, digits: str, what: str, low: int, high: int) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9) or not low <= int(digits) <= high:
        raise ConfigurationError(f"the {what} in {text!r:.80} is {digits!r:.20}; wanted a number from {low} to {high}")
    return int(digits)
