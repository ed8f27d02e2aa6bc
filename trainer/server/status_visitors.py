"""Who may look at the status page: this machine's own user, or whoever knows the operator's password."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import PlainTextResponse, Response

from edge.durable import write_file
from edge.errors import StateError

PASSWORD_NAME = "operator_password"
_MAX_PASSWORD_BYTES = 1024
_OF_A_PROXY = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def operator_password(data_dir: Path) -> str:
    """Return the operator's password; it is made (mode 0600) where there is none. Raises StateError."""
    path = data_dir / PASSWORD_NAME
    try:
        if not path.exists():
            write_file(path, [secrets.token_urlsafe(16).encode("ascii") + b"\n"])
        with path.open("rb") as file:
            return file.read(_MAX_PASSWORD_BYTES).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        raise StateError(f"the operator's password {path} cannot be read ({error}); correct its rights") from error


@dataclass(frozen=True)
class VisitorRules:
    """behind_proxy: all visitors seem to come from loopback, so each needs the password."""

    data_dir: Path
    behind_proxy: bool = False

    def refusal(self, client_host: str | None, headers: Mapping[str, str]) -> Response | None:
        """Return what a visitor gets who may not look; None for one who may.

        A visitor from loopback that names another host is a page in a browser that was led here: it needs the password.
        So does one that came through a proxy which the operator forgot to tell of.
        """
        direct = not self.behind_proxy and not any(name in headers for name in _OF_A_PROXY)
        if direct and is_loopback(client_host) and is_loopback(host_of(headers.get("host", ""))):
            return None
        password = operator_password(self.data_dir)
        if password and _offers(headers.get("authorization", ""), password):
            return None
        return PlainTextResponse(
            f"the status page asks for a name (any) and the password in {PASSWORD_NAME} of the data folder\n",
            401,
            {"www-authenticate": 'Basic realm="soundkeep", charset="UTF-8"', "cache-control": "no-store"},
        )


def is_loopback(host: str | None) -> bool:
    """Whether ``host`` is this machine itself: ``localhost`` or a loopback address."""
    if host is None:
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """Return the host of a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _offers(header: str, password: str) -> bool:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > 2 * _MAX_PASSWORD_BYTES:
        return False
    try:
        offered = base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(offered, password.encode("utf-8"))
