"""What the server's database holds. Times are seconds since 1970, for people; nothing is ordered by them but leases.

Bytes that may be large (statements, clips) lie in the blob store under their SHA-256; a row names them. Everything that
one upload changes is changed in one transaction together with its row in ``outcome``, so an upload counts exactly once.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DEVICE_STATUSES = ("active", "quarantined", "revoked")
JOB_STATUSES = ("queued", "running", "unsigned", "done", "failed", "cancelled")
BUNDLE_STATUSES = ("candidate", "published", "refused", "withdrawn")
LABEL_ACTIONS = ("merge", "split", "private")

_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=_CONVENTION)


class Device(Base):
    """One enrolled device. sequence_top, sequence_seen: which signed requests were seen (``edge.sync.signing``)."""

    __tablename__ = "device"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    public_key: Mapped[bytes] = mapped_column(LargeBinary(32))
    status: Mapped[str] = mapped_column(String(16), default="active")
    status_reason: Mapped[str | None] = mapped_column(Text)
    enrolled_at: Mapped[float] = mapped_column(Float)
    last_seen_at: Mapped[float | None] = mapped_column(Float)
    sequence_top: Mapped[int] = mapped_column(BigInteger, default=0)
    sequence_seen: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    n_bytes_up: Mapped[int] = mapped_column(BigInteger, default=0)
    minute: Mapped[int] = mapped_column(BigInteger, default=0)
    n_requests: Mapped[int] = mapped_column(Integer, default=0)
    """Signed requests within ``minute`` (minutes since 1970)."""
    day: Mapped[int] = mapped_column(BigInteger, default=0)
    n_bytes_today: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of uploads within ``day`` (days since 1970)."""
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """What the device last said of itself: version, bundle, slot, setting (``edge.sync.words``)."""


class Token(Base):
    """A one-time enrolment token, kept as its hash only."""

    __tablename__ = "token"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[float] = mapped_column(Float)
    used_by: Mapped[str | None] = mapped_column(String(32))
    used_at: Mapped[float | None] = mapped_column(Float)


class Space(Base):
    """An embedding space that the server knows: of a bundle that shipped, was added by the operator or published."""

    __tablename__ = "space"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    description: Mapped[dict[str, Any]] = mapped_column(JSON)


class State(Base):
    """The latest accepted statement of a device. blob_sha256: the statement's bytes in the blob store.

    held_back: why it is left out of the fleet's sum at present; None when it counts.
    """

    __tablename__ = "state"
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    blob_sha256: Mapped[str] = mapped_column(String(64))
    space_sha256: Mapped[str] = mapped_column(String(64), index=True)
    statistics_sha256: Mapped[str] = mapped_column(String(64))
    n_records: Mapped[int] = mapped_column(Integer)
    n_windows: Mapped[int] = mapped_column(BigInteger)
    labels: Mapped[dict[str, int]] = mapped_column(JSON)
    """Label to number of windows, the background's label included."""
    accepted_at: Mapped[float] = mapped_column(Float)
    held_back: Mapped[str | None] = mapped_column(Text)


class StateRecord(Base):
    """The records that the latest statement of a device is the sum of; finds ids that are on several devices."""

    __tablename__ = "state_record"
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"), primary_key=True)
    record_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    __table_args__ = (Index("ix_state_record_record_id", "record_id"),)


class Embedded(Base):
    """One record whose embeddings the owner lets the server have. embeddings: (n, d) int16 little-endian."""

    __tablename__ = "embedded"
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"), primary_key=True)
    record_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    space_sha256: Mapped[str] = mapped_column(String(64), index=True)
    label: Mapped[str] = mapped_column(String(200))
    content_sha256: Mapped[str] = mapped_column(String(64))
    n_windows: Mapped[int] = mapped_column(Integer)
    embeddings: Mapped[bytes] = mapped_column(LargeBinary)
    received_at: Mapped[float] = mapped_column(Float)


class Clip(Base):
    """The audio of a record, where the owner lets the server have it; its WAV lies in the blob store."""

    __tablename__ = "clip"
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"), primary_key=True)
    content_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    wav_sha256: Mapped[str] = mapped_column(String(64), index=True)
    n_bytes: Mapped[int] = mapped_column(Integer)
    received_at: Mapped[float] = mapped_column(Float)


class Upload(Base):
    """An upload on its way. offset: bytes that arrived; they lie in ``chunk`` until it is whole."""

    __tablename__ = "upload"
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    size: Mapped[int] = mapped_column(BigInteger)
    offset: Mapped[int] = mapped_column(BigInteger, default=0)
    begun_at: Mapped[float] = mapped_column(Float)


class Chunk(Base):
    """A piece of an upload that is not whole yet."""

    __tablename__ = "chunk"
    device_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Outcome(Base):
    """What became of an upload: the ledger that makes it count exactly once."""

    __tablename__ = "outcome"
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    result: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[float] = mapped_column(Float)


class Refusal(Base):
    """Something that was refused, and why; for the status page."""

    __tablename__ = "refusal"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[float] = mapped_column(Float)
    device_id: Mapped[str | None] = mapped_column(String(32), index=True)
    what: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)


class LabelRule(Base):
    """What the operator decided about a label. device_id "": for all devices that have no rule of their own."""

    __tablename__ = "label_rule"
    device_id: Mapped[str] = mapped_column(String(32), primary_key=True, default="")
    label: Mapped[str] = mapped_column(String(200), primary_key=True)
    action: Mapped[str] = mapped_column(String(16))
    target: Mapped[str | None] = mapped_column(String(200))


class Job(Base):
    """One adaptation. Claimed by lease; re-entrant, because its working folder is named by ``input_sha256``."""

    __tablename__ = "job"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    created_at: Mapped[float] = mapped_column(Float)
    asked_by: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    input_sha256: Mapped[str | None] = mapped_column(String(64))
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[float | None] = mapped_column(Float)
    n_starts: Mapped[int] = mapped_column(Integer, default=0)
    cancel_asked: Mapped[bool] = mapped_column(default=False)
    stage: Mapped[str] = mapped_column(String(100), default="")
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    error: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[float | None] = mapped_column(Float)


class PublishedBundle(Base):
    """A bundle that the server has: its folder lies under ``bundles/<sha256>`` in the data folder."""

    __tablename__ = "bundle"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    version: Mapped[int] = mapped_column(Integer)
    space_sha256: Mapped[str] = mapped_column(String(64))
    parent_space_sha256: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default="candidate")
    gates: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    job_id: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(Float)
    published_at: Mapped[float | None] = mapped_column(Float)


class Setting(Base):
    """Settings of the server that commands change: the policy, limits, the channel."""

    __tablename__ = "setting"
    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[Any] = mapped_column(JSON)
