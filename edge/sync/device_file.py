"""What a device keeps of its enrolment: its key, the server, the level of sharing. STATE/sync/, written durably.

An address in plain http is taken for loopback only: everything else that a device says goes over TLS.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge.durable import flush_directory, sealed_json, unsealed_json, write_file
from edge.errors import SyncError, TrustError
from edge.sync.keys import DeviceKey
from edge.sync.sharing import LEVELS

FOLDER = "sync"
DEVICE_NAME = "device.json"
KEY_NAME = "device_key"
ROOT_NAME = "root.json"
TRUST_FOLDER = "trust"
CA_NAME = "ca.pem"
MAX_DEVICE_BYTES = 1 << 20
TOKEN_CHARACTERS = 22
MAX_NAME_CHARACTERS = 100


@dataclass(frozen=True)
class Enrolment:
    """What an enrolled device knows of its server. root_sha256: hex, of the first TUF root file; "" when it gave none.

    level: what may leave (``edge.sync.sharing``). private_labels: what the owner keeps back, sorted.
    """

    server: str
    device_id: str
    name: str
    level: str
    root_sha256: str = ""
    private_labels: tuple[str, ...] = ()


class SyncFolder:
    """STATE/sync/ and its files. Reading needs no folder; writing makes it."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FOLDER

    @property
    def outbox_path(self) -> Path:
        return self.path / "outbox.db"

    @property
    def root_path(self) -> Path:
        return self.path / ROOT_NAME

    @property
    def ca_path(self) -> Path:
        return self.path / CA_NAME

    def make(self) -> None:
        """Make the folder, for its owner alone. Raises SyncError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SyncError(f"{self.path} cannot be made ({error.strerror}); make room or rights for it") from error

    def load(self) -> Enrolment | None:
        """Read the enrolment; None when this device is not enrolled. Raises SyncError when the file is malformed."""
        path = self.path / DEVICE_NAME
        try:
            with path.open("rb") as file:
                value = unsealed_json(file.read(MAX_DEVICE_BYTES))
            return _enrolment(value)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SyncError(f"{path} cannot be read ({error}); `soundkeep sync off` and enrol again") from error

    def save(self, enrolment: Enrolment) -> None:
        """Replace the enrolment: after a power cut the old one or the new one is there. Raises SyncError."""
        self.make()
        try:
            write_file(self.path / DEVICE_NAME, [sealed_json(asdict(enrolment))])
        except OSError as error:
            raise SyncError(f"{self.path / DEVICE_NAME} cannot be written ({error.strerror}); make room") from error

    def key(self) -> DeviceKey:
        """The device's key. Raises SyncError."""
        return DeviceKey.load(self.path / KEY_NAME)

    def key_to_enrol(self) -> DeviceKey:
        """The key to enrol with: what an interrupted enrolment left, so that its token still serves, else a new one.

        Raises SyncError.
        """
        self.make()
        path = self.path / KEY_NAME
        if path.exists():
            return self.key()
        key = DeviceKey.generate()
        try:
            key.save(path)
        except OSError as error:
            raise SyncError(f"the device key {path} cannot be written ({error.strerror}); make room") from error
        return key

    def save_root(self, root: bytes) -> None:
        """Keep the first TUF root file, which everything that is published is checked against. Raises SyncError."""
        self._save(self.root_path, root)

    @property
    def trust_path(self) -> Path:
        """Where what was verified of the repository is kept."""
        return self.path / TRUST_FOLDER

    def forget_trust(self) -> None:
        """Forget what was verified by an earlier root file, before another one counts. Raises SyncError."""
        try:
            if self.trust_path.exists():
                shutil.rmtree(self.trust_path)
        except OSError as error:
            raise SyncError(f"{self.trust_path} cannot be removed ({error.strerror}); remove it by hand") from error

    def save_ca(self, pem: bytes) -> None:
        """Keep the certificates that the server's own is checked against. Raises SyncError."""
        self._save(self.ca_path, pem)

    def remove(self) -> None:
        """Remove the enrolment first, then key and everything else. Raises SyncError."""
        try:
            if self.path.is_dir():
                (self.path / DEVICE_NAME).unlink(missing_ok=True)
                flush_directory(self.path)
                shutil.rmtree(self.path)
                flush_directory(self.path.parent)
        except OSError as error:
            raise SyncError(f"{self.path} cannot be removed ({error.strerror}); remove it by hand") from error

    def _save(self, path: Path, data: bytes) -> None:
        self.make()
        try:
            write_file(path, [data])
        except OSError as error:
            raise SyncError(f"{path} cannot be written ({error.strerror}); make room") from error


def parse_server(url: str) -> str:
    """Return scheme, host and port of a server's address. Raises SyncError for anything that is not one, and for http
    to another machine."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if host is None or parts.scheme not in ("http", "https") or parts.path not in ("", "/") or parts.query:
        raise SyncError(f"{url[:100]!r} is no address of a server; wanted https://HOST or https://HOST:PORT")
    if parts.username is not None or parts.fragment:
        raise SyncError(f"the address of the server at {host} holds a user or a fragment; leave them out")
    if parts.scheme == "http" and not is_loopback(host):
        raise SyncError(
            f"http://{host} is another machine and http is not encrypted; give the server a certificate and use "
            f"https://{host}, or reach it through a tunnel on 127.0.0.1"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine and nothing else."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def root_hash_of(token: str) -> str | None:
    """Return the hash of the TUF root that a token carries, or None when it carries none. Raises SyncError."""
    alphabet = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    if len(token) not in (TOKEN_CHARACTERS, 2 * TOKEN_CHARACTERS) or not set(token) <= alphabet:
        raise SyncError(
            f"the token has {len(token)} characters; wanted the {2 * TOKEN_CHARACTERS} that `soundkeep-trainer serve` "
            f"or `devices token` printed"
        )
    return token[TOKEN_CHARACTERS:] or None


def require_root(root: bytes, wanted: str | None) -> None:
    """Refuse a first root file that is not the one the token stands for. Raises TrustError."""
    if wanted is None:
        return
    got = base64.urlsafe_b64encode(hashlib.sha256(root).digest()).decode("ascii")[:TOKEN_CHARACTERS]
    if got != wanted:
        raise TrustError(
            f"the server's first root file has the hash {got}, the token says {wanted}: this is not the server that "
            f"the token came from, or somebody sits in between; nothing was kept; check the address"
        )


def _enrolment(value: Any) -> Enrolment:
    known = Enrolment(**{**value, "private_labels": tuple(value["private_labels"])})
    texts = (known.server, known.device_id, known.name, known.level, known.root_sha256, *known.private_labels)
    if not all(isinstance(text, str) for text in texts) or known.level not in LEVELS:
        raise ValueError("a field has the wrong form")
    return known
