"""What an upload that passed its checks changes, within the caller's transaction and with the device's row locked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from edge.records import Record, embedding_bytes, embeddings_from_bytes
from edge.space import EmbeddingSpace, FeatureSpace, Grid
from edge.statistics import StatisticsAccumulator, SufficientStatistics
from edge.sync.clip_pack import PackedClip
from edge.sync.state_message import StateMessage
from trainer.server.collecting import remove_homeless_clips
from trainer.server.privacy import apply_private_labels, private_labels
from trainer.server.tables import Clip, Embedded, Outcome, Space, State, StateRecord
from trainer.server.validation import Rejected, wav_fault

CREATED, DUPLICATE, SUPERSEDED, REJECTED, MISSING = "created", "duplicate", "superseded", "rejected", "missing"
LEDGER_SECONDS = 30 * 86_400
_MANY = 500
T = TypeVar("T")


class Contradiction(Rejected):
    """The embeddings of a device are not what its statement is the sum of: the device is quarantined."""


@dataclass
class Effect:
    """What became of an upload. let_go: names of blobs that may have no owner left."""

    result: str
    reason: str | None = None
    items: dict[str, str] = field(default_factory=dict)
    revision: int | None = None
    let_go: set[str] = field(default_factory=set)

    @property
    def outcome(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"result": self.result, "reason": self.reason, "items": self.items}
        return answer if self.revision is None else {**answer, "revision": self.revision}


def take_statement(session: Session, device_id: str, message: StateMessage, blob_sha256: str, now: float) -> Effect:
    """Put a statement in the place of the device's last one, and let go of what it no longer names.

    Raises Contradiction when the server has the embeddings of all its records and their sum is another.
    """
    state = session.get(State, device_id)
    if state is not None and message.revision <= state.revision:
        reason = f"revision {message.revision} is older than revision {state.revision}, which is here"
        return Effect(SUPERSEDED, reason, revision=state.revision, let_go={blob_sha256})
    space = message.space.embedding.sha256
    moved = state is not None and state.space_sha256 != space
    let_go = set() if state is None else {state.blob_sha256}
    if state is None:
        state = State(device_id=device_id, held_back=None)
        session.add(state)
    statistics = message.statistics
    state.revision, state.blob_sha256, state.space_sha256 = message.revision, blob_sha256, space
    state.statistics_sha256, state.accepted_at = statistics.sha256, now
    state.n_records, state.n_windows = len(message.record_ids), statistics.n_samples
    state.labels = {
        label: int(count) for label, count in zip(statistics.labels, statistics.counts.tolist(), strict=True)
    }
    session.flush()
    _name_records(session, device_id, set(message.record_ids))
    if not moved:  # a clip of a device that moved waits for the embeddings in the new space (``drop_waiting_clips``)
        let_go |= remove_homeless_clips(session, device_id)
    let_go |= apply_private_labels(session, device_id)
    require_agreement(session, state)
    _shorten_ledger(session, device_id, now)
    return Effect(CREATED, let_go=let_go - {blob_sha256})


def take_embeddings(
    session: Session, device_id: str, records: Sequence[Record], reasons: dict[str, str], now: float
) -> Effect:
    """Keep the embeddings of records that the latest statement names. Raises Contradiction, as above."""
    state = session.get(State, device_id)
    named = set(session.scalars(select(StateRecord.record_id).where(StateRecord.device_id == device_id)))
    present = set(session.scalars(select(Embedded.record_id).where(Embedded.device_id == device_id)))
    private = set(private_labels(session, device_id))
    items = dict(reasons)
    for record in records:
        if record.id not in named:
            items[record.id] = "rejected: not in the latest statement"
        elif record.label in private:
            items[record.id] = f"rejected: label {record.label!r} is private"
        elif record.id in present:
            items[record.id] = DUPLICATE
        else:
            items[record.id] = CREATED
            session.add(
                Embedded(
                    device_id=device_id,
                    record_id=record.id,
                    space_sha256=record.space_sha256,
                    label=record.label,
                    content_sha256=record.content_sha256,
                    n_windows=record.n_windows,
                    embeddings=embedding_bytes(record.embeddings),
                    received_at=now,
                )
            )
    session.flush()
    if state is not None and CREATED in items.values():
        require_agreement(session, state)
    return _of_items(items)


def take_clips(
    session: Session, device_id: str, clips: Sequence[PackedClip], max_clip_bytes: int, now: float
) -> tuple[Effect, list[bytes]]:
    """Keep clips of records whose embeddings are here. Returns the effect and the WAV files that rows now name."""
    embedded = select(Embedded.content_sha256, Embedded.space_sha256).where(Embedded.device_id == device_id)
    contents = {row[0]: row[1] for row in session.execute(embedded)}
    rates = {row.sha256: int(row.description["sample_rate"]) for row in session.scalars(select(Space))}
    rows = {row.content_sha256: row for row in session.scalars(select(Clip).where(Clip.device_id == device_id))}
    n_bytes_of = {row.wav_sha256: row.n_bytes for row in rows.values()}
    items, kept, let_go = {}, [], set()
    for clip in clips:
        content, row = clip.content_sha256, rows.get(clip.content_sha256)
        if content not in contents:
            items[content] = "rejected: no embeddings with this content are here"
            continue
        if row is not None and row.wav_sha256 == clip.wav_sha256:
            items[content] = DUPLICATE
            continue
        if not clip.wav and clip.wav_sha256 not in n_bytes_of:
            items[content] = MISSING
            continue
        fault = wav_fault(clip.wav, rates[contents[content]], max_clip_bytes) if clip.wav else None
        if fault is not None:
            items[content] = fault
            continue
        n_bytes = len(clip.wav) or n_bytes_of[clip.wav_sha256]
        if row is None:
            row = Clip(device_id=device_id, content_sha256=content)
            session.add(row)
        else:
            let_go.add(row.wav_sha256)
        row.wav_sha256, row.n_bytes, row.received_at = clip.wav_sha256, n_bytes, now
        if clip.wav:
            kept.append(clip.wav)
        items[content] = CREATED
    session.flush()
    effect = _of_items(items)
    effect.let_go = let_go
    return effect, kept


def require_agreement(session: Session, state: State) -> None:
    """Raise Contradiction when all records of the statement have embeddings here and their sum is another, by a bit."""
    own = Embedded.device_id == state.device_id
    if session.scalar(select(func.count()).where(own)) != state.n_records:
        return
    space = feature_space(session, state.space_sha256)
    if space is None:
        return
    rows = session.scalars(select(Embedded).where(own).order_by(Embedded.record_id).execution_options(yield_per=_MANY))
    if sum_of(space, rows).sha256 != state.statistics_sha256:
        raise Contradiction("sum", "the embeddings of this device do not add up to its statement")


def sum_of(space: FeatureSpace, rows: Iterable[Embedded]) -> SufficientStatistics:
    """Return the statistics of embedded records, exactly."""
    accumulator = StatisticsAccumulator(SufficientStatistics.zero(space))
    for row in rows:
        accumulator.add(embeddings_from_bytes(row.embeddings, row.n_windows, space.dim), row.label)
    return accumulator.snapshot()


def feature_space(session: Session, space_sha256: str) -> FeatureSpace | None:
    """Return the space of that name, without a lift; None where the server does not know it."""
    row = session.get(Space, space_sha256)
    if row is None:
        return None
    described = dict(row.description)
    return FeatureSpace(EmbeddingSpace(**{**described, "grid": Grid(**described["grid"])}))


def _name_records(session: Session, device_id: str, ids: set[str]) -> None:
    before = set(session.scalars(select(StateRecord.record_id).where(StateRecord.device_id == device_id)))
    for gone in _pieces(sorted(before - ids)):
        for table in (StateRecord, Embedded):
            session.execute(delete(table).where(table.device_id == device_id, table.record_id.in_(gone)))
    for new in _pieces(sorted(ids - before)):
        session.execute(insert(StateRecord), [{"device_id": device_id, "record_id": record_id} for record_id in new])


def _shorten_ledger(session: Session, device_id: str, now: float) -> None:
    """Forget outcomes that a new statement overtakes: what was refused or removed before may come again.

    Nothing counts twice by that: embeddings and clips have keys of their own, statements their revision.
    """
    own = Outcome.device_id == device_id
    session.execute(delete(Outcome).where(own, Outcome.kind != "state"))
    session.execute(delete(Outcome).where(own, Outcome.kind == "state", Outcome.at < now - LEDGER_SECONDS))


def _of_items(items: dict[str, str]) -> Effect:
    results = set(items.values())
    if CREATED in results or MISSING in results or not results:
        return Effect(CREATED, items=items)
    if DUPLICATE in results:
        return Effect(DUPLICATE, items=items)
    first = next(iter(items.values())).removeprefix("rejected: ")
    return Effect(REJECTED, f"none of {len(items)} items can be taken: {first}", items)


def _pieces(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _MANY):
        yield values[start : start + _MANY]
