"""A hash of every page of the database, kept beside it: what SQLite does not notice, this does.

The rows' own hashes prove what was learnt. The page sums also cover the bytes between the rows, name the page that was
altered, and let a single flipped bit be found and put right. They are written before the log is moved into the
database, for the state after it; so a page may differ from its sum only while its newer image is still in the log.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path

from edge.durable import write_file
from edge.journal_log import PAGE_SIZE, read_log

MAX_HEALED = 16
_MAGIC = b"soundkeep pages 1\n"
_COUNT = struct.Struct("<Q")
_SUM_BYTES = 16
_READ_ATTEMPTS = 5


def _page_sum(page: bytes | bytearray) -> bytes:
    return hashlib.blake2b(page, digest_size=_SUM_BYTES).digest()


@dataclass
class PageSums:
    """The sums of pages 1, 2, ... of one database file."""

    sums: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, database: Path) -> PageSums:
        """Return the sums of a database as it lies there. Raises OSError."""
        with open(database, "rb") as file:
            return cls([_page_sum(page) for page in iter(lambda: file.read(PAGE_SIZE), b"")])

    def after(self, log: Path) -> PageSums:
        """Return the sums for the time when ``log`` has been moved into the database. Raises OSError."""
        held = read_log(log)
        if not held.n_pages:
            return self
        sums = (self.sums + [b""] * held.n_pages)[: held.n_pages]
        with open(log, "rb") as file:
            for number, offset in held.committed.items():
                if number <= held.n_pages:
                    file.seek(offset)
                    sums[number - 1] = _page_sum(file.read(PAGE_SIZE))
        return PageSums(sums)

    def to_bytes(self) -> bytes:
        body = _MAGIC + _COUNT.pack(len(self.sums)) + b"".join(self.sums)
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> PageSums:
        """Raises ValueError when a byte was altered or is missing."""
        body, start = data[:-32], len(_MAGIC) + _COUNT.size
        if not body.startswith(_MAGIC) or len(body) < start or hashlib.sha256(body).digest() != data[-32:]:
            raise ValueError("its bytes do not match their hash")
        sums = [body[i : i + _SUM_BYTES] for i in range(start, len(body), _SUM_BYTES)]
        if len(sums) != _COUNT.unpack_from(body, len(_MAGIC))[0]:
            raise ValueError("its length does not match its content")
        return cls(sums)


@dataclass(frozen=True)
class PageCheck:
    """altered: pages (numbered from 1) that differ from their sums or are missing. healed: those whose content was
    found again by turning one bit back. flipped: the byte and the bit that it was."""

    altered: tuple[int, ...] = ()
    healed: dict[int, bytes] = field(default_factory=dict)
    flipped: dict[int, tuple[int, int]] = field(default_factory=dict)


def write_sums(path: Path, database: Path, log: Path, *, anew: bool = False) -> None:
    """Write the sums that will hold when ``log`` has been moved into ``database``. For the writer only.

    anew: take the sums of unchanged pages from the database instead of from the file. Raises OSError, ValueError.
    """
    sums = PageSums.of(database) if anew or not path.exists() else PageSums.from_bytes(path.read_bytes())
    write_file(path, [sums.after(log).to_bytes()])


def check_pages(path: Path, database: Path, log: Path) -> PageCheck:
    """Compare a database with its sums, also beside a writer. Raises OSError, ValueError when the sums are altered."""
    check = PageCheck()
    for _ in range(_READ_ATTEMPTS):
        before = path.read_bytes()
        sums = PageSums.from_bytes(before)
        held = read_log(log, checked=False)
        check = _compare(sums, database, set(held.committed), held.n_pages)
        if path.read_bytes() == before:
            break
    return check


def _compare(sums: PageSums, database: Path, superseded: set[int], n_pages: int) -> PageCheck:
    """n_pages: how many the database will have when the log is moved; 0: the log changes nothing."""
    altered: list[int] = []
    healed: dict[int, bytes] = {}
    flipped: dict[int, tuple[int, int]] = {}
    with open(database, "rb") as file:
        number = 0
        while (page := file.read(PAGE_SIZE)) or number < len(sums.sums):
            number += 1
            wanted = sums.sums[number - 1] if number <= len(sums.sums) else b""
            if n_pages and number > max(n_pages, len(sums.sums)):
                break  # a purge made the database smaller: the log cuts these pages off
            if number in superseded or _page_sum(page) == wanted:
                continue
            altered.append(number)
            found = (
                _turn_back(page, wanted) if wanted and len(page) == PAGE_SIZE and len(altered) <= MAX_HEALED else None
            )
            if found is not None:
                healed[number], flipped[number] = found
    return PageCheck(tuple(altered), healed, flipped)


def _turn_back(page: bytes, wanted: bytes) -> tuple[bytes, tuple[int, int]] | None:
    """Try each of the 32,768 single bits of a page: about 0.2 s when it is none of them."""
    trial = bytearray(page)
    for position in range(len(trial)):
        for bit in range(8):
            trial[position] ^= 1 << bit
            if _page_sum(trial) == wanted:
                return bytes(trial), (position, bit)
            trial[position] ^= 1 << bit
    return None
