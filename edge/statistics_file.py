"""Statistics as bytes: a versioned header, int64 in little-endian order, the gram's upper triangle packed, SHA-256.

Layout: magic (24 bytes) | length of the header (uint32) | header, canonical JSON | counts (k) | sums (k*d) |
gram, upper triangle by rows (d*(d+1)/2) | SHA-256 of all before it (32 bytes). All numbers are int64.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import CorruptionError, MisuseError, SpaceMismatchError, StateError
from edge.space import FeatureSpace, canonical_json
from edge.statistics import EXACT_LIMIT, SufficientStatistics, require_possible
from edge.symmetric import Array

MAGIC = b"soundkeep statistics\0\0\0\0"
VERSION = 1
MAX_HEADER_BYTES = 1 << 26
MAX_CLASSES = 1 << 18
MAX_DIM = 1 << 14
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32

Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedStatistics:
    """Statistics as they lie in a file, for who adds up many of them and reads out few.

    labels: sorted, unique. counts: (k,) int64. sums: (k, d) int64. gram: (d*(d+1)/2,) int64, upper triangle by rows.
    The arrays may be views of the file's bytes.
    """

    space: FeatureSpace
    labels: tuple[str, ...]
    counts: Whole
    sums: Whole
    gram: Whole
    n_clipped: int = 0

    @classmethod
    def of(cls, statistics: SufficientStatistics) -> PackedStatistics:
        """Pack ``statistics``: the same integers, half the matrix."""
        upper = statistics.gram[np.triu_indices(statistics.dim)]
        counts, sums, gram = (a.astype(np.int64) for a in (statistics.counts, statistics.sums, upper))
        return cls(statistics.space, statistics.labels, counts, sums, gram, statistics.n_clipped)

    def unpacked(self) -> SufficientStatistics:
        """Return them as what heads are read out of. Raises CorruptionError for numbers that no samples could give."""
        counts, sums = self.counts.astype(np.float64), self.sums.astype(np.float64)
        gram = _unpacked(self.gram.astype(np.float64), self.space.dim)
        try:
            require_possible(counts, sums, gram)
            return SufficientStatistics(self.space, self.labels, counts, sums, gram, self.n_clipped)
        except MisuseError as e:
            raise _corrupt("numbers that no samples could give") from e

    @property
    def sha256(self) -> str:
        """The name that ``SufficientStatistics.sha256`` gives to the same integers."""
        running = hashlib.sha256(_named_head(self.space, self.labels))
        for array in (self.counts, self.sums, self.gram):
            running.update(np.ascontiguousarray(array, dtype="<i8").data)
        return running.hexdigest()


def hashed_bytes(statistics: SufficientStatistics) -> bytes:
    """Return the bytes whose SHA-256 names what was learnt: space, labels and integers."""
    return _named_head(statistics.space, statistics.labels) + _numbers(statistics)


def write(statistics: SufficientStatistics) -> bytes:
    """Return the stored form of ``statistics``. Raises MisuseError for a space whose statistics may not be stored."""
    if not statistics.space.storable:
        raise MisuseError(
            "these statistics belong to a training run, whose embeddings may come from several backbones; they can be "
            "no memory and no prior: compute them again under the exported backbone"
        )
    header = canonical_json(
        {
            "dim": statistics.dim,
            "labels": list(statistics.labels),
            "n_clipped": statistics.n_clipped,
            "space": statistics.space.sha256,
            "version": VERSION,
        }
    )
    body = b"".join((MAGIC, _LENGTH.pack(len(header)), header, _numbers(statistics)))
    return body + hashlib.sha256(body).digest()


def read(space: FeatureSpace, data: bytes) -> SufficientStatistics:
    """Read what ``write`` returned.

    Raises CorruptionError for a wrong length, hash or content, StateError for a newer version, SpaceMismatchError.
    """
    return read_packed(space, data).unpacked()


def read_packed(space: FeatureSpace, data: bytes | memoryview) -> PackedStatistics:
    """Read what ``write`` returned without unpacking it; the arrays are views of ``data``.

    Raises what ``read`` raises, but does not ask whether samples could give these numbers.
    """
    start = len(MAGIC) + _LENGTH.size
    whole = memoryview(data)
    if len(whole) < start + _DIGEST_BYTES or whole[: len(MAGIC)] != MAGIC:
        raise _corrupt(f"{len(whole)} bytes that do not begin like statistics")
    body, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise _corrupt("bytes that do not match their SHA-256")
    (header_bytes,) = _LENGTH.unpack_from(body, len(MAGIC))
    if header_bytes > min(MAX_HEADER_BYTES, len(body) - start):
        raise _corrupt(f"a header of {header_bytes} bytes")
    labels, n_clipped = _checked_header(space, bytes(body[start : start + header_bytes]))
    k, d = len(labels), space.dim
    numbers = body[start + header_bytes :]
    if len(numbers) != 8 * (k + k * d + d * (d + 1) // 2):
        raise _corrupt(f"{len(numbers)} bytes of numbers for {k} classes and {d} features")
    values = np.frombuffer(numbers, dtype="<i8")
    if values.size and (values.max() > EXACT_LIMIT or values.min() < -EXACT_LIMIT):
        raise _corrupt("a number above 2^53")
    return PackedStatistics(
        space, labels, values[:k], values[k : k + k * d].reshape(k, d), values[k + k * d :], n_clipped
    )


def _named_head(space: FeatureSpace, labels: tuple[str, ...]) -> bytes:
    header = {"labels": list(labels), "space": space.sha256, "version": VERSION}
    return b"\0".join((MAGIC, canonical_json(header), b""))


def _checked_header(space: FeatureSpace, encoded: bytes) -> tuple[tuple[str, ...], int]:
    try:
        header: Any = json.loads(encoded)
        version, name, dim = header["version"], header["space"], header["dim"]
        labels, n_clipped = header["labels"], header["n_clipped"]
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise _corrupt("a malformed header") from e
    if version != VERSION:
        raise StateError(f"statistics have format version {version!r}; this soundkeep reads {VERSION}: update it")
    if name != space.sha256:
        raise SpaceMismatchError(
            f"statistics belong to feature space {str(name)[:12]} but {space.sha256[:12]} is wanted; use the backbone "
            "they were made with, or make them again"
        )
    fits = isinstance(labels, list) and len(labels) <= MAX_CLASSES and all(isinstance(x, str) for x in labels)
    if not fits or dim != space.dim or space.dim > MAX_DIM or type(n_clipped) is not int or n_clipped < 0:
        raise _corrupt("a header with impossible values")
    return tuple(labels), n_clipped


def _numbers(statistics: SufficientStatistics) -> bytes:
    upper = statistics.gram[np.triu_indices(statistics.dim)]
    pieces = (statistics.counts, statistics.sums.ravel(), upper)
    return b"".join(p.astype("<i8").tobytes() for p in pieces)


def _unpacked(packed: Array, d: int) -> Array:
    upper = np.zeros((d, d))
    upper[np.triu_indices(d)] = packed
    return np.asarray(upper + np.triu(upper, 1).T)


def _corrupt(found: str) -> CorruptionError:
    return CorruptionError(f"stored statistics hold {found}; restore them from a backup or fold the journal again")
