"""One writer for a state directory: an advisory lock that the kernel drops when its holder dies."""

from __future__ import annotations

import os
from pathlib import Path

from edge.errors import StateLockedError


class WriterLock:
    """An exclusive ``flock`` on one file, which names its holder's process id.

    The file stays behind when the lock is released; only the lock on it counts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise StateLockedError that names the process holding it. Raises OSError."""
        import fcntl

        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StateLockedError(
                f"state directory {self._path.parent} is being written by process {holder}; a second writer must wait: "
                f"stop that process, or send the command to it"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError:  # on a full disk the lock still holds, it only cannot name its holder
            return

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
