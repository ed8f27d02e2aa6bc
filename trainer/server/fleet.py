"""What the whole fleet knows: the sum over devices of the latest statement that each made.

It follows from the statements alone, so arrival, repeats and restarts change no bit, and a device that is removed,
revoked, quarantined or held back leaves the bits that were there without it. Nothing is cached: the numbers of a device
are added at the speed of the memory, so the sum is made anew each time it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from edge.errors import CorruptionError, MisuseError, StateError
from edge.records import BACKGROUND
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics
from edge.statistics_file import PackedStatistics
from trainer.server.database import reading
from trainer.server.effects import feature_space
from trainer.server.executor import Executor, LocalExecutor
from trainer.server.fleet_sum import FleetSum
from trainer.server.labels import label_rules
from trainer.server.opening import Server
from trainer.server.statements import Statement, read_statement, sum_in_shards
from trainer.server.tables import Device, PublishedBundle, Space, State, StateRecord

MAX_NAMED = 20
TRIES = 3
LEAF = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """The statements of one space. shared: records that several of these devices have, the first ``MAX_NAMED``."""

    space: FeatureSpace | None
    statements: tuple[Statement, ...]
    shared: Mapping[str, tuple[str, ...]]
    n_shared: int
    spaces: Mapping[str, int]
    """Every space in which a statement counts, and how many devices are in it."""


@dataclass(frozen=True, eq=False)
class FleetMemory:
    """statistics: the sum, by the operator's labels; None where no statement counts. n_records: with shared ones."""

    selection: Selection
    statistics: SufficientStatistics | None

    @property
    def n_records(self) -> int:
        return sum(statement.n_records for statement in self.selection.statements)

    @property
    def n_windows(self) -> int:
        return 0 if self.statistics is None else self.statistics.n_samples

    @property
    def n_classes(self) -> int:
        return 0 if self.statistics is None else sum(label != BACKGROUND for label in self.statistics.labels)

    @property
    def n_devices(self) -> int:
        return len(self.selection.statements)

    def to_json(self) -> dict[str, Any]:
        """Return the answer of ``fleet show`` and ``fleet verify``, whose words ``memory verify`` has too."""
        chosen = self.selection
        return {
            "statistics_sha256": None if self.statistics is None else self.statistics.sha256,
            "n_records": self.n_records,
            "n_windows": self.n_windows,
            "n_classes": self.n_classes,
            "n_devices": self.n_devices,
            "space": None if chosen.space is None else chosen.space.embedding.sha256,
            "spaces": dict(chosen.spaces),
            "n_shared_records": chosen.n_shared,
            "shared": [{"record": record, "devices": list(ids)} for record, ids in chosen.shared.items()],
        }


def fleet_memory(server: Server, space: str | None = None, *, executor: Executor | None = None) -> FleetMemory:
    """Sum up the fleet. space: the beginning of a space's name; None: the newest bundle's, or that of most devices.

    executor: who sums, with the same bits; None: this process. Raises MisuseError for an unknown space, CorruptionError
    and StateError for damaged statements, ExecutorError.
    """
    workers = LocalExecutor() if executor is None else executor
    return looked_at(server, space, lambda server, selection: _sum_up(server, selection, workers))


def verify_fleet(
    server: Server,
    space: str | None = None,
    *,
    rng: np.random.Generator | None = None,
    executor: Executor | None = None,
) -> FleetMemory:
    """Sum up the fleet in three ways and compare the bits; every statement is checked against its row as well.

    executor: who sums the first time; the two other ways are this process's. Raises CorruptionError that names the
    statement or says what came out differently.
    """
    random = np.random.default_rng(0) if rng is None else rng
    workers = LocalExecutor() if executor is None else executor
    return looked_at(server, space, lambda server, selection: _verify(server, selection, random, workers))


def select_statements(server: Server, space: str | None = None) -> Selection:
    """Return which statements count and in which space, in one picture of the database. Raises MisuseError."""
    with reading(server.engine) as session:
        spaces = _spaces(session)
        chosen = _choose(session, spaces, space)
        if chosen is None:
            return Selection(None, (), {}, 0, spaces)
        statements = tuple(_statements(session, chosen))
        shared, n_shared = _shared_records(session, chosen)
        return Selection(feature_space(session, chosen), statements, shared, n_shared, spaces)


def looked_at(server: Server, space: str | None, work: Callable[[Server, Selection], T]) -> T:
    """Do ``work`` on what counts now. A device that speaks meanwhile replaces a statement: then look once more.

    Raises what ``select_statements`` and ``work`` raise.
    """
    for _ in range(TRIES - 1):
        selection = select_statements(server, space)
        try:
            return work(server, selection)
        except StateError:
            if select_statements(server, space) == selection:
                raise
    return work(server, select_statements(server, space))


def _sum_up(server: Server, selection: Selection, executor: Executor) -> FleetMemory:
    if selection.space is None:
        return FleetMemory(selection, None)
    total = sum_in_shards(executor, server.blobs.url, selection.space, selection.statements)
    return FleetMemory(selection, total.statistics())


def _verify(server: Server, selection: Selection, random: np.random.Generator, executor: Executor) -> FleetMemory:
    memory = _sum_up(server, selection, executor)
    if selection.space is None or memory.statistics is None:
        return memory
    backwards = FleetSum(selection.space)
    for statement in reversed(selection.statements):
        part = read_statement(server.blobs, selection.space, statement)
        if part.sha256 != statement.statistics_sha256:
            raise CorruptionError(
                f"the statement of device {statement.device_name!r} has other numbers than its row says; restore the "
                "database and the blobs from one backup"
            )
        backwards.add(part, statement.names)
    for words, again in (("backwards", backwards.packed()), ("in a random tree", _tree(server, selection, random))):
        if again.sha256 != memory.statistics.sha256:
            raise CorruptionError(
                f"summed up {words}, the fleet's memory differs: please report this with the data folder"
            )
    return memory


def _tree(server: Server, selection: Selection, random: np.random.Generator) -> PackedStatistics:
    """Sum up in random groups, groups of groups and so on; at most a branch of depth log n is in memory."""
    space = selection.space
    assert space is not None

    def total_of(statements: Sequence[Statement]) -> FleetSum:
        total = FleetSum(space)
        if len(statements) > LEAF:
            cut = int(random.integers(1, len(statements)))
            for half in (statements[:cut], statements[cut:]):
                total.add(total_of(half).packed())
        else:
            for statement in statements:
                total.add(read_statement(server.blobs, space, statement), statement.names)
        return total

    shuffled = [selection.statements[i] for i in random.permutation(len(selection.statements))]
    return total_of(shuffled).packed()


def _counts() -> tuple[ColumnElement[bool], ...]:
    """What makes a statement count."""
    return Device.status == "active", State.held_back.is_(None)


def _spaces(session: Session) -> dict[str, int]:
    query = select(State.space_sha256, func.count()).join(Device, Device.id == State.device_id).where(*_counts())
    rows = session.execute(query.group_by(State.space_sha256)).all()
    return {row[0]: row[1] for row in sorted(rows, key=lambda row: (-row[1], row[0]))}


def _choose(session: Session, spaces: Mapping[str, int], wanted: str | None) -> str | None:
    if wanted is not None:
        known = session.scalars(select(Space.sha256).where(Space.sha256.startswith(wanted, autoescape=True))).all()
        if len(known) != 1:
            raise MisuseError(
                f"{len(known)} known embedding spaces begin with {wanted!r}; the fleet is in "
                f"{', '.join(name[:12] for name in spaces) or 'none yet'}"
            )
        return known[0]
    published = select(PublishedBundle.space_sha256).where(PublishedBundle.status == "published")
    newest = session.scalar(published.order_by(PublishedBundle.published_at.desc(), PublishedBundle.version.desc()))
    return newest if newest in spaces else next(iter(spaces), None)


def _statements(session: Session, space: str) -> Iterator[Statement]:
    rules = label_rules(session)
    query = select(State, Device.name).join(Device, Device.id == State.device_id).where(*_counts())
    for state, name in session.execute(query.where(State.space_sha256 == space).order_by(State.device_id)):
        yield Statement(
            state.device_id,
            name,
            state.blob_sha256,
            state.statistics_sha256,
            state.n_records,
            state.n_windows,
            dict(state.labels),
            rules.mapping(state.device_id, state.labels),
        )


def _shared_records(session: Session, space: str) -> tuple[dict[str, tuple[str, ...]], int]:
    """Record ids that several devices have: the first ones with their devices, and how many there are."""
    counted = (
        select(StateRecord.record_id)
        .join(State, State.device_id == StateRecord.device_id)
        .join(Device, Device.id == State.device_id)
        .where(*_counts(), State.space_sha256 == space)
        .group_by(StateRecord.record_id)
        .having(func.count() > 1)
    )
    n_shared = session.scalar(select(func.count()).select_from(counted.subquery())) or 0
    named = session.scalars(counted.order_by(StateRecord.record_id).limit(MAX_NAMED)).all()
    owners = (
        select(StateRecord.record_id, StateRecord.device_id)
        .join(State, State.device_id == StateRecord.device_id)
        .join(Device, Device.id == State.device_id)
        .where(*_counts(), State.space_sha256 == space, StateRecord.record_id.in_(named))
        .order_by(StateRecord.record_id, StateRecord.device_id)
    )
    shared: dict[str, tuple[str, ...]] = {}
    for record, device in session.execute(owners):
        shared[record] = (*shared.get(record, ()), device)
    return shared, n_shared
