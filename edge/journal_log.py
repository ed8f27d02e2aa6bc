"""SQLite's write-ahead log, read without SQLite: which page images it holds, and up to where it is committed.

Source of the layout and of the checksum: sqlite.org/fileformat2.html, section 4 (the WAL file).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

PAGE_SIZE = 4096
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_ORDERS = {0x377F0682: "<", 0x377F0683: ">"}


@dataclass(frozen=True)
class LogPages:
    """What a log would do to its database.

    committed: page number -> offset in the log of its newest committed image. n_pages: size of the database after the
    last commit, in pages; 0 when nothing is committed. beyond: (page number, offset) of the whole frames after the last
    commit or after the first bad checksum; SQLite ignores them.
    """

    committed: dict[int, int] = field(default_factory=dict)
    n_pages: int = 0
    beyond: tuple[tuple[int, int], ...] = ()


def read_log(path: Path, *, checked: bool = True) -> LogPages:
    """Return the page images of a log of 4,096-byte pages; none are committed when its header is not valid. OSError.

    checked: verify every checksum (about 0.1 ms a page), else trust the salts: then frames may be counted as committed
    that SQLite would ignore.
    """
    if not path.exists():
        return LogPages()
    with open(path, "rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return LogPages()
        magic, _, page_size, _, salt_1, salt_2, sum_1, sum_2 = _HEADER.unpack(header)
        order = _ORDERS.get(magic, "<")
        running = _checksum(header[:24], order, (0, 0))
        good = magic in _ORDERS and page_size == PAGE_SIZE and running == (sum_1, sum_2)
        committed: dict[int, int] = {}
        pending: list[tuple[int, int]] = []
        beyond: list[tuple[int, int]] = []
        n_pages = 0
        image = _HEADER.size + _FRAME.size
        while len(frame := file.read(_FRAME.size + PAGE_SIZE)) == _FRAME.size + PAGE_SIZE:
            number, size_after, *salts, sum_1, sum_2 = _FRAME.unpack_from(frame)
            if good and checked:
                running = _checksum(frame[_FRAME.size :], order, _checksum(frame[:8], order, running))
            good = good and salts == [salt_1, salt_2] and (not checked or running == (sum_1, sum_2))
            (pending if good else beyond).append((number, image))
            if good and size_after:
                committed.update(pending)
                pending.clear()
                n_pages = size_after
            image += _FRAME.size + PAGE_SIZE
    return LogPages(committed, n_pages, tuple(pending + beyond))


def _checksum(data: bytes, order: str, start: tuple[int, int]) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
