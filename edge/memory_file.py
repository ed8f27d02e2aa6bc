"""The memory file: what is known now, in the one byte string that stands for it.

Layout (integers little-endian): ``SKMEMORY``, u32 version, u32 length and canonical JSON of the embedding space, u64
number of records; then each record in ascending order of id: 32 bytes id, u16 length and UTF-8 of the label, u32 number
of windows, int16 embeddings; at the end SHA-256 over all that comes before. No clock, no origin, nothing forgotten.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from edge.durable import write_file
from edge.errors import ConfigurationError, MemoryFileError, MisuseError, SpaceMismatchError
from edge.records import Record, embedding_bytes, embeddings_from_bytes
from edge.space import EmbeddingSpace, Grid, canonical_json

MAGIC = b"SKMEMORY"
VERSION = 1
MAX_MEMORY_BYTES = 1 << 30
MAX_SPACE_BYTES = 4096

_HEAD = struct.Struct("<8sII")
_COUNT = struct.Struct("<Q")
_RECORD = struct.Struct("<32sH")
_WINDOWS = struct.Struct("<I")
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SHA256_BYTES = 32


def encode_memory(space: EmbeddingSpace, records: Mapping[str, Record] | Iterable[Record]) -> bytes:
    """Return the whole file: the same set of examples, the same bytes. Raises SpaceMismatchError, MemoryFileError."""
    return b"".join(memory_pieces(space, records))


def memory_pieces(space: EmbeddingSpace, records: Mapping[str, Record] | Iterable[Record]) -> Iterator[bytes]:
    """Yield the file in pieces. An example given twice counts once.

    A mapping (such as ``Journal.records()``) is read one record at a time. Raises SpaceMismatchError, MemoryFileError.
    """
    by_id = records if isinstance(records, Mapping) else {record.id: record for record in records}
    described = canonical_json(asdict(space))
    running = hashlib.sha256()
    n_bytes = _SHA256_BYTES
    for piece in _pieces(space, described, by_id):
        n_bytes += len(piece)
        if n_bytes > MAX_MEMORY_BYTES:
            raise MemoryFileError(
                f"this memory is larger than {MAX_MEMORY_BYTES} bytes, the most a memory file may hold"
            )
        running.update(piece)
        yield piece
    yield running.digest()


def _pieces(space: EmbeddingSpace, described: bytes, by_id: Mapping[str, Record]) -> Iterator[bytes]:
    yield _HEAD.pack(MAGIC, VERSION, len(described)) + described + _COUNT.pack(len(by_id))
    for record_id in sorted(by_id):
        record = by_id[record_id]
        if record.space_sha256 != space.sha256 or record.dim != space.dim:
            raise SpaceMismatchError(
                f"record {record.id[:12]} belongs to embedding space {record.space_sha256[:12]}, the file to "
                f"{space.sha256[:12]}; export one space at a time"
            )
        label = record.label.encode("utf-8")
        yield _RECORD.pack(bytes.fromhex(record.id), len(label)) + label
        yield _WINDOWS.pack(record.n_windows) + embedding_bytes(record.embeddings)


def decode_memory(data: bytes, *, expected: EmbeddingSpace | None = None) -> tuple[EmbeddingSpace, list[Record]]:
    """Return the space and the records, by ascending id. Everything is checked before anything is returned.

    expected: the only space that is accepted; None: any.
    Raises MemoryFileError (not a memory file, another version, truncated, altered, not canonical), SpaceMismatchError.
    """
    smallest = _HEAD.size + _COUNT.size + _SHA256_BYTES
    if len(data) > MAX_MEMORY_BYTES:
        raise MemoryFileError(f"a memory file of {len(data)} bytes is larger than the {MAX_MEMORY_BYTES} that are read")
    if not data.startswith(MAGIC[: len(data)]) or not data:
        raise MemoryFileError("this is not a soundkeep memory file; give one written by 'soundkeep memory export'")
    if len(data) < smallest:
        raise MemoryFileError(
            f"the memory file is cut off: {len(data)} bytes, at least {smallest} wanted; copy it again"
        )
    _, version, n_described = _HEAD.unpack_from(data)
    if version != VERSION:
        raise MemoryFileError(
            f"the memory file has version {version}, this soundkeep reads version {VERSION}; update the older of both"
        )
    if hashlib.sha256(memoryview(data)[:-_SHA256_BYTES]).digest() != data[-_SHA256_BYTES:]:
        raise MemoryFileError(
            "the memory file was cut off or altered: its bytes do not match their hash; copy it again"
        )
    try:
        reader = _Reader(memoryview(data)[:-_SHA256_BYTES], _HEAD.size)
        space = parse_space(bytes(reader.take(n_described)))
        if expected is not None and space != expected:
            raise SpaceMismatchError(
                f"the memory belongs to embedding space {space.sha256[:12]}, wanted {expected.sha256[:12]}; "
                f"import it where the bundle that it was taught with is in use"
            )
        (n_records,) = _COUNT.unpack(reader.take(_COUNT.size))
        records = list(_parse_records(reader, space, n_records))
        reader.finish()
    except (ValueError, TypeError, KeyError, RecursionError, MisuseError) as error:
        raise MemoryFileError(f"the memory file is malformed: {error}; export it again") from None
    return space, records


class _Reader:
    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self._position = position

    def take(self, n_bytes: int) -> memoryview:
        end = self._position + n_bytes
        if end > len(self._data):
            raise ValueError(
                f"{n_bytes} bytes wanted at {self._position}, only {len(self._data) - self._position} are there"
            )
        piece = self._data[self._position : end]
        self._position = end
        return piece

    def finish(self) -> None:
        if self._position != len(self._data):
            raise ValueError(f"{len(self._data) - self._position} bytes follow the last record")


def parse_space(described: bytes) -> EmbeddingSpace:
    """Read the canonical JSON of an embedding space. Raises ValueError, TypeError, KeyError."""
    if len(described) > MAX_SPACE_BYTES:
        raise ValueError(
            f"the description of the space has {len(described)} bytes, at most {MAX_SPACE_BYTES} are allowed"
        )
    fields = json.loads(described)
    numbers = [fields[name] for name in ("sample_rate", "window_length", "hop_length", "dim")]
    if not all(type(number) is int and 0 < number < 1 << 31 for number in numbers):
        raise ValueError(f"the space has rate, window, hop and dim {numbers}; wanted positive integers")
    if not _HEX_SHA256.match(fields["backbone_sha256"]) or type(fields["grid"]["fraction_bits"]) is not int:
        raise ValueError("the space names no backbone or no grid")
    try:
        space = EmbeddingSpace(**{**fields, "grid": Grid(**fields["grid"])})
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    if canonical_json(asdict(space)) != described:
        raise ValueError("the description of the space is not in canonical form")
    return space


def _parse_records(reader: _Reader, space: EmbeddingSpace, n_records: int) -> Iterator[Record]:
    last = b""
    for _ in range(n_records):
        stated, n_label = _RECORD.unpack(reader.take(_RECORD.size))
        label = str(reader.take(n_label), "utf-8")
        (n_windows,) = _WINDOWS.unpack(reader.take(_WINDOWS.size))
        stored = reader.take(n_windows * space.dim * 2)
        record = Record(space.sha256, label, embeddings_from_bytes(bytes(stored), n_windows, space.dim))
        if record.id != stated.hex():
            raise ValueError(f"record {stated.hex()[:12]} does not match its id")
        if stated <= last:
            raise ValueError(f"record {stated.hex()[:12]} is not in ascending order, or is there twice")
        last = stated
        yield record


def write_memory(path: Path, space: EmbeddingSpace, records: Mapping[str, Record] | Iterable[Record]) -> None:
    """Write a memory file; ``path`` is replaced when it is complete, or not at all. Raises MemoryFileError."""
    try:
        write_file(path, memory_pieces(space, records), mode=0o666)
    except OSError as error:
        raise MemoryFileError(
            f"cannot write the memory file {path} ({error.strerror}); choose another place"
        ) from error


def read_memory(path: Path, *, expected: EmbeddingSpace | None = None) -> tuple[EmbeddingSpace, list[Record]]:
    """Read and check a memory file. Raises SpaceMismatchError and MemoryFileError, whose sentence names the file."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_MEMORY_BYTES + 1)
        return decode_memory(data, expected=expected)
    except OSError as error:
        raise MemoryFileError(f"cannot read the memory file {path} ({error.strerror}); check its name") from error
    except (MemoryFileError, SpaceMismatchError) as error:
        raise type(error)(f"{path}: {error}") from None
