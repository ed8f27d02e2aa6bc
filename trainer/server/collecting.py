"""Blobs that no row names any more: removed after the commit that let go of them, and swept at the start.

A writer puts its blob, then names it in a transaction that holds the shared lock and puts it again where it is missing;
a collector looks and removes under the exclusive lock. So no row ever names a blob that is gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from trainer.server.database import is_sqlite, transaction
from trainer.server.opening import Server
from trainer.server.tables import Clip, Embedded, State

NAMED_BY = (State.blob_sha256, Clip.wav_sha256)
"""All columns that name blobs."""
LEFTOVER_SECONDS = 3600.0
_LOCK = 0x736B626C  # "skbl"


def hold_blobs(session: Session) -> None:
    """Keep collectors out until this transaction ends. SQLite has one writer anyway."""
    if not is_sqlite(session):
        session.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": _LOCK})


def collect(server: Server, names: Iterable[str]) -> int:
    """Remove those of the blobs ``names`` that no row names; returns how many."""
    candidates = sorted(set(names))
    if not candidates:
        return 0
    n_removed = 0
    with transaction(server.engine) as session:
        _keep_writers_out(session)
        for name in candidates:
            if not any(session.scalar(select(column).where(column == name).limit(1)) for column in NAMED_BY):
                server.blobs.remove(name)
                n_removed += 1
    return n_removed


def sweep(server: Server) -> int:
    """Remove every blob that no row names (a process was killed between a commit and its clean-up)."""
    with transaction(server.engine) as session:
        _keep_writers_out(session)
        named = {name for column in NAMED_BY for name in session.scalars(select(column))}
        orphans = [name for name in server.blobs.names() if name not in named]
        for name in orphans:
            server.blobs.remove(name)
    server.blobs.remove_leftovers(older_than=time.time() - LEFTOVER_SECONDS)
    return len(orphans)


def remove_homeless_clips(session: Session, device_id: str) -> set[str]:
    """Remove the clips of a device that belong to none of its embeddings; returns the names of their blobs."""
    contents = select(Embedded.content_sha256).where(Embedded.device_id == device_id)
    homeless = Clip.device_id == device_id, Clip.content_sha256.not_in(contents)
    names = set(session.scalars(select(Clip.wav_sha256).where(*homeless)))
    session.execute(delete(Clip).where(*homeless))
    return names


def _keep_writers_out(session: Session) -> None:
    if not is_sqlite(session):
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
