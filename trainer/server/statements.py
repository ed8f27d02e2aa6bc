"""The statements that count, and their sum in shards.

Sums are of integers: however the statements are cut into shards, and whoever does the shards, the total has the same
bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edge.errors import CorruptionError
from edge.records import BACKGROUND
from edge.space import FeatureSpace
from edge.statistics_file import PackedStatistics, read_packed
from edge.sync.state_message import split_state
from trainer.server.blobs import BlobStore
from trainer.server.executor import Executor
from trainer.server.fleet_sum import FleetSum

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Statement:
    """A statement that counts. labels: its windows by label. names: the fleet's names of labels that differ."""

    device_id: str
    device_name: str
    blob_sha256: str
    statistics_sha256: str
    n_records: int
    n_windows: int
    labels: Mapping[str, int]
    names: Mapping[str, str]

    def fleet_labels(self) -> frozenset[str]:
        """The classes of the fleet that this device taught, without what it ignores."""
        return frozenset(self.names.get(label, label) for label in self.labels if label != BACKGROUND)


@dataclass(frozen=True)
class StatementShard:
    """store: URL of the blob store. A blob may be stated by several devices and counts for each."""

    store: str
    space: FeatureSpace
    statements: tuple[Statement, ...]


def read_statement(blobs: BlobStore, space: FeatureSpace, statement: Statement) -> PackedStatistics:
    """Return the numbers of a statement, views of its bytes. Raises StateError, CorruptionError, SyncError."""
    _, stated, _, stored = split_state(blobs.get(statement.blob_sha256))
    if stated != space:
        raise CorruptionError(
            f"the statement of device {statement.device_name!r} is of another space than its row says; "
            "restore the database from a backup"
        )
    return read_packed(space, stored)


def sum_statements(shard: StatementShard) -> bytes:
    """Sum up a shard; returns the stored form of statistics. Runs in a worker."""
    blobs, total = BlobStore(shard.store), FleetSum(shard.space)
    for statement in shard.statements:
        total.add(read_statement(blobs, shard.space, statement), statement.names)
    return total.statistics().to_bytes()


def sum_in_shards(
    executor: Executor, store: str, space: FeatureSpace, statements: Sequence[Statement], n_shards: int | None = None
) -> FleetSum:
    """Sum up statements on all workers, then the sums of the workers. n_shards: as many as workers by default.

    Raises what ``read_statement`` and ``FleetSum.add`` raise, and ExecutorError.
    """
    cuts = cut(statements, executor.n_workers if n_shards is None else n_shards)
    shards = [StatementShard(store, space, tuple(part)) for part in cuts]
    sums = executor.map_shards(sum_statements, shards)
    return FleetSum.of(space, (read_packed(space, data) for data in sums))


def cut(things: Sequence[Shared], n_shards: int) -> list[Sequence[Shared]]:
    """Deal ``things`` into at most ``n_shards`` parts of like size, none empty."""
    n = min(n_shards, len(things))
    return [things[i::n] for i in range(n)]
