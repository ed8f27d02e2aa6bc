"""What the operator does with devices: look, revoke, release from quarantine, remove exactly."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from edge.errors import MisuseError
from trainer.server.collecting import collect
from trainer.server.database import lock_row, reading, transaction
from trainer.server.opening import Server
from trainer.server.tables import Chunk, Clip, Device, Embedded, LabelRule, Refusal, State, Token


def describe_devices(session: Session) -> list[dict[str, Any]]:
    """Return all devices as plain values, the one that was enrolled first at the head."""
    states = {state.device_id: state for state in session.scalars(select(State))}
    n_embedded = _count_by_device(session, Embedded)
    n_clips = _count_by_device(session, Clip)
    rows = session.scalars(select(Device).order_by(Device.enrolled_at, Device.id))
    return [_described(row, states.get(row.id), n_embedded.get(row.id, 0), n_clips.get(row.id, 0)) for row in rows]


def list_devices(server: Server) -> list[dict[str, Any]]:
    """Return all devices as plain values."""
    with reading(server.engine) as session:
        return describe_devices(session)


def show_device(server: Server, wanted: str) -> dict[str, Any]:
    """Return one device, named by its id, the beginning of its id or its name. Raises MisuseError.

    A device gives itself its name, which may be how the id of another one begins: then only the whole id will do.
    """
    devices = list_devices(server)
    found = [device for device in devices if device["id"] == wanted] or [
        device for device in devices if wanted and (device["name"] == wanted or device["id"].startswith(wanted))
    ]
    if len(found) != 1:
        how_many = "no device is" if not found else f"{len(found)} devices are"
        raise MisuseError(f"{how_many} called {wanted!r}; give an id of 'soundkeep-trainer devices list'")
    return found[0]


def revoke_device(server: Server, wanted: str, reason: str | None = None) -> dict[str, Any]:
    """Refuse every request of a device from now on; what it taught stays until it is removed."""
    return _set_status(server, wanted, "revoked", reason)


def release_device(server: Server, wanted: str) -> dict[str, Any]:
    """Take a device out of quarantine. Raises MisuseError when it is not in it."""
    device = show_device(server, wanted)
    if device["status"] != "quarantined":
        raise MisuseError(f"device {device['name']!r} is {device['status']}; only a quarantined device is released")
    return _set_status(server, device["id"], "active", None)


def remove_device(server: Server, wanted: str) -> dict[str, Any]:
    """Remove a device and everything that came from it, exactly. Raises MisuseError."""
    device = show_device(server, wanted)
    own = device["id"]
    with transaction(server.engine) as session:
        row = lock_row(session, Device, own)
        if row is not None:
            names = set(session.scalars(select(Clip.wav_sha256).where(Clip.device_id == own)))
            names |= set(session.scalars(select(State.blob_sha256).where(State.device_id == own)))
            for table in (Chunk, Refusal, LabelRule):
                session.execute(delete(table).where(table.device_id == own))
            session.execute(update(Token).where(Token.used_by == own).values(used_by=None))
            session.execute(delete(Device).where(Device.id == own))
    if row is not None:
        collect(server, names)
    return device


def _set_status(server: Server, wanted: str, status: str, reason: str | None) -> dict[str, Any]:
    device = show_device(server, wanted)
    with transaction(server.engine) as session:
        row = lock_row(session, Device, device["id"])
        if row is not None:
            row.status, row.status_reason = status, reason
    return show_device(server, device["id"])


def _count_by_device(session: Session, table: type[Embedded] | type[Clip]) -> dict[str, int]:
    rows = session.execute(select(table.device_id, func.count()).group_by(table.device_id))
    return {row[0]: row[1] for row in rows}


def _described(row: Device, state: State | None, n_embedded: int, n_clips: int) -> dict[str, Any]:
    statement = None
    if state is not None:
        statement = {
            "revision": state.revision,
            "space": state.space_sha256,
            "statistics_sha256": state.statistics_sha256,
            "n_records": state.n_records,
            "n_windows": state.n_windows,
            "labels": state.labels,
            "accepted_at": state.accepted_at,
            "held_back": state.held_back,
        }
    return {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "reason": row.status_reason,
        "enrolled_at": row.enrolled_at,
        "last_seen_at": row.last_seen_at,
        "n_bytes_up": row.n_bytes_up,
        "report": row.report,
        "statement": statement,
        "n_embedded": n_embedded,
        "n_clips": n_clips,
    }
