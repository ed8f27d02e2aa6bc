"""Rows of the journal and the hash chain through them; pure.

A row's hash covers every field of the row, the SHA-256 of its payload and the hash of the row before it. The payload
(embeddings and provenance) is stored apart, so that it can be purged for good while the chain stays verifiable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge.records import content_hash

GENESIS = hashlib.sha256(b"soundkeep journal 1").digest()


@dataclass(frozen=True)
class Row:
    """One appended line. ``unit``: seq of the first row of the command that it belongs to. ``wall_ms``: what the clock
    said, for people only. ``detail``: canonical JSON. ``payload_sha256``: 32 bytes, or None when the row has none."""

    seq: int
    unit: int
    wall_ms: int
    action: str
    detail: bytes
    payload_sha256: bytes | None
    previous: bytes
    hash: bytes = b""

    def fields(self) -> Mapping[str, Any]:
        """Return ``detail`` as a dict. Raises ValueError."""
        value = json.loads(self.detail)
        if not isinstance(value, dict):
            raise ValueError(f"detail of row {self.seq} is not a JSON object")
        return value


def row_hash(row: Row) -> bytes:
    """Return SHA-256 over all fields but ``hash`` itself, each of fixed size or with its length before it."""
    parts = (row.action.encode("utf-8"), row.detail, row.payload_sha256 or b"", row.previous)
    running = hashlib.sha256(b"soundkeep row 1\0")
    for number in (row.seq, row.unit, row.wall_ms):
        running.update(number.to_bytes(8, "little", signed=True))
    for part in parts:
        running.update(len(part).to_bytes(8, "little"))
        running.update(part)
    return running.digest()


def sealed(row: Row) -> Row:
    """Return ``row`` with its hash filled in."""
    return replace(row, hash=row_hash(row))


def payload_hash(stored: bytes, n_windows: int, dim: int, provenance: bytes) -> bytes:
    """Return SHA-256 over the shape and bytes of embeddings and then the provenance."""
    running = content_hash(stored, n_windows, dim)
    running.update(provenance)
    return running.digest()


def payload_matches(row: Row, stored: bytes, provenance: bytes) -> bool:
    """Tell whether a payload is the one that ``row`` was sealed with."""
    detail = row.fields()
    running = content_hash(stored, detail["windows"], detail["dim"])
    content = running.hexdigest()
    running.update(provenance)
    return content == detail["content"] and running.digest() == row.payload_sha256


@dataclass(frozen=True)
class Mark:
    """The last acknowledged row, as kept beside the database."""

    seq: int = 0
    hash: bytes = GENESIS

    def to_bytes(self) -> bytes:
        body = f"soundkeep acknowledged 1 {self.seq} {self.hash.hex()}"
        return f"{body} {hashlib.sha256(body.encode('ascii')).hexdigest()}\n".encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Mark:
        """Raises ValueError when a byte was altered or is missing."""
        words = data[:512].decode("ascii").split(" ")
        if len(words) != 6:
            raise ValueError("it does not hold six words")
        mark = cls(int(words[3]), bytes.fromhex(words[4]))
        if mark.to_bytes() != data:
            raise ValueError("its bytes do not match their hash")
        return mark


@dataclass(frozen=True)
class Finding:
    """One thing wrong in a state directory. ``part``: row, payload, tail, mark, page, sums, log or file."""

    part: str
    message: str
    seq: int | None = None
    page: int | None = None


def decode_row(raw: Sequence[object]) -> Row:
    """Check the types of one line as the database gave it. Raises ValueError."""
    seq, unit, wall_ms, action, detail, payload_sha256, previous, hash_ = raw
    if not (isinstance(seq, int) and isinstance(unit, int) and isinstance(wall_ms, int)):
        raise ValueError("a number is not a number")
    blobs = (action, detail, previous, hash_)
    if not all(isinstance(blob, bytes) for blob in blobs) or not isinstance(payload_sha256, (bytes, type(None))):
        raise ValueError("a field is not bytes")
    assert isinstance(action, bytes) and isinstance(detail, bytes)
    assert isinstance(previous, bytes) and isinstance(hash_, bytes)
    return Row(seq, unit, wall_ms, action.decode("utf-8"), detail, payload_sha256, previous, hash_)


def check_chain(lines: Sequence[Sequence[object]], mark: Mark | None) -> tuple[list[Row], list[Finding]]:
    """Return the intact rows, and one finding for each thing that is not as it was acknowledged.

    lines: the table in order of seq. mark: the acknowledged row, None when unreadable (which is another's finding).
    A row whose neighbour proves it (only one of its two hash fields was altered) counts as intact and is still named.
    More rows than acknowledged are legal: a crash came between commit and acknowledgement, and what is committed stays.
    """
    decoded: list[Row | None] = []
    findings: list[Finding] = []
    for position, line in enumerate(lines):
        try:
            decoded.append(decode_row(line))
        except (ValueError, OverflowError) as error:
            seq = line[0] if line and isinstance(line[0], int) else position + 1
            decoded.append(None)
            findings.append(Finding("row", f"row {seq} was altered: {error}", seq))
    rows: list[Row] = []
    expected = 1
    last: Row | None = None  # the row just before, if it stands next to this one
    for position, row in enumerate(decoded):
        if row is None:
            last, expected = None, expected + 1
            continue
        if row.seq != expected:
            findings.append(Finding("row", f"rows {expected} to {row.seq - 1} are missing", expected))
            last = None
        known_previous = GENESIS if row.seq == 1 else None if last is None else last.hash
        following = decoded[position + 1] if position + 1 < len(decoded) else None
        intact, finding = _check_row(row, known_previous, following)
        if finding is not None:
            findings.append(finding)
        if intact is not None:
            rows.append(intact)
        last, expected = intact, row.seq + 1
    return rows, findings + _check_mark(rows, expected - 1, mark)


def _check_row(row: Row, known_previous: bytes | None, following: Row | None) -> tuple[Row | None, Finding | None]:
    seq = row.seq
    try:
        computed = row_hash(row)
    except OverflowError:
        return None, Finding("row", f"row {seq} was altered: a number is out of range", seq)
    if computed == row.hash:
        if known_previous is not None and row.previous != known_previous:
            return row, Finding("row", f"row {seq} does not continue row {seq - 1}: one of them was exchanged", seq)
        return row, None
    if known_previous is not None and known_previous != row.previous:
        proven = replace(row, previous=known_previous)
        if row_hash(proven) == row.hash:
            return proven, Finding(
                "row", f"row {seq} ({row.action}): its link was altered; row {seq - 1} proves it", seq
            )
    if following is not None and following.seq == seq + 1 and following.previous == computed:
        proven = replace(row, hash=computed)
        return proven, Finding("row", f"row {seq} ({row.action}): its hash was altered; row {seq + 1} proves it", seq)
    return None, Finding("row", f"row {seq} does not match its hash: it was altered", seq)


def _check_mark(rows: Sequence[Row], last_seq: int, mark: Mark | None) -> list[Finding]:
    if mark is None:
        return []
    if mark.seq > last_seq:
        return [
            Finding(
                "tail",
                f"rows {last_seq + 1} to {mark.seq} were acknowledged and are missing: the tail was lost",
                mark.seq,
            )
        ]
    marked = next((row for row in reversed(rows) if row.seq == mark.seq), None)
    if marked is not None and marked.hash != mark.hash:
        return [Finding("row", f"row {mark.seq} is not the row that was acknowledged: it was exchanged", mark.seq)]
    return []
