"""Uploads in resumable chunks, and the moment when the last byte is there: checked, then counted exactly once.

The checks need no lock and are done before; the effect and its row in the ledger are one transaction on the device's
row. Chunks lie in the database, so an upload goes on where it was after any restart of any of several processes.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from trainer.server.auth import require_not_revoked, unknown_device
from trainer.server.collecting import collect, hold_blobs, remove_homeless_clips
from trainer.server.database import lock_row, reading, transaction
from trainer.server.effects import CREATED, REJECTED, Contradiction, Effect, take_clips, take_embeddings, take_statement
from trainer.server.limits import CHUNK_BYTES, DAY_SECONDS, ServerSettings
from trainer.server.opening import Server
from trainer.server.refusals import Refused, remember_refusal
from trainer.server.tables import Chunk, Clip, Device, Embedded, Outcome, Space, State, Upload
from trainer.server.validation import Rejected, check_clips, check_embeddings, check_statement

KINDS = ("state", "embeddings", "clips")
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_BUSY_SECONDS = 600
_LARGE_BYTES = 8 << 20
_LARGE_AT_ONCE = threading.BoundedSemaphore(2)
"""Large uploads that are checked at the same time: each takes three times its size in memory, whoever sends it."""
_ROOM_SECONDS = 3.0
_RETRY_SECONDS = 5

Apply = Callable[[Session, float], Effect]


@dataclass(frozen=True)
class Progress:
    """Where an upload stands. outcome: when it is whole and was judged."""

    offset: int
    outcome: dict[str, Any] | None = None


def begin_upload(server: Server, device_id: str, kind: str, sha256: str, size: int, chunk: bytes) -> Progress:
    """Announce an upload and give its first chunk, which may be empty. What is known already is answered at once.

    Raises Refused: 413 too-large, 422 refused, 429 too-many.
    """
    if kind not in KINDS or not _HEX_SHA256.match(sha256) or size < 1 or len(chunk) > size:
        raise Refused(
            422, "refused", f"an upload has a kind of {', '.join(KINDS)}, a SHA-256 in hex and a size of at least 1"
        )
    if size > server.settings.max_upload_bytes:
        raise Refused(
            413, "too-large", f"{size} bytes in one upload, at most {server.settings.max_upload_bytes} are taken"
        )
    if len(chunk) == size:
        with reading(server.engine) as session:
            known = _known(session, device_id, sha256)
        if known is not None:
            return Progress(size, known)
        return Progress(size, _finish(server, device_id, kind, sha256, chunk, n_new=size))
    with transaction(server.engine) as session:
        device = _locked(session, device_id)
        known = _known(session, device_id, sha256)
        if known is not None:
            return Progress(size, known)
        upload = session.get(Upload, (device_id, sha256))
        if upload is not None and (upload.kind, upload.size) != (kind, size):
            _drop(session, upload)
            upload = None
        if upload is None:
            _require_few(session, device_id, server.settings)
            upload = Upload(device_id=device_id, sha256=sha256, kind=kind, size=size, offset=0, begun_at=server.clock())
            session.add(upload)
            session.flush()
        if upload.offset == 0:
            _append(session, server, device, upload, chunk)
        offset = upload.offset
    return _whole_or(server, device_id, sha256, kind, size, offset)


def continue_upload(server: Server, device_id: str, sha256: str, offset: int, chunk: bytes) -> Progress:
    """Add the chunk that begins at ``offset``.

    Raises Refused: 404 not-found, 409 offset, 413 too-large, 422 refused, 429 too-many.
    """
    with transaction(server.engine) as session:
        device = _locked(session, device_id)
        known = _known(session, device_id, sha256)
        if known is not None:
            return Progress(offset, known)
        upload = session.get(Upload, (device_id, sha256))
        if upload is None:
            raise Refused(404, "not-found", "nothing of this upload is here; begin it with POST /v1/uploads")
        if upload.offset != offset:
            raise Refused(
                409, "offset", f"{upload.offset} bytes are here, not {offset}", more={"offset": upload.offset}
            )
        if offset + len(chunk) > upload.size:
            raise Refused(413, "too-large", f"the chunk goes past the {upload.size} bytes that were announced")
        _append(session, server, device, upload, chunk)
        kind, size, offset = upload.kind, upload.size, upload.offset
    return _whole_or(server, device_id, sha256, kind, size, offset)


def upload_offset(server: Server, device_id: str, sha256: str) -> int | None:
    """Return how many bytes of an unfinished upload are here; None when nothing is."""
    with reading(server.engine) as session:
        upload = session.get(Upload, (device_id, sha256))
    return None if upload is None else upload.offset


def drop_stale_uploads(session: Session, now: float, stale_seconds: float = 7 * DAY_SECONDS) -> int:
    """Drop uploads that were begun long ago and never became whole; returns how many."""
    stale = session.scalars(select(Upload).where(Upload.begun_at < now - stale_seconds)).all()
    for upload in stale:
        _drop(session, upload)
    return len(stale)


def drop_waiting_clips(session: Session, now: float, waiting_seconds: float) -> set[str]:
    """Remove clips that waited long enough for the embeddings of a device that moved; returns names of blobs."""
    waited = select(State.device_id).where(State.accepted_at < now - waiting_seconds)
    named = select(Embedded.record_id).where(
        Embedded.device_id == Clip.device_id, Embedded.content_sha256 == Clip.content_sha256
    )
    homeless = select(Clip.device_id).where(Clip.device_id.in_(waited), ~named.exists()).distinct()
    devices = [i for i in session.scalars(homeless.order_by(Clip.device_id)) if lock_row(session, Device, i)]
    return {name for device_id in devices for name in remove_homeless_clips(session, device_id)}


def _whole_or(server: Server, device_id: str, sha256: str, kind: str, size: int, offset: int) -> Progress:
    if offset < size:
        return Progress(offset)
    with _room_for(size):
        with reading(server.engine) as session:
            if (known := _known(session, device_id, sha256)) is not None:
                return Progress(size, known)
            own = Chunk.device_id == device_id, Chunk.sha256 == sha256
            data = b"".join(session.scalars(select(Chunk.data).where(*own).order_by(Chunk.offset)))
        return Progress(size, _finish(server, device_id, kind, sha256, data, n_new=0))


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Let a few large uploads be checked at once; what is here stays here for the next try. Raises Refused 503."""
    if size <= _LARGE_BYTES:
        yield
        return
    if not _LARGE_AT_ONCE.acquire(timeout=_ROOM_SECONDS):
        raise Refused(
            503,
            "unavailable",
            "other large uploads are being checked; ask again",
            headers={"retry-after": str(_RETRY_SECONDS)},
        )
    try:
        yield
    finally:
        _LARGE_AT_ONCE.release()


def _finish(server: Server, device_id: str, kind: str, sha256: str, data: bytes, *, n_new: int) -> dict[str, Any]:
    """Judge a whole upload and count it. n_new: bytes that the device's account does not hold yet."""
    if hashlib.sha256(data).hexdigest() != sha256:
        with transaction(server.engine) as session:
            if (upload := session.get(Upload, (device_id, sha256))) is not None:
                _drop(session, upload)
        raise Refused(422, "refused", f"the {len(data)} bytes of the upload do not match their SHA-256; send it again")
    try:
        apply = _judged(server, device_id, kind, data, sha256)
    except Rejected as rejected:
        apply = _rejection(device_id, kind, rejected)
    let_go = {sha256}  # put before anything names it: it goes again unless this upload, or its twin, is accepted
    try:
        with transaction(server.engine) as session:
            device = _locked(session, device_id)
            known = _known(session, device_id, sha256)
            if known is not None:
                return known
            now = server.clock()
            _count_bytes(device, n_new, now, server.settings)
            try:
                with session.begin_nested():
                    effect = apply(session, now)
            except Contradiction as contradiction:
                device.status, device.status_reason = "quarantined", str(contradiction)
                effect = _rejection(device_id, kind, contradiction)(session, now)
                effect.let_go = {sha256}
            if (upload := session.get(Upload, (device_id, sha256))) is not None:
                _drop(session, upload)
            session.add(Outcome(device_id=device_id, sha256=sha256, kind=kind, result=effect.outcome, at=now))
        let_go = effect.let_go
        return effect.outcome
    finally:
        collect(server, let_go if kind == "state" else let_go - {sha256})


def _judged(server: Server, device_id: str, kind: str, data: bytes, sha256: str) -> Apply:
    """Check an upload of ``kind``, put its blobs, and return what it changes. Raises Rejected."""
    with reading(server.engine) as session:
        spaces = set(session.scalars(select(Space.sha256)))
        state = session.get(State, device_id)
    if kind == "state":
        message = check_statement(data, spaces, server.settings)
        if state is None or message.revision > state.revision:
            server.blobs.put(data)  # the slow part, while nobody waits for this transaction

        def statement(session: Session, now: float) -> Effect:
            hold_blobs(session)
            effect = take_statement(session, device_id, message, sha256, now)
            if effect.result == CREATED:
                server.blobs.put(data)
            return effect

        return statement
    if kind == "embeddings":
        _, records, reasons = check_embeddings(data, spaces)
        return lambda session, now: take_embeddings(session, device_id, records, reasons, now)
    clips = check_clips(data)

    def pack(session: Session, now: float) -> Effect:
        hold_blobs(session)
        effect, kept = take_clips(session, device_id, clips, server.settings.max_clip_bytes, now)
        for wav in kept:
            server.blobs.put(wav)
        return effect

    return pack


def _rejection(device_id: str, kind: str, rejected: Rejected) -> Apply:
    def apply(session: Session, now: float) -> Effect:
        remember_refusal(session, now, device_id, kind, str(rejected))
        return Effect(REJECTED, str(rejected))

    return apply


def _known(session: Session, device_id: str, sha256: str) -> dict[str, Any] | None:
    outcome = session.get(Outcome, (device_id, sha256))
    return None if outcome is None else outcome.result


def _locked(session: Session, device_id: str) -> Device:
    device = lock_row(session, Device, device_id)
    if device is None:
        raise unknown_device(device_id)
    require_not_revoked(device)  # the signature was checked in an earlier transaction
    return device


def _append(session: Session, server: Server, device: Device, upload: Upload, chunk: bytes) -> None:
    if not chunk:
        return
    assert len(chunk) <= CHUNK_BYTES
    _count_bytes(device, len(chunk), server.clock(), server.settings)
    session.add(Chunk(device_id=upload.device_id, sha256=upload.sha256, offset=upload.offset, data=chunk))
    upload.offset += len(chunk)


def _count_bytes(device: Device, n_bytes: int, now: float, settings: ServerSettings) -> None:
    day = int(now // DAY_SECONDS)
    today = n_bytes + (device.n_bytes_today if device.day == day else 0)
    if n_bytes and today > settings.max_bytes_per_day:
        wait = DAY_SECONDS - int(now) % DAY_SECONDS
        raise Refused(
            429,
            "too-many",
            f"more than {settings.max_bytes_per_day} bytes in one day; go on in {wait} seconds",
            headers={"retry-after": str(wait)},
        )
    device.day, device.n_bytes_today = day, today
    device.n_bytes_up += n_bytes


def _require_few(session: Session, device_id: str, settings: ServerSettings) -> None:
    n_unfinished = session.scalar(select(func.count()).where(Upload.device_id == device_id))
    if n_unfinished is not None and n_unfinished >= settings.max_unfinished_uploads:
        raise Refused(
            429,
            "too-many",
            f"{n_unfinished} uploads of this device are not finished; finish one of them first",
            headers={"retry-after": str(_BUSY_SECONDS)},
        )


def _drop(session: Session, upload: Upload) -> None:
    session.execute(delete(Chunk).where(Chunk.device_id == upload.device_id, Chunk.sha256 == upload.sha256))
    session.delete(upload)
    session.flush()
