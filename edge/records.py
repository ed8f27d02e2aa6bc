"""A record: the windows of one taught example, as integers, with a name that follows from its content alone."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import LabelError, MisuseError
from edge.space import EmbeddingSpace, canonical_json

BACKGROUND = "_background_"
MAX_LABEL_BYTES = 200
MAX_WINDOWS = 1 << 20
MAX_EMBEDDING_BYTES = 1 << 27
MAX_PROVENANCE_BYTES = 1 << 18

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def normalize_label(text: str) -> str:
    """Return the one spelling of a label: NFC, trimmed, 1 to 200 bytes of UTF-8, printable, not reserved.

    Idempotent. Raises LabelError.
    """
    if not isinstance(text, str):
        raise LabelError(f"a label is a text, got {type(text).__name__}; give the sound a name such as 'doorbell'")
    label = unicodedata.normalize("NFC", text).strip()
    if not label:
        raise LabelError(f"label {_shown(text)} is empty; give the sound a name such as 'doorbell'")
    forbidden = next((c for c in label if unicodedata.category(c) in _FORBIDDEN_CATEGORIES), None)
    if forbidden is not None:
        raise LabelError(
            f"label {_shown(label)} holds the character U+{ord(forbidden):04X}, which cannot be printed; leave it out"
        )
    n_bytes = len(label.encode("utf-8"))
    if n_bytes > MAX_LABEL_BYTES:
        raise LabelError(
            f"label {_shown(label)} is {n_bytes} bytes long, at most {MAX_LABEL_BYTES} are allowed; shorten it"
        )
    if label == BACKGROUND:
        raise LabelError(f"label {BACKGROUND!r} is reserved for ignored sounds; choose another name, or use 'ignore'")
    return label


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")


def embedding_bytes(embeddings: NDArray[np.int16]) -> bytes:
    """Return the stored form of (n, d) int16: row after row, little-endian."""
    return embeddings.astype("<i2", copy=False).tobytes(order="C")


def embeddings_from_bytes(stored: bytes, n_windows: int, dim: int) -> NDArray[np.int16]:
    """Return (n_windows, dim) int16. Raises ValueError when the length does not fit."""
    if n_windows < 1 or dim < 1 or len(stored) != n_windows * dim * 2:
        raise ValueError(f"{len(stored)} bytes do not hold {n_windows} x {dim} embeddings")
    return np.frombuffer(stored, dtype="<i2").reshape(n_windows, dim).astype(np.int16)


def content_hash(stored: bytes, n_windows: int, dim: int) -> hashlib._Hash:
    """Return the running SHA-256 over the shape and the stored form of embeddings."""
    shape = n_windows.to_bytes(8, "little") + dim.to_bytes(8, "little")
    running = hashlib.sha256(b"soundkeep embeddings 1\0" + shape)
    running.update(stored)
    return running


def record_id(space_sha256: str, label: str, content_sha256: str) -> str:
    """Return the identity of an example as it stands: SHA-256 over its space, label and embeddings' hash."""
    named = {"content": content_sha256, "label": label, "space": space_sha256}
    return hashlib.sha256(b"soundkeep record 1\0" + canonical_json(named)).hexdigest()


@dataclass(frozen=True, eq=False)
class Record:
    """One example: the embeddings of its windows on the grid, under one label, in one embedding space.

    space_sha256: name of the EmbeddingSpace. label: normalised, or BACKGROUND for what is ignored.
    embeddings: (n, d) int16, n >= 1, d >= 1; kept as a read-only copy.
    Two records are equal when their ids are. Raises LabelError, MisuseError.
    """

    space_sha256: str
    label: str
    embeddings: NDArray[np.int16]

    def __post_init__(self) -> None:
        if not _HEX_SHA256.match(self.space_sha256):
            raise MisuseError(
                f"space_sha256 {self.space_sha256[:80]!r} is not 64 lower-case hex digits; pass space.sha256"
            )
        if self.label != BACKGROUND and self.label != normalize_label(self.label):
            raise LabelError(f"label {_shown(self.label)} is not normalised; pass it through normalize_label first")
        x = self.embeddings
        if x.dtype != np.int16 or x.ndim != 2 or 0 in x.shape:
            raise MisuseError(f"embeddings are {x.dtype} of shape {x.shape}; wanted int16 (n, d), n and d at least 1")
        if x.shape[0] > MAX_WINDOWS or x.nbytes > MAX_EMBEDDING_BYTES:
            raise MisuseError(
                f"one example of {x.shape[0]} windows ({x.nbytes} bytes) is more than {MAX_WINDOWS} windows or "
                f"{MAX_EMBEDDING_BYTES} bytes; teach a shorter piece of it"
            )
        own = np.array(x, dtype=np.int16, order="C", copy=True)
        own.flags.writeable = False
        object.__setattr__(self, "embeddings", own)

    @functools.cached_property
    def content_sha256(self) -> str:
        return content_hash(embedding_bytes(self.embeddings), self.n_windows, self.dim).hexdigest()

    @functools.cached_property
    def id(self) -> str:
        return record_id(self.space_sha256, self.label, self.content_sha256)

    @property
    def n_windows(self) -> int:
        return int(self.embeddings.shape[0])

    @property
    def dim(self) -> int:
        return int(self.embeddings.shape[1])

    def relabel(self, label: str) -> Record:
        """Return the same embeddings under ``label`` (a new id)."""
        return Record(self.space_sha256, label, self.embeddings)

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Record) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, eq=False)
class Twin:
    """The same sound in another embedding space: what is taught beside a record while two ears are kept.

    embeddings: (n, d) int16.
    """

    space: EmbeddingSpace
    embeddings: NDArray[np.int16]


def provenance_bytes(provenance: Mapping[str, Any]) -> bytes:
    """Return canonical JSON of where a record came from (file, source, start_sample, seconds, event ...).

    Raises MisuseError when it is not plain JSON or larger than 256 KiB.
    """
    try:
        encoded = canonical_json(provenance)
    except (TypeError, ValueError, RecursionError) as error:
        raise MisuseError(
            f"provenance is not plain JSON ({error}); use str, int, float, bool, None, list and dict"
        ) from None
    if len(encoded) > MAX_PROVENANCE_BYTES:
        raise MisuseError(
            f"provenance is {len(encoded)} bytes of JSON, at most {MAX_PROVENANCE_BYTES} are kept; shorten it"
        )
    return encoded


def parse_provenance(encoded: bytes) -> dict[str, Any]:
    value = json.loads(encoded)
    if not isinstance(value, dict):
        raise ValueError("provenance is not a JSON object")
    return value
