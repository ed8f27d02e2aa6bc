"""``soundkeep-trainer serve`` as a process of its own, on one port: ``with ResyncServer(folder, space) as server``.

It may be killed and started again, and its database may be asked what became of everything.
"""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.space import EmbeddingSpace

REPOSITORY = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 60.0


class ResyncServer:
    """Starts in ``start``; may be killed and started again on the same port and folder."""

    def __init__(self, data: Path, *spaces: EmbeddingSpace) -> None:
        from trainer.server.database import transaction
        from trainer.server.enrolment import make_token
        from trainer.server.opening import open_server
        from trainer.server.spaces import know_space

        self.data = data
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._server = open_server(data)
        with transaction(self._server.engine) as session:
            for space in spaces:
                know_space(session, space)
        self._make_token: Callable[[Any], str] = make_token
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ResyncServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self._server.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self) -> str:
        return self._make_token(self._server)

    def start(self) -> None:
        command = [sys.executable, "-m", "trainer.cli", "serve", "--data", str(self.data), "--port", str(self.port)]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self._process.poll() is None, self._process.communicate()[1].decode()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the server's database, read-only."""
        connection = sqlite3.connect(f"file:{self.data / 'server.db'}?mode=ro", uri=True)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()
