"""The listening side: a socket, uvicorn with limits against slow and greedy clients, one process or several.

Plain http is for loopback only; the operator says with ``behind_proxy`` that TLS ends in front of this server.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import resource
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge.errors import ConfigurationError
from trainer.server.app import make_app
from trainer.server.opening import Server, open_server
from trainer.server.status_visitors import is_loopback

HEAD_SECONDS = 15.0
MAX_HEAD_BYTES = 16_384
MAX_CONNECTIONS = 2_000
GRACE_SECONDS = 10
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Listening:
    """Where and how the server listens. port 0: a free one. tls_cert, tls_key: PEM files, both or none."""

    host: str = "127.0.0.1"
    port: int = 8738
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("--tls-cert and --tls-key belong together; give both or none")
        if not is_loopback(self.host) and self.tls_cert is None and not self.behind_proxy:
            raise ConfigurationError(
                f"plain http on {self.host} would show everything to the network; give --tls-cert and --tls-key, or "
                "--behind-proxy when a proxy in front of it speaks TLS, or listen on 127.0.0.1"
            )

    def bind(self) -> socket.socket:
        """Return a socket that listens. Raises ConfigurationError when the address is taken or not this machine's."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            bound = socket.create_server((self.host, self.port), family=family, backlog=1024)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {self.host} port {self.port} ({error.strerror}); choose another with --port"
            ) from error
        bound.set_inheritable(True)
        return bound

    def url(self, bound: socket.socket) -> str:
        """Return the address of ``bound`` as devices on this machine write it."""
        scheme = "http" if self.tls_cert is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{bound.getsockname()[1]}"


class PatientProtocol(H11Protocol):
    """HTTP/1.1 whose patience with a request's head ends: uvicorn alone waits for it forever."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None:  # asyncio does so only for sockets that name their protocol; else 40 ms an answer
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _lose_patience(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def answer_until_stopped(server: Server, listening: Listening, bound: socket.socket) -> None:
    """Answer requests on ``bound`` until SIGTERM or SIGINT; running requests are finished first."""
    _allow_many_files()
    if listening.workers == 1:
        _answer(server, listening, bound)
    else:
        _answer_in_processes(server, listening, bound)


def _answer(server: Server, listening: Listening, bound: socket.socket) -> None:
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, _end_in_peace)  # uvicorn raises the signal again when it is done
    app = make_app(server, behind_proxy=listening.behind_proxy)
    uvicorn.Server(uvicorn_config(app, listening)).run(sockets=[bound])


def _answer_in_processes(server: Server, listening: Listening, bound: socket.socket) -> None:
    """Keep ``workers`` processes answering; one that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    stopping = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda number, frame: stopping.set())

    def begin() -> multiprocessing.process.BaseProcess:
        worker = context.Process(target=_work, args=(server.data_dir, listening, bound), daemon=True)
        worker.start()
        return worker

    workers = [begin() for _ in range(listening.workers)]
    while not stopping.wait(_LOOK_SECONDS):
        workers = [worker if worker.is_alive() else begin() for worker in workers]
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(2 * GRACE_SECONDS)


def _work(data_dir: Path, listening: Listening, bound: socket.socket) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server = open_server(data_dir)
    try:
        _answer(server, listening, bound)
    finally:
        server.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def uvicorn_config(app: FastAPI, listening: Listening) -> uvicorn.Config:
    """Return how uvicorn is to answer: limits on heads, connections and waiting; no names, no websockets."""
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_certfile=None if listening.tls_cert is None else str(listening.tls_cert),
        ssl_keyfile=None if listening.tls_key is None else str(listening.tls_key),
    )


def _end_in_peace(number: int, frame: FrameType | None) -> None:
    """The server has ended already; nothing is left to do."""


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_CONNECTIONS
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
