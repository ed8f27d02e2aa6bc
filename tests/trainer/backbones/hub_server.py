"""A hub on 127.0.0.1 that sends files whole, in ranges, cut short, or not at all."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """files: by path. cut_after: bytes after which the next ``cuts`` answers break off. busy: answers of 503."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int = 0
    cuts: int = 0
    busy: int = 0
    address: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            hub.requests.append((self.path, wanted))
            if self.path.startswith("/elsewhere"):
                self._send(self.path.removeprefix("/elsewhere"), wanted)
            elif hub.busy:
                hub.busy -= 1
                self._plain(503)
            elif self.path not in hub.files:
                self._plain(404)
            else:
                self.send_response(302)
                self.send_header("Location", f"/elsewhere{self.path}")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _plain(self, code: int) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, path: str, wanted: str | None) -> None:
            body = hub.files[path]
            tag = f'"{hashlib.md5(body).hexdigest()}"'
            start, code = 0, 200
            match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
            if match and self.headers.get("If-Range", tag) == tag:
                start, code = int(match[1]), 206
            if start and start >= len(body):
                self._plain(416)
                return
            part = body[start:]
            self.send_response(code)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", tag)
            self.end_headers()
            if hub.cuts:
                hub.cuts -= 1
                self.wfile.write(part[: hub.cut_after])
                self.close_connection = True
            else:
                self.wfile.write(part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
