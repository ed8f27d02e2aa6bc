"""Files that survive a power cut: written beside, flushed, renamed, and the directory flushed.

Small JSON files carry a hash of what they say, so that a flipped bit is noticed and never believed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_SEAL = "sha256"


def prepare_file(path: Path, pieces: Iterable[bytes], *, mode: int = 0o600) -> Path:
    """Write ``pieces`` to a neighbour of ``path`` and flush it; returns the neighbour.

    Nothing is visible under ``path`` yet. On any failure, a full disk included, the neighbour is removed again.
    Raises OSError.
    """
    beside = path.with_name(path.name + ".tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:  # write() may take less than it was given, above all on a full disk
                    rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside


def publish_file(beside: Path, path: Path) -> None:
    """Put a prepared file in the place of ``path``, atomically and for good. Raises OSError."""
    os.replace(beside, path)
    flush_directory(path.parent)


def write_file(path: Path, pieces: Iterable[bytes], *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``pieces``: after a crash at any instant the old or the new content is there, whole."""
    beside = prepare_file(path, pieces, mode=mode)
    try:
        publish_file(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def remove_file(path: Path) -> None:
    """Remove ``path`` if it is there, for good."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    flush_directory(path.parent)


def flush_directory(directory: Path) -> None:
    """Make renames and removals in ``directory`` last."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return ``value`` as JSON with a hash of itself in the field ``sha256``, which ``value`` must not have."""
    return json.dumps({**value, _SEAL: _hash_of(value)}, indent=1).encode("ascii")


def unsealed_json(data: bytes) -> dict[str, Any]:
    """Return what was given to ``sealed_json``. Raises ValueError when it says anything else."""
    value = json.loads(data.decode("ascii"))
    if not isinstance(value, dict) or value.pop(_SEAL, None) != _hash_of(value):
        raise ValueError("what it says does not match its hash")
    return value


def _hash_of(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
