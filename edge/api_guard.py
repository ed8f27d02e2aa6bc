"""What every request to the live API must pass before anything else: Host, Origin, token. No I/O.

Loopback is no protection by itself. A page of any site can make the owner's browser send requests to 127.0.0.1 (CSRF),
and a site can point its own name at 127.0.0.1 and then read the answers (DNS rebinding). So:

* **Host** must be a name that means this listener: an IP address, ``localhost`` or the host it was bound to, with its
  port. A rebound name is somebody else's name.
* **Origin**, which browsers add and pages cannot change, must be absent or this listener's own.
* **Token**: ``Authorization: Bearer TOKEN``; for a WebSocket, where a browser cannot set headers, also the subprotocol
  ``bearer.TOKEN``.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BEARER_SUBPROTOCOL = "bearer."


@dataclass(frozen=True)
class Refusal:
    """An HTTP status and one sentence."""

    status: int
    sentence: str


@dataclass(frozen=True)
class Guard:
    """Knows who may come in. host, port: where the listener is bound."""

    token: str
    host: str
    port: int

    def refusal(self, headers: Iterable[tuple[bytes, bytes]], subprotocols: Sequence[str] = ()) -> Refusal | None:
        """Judge one request by its raw headers and, for a WebSocket, the subprotocols it offers. None: welcome."""
        found: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            found.setdefault(name.lower(), []).append(value)
        hosts = [_text(value) for value in found.get(b"host", [])]
        if len(hosts) != 1 or not self._is_us(hosts[0]):
            return Refusal(403, f"the Host header {', '.join(hosts)[:80]!r} is not this listener; use its address")
        for origin in (_text(value) for value in found.get(b"origin", [])):
            scheme, _, host = origin.partition("://")
            if scheme != "http" or not self._is_us(host):
                return Refusal(
                    403, f"requests from the origin {origin[:80]!r} are refused; use this listener's own pages"
                )
        token = self.token.encode("utf-8")
        if not any(hmac.compare_digest(token, offered) for offered in _offered(found, subprotocols)):
            return Refusal(
                401, "the token is missing or wrong; send `Authorization: Bearer TOKEN` with the token of listener.json"
            )
        return None

    def _is_us(self, host: str) -> bool:
        name, port = _split_port(host)
        return port == str(self.port) and (name.lower() in ("localhost", self.host.lower()) or _is_address(name))


def _offered(headers: dict[bytes, list[bytes]], subprotocols: Sequence[str]) -> Iterator[bytes]:
    for value in headers.get(b"authorization", []):
        kind, _, token = value.partition(b" ")
        if kind.lower() == b"bearer":
            yield token.strip()
    for offered in subprotocols:
        if offered.startswith(BEARER_SUBPROTOCOL):
            yield offered[len(BEARER_SUBPROTOCOL) :].encode("utf-8")


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _split_port(host: str) -> tuple[str, str]:
    """``[::1]:80`` -> (``::1``, ``80``); without a port, HTTP's own."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest[1:] if rest.startswith(":") else "80"
    name, colon, port = host.rpartition(":")
    return (name, port) if colon else (host, "80")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
