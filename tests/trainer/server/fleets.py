"""A fleet in the database, without sockets: devices that enrolled, and statements that were accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edge.records import Record
from edge.space import EmbeddingSpace
from edge.sync.state_message import decode_state
from tests.simulators.fleet_device import SPACE, statement
from trainer.server.collecting import collect
from trainer.server.database import transaction
from trainer.server.effects import take_embeddings, take_statement
from trainer.server.opening import Server
from trainer.server.spaces import know_space
from trainer.server.tables import Device


def id_of(name: str) -> str:
    """The id of the device that is called ``name`` here."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def enrol(server: Server, name: str) -> str:
    """Add a device; returns its id."""
    device_id = id_of(name)
    with transaction(server.engine) as session:
        session.add(Device(id=device_id, name=name, public_key=b"k" * 32, status="active", enrolled_at=1.0))
    return device_id


def say(
    server: Server, device_id: str, records: Sequence[Record], *, revision: int = 1, space: EmbeddingSpace = SPACE
) -> None:
    """Have the statement of ``records`` accepted."""
    data = statement(revision, records, space)
    with transaction(server.engine) as session:
        know_space(session, space)
        effect = take_statement(session, device_id, decode_state(data), server.blobs.put(data), 2.0)
    collect(server, effect.let_go)


def show(server: Server, device_id: str, records: Sequence[Record]) -> None:
    """Have the embeddings of ``records`` accepted."""
    with transaction(server.engine) as session:
        take_embeddings(session, device_id, records, {}, 3.0)


def set_status(server: Server, device_id: str, status: str) -> None:
    with transaction(server.engine) as session:
        row = session.get(Device, device_id)
        assert row is not None
        row.status = status
