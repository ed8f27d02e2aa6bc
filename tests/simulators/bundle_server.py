"""A real web server for a folder: answers ranges, and on demand cuts off, lies about lengths or never ends."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class BundleServer:
    """folder: what is served. cut_after: bytes of a body after which the connection is closed, asked for each answer.

    ranges: whether ranges are answered. endless: names whose bodies go on with zeros. replaced: other bytes by name.
    """

    folder: Path
    url: str = ""
    cut_after: Callable[[str], int | None] = lambda name: None
    ranges: bool = True
    endless: set[str] = field(default_factory=set)
    replaced: dict[str, bytes] = field(default_factory=dict)
    encoding: str | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(folder: Path) -> Iterator[BundleServer]:
    """Serve ``folder`` on a port of this machine within the block."""
    state = BundleServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            state.asked.append((name, self.headers.get("range")))
            file = state.folder / name
            if name in state.endless:
                self._endless()
            elif name in state.replaced:
                self._send(name, state.replaced[name])
            elif ".." in name or not file.is_file():
                self.send_response(404)
                self.send_header("content-length", "0")
                self.end_headers()
            else:
                self._send(name, file.read_bytes())

        def _send(self, name: str, data: bytes) -> None:
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("range") or "") if state.ranges else None
            start = int(wanted[1]) if wanted else 0
            if start >= len(data) > 0 or (wanted and not data):
                self.send_response(416)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("content-range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if state.encoding:
                self.send_header("content-encoding", state.encoding)
            self.send_header("content-length", str(len(data) - start))
            self.end_headers()
            cut = state.cut_after(name)
            body = data[start:] if cut is None else data[start : start + cut]
            self.wfile.write(body)
            self.wfile.flush()
            if len(body) < len(data) - start:
                self.close_connection = True

        def _endless(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            try:
                while True:
                    self.wfile.write(bytes(65536))
            except OSError:
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
