"""Serves the live API from a thread of its own. The one file that knows uvicorn."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
import time
from typing import Any

import uvicorn

from edge.config import DEFAULT_HOST, DEFAULT_PORT
from edge.errors import ApiError, MisuseError

N_PORTS_TRIED = 50


def parse_address(text: str | None) -> tuple[str, int] | None:
    """Read ``HOST:PORT`` (``[::1]:8737`` for IPv6). None means the default address and any free port near it."""
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise MisuseError(f"the API address is {text!r}; wanted HOST:PORT such as 127.0.0.1:{DEFAULT_PORT}, or off")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bind(address: tuple[str, int] | None) -> socket.socket:
    """Take the port: the given one or none, the default one or the next free. Raises ApiError."""
    host, first = address or (DEFAULT_HOST, DEFAULT_PORT)
    n_tried = 1 if address else N_PORTS_TRIED
    for port in range(first, first + n_tried):
        try:
            return _bound(host, port)
        except OSError as error:
            busy = error.errno == errno.EADDRINUSE
            if busy and port < first + n_tried - 1:
                continue
            why = "is in use by another program" if busy else f"cannot be used ({error.strerror or error})"
            raise ApiError(
                f"port {port} of {host} {why}; choose another with --api HOST:PORT, or go without with --api off"
            ) from error
    raise AssertionError("unreachable")


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(64)
    except OSError:
        bound.close()
        raise
    return bound


class ApiServer:
    """Serves ``app`` on a bound socket inside a ``with``. Leaving it ends open connections."""

    def __init__(self, app: Any, bound: socket.socket) -> None:
        self._bound = bound
        config = uvicorn.Config(
            app,
            http="h11",
            ws="websockets-sansio",
            ws_max_size=4096,
            lifespan="off",
            loop="asyncio",
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=64,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="soundkeep-api", daemon=True)

    def __enter__(self) -> ApiServer:
        self._thread.start()
        until = time.monotonic() + 10.0
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise ApiError("the API did not start; see the messages above, or go without with --api off")
            time.sleep(0.005)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5.0)
        self._bound.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._bound])
