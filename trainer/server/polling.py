"""The poll: a device says how it is, and hears what the server holds of it and what it would like."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from trainer.server.auth import unknown_device
from trainer.server.database import lock_row, reading, transaction
from trainer.server.limits import CHUNK_BYTES
from trainer.server.opening import Server
from trainer.server.plain_words import plain_text, whole_number
from trainer.server.privacy import private_labels
from trainer.server.refusals import Refused
from trainer.server.tables import Device, PublishedBundle, State

MAX_WORD_LENGTH = 100
_MAX_NUMBER = 2**53


def poll(server: Server, device_id: str, body: bytes) -> dict[str, Any]:
    """Keep the report in ``body`` and return the answer of the protocol. Raises Refused 422."""
    report = parse_report(body)
    with reading(server.engine) as session:
        device = session.get(Device, device_id)
        if device is None:
            raise unknown_device(device_id)
        answer = _answer(server, session, device_id)
        changed = device.report != report
    if changed:
        with transaction(server.engine) as session:
            if (row := lock_row(session, Device, device_id)) is not None:
                row.report = report
    return answer


def parse_report(body: bytes) -> dict[str, Any]:
    """Return what is kept of a report: known names, short words and numbers. Raises Refused 422."""
    try:
        said = json.loads(body)
        if not isinstance(said, dict):
            raise TypeError("a report is an object")
        report: dict[str, Any] = {
            name: plain_text(said[name], MAX_WORD_LENGTH)
            for name in ("version", "slot", "setting")
            if said.get(name) is not None
        }
        if said.get("revision") is not None:
            report["revision"] = whole_number(said["revision"], 0, _MAX_NUMBER)
        if said.get("bundle") is not None:
            bundle = said["bundle"]
            if not isinstance(bundle, dict):
                raise TypeError("the bundle of a report is an object")
            report["bundle"] = {
                name: _word_or_number(bundle[name])
                for name in ("name", "version", "sha256", "space")
                if bundle.get(name) is not None
            }
        return report
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(422, "refused", f"the report is malformed: {str(error)[:200]}") from None


def _word_or_number(value: Any) -> str | int:
    return plain_text(value, MAX_WORD_LENGTH) if isinstance(value, str) else whole_number(value, 0, _MAX_NUMBER)


def _answer(server: Server, session: Session, device_id: str) -> dict[str, Any]:
    state = session.get(State, device_id)
    newest = session.scalar(
        select(PublishedBundle)
        .where(PublishedBundle.status == "published")
        .order_by(PublishedBundle.published_at.desc(), PublishedBundle.version.desc())
        .limit(1)
    )
    return {
        "time": int(server.clock()),
        "revision": 0 if state is None else state.revision,
        "state": None if state is None else state.blob_sha256,
        "private_labels": list(private_labels(session, device_id)),
        "bundles": None if newest is None else {"name": newest.name, "version": newest.version},
        "limits": {"max_upload_bytes": server.settings.max_upload_bytes, "chunk_bytes": CHUNK_BYTES},
    }
