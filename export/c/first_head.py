"""The head that a firmware starts with: what a memory knows, in the bytes of a bank (sk_head.h).

``firmware_bridge`` makes these bytes, for the link and for this. It is a neighbour that this package does not import,
so it is asked as a child process, as the server asks the exporter.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from edge.bundle import Bundle
from edge.errors import BundleError

MAGIC = b"SKH1"
FIXED, CLASS_EXTRA, RIVAL_EXTRA = 64, 56, 4
GRAIN = 64
BANK_CLASSES, BANK_RIVALS = 12, 8
"""What a bank has room for at least."""


def bank_bytes(dim: int, head: bytes = b"") -> int:
    """Bytes of a bank that has room for the head that is built in, and for ``BANK_CLASSES`` and ``BANK_RIVALS``."""
    n_classes, n_rivals = (head[10], head[11]) if head else (0, 0)
    n = _head_bytes(dim, max(n_classes, BANK_CLASSES), max(n_rivals, BANK_RIVALS))
    return -(-n // GRAIN) * GRAIN


def _head_bytes(dim: int, n_classes: int, n_rivals: int) -> int:
    return FIXED + n_classes * (4 * dim + CLASS_EXTRA) + n_rivals * (4 * dim + RIVAL_EXTRA)


def head_of_memory(memory: Path, bundle_path: Path, bundle: Bundle) -> bytes:
    """Return the head that ``memory`` (a file that ``soundkeep memory export`` wrote) gives. Raises BundleError."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "head"
        command = [sys.executable, "-m", "firmware_bridge.heads", str(bundle_path), str(memory), str(out)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode or not out.is_file():
            lines = answer.stderr.strip().splitlines()
            raise BundleError(f"no head can be made of {memory}: {lines[-1] if lines else 'no reason given'}")
        return read_head(out, bundle)


def read_head(path: Path, bundle: Bundle) -> bytes:
    """Return the bytes of a head after a look at them. Raises BundleError for one that is not of this ear."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    if len(data) < FIXED or data[:4] != MAGIC:
        raise BundleError(f"{path} is no head for a microcontroller; make one of a memory with --memory")
    _, dim, n_classes, n_rivals, n_bytes = struct.unpack("<IHBBI", data[4:16])
    wanted = _head_bytes(dim, n_classes, n_rivals)
    if not len(data) == n_bytes == wanted:
        raise BundleError(f"{path} has {len(data)} bytes; wanted {wanted} for {n_classes} classes: it is not whole")
    ear = bytes.fromhex(bundle.space.sha256)[:8]
    if dim != bundle.space.dim or (any(data[16:24]) and data[16:24] != ear):
        raise BundleError(
            f"{path} is a head of {dim} numbers for ear {data[16:24].hex()}; this bundle has {bundle.space.dim} and is "
            f"{ear.hex()}: teach with this bundle"
        )
    return data
