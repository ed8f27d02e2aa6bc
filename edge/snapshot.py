"""A cache of the statistics, so that a restart need not add up every record again; never trusted without a check.

A snapshot belongs to one row of the journal (seq and hash) and to the set of records that were known there. It is
used when its own hash holds, that row is in the chain, the records known there are the same, and its window counts are
theirs; then what changed since is added and subtracted. Otherwise everything is folded anew; the bits are the same.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.durable import remove_file, write_file
from edge.errors import SoundkeepError, StateError
from edge.journal_reader import JournalReader, KnownRecords
from edge.records import Record
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics

MAX_SNAPSHOT_BYTES = 1 << 30
BATCH_WINDOWS = 4096
_HEAD = struct.Struct("<18s32sQ32s32s")
_MAGIC = b"soundkeep sums 1\n\0"


@dataclass(frozen=True)
class Restored:
    """Statistics of what a journal knows. from_snapshot: False when every record was added up anew; n_added and
    n_removed: records that changed since the snapshot."""

    statistics: SufficientStatistics
    from_snapshot: bool
    n_added: int
    n_removed: int


def save_snapshot(journal: JournalReader, statistics: SufficientStatistics) -> None:
    """Keep the statistics of everything that ``journal.records()`` knows now. Raises StateError (full, read-only)."""
    known = journal.records(statistics.space.embedding.sha256)
    seq, row_hash = journal.last_seq, journal.last_hash
    head = _HEAD.pack(_MAGIC, bytes.fromhex(statistics.space.sha256), seq, bytes.fromhex(row_hash), _set_hash(known))
    body = head + statistics.to_bytes()
    try:
        write_file(_path(journal.state_dir, statistics.space), [body, hashlib.sha256(body).digest()])
    except OSError as error:
        raise StateError(
            f"the snapshot of the statistics could not be kept in {journal.state_dir} ({error.strerror}); nothing is "
            f"lost, the next start only takes longer"
        ) from error


def restore_statistics(journal: JournalReader, space: FeatureSpace) -> Restored:
    """Return the statistics of everything known in ``space``, ignored records included under BACKGROUND.

    From the snapshot and what changed since when the snapshot proves itself, else from all records.
    """
    now = journal.records(space.embedding.sha256)
    found = _load(journal, space)
    if found is not None:
        then, statistics = found
        added, removed = now.keys() - then.keys(), then.keys() - now.keys()
        try:
            statistics = statistics + sum_of(space, (now[i] for i in added))
            statistics = statistics - sum_of(space, (then[i] for i in removed))
            return Restored(statistics, True, len(added), len(removed))
        except SoundkeepError:
            pass  # a removed record was purged, or the snapshot held something else: only a full fold can tell
    return Restored(sum_of(space, now.values()), False, len(now), 0)


def remove_snapshots(state_dir: Path) -> None:
    """Remove every snapshot, and what a crash left of one. Raises OSError."""
    for path in [*state_dir.glob("statistics-*.snapshot"), *state_dir.glob("statistics-*.snapshot.tmp")]:
        remove_file(path)


def sum_of(space: FeatureSpace, records: Iterable[Record]) -> SufficientStatistics:
    """Return the statistics of ``records``, added up in batches of some thousand windows."""
    total = SufficientStatistics.zero(space)
    for batch in _batches(records):
        features, n_clipped = space.features(np.concatenate([record.embeddings for record in batch]))
        labels = [record.label for record in batch for _ in range(record.n_windows)]
        total = total + SufficientStatistics.from_samples(space, features, labels, n_clipped=n_clipped)
    return total


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    n_windows = 0
    for record in records:
        batch.append(record)
        n_windows += record.n_windows
        if n_windows >= BATCH_WINDOWS:
            yield batch
            batch, n_windows = [], 0
    if batch:
        yield batch


def _path(state_dir: Path, space: FeatureSpace) -> Path:
    return state_dir / f"statistics-{space.sha256[:16]}.snapshot"


def _set_hash(known: KnownRecords) -> bytes:
    return hashlib.sha256("".join(known).encode("ascii")).digest()


def _load(journal: JournalReader, space: FeatureSpace) -> tuple[KnownRecords, SufficientStatistics] | None:
    """Return what was known at the snapshot and its statistics, or None when there is none that proves itself."""
    try:
        with open(_path(journal.state_dir, space), "rb") as file:
            data = file.read(MAX_SNAPSHOT_BYTES + 1)
    except OSError:
        return None
    body, trailer = data[:-32], data[-32:]
    if len(body) < _HEAD.size or len(data) > MAX_SNAPSHOT_BYTES or hashlib.sha256(body).digest() != trailer:
        return None
    magic, space_hash, seq, row_hash, set_hash = _HEAD.unpack_from(body)
    if magic != _MAGIC or space_hash.hex() != space.sha256 or journal.hash_at(seq) != row_hash.hex():
        return None
    then = journal.records_at(seq, space.embedding.sha256)
    if then is None or _set_hash(then) != set_hash:
        return None
    try:
        statistics = SufficientStatistics.from_bytes(space, body[_HEAD.size :])
    except SoundkeepError:
        return None
    n_windows: Counter[str] = Counter()
    for record_id in then:
        n_windows[then.about(record_id).label] += then.about(record_id).n_windows
    counted = dict(zip(statistics.labels, statistics.counts.tolist(), strict=True))
    return (then, statistics) if counted == dict(n_windows) else None
