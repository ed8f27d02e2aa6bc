"""Large bytes under the name of their SHA-256: a local folder, or any place that fsspec reaches (``s3://...``).

Writing the same bytes twice is one blob. A local write is on disk when ``put`` returns; what is read is checked.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.durable import flush_directory, prepare_file, publish_file
from edge.errors import ConfigurationError, CorruptionError, StateError

_NAME = re.compile(r"[0-9a-f]{64}\Z")


class BlobStore:
    """A content-addressed store at ``url``: a path, or a URL of fsspec. Raises ConfigurationError when it cannot be."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._folder = Path(url.removeprefix("file://")) if "://" not in url or url.startswith("file://") else None
        self._remote: Any = None
        self._root = ""
        if self._folder is None:
            self._remote, self._root = _open_remote(url)

    def put(self, data: bytes) -> str:
        """Store ``data`` and return its name, 64 hex digits. Raises StateError when it cannot be kept."""
        name = hashlib.sha256(data).hexdigest()
        try:
            if self._folder is None:
                if not self.has(name):
                    self._remote.pipe_file(self._place(name), data)
                return name
            path = self._path(name)
            if not path.exists():
                _make_folders(self._folder, path.parent)
                beside = path.with_name(f"{name[:16]}.{secrets.token_hex(8)}")  # two writers at once do not meet
                publish_file(prepare_file(beside, [data]), path)
        except OSError as error:
            raise StateError(f"blob {name[:12]} cannot be kept ({error}); free the disk of the blob store") from error
        return name

    def get(self, name: str) -> bytes:
        """Return the bytes called ``name``. Raises StateError when they are missing, CorruptionError when altered."""
        try:
            path = self._path(name) if self._folder is not None else None
            data: bytes = path.read_bytes() if path is not None else self._remote.cat_file(self._place(name))
        except OSError as error:
            raise StateError(
                f"blob {name[:12]} is not in the store {self.url} ({error}); restore it from a backup"
            ) from error
        if hashlib.sha256(data).hexdigest() != name:
            raise CorruptionError(f"blob {name[:12]} does not match its hash; restore it from a backup")
        return data

    def has(self, name: str) -> bool:
        if self._folder is not None:
            return self._path(name).exists()
        return bool(self._remote.exists(self._place(name)))

    def remove(self, name: str) -> None:
        """Remove the bytes called ``name`` where they are there."""
        try:
            if self._folder is not None:
                self._path(name).unlink()
            else:
                self._remote.rm_file(self._place(name))
        except FileNotFoundError:
            return

    def names(self) -> Iterator[str]:
        """Yield the names of all blobs."""
        if self._folder is not None:
            yield from (path.name for path in self._folder.glob("??/*") if _NAME.match(path.name))
            return
        for place in self._remote.find(self._root):
            name = str(place).rpartition("/")[2]
            if _NAME.match(name):
                yield name

    def remove_leftovers(self, *, older_than: float) -> int:
        """Remove what killed writers left half-written before ``older_than`` (seconds since 1970)."""
        n_removed = 0
        for path in self._folder.glob("??/*") if self._folder is not None else ():
            if not _NAME.match(path.name) and path.stat().st_mtime < older_than:
                path.unlink(missing_ok=True)
                n_removed += 1
        return n_removed

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / _checked(name)[:2] / name

    def _place(self, name: str) -> str:
        return f"{self._root}/{_checked(name)[:2]}/{name}"


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise StateError(f"{name[:80]!r} is not the name of a blob; wanted 64 hex digits")
    return name


def _make_folders(root: Path, folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        flush_directory(root)


def _open_remote(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(
            f"the blob store {url!r} cannot be opened ({error}); install what fsspec needs for it, or give a folder"
        ) from error
    return filesystem, str(root).rstrip("/")
