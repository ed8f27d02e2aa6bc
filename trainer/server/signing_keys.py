"""The keys that bundles are signed with: ed25519, one PEM file each, for their owner alone, found by their key id.

Root and targets keys are offline keys: a thief of the server must not have them. Snapshot and timestamp keys are
used by the running server. File names are for people; which key a file holds is read from the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from edge.durable import write_file
from edge.errors import StateError

PASSPHRASE_VARIABLE = "SOUNDKEEP_KEY_PASSPHRASE"
ONLINE_ROLES = ("snapshot", "timestamp")
OFFLINE_ROLES = ("root", "targets")
KEEP_ELSEWHERE = (
    "{folder} holds the offline keys of this fleet; move it to a medium that is kept elsewhere, a copy to another, "
    "and name it with --keys when a command needs it"
)
MAX_ROOT_KEYS = 16
_MAX_FILE_BYTES = 8192

Passphrase = Callable[[], bytes | None]
"""Asks for the passphrase of the offline keys; None: they are not encrypted."""


def environment_passphrase() -> bytes | None:
    """Return the passphrase of the environment variable SOUNDKEEP_KEY_PASSPHRASE, None where it is not set."""
    return os.environ.get(PASSPHRASE_VARIABLE, "").encode("utf-8") or None


def online_folder(data_dir: Path) -> Path:
    return data_dir / "keys" / "online"


def offline_folder(data_dir: Path) -> Path:
    """Where offline keys are made unless another folder is given."""
    return data_dir / "keys" / "offline"


def make_key(path: Path, passphrase: bytes | None = None) -> CryptoSigner:
    """Make a key, write it for its owner alone (PKCS#8 PEM, mode 0600) and return its signer. Raises StateError.

    passphrase: encrypts the file; None leaves it plain. An existing file is never replaced.
    """
    encryption: KeySerializationEncryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    )
    private = Ed25519PrivateKey.generate()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            raise StateError(f"the key {path} exists already; it is never replaced, choose another folder")
        write_file(path, [private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)])
    except OSError as error:
        raise StateError(f"the key {path} cannot be written ({error.strerror}); make room or rights for it") from error
    return CryptoSigner(private)


def read_key(path: Path, passphrase: Passphrase = environment_passphrase) -> CryptoSigner:
    """Read what ``make_key`` wrote. Raises StateError: unreadable, no such key, wrong passphrase."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
        secret = passphrase() if b"ENCRYPTED" in data else None
        if b"ENCRYPTED" in data and secret is None:
            raise StateError(f"the key {path} is encrypted; set {PASSPHRASE_VARIABLE} or run the command on a terminal")
        private = load_pem_private_key(data, secret)
    except (OSError, ValueError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no PEM key, or a wrong passphrase"
        raise StateError(f"the key {path} cannot be read ({why}); correct it or fetch it from its copy") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise StateError(f"the key {path} is no ed25519 key; name the folder that 'soundkeep-trainer keys make' made")
    return CryptoSigner(private)


def take_key(path: Path, passphrase: bytes | None = None) -> CryptoSigner:
    """Make a key, or go on with the one that was made before a crash."""
    return read_key(path, lambda: passphrase) if path.exists() else make_key(path, passphrase)


def key_files(folders: Iterable[Path]) -> list[Path]:
    """Return the key files of ``folders``; a folder that is not there holds none."""
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.pem"))]


def find_keys(
    folders: Sequence[Path], wanted: Iterable[str], passphrase: Passphrase = environment_passphrase
) -> dict[str, tuple[Path, CryptoSigner]]:
    """Return file and signer of those of the ``wanted`` key ids whose files lie in ``folders``. Raises StateError."""
    ids, found = set(wanted), {}
    for path in key_files(folders):
        signer = read_key(path, passphrase)
        if signer.public_key.keyid in ids:
            found[signer.public_key.keyid] = (path, signer)
    return found
