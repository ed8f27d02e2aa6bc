"""A network that fails: an HTTP proxy in front of a server, one request a connection, each with a fault of its own.

``choose`` names the fault of the next request: pass, reset (before the server hears of it), 503, 429, cut_up (the
server gets part of the request), cut_down (the server does the work, the device gets part of the answer), silent
(half-open: nothing ever comes), slow (the answer trickles).
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable

import numpy as np

FAULTS = ("reset", "503", "429", "cut_up", "cut_down", "slow")
_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class FaultProxy:
    """Listens inside a ``with``. port: of the server behind; None: there is none."""

    def __init__(self, port: int | None, choose: Callable[[], str], *, seed: int = 0) -> None:
        self._behind = port
        self._choose = choose
        self._rng = np.random.default_rng(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.n_requests = 0
        self.n_failed = 0
        self.body_bytes = 0
        """Bytes of request bodies that the server got, whole or in part."""

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            request = _read_message(client)
            if not request:
                return
            self.n_requests += 1
            fault = self._choose()
            self.n_failed += fault not in ("pass", "slow")
            head = request.index(b"\r\n\r\n") + 4
            if fault == "reset" or (self._behind is None and fault == "pass"):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif fault in ("503", "429"):
                headers = "retry-after: 1\r\ncontent-length: 0\r\nconnection: close"
                client.sendall(f"HTTP/1.1 {fault} Not now\r\n{headers}\r\n\r\n".encode())
            elif fault == "silent":
                client.settimeout(60.0)
                client.recv(1)
            else:
                if fault == "cut_up":
                    request = request[: head + int(self._rng.integers(0, max(1, len(request) - head)))]
                self.body_bytes += len(request) - head
                answer = self._ask(request, whole=fault != "cut_up", head_only=request.startswith(b"HEAD"))
                if fault == "cut_down":
                    answer = answer[: int(self._rng.integers(0, max(1, len(answer))))]
                step = 64 if fault == "slow" else len(answer) or 1
                for start in range(0, len(answer), step):
                    client.sendall(answer[start : start + step])
                    if fault == "slow":
                        time.sleep(0.002)

    def _ask(self, request: bytes, *, whole: bool, head_only: bool) -> bytes:
        assert self._behind is not None
        with socket.create_connection(("127.0.0.1", self._behind), timeout=30.0) as server:
            server.sendall(request)
            return _read_message(server, head_only=head_only) if whole else b""


def _read_message(connection: socket.socket, *, head_only: bool = False) -> bytes:
    """Read one HTTP message with a content-length; b"" when the connection ends first."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head = data.index(b"\r\n\r\n") + 4
    length = _LENGTH.search(data[:head])
    wanted = head + (0 if length is None or head_only else int(length[1]))
    pieces, n_bytes = [data], len(data)
    while n_bytes < wanted:
        piece = connection.recv(65536)
        if not piece:
            return b""
        pieces.append(piece)
        n_bytes += len(piece)
    return b"".join(pieces)
