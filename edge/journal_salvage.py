"""Rows and payloads out of a database that SQLite cannot read any more, page by page.

Nothing that comes out of here is trusted: rows carry their own hashes and so do payloads, and only what proves itself
is used. Source of the layout: sqlite.org/fileformat2.html, sections 1.6 and 2.1 (b-tree pages, record format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edge.journal_chain import Mark, Row, decode_row, payload_matches, row_hash
from edge.journal_log import PAGE_SIZE, read_log

_LEAF = 0x0D
_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}
_N_JOURNAL, _N_PAYLOAD = 8, 3

Cell = tuple[int, list[object]]
Payload = tuple[int, bytes, bytes]


def salvage(database: Path, log: Path, mark: Mark | None) -> tuple[list[Row], list[Payload]]:
    """Return the rows whose hashes hold and the payloads that fit them, by seq.

    What lies in the log behind its last commit counts only up to the acknowledged ``mark``. Raises OSError.
    """
    rows: dict[int, Row] = {}
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    held = read_log(log)
    images = dict(enumerate(_pages(database, None), start=1))
    images.update(zip(held.committed, _pages(log, held.committed.values()), strict=True))
    _collect(images, rows, found, limit=None)
    if mark is not None and held.beyond:
        offsets = [offset for _, offset in held.beyond]
        images.update(zip((number for number, _ in held.beyond), _pages(log, offsets), strict=True))
        _collect(images, rows, found, limit=mark.seq)
    ordered = [rows[seq] for seq in sorted(rows)]
    payloads: list[Payload] = []
    for row in ordered:
        if row.payload_sha256 is not None:
            fitting = (p for p in found.get(row.seq, ()) if payload_matches(row, *p))
            payloads += [(row.seq, *payload) for payload in list(fitting)[:1]]
    return ordered, payloads


def _pages(path: Path, offsets: Iterable[int] | None) -> Iterator[bytes]:
    """Yield the pages of a file that begin at ``offsets``, or all of them."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for offset in range(0, path.stat().st_size, PAGE_SIZE) if offsets is None else offsets:
            file.seek(offset)
            yield file.read(PAGE_SIZE)


def _collect(
    images: Mapping[int, bytes],
    rows: dict[int, Row],
    payloads: dict[int, list[tuple[bytes, bytes]]],
    *,
    limit: int | None,
) -> None:
    for number, page in images.items():
        for seq, values in _cells(number, page, images):
            if limit is not None and seq > limit:
                continue
            if len(values) == _N_JOURNAL:
                row = _proven_row(seq, values)
                if row is not None:
                    rows.setdefault(seq, row)
            elif len(values) == _N_PAYLOAD and isinstance(values[1], bytes) and isinstance(values[2], bytes):
                payloads.setdefault(seq, []).append((values[1], values[2]))


def _proven_row(seq: int, values: list[object]) -> Row | None:
    try:
        row = decode_row([seq, *values[1:]])
        return row if row_hash(row) == row.hash else None
    except (ValueError, OverflowError):
        return None


def _cells(number: int, page: bytes, images: Mapping[int, bytes]) -> Iterator[Cell]:
    """Yield (rowid, values) of every readable cell of a table leaf page."""
    start = 100 if number == 1 else 0
    if len(page) != PAGE_SIZE or page[start] != _LEAF:
        return
    (n_cells,) = struct.unpack_from(">H", page, start + 3)
    for index in range(min(n_cells, PAGE_SIZE // 4)):
        pointer = start + 8 + 2 * index
        if pointer + 2 > PAGE_SIZE:
            return
        try:
            yield _cell(page, struct.unpack_from(">H", page, pointer)[0], images)
        except (IndexError, KeyError, ValueError, struct.error):
            continue


def _cell(page: bytes, position: int, images: Mapping[int, bytes]) -> Cell:
    n_payload, position = _varint(page, position)
    rowid, position = _varint(page, position)
    largest = PAGE_SIZE - 35
    n_local = n_payload
    if n_payload > largest:
        smallest = (PAGE_SIZE - 12) * 32 // 255 - 23
        n_local = smallest + (n_payload - smallest) % (PAGE_SIZE - 4)
        n_local = n_local if n_local <= largest else smallest
    pieces = [page[position : position + n_local]]
    missing = n_payload - n_local
    follow = position + n_local
    while missing > 0:
        (number,) = struct.unpack_from(">I", page, follow)
        page, follow = images[number], 0
        pieces.append(page[4 : 4 + min(missing, PAGE_SIZE - 4)])
        missing -= PAGE_SIZE - 4
    return rowid, _values(b"".join(pieces))


def _values(record: bytes) -> list[object]:
    n_header, position = _varint(record, 0)
    kinds: list[int] = []
    while position < n_header:
        kind, position = _varint(record, position)
        kinds.append(kind)
    values: list[object] = []
    for kind in kinds:
        size = _SIZES[kind] if kind < 12 else (kind - 12) // 2
        piece = record[position : position + size]
        if len(piece) != size:
            raise ValueError("a value is cut off")
        position += size
        if kind in (0, 7):
            values.append(None)
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind < 7:
            values.append(int.from_bytes(piece, "big", signed=True))
        else:
            values.append(piece)
    return values


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[position + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + index + 1
    return value << 8 | data[position + 8], position + 9
