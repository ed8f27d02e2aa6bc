"""What a device knows, as one absolute statement: its sums and the names of the records that they are the sum of.

Never a difference: the server keeps the newest statement of each device, so repeats and reorderings count nothing twice
and taking a device out is a subtraction. No clock: ``revision`` grows with every statement that differs.

Layout (integers little-endian): ``SKSTATE\\0``, u32 version, u32 length and canonical JSON of revision and embedding
space, u64 number of records, their ids ascending (32 bytes each), the statistics (``edge.statistics_file``), SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise

from edge.errors import SoundkeepError, SyncError
from edge.memory_file import MAX_SPACE_BYTES, parse_space
from edge.space import FeatureSpace, canonical_json
from edge.statistics import SufficientStatistics

MAGIC = b"SKSTATE\0"
VERSION = 1
MAX_RECORDS = 1 << 22
MAX_REVISION = 2**53

_HEAD = struct.Struct("<8sII")
_COUNT = struct.Struct("<Q")
_ID_BYTES = 32


@dataclass(frozen=True, eq=False)
class StateMessage:
    """revision: at least 1. record_ids: ascending, unique, in hex. statistics: the sum over exactly these records."""

    revision: int
    record_ids: tuple[str, ...]
    statistics: SufficientStatistics

    @property
    def space(self) -> FeatureSpace:
        return self.statistics.space


def encode_state(revision: int, record_ids: Iterable[str], statistics: SufficientStatistics) -> bytes:
    """Return the one byte string of this statement. Statistics of a lift are not sent: the server lifts itself."""
    ids = sorted(set(record_ids))
    header = canonical_json({"revision": revision, "space": asdict(statistics.space.embedding)})
    body = b"".join(
        (
            _HEAD.pack(MAGIC, VERSION, len(header)),
            header,
            _COUNT.pack(len(ids)),
            *(bytes.fromhex(i) for i in ids),
            statistics.to_bytes(),
        )
    )
    return body + hashlib.sha256(body).digest()


def decode_state(data: bytes) -> StateMessage:
    """Read a statement; its form is checked here, whether its numbers are possible is the server's question.

    Raises SyncError with the reason.
    """
    revision, space, ids, stored = split_state(data)
    try:
        return StateMessage(revision, ids, SufficientStatistics.from_bytes(space, bytes(stored)))
    except SoundkeepError as error:
        raise SyncError(f"the statistics of the statement cannot be read: {error}") from None


def split_state(data: bytes) -> tuple[int, FeatureSpace, tuple[str, ...], memoryview]:
    """Read all but the statistics: revision, space, record ids, and the statistics' bytes (``edge.statistics_file``).

    Raises SyncError with the reason.
    """
    body, digest = memoryview(data)[:-_ID_BYTES], data[-_ID_BYTES:]
    if len(body) < _HEAD.size or not data.startswith(MAGIC):
        raise SyncError("these bytes are not a statement of what a device knows")
    if hashlib.sha256(body).digest() != digest:
        raise SyncError("the statement does not match its SHA-256: it was cut off or altered")
    _, version, n_header = _HEAD.unpack_from(body)
    if version != VERSION:
        raise SyncError(
            f"the statement has version {version}, this soundkeep reads {VERSION}; update the older of both"
        )
    start = _HEAD.size + n_header
    if n_header > MAX_SPACE_BYTES or len(body) < start + _COUNT.size:
        raise SyncError(f"the statement has a header of {n_header} bytes in {len(data)}; it is malformed")
    revision, space = _parse_header(bytes(body[_HEAD.size : start]))
    (n_records,) = _COUNT.unpack_from(body, start)
    start += _COUNT.size
    end = start + n_records * _ID_BYTES
    if n_records > MAX_RECORDS or end > len(body):
        raise SyncError(f"the statement names {n_records} records in {len(data)} bytes; it is malformed")
    ids = tuple(body[i : i + _ID_BYTES].hex() for i in range(start, end, _ID_BYTES))
    if any(a >= b for a, b in pairwise(ids)):
        raise SyncError("the record ids of the statement are not ascending and unique")
    return revision, space, ids, body[end:]


def _parse_header(encoded: bytes) -> tuple[int, FeatureSpace]:
    try:
        header = json.loads(encoded)
        revision, described = header["revision"], header["space"]
        if type(revision) is not int or not 1 <= revision <= MAX_REVISION or header.keys() != {"revision", "space"}:
            raise ValueError(f"revision is {revision!r:.40}")
        if canonical_json(header) != encoded:
            raise ValueError("it is not in canonical form")
        return revision, FeatureSpace(parse_space(canonical_json(described)))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SyncError(f"the header of the statement is malformed: {error}") from None
