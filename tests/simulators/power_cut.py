"""A disk that loses power: what a process wrote is played back up to any point, with unsynced writes dropped or torn.

Assumed of the disk and the file system: what was synced stays; a write that was not may be there wholly, in part (by
sectors of 512 bytes) or not at all, in any order; directory changes happen in order, and those before the last sync of
the directory have happened.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SECTOR = 512
SOURCE = Path(__file__).with_name("write_recorder.c")
_HEAD = struct.Struct("<cH")
_REST = struct.Struct("<QI")


@dataclass(frozen=True)
class Change:
    """One recorded call. kind: c, w, t, s, r, u or m, as in write_recorder.c; paths are relative to what is watched."""

    kind: str
    path: str
    second: str
    offset: int
    data: bytes


def compile_recorder(folder: Path) -> Path | None:
    """Return the compiled recorder, or None where there is no C compiler or no way to preload."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "write_recorder.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    return library if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def record(recorder: Path, root: Path, module: str, *arguments: str) -> list[Change]:
    """Run ``python -m module ROOT ARGUMENTS`` and return what it changed below ``root``."""
    log = root.with_name("recorded")
    environment = {**os.environ, "LD_PRELOAD": str(recorder), "RECORD_ROOT": f"{root}/", "RECORD_LOG": str(log)}
    subprocess.run([sys.executable, "-m", module, str(root), *arguments], check=True, env=environment, timeout=120)
    return parse(log.read_bytes(), f"{root}/")


def parse(data: bytes, root: str) -> list[Change]:
    changes: list[Change] = []
    position = 0
    while position < len(data):
        kind, n = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        path = data[position : position + n].decode()
        position += n
        (m,) = struct.unpack_from("<H", data, position)
        second = data[position + 2 : position + 2 + m].decode()
        position += 2 + m
        offset, size = _REST.unpack_from(data, position)
        position += _REST.size
        changes.append(
            Change(kind.decode(), path[len(root) :], second[len(root) :], offset, data[position : position + size])
        )
        position += size
    return changes


@dataclass
class _Inode:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)


class Disk:
    """The changes of a process, applied one by one, and what may be left when the power goes."""

    def __init__(self) -> None:
        self._inodes: list[_Inode] = []
        self._now: dict[str, int] = {}
        self._durable_names: dict[str, int] = {}
        self._pending_names: list[dict[str, int]] = []

    def apply(self, change: Change) -> None:
        kind, path = change.kind, change.path
        if kind == "c":
            self._inodes.append(_Inode())
            self._rename({**self._now, path: len(self._inodes) - 1})
        elif kind in "wt":
            self._inodes[self._now[path]].pending.append(change)
        elif kind == "s" and path in self._now:
            inode = self._inodes[self._now[path]]
            for done in inode.pending:
                _write(inode.durable, done)
            inode.pending.clear()
        elif kind == "s":
            self._durable_names, self._pending_names = self._now, []
        elif kind == "r":
            names = dict(self._now)
            names[change.second] = names.pop(path)
            self._rename(names)
        elif kind == "u":
            self._rename({name: inode for name, inode in self._now.items() if name != path})

    def _rename(self, names: dict[str, int]) -> None:
        self._now = names
        self._pending_names.append(names)

    def after_power_cut(self, rng: np.random.Generator, *, kept: float) -> dict[str, bytes]:
        """Return the files that may be found. kept: the chance of each unsynced sector to be there, 0 to 1."""
        steps = [self._durable_names, *self._pending_names]
        last = {0.0: 0, 1.0: len(steps) - 1}.get(kept, int(rng.integers(len(steps))))
        files: dict[str, bytes] = {}
        for name, number in steps[last].items():
            inode = self._inodes[number]
            content = bytearray(inode.durable)
            for change in inode.pending:
                for piece in _sectors(change):
                    if rng.random() < kept:
                        _write(content, piece)
            files[name] = bytes(content)
        return files


def _write(content: bytearray, change: Change) -> None:
    if change.kind == "t":
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data


def _sectors(change: Change) -> list[Change]:
    if change.kind != "w":
        return [change]
    pieces = []
    start = change.offset
    end = change.offset + len(change.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        pieces.append(Change("w", change.path, "", start, change.data[start - change.offset : stop - change.offset]))
        start = stop
    return pieces
