"""Whether what a device sent can be true: checks in the order of the protocol, each with a named reason. Pure.

Embeddings are unit vectors x rounded to a grid of step 1 after scaling by s = 2^14: each entry errs by at most 1/2, so
a row q of d numbers has ``|q| <= s + sqrt(d)/2`` and ``| |q|^2 - s^2 | <= s*sqrt(d) + d/4``. Everything below follows.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import wave
from collections.abc import Container
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from edge.errors import LabelError, SoundkeepError, SyncError
from edge.memory_file import decode_memory
from edge.records import BACKGROUND, Record, normalize_label
from edge.space import EmbeddingSpace
from edge.statistics import SufficientStatistics
from edge.statistics_file import MAGIC as STATISTICS_MAGIC
from edge.symmetric import Array
from edge.sync.clip_pack import PackedClip, decode_clips
from edge.sync.state_message import MAGIC, StateMessage, decode_state
from trainer.server.limits import ServerSettings

RIDGE = 1e-8
_SLACK = 2.0**-30  # for the rounding of the bounds themselves
_STATE_HEAD = struct.Struct("<8sII")
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32


class Rejected(SoundkeepError):
    """An upload that cannot be true. check: the name of the check that it failed."""

    def __init__(self, check: str, sentence: str) -> None:
        super().__init__(f"{check}: {sentence}")
        self.check = check


def check_statement(data: bytes, known_spaces: Container[str], settings: ServerSettings) -> StateMessage:
    """Return the statement in ``data``. known_spaces: SHA-256 of embedding spaces. Raises Rejected with the reason."""
    if len(data) > settings.max_upload_bytes:
        raise Rejected("size", f"{len(data)} bytes, at most {settings.max_upload_bytes} are taken")
    _check_cost(data, known_spaces, settings)
    try:
        message = decode_state(data)
    except SoundkeepError as error:
        raise Rejected("form", str(error)) from None
    if message.space.embedding.sha256 not in known_spaces:
        raise _unknown_space(message.space.embedding.sha256)
    check_labels(message.statistics.labels)
    check_statistics(message.statistics, n_records=len(message.record_ids), max_windows=settings.max_windows)
    return message


def _check_cost(data: bytes, known_spaces: Container[str], settings: ServerSettings) -> None:
    """Refuse what would cost much memory to read: an unknown space may have any size, labels any number.

    Only a whole statement is looked at; what is malformed is left to ``decode_state``, which says how.
    """
    body = memoryview(data)[:-_DIGEST_BYTES]
    if len(body) < _STATE_HEAD.size or not data.startswith(MAGIC):
        return
    if hashlib.sha256(body).digest() != data[-_DIGEST_BYTES:]:
        return
    n_header = _STATE_HEAD.unpack_from(body)[2]
    start = _STATE_HEAD.size + n_header
    if n_header > 4 * settings.max_header_bytes or start + 8 > len(body):
        return
    try:
        described = json.loads(bytes(body[_STATE_HEAD.size : start]))["space"]
        space = hashlib.sha256(
            json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
        ).hexdigest()
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    if space not in known_spaces:
        raise _unknown_space(space)
    (n_records,) = struct.unpack_from("<Q", body, start)
    at = start + 8 + n_records * 32 + len(STATISTICS_MAGIC)
    if at + _LENGTH.size <= len(body) and _LENGTH.unpack_from(body, at)[0] > settings.max_header_bytes:
        raise Rejected("labels", f"their names take more than {settings.max_header_bytes} bytes; merge some classes")


def check_labels(labels: tuple[str, ...]) -> None:
    """Raise Rejected unless every label is one that a device could have taught."""
    for label in labels:
        try:
            spelled = label == BACKGROUND or normalize_label(label) == label
        except LabelError as error:
            raise Rejected("labels", str(error)) from None
        if not spelled:
            raise Rejected("labels", f"{label[:40]!a} is not in the one spelling of labels (NFC, trimmed)")


def check_statistics(statistics: SufficientStatistics, *, n_records: int, max_windows: int) -> None:
    """Raise Rejected unless unit vectors on the grid could have these sums (necessary conditions)."""
    counts, sums, gram = statistics.counts, statistics.sums, statistics.gram
    for name, numbers in (("counts", counts), ("class sums", sums), ("matrix", gram)):
        if not np.all(np.isfinite(numbers)) or np.any(numbers != np.rint(numbers)):
            raise Rejected("numbers", f"the {name} hold a number that is not finite or not whole")
    if np.any(gram != gram.T):
        raise Rejected("symmetric", "the matrix is not symmetric")
    if np.any(np.diagonal(gram) < 0.0):
        raise Rejected("diagonal", f"the matrix has {np.min(np.diagonal(gram)):.0f} on its diagonal, a sum of squares")
    n_windows = statistics.n_samples
    if n_windows > max_windows:
        raise Rejected("windows", f"{n_windows} windows, at most {max_windows} are taken from one device")
    if n_windows < n_records or (n_windows > 0 and n_records == 0):
        raise Rejected("records", f"{n_records} records cannot have {n_windows} windows: each has at least one")
    scale = statistics.space.embedding.grid.scale
    check_trace(gram, n_windows, scale)
    check_class_sums(statistics, scale)
    check_scatter(statistics)


def check_trace(gram: Array, n_windows: int, scale: float) -> None:
    """Raise Rejected unless the trace fits ``n_windows`` unit vectors, within what rounding to the grid allows."""
    d = len(gram)
    trace = sum(int(entry) for entry in np.diagonal(gram))
    wanted = n_windows * int(scale) ** 2
    allowed = n_windows * (math.sqrt(d) * scale + d / 4) * (1.0 + _SLACK)
    if abs(trace - wanted) > allowed:
        raise Rejected(
            "trace",
            f"the trace is {trace}, {n_windows} embeddings of unit length give {wanted}, give or take {allowed:.0f}",
        )


def check_class_sums(statistics: SufficientStatistics, scale: float) -> None:
    """Raise Rejected unless each class sum is at most as long as its count of unit vectors."""
    lengths = np.sqrt(np.einsum("ij,ij->i", statistics.sums, statistics.sums))
    longest = statistics.counts * (scale + math.sqrt(statistics.dim) / 2) * (1.0 + _SLACK)
    for label, length, limit in zip(statistics.labels, lengths, longest, strict=True):
        if length > limit:
            raise Rejected(
                "class sum", f"the sum of class {label!r} is {length:.0f} long, its count allows {limit:.0f}"
            )


def check_scatter(statistics: SufficientStatistics) -> None:
    """Raise Rejected unless the scatter within classes is positive semi-definite, a ridge of 1e-8 added."""
    from scipy.linalg import lapack

    d = statistics.dim
    if statistics.n_samples == 0:
        return
    scaled = statistics.sums / np.sqrt(statistics.counts)[:, None]
    within = np.asfortranarray(statistics.gram - scaled.T @ scaled)
    within[np.diag_indices(d)] += RIDGE * float(np.trace(statistics.gram)) / d
    _, info = lapack.dpotrf(within, lower=1, clean=0, overwrite_a=1)
    if info != 0:
        raise Rejected("scatter", "the scatter within classes is not positive semi-definite: no sounds have such sums")


def check_embeddings(data: bytes, known_spaces: Container[str]) -> tuple[EmbeddingSpace, list[Record], dict[str, str]]:
    """Return the space, the records that can be true, and of the others why not (by id). Raises Rejected."""
    try:
        space, records = decode_memory(data)
    except SoundkeepError as error:
        raise Rejected("form", str(error)) from None
    if space.sha256 not in known_spaces:
        raise _unknown_space(space.sha256)
    reasons = {
        record.id: "rejected: a row is not of unit length" for record in records if not _unit_rows(record, space)
    }
    return space, [record for record in records if record.id not in reasons], reasons


def _unit_rows(record: Record, space: EmbeddingSpace) -> bool:
    return unit_rows(record.embeddings, space.grid.scale)


def unit_rows(embeddings: NDArray[np.int16], scale: float) -> bool:
    """Whether every row of (n, d) int16 can be a unit vector rounded to the grid."""
    rows = embeddings.astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    d = embeddings.shape[1]
    return bool(np.all(np.abs(squares - scale**2) <= (scale * math.sqrt(d) + d / 4) * (1.0 + _SLACK)))


def check_clips(data: bytes) -> list[PackedClip]:
    """Return the clips of a pack. Raises Rejected."""
    try:
        return decode_clips(data)
    except SyncError as error:
        raise Rejected("form", str(error)) from None


def wav_fault(wav: bytes, sample_rate: int, max_bytes: int) -> str | None:
    """Return why ``wav`` is no 16-bit mono WAV file at ``sample_rate`` (Hz) of at most ``max_bytes``; None if it is."""
    if len(wav) > max_bytes:
        return f"rejected: {len(wav)} bytes, at most {max_bytes} are taken of one clip"
    try:
        with wave.open(BytesIO(wav), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            n_frames = file.getnframes()
            whole = len(file.readframes(n_frames)) == 2 * n_frames if form[:2] == (1, 2) else False
    except (wave.Error, EOFError, OSError, ValueError, struct.error) as error:
        return f"rejected: not a WAV file ({error})"
    if form != (1, 2, sample_rate):
        return f"rejected: {form[0]} channels of {8 * form[1]} bits at {form[2]} Hz; wanted 1 of 16 at {sample_rate}"
    return None if whole and n_frames > 0 else "rejected: the WAV file is empty or cut off"


def _unknown_space(space_sha256: str) -> Rejected:
    return Rejected(
        "space", f"embedding space {space_sha256[:12]} is not known to this server; add its bundle on the server first"
    )
