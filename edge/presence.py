"""``listener.json``: how other programs of the same user find the running listener. Holds its token, so mode 0600."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.durable import write_file
from edge.errors import StateError

PRESENCE_NAME = "listener.json"
MAX_PRESENCE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Presence:
    """A running listener: process, address, and the token that every request must carry."""

    pid: int
    host: str
    port: int
    token: str
    space: str
    """SHA-256 of the embedding space it listens in."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def new_token() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def announce(state_dir: Path, presence: Presence) -> None:
    """Write the file, never readable by others. Raises StateError."""
    path = state_dir / PRESENCE_NAME
    try:
        write_file(path, [json.dumps(asdict(presence)).encode("utf-8")])
    except OSError as error:
        raise StateError(f"{path} cannot be written ({error.strerror}); make room or choose another --state") from error


def withdraw(state_dir: Path) -> None:
    """Remove the file. One left by a killed process does no harm: the state lock says who lives."""
    (state_dir / PRESENCE_NAME).unlink(missing_ok=True)


def find_presence(state_dir: Path) -> Presence | None:
    """Read the file; None when it is absent or not ours to understand."""
    try:
        with (state_dir / PRESENCE_NAME).open("rb") as file:
            value: Any = json.loads(file.read(MAX_PRESENCE_BYTES).decode("utf-8"))
        presence = Presence(**value)
    except (OSError, ValueError, TypeError):
        return None
    texts = (presence.host, presence.token, presence.space)
    numbers = (presence.pid, presence.port)
    if not all(isinstance(t, str) for t in texts) or not all(type(n) is int for n in numbers):
        return None
    return presence
