"""A resync server on a real socket: on a thread of this process, or the command itself in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from trainer.server.app import make_app
from trainer.server.opening import Server
from trainer.server.serving import Listening, uvicorn_config

REPOSITORY = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 60.0


@contextmanager
def running_server(server: Server, *, behind_proxy: bool = False, body_seconds: float = 20.0) -> Iterator[httpx.Client]:
    """Answer requests on a thread; yields a client of it."""
    listening = Listening(port=0)
    app = make_app(server, behind_proxy=behind_proxy, body_seconds=body_seconds)
    uvicorn_server = uvicorn.Server(uvicorn_config(app, listening))
    with listening.bind() as bound:
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            with httpx.Client(base_url=listening.url(bound), timeout=30.0) as client:
                yield client
        finally:
            uvicorn_server.should_exit = True
            thread.join(20.0)
            assert not thread.is_alive()


class ServeProcess:
    """``soundkeep-trainer serve`` as an operator starts it, or another module that takes the same options."""

    def __init__(
        self, data: Path, *options: str, module: str = "trainer.cli", environment: dict[str, str] | None = None
    ):
        command = ["serve", "--data", str(data), "--port", "0", *options]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=REPOSITORY, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self.data = data
        self.token, self.url = self._said("enrolment token: "), self._said("listening on ")

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30.0)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; returns its exit code."""
        self._process.send_signal(number)
        self._process.communicate(timeout=30.0)
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_until_dead(self) -> None:
        self._process.communicate(timeout=30.0)

    def _said(self, beginning: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(beginning):
            self._process.kill()
            raise AssertionError((line, self._process.communicate()[1]))
        return line.removeprefix(beginning).strip()


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait_for(what: Callable[[], bool], timeout_s: float = START_SECONDS) -> None:
    """Call ``what`` until it is true."""
    until = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)
