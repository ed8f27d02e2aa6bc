"""The influence check on the fleet in the database, and quarantine for those that it accuses.

A device in quarantine goes on syncing; its statement leaves the fleet's sum until it is released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import select

from edge.errors import MisuseError
from edge.records import BACKGROUND, embeddings_from_bytes
from edge.space import FeatureSpace
from edge.statistics_file import PackedStatistics
from trainer.server.database import lock_row, reading, transaction
from trainer.server.ears import bundle_of_space
from trainer.server.fleet import Selection, looked_at
from trainer.server.fleet_sum import FleetSum
from trainer.server.influence import Examination, Finding, HeldOut, Member, accuse, sum_of
from trainer.server.labels import label_rules
from trainer.server.opening import Server
from trainer.server.statements import Statement, read_statement
from trainer.server.tables import Device, Embedded, State

HELD_OUT_ONE_IN = 4
MAX_HELD_OUT_RECORDS = 4000


def check_fleet(server: Server, quarantine: bool, space: str | None = None) -> list[Finding]:
    """Return the evidence against devices whose labels harm a class, and what is unusual. Raises MisuseError.

    quarantine: take the accused out of the fleet's sum at once, with the evidence as the reason; what is only unusual
    has no consequence.
    """
    selection, proven, unusual = looked_at(server, space, _examine)
    if quarantine:
        proven = _quarantined(server, selection, proven)
    return [*proven, *unusual]


def _examine(server: Server, selection: Selection) -> tuple[Selection, list[Finding], list[Finding]]:
    if selection.space is None:
        return selection, [], []
    members = [_member(server, selection.space, statement) for statement in selection.statements]
    bundle = bundle_of_space(server, selection.space.embedding.sha256)
    held_out = _agreeing(members, _held_out(server, selection), selection.space)
    prior = None if bundle is None else bundle.prior()
    return selection, *accuse(Examination(selection.space, members, held_out, prior))


def _member(server: Server, space: FeatureSpace, statement: Statement) -> Member:
    def load() -> PackedStatistics:
        part = read_statement(server.blobs, space, statement)
        if not statement.names:
            return part
        renamed = FleetSum(space)
        renamed.add(part, statement.names)
        return renamed.packed()

    return Member(statement.device_id, statement.device_name, statement.fleet_labels(), statement.n_records, load)


def _held_out(server: Server, selection: Selection) -> list[HeldOut]:
    """About a quarter of the records whose embeddings are here; their ids decide which."""
    assert selection.space is not None
    devices = {statement.device_id for statement in selection.statements}
    space = selection.space.embedding
    with reading(server.engine) as session:
        rules = label_rules(session)
        query = select(Embedded.record_id).where(Embedded.space_sha256 == space.sha256).distinct()
        chosen = sorted(i for i in session.scalars(query) if int(i[:8], 16) % HELD_OUT_ONE_IN == 0)
        found = []
        for start in range(0, min(len(chosen), MAX_HELD_OUT_RECORDS), 500):
            ids = chosen[start : start + 500]
            for row in session.scalars(select(Embedded).where(Embedded.record_id.in_(ids))):
                label = row.label if row.label == BACKGROUND else rules.resolve(row.device_id, row.label)
                if row.device_id in devices and label is not None:
                    rows = embeddings_from_bytes(row.embeddings, row.n_windows, space.dim)
                    found.append(HeldOut(row.device_id, label, rows))
    return found


def _agreeing(members: Sequence[Member], held_out: Sequence[HeldOut], space: FeatureSpace) -> list[HeldOut]:
    """Leave out the records of devices whose statement cannot hold them (or moved on meanwhile)."""
    kept = []
    for member in members:
        own = [record for record in held_out if record.device_id == member.device_id]
        try:
            if own:
                FleetSum.of(space, [member.load()]).subtract(sum_of(space, own))
        except MisuseError:
            continue
        kept += own
    return kept


def _quarantined(server: Server, selection: Selection, proven: Sequence[Finding]) -> list[Finding]:
    """Put the accused in quarantine, but none that said something else or was judged by the operator meanwhile."""
    stated = {statement.device_id: statement for statement in selection.statements}
    done = set()
    for device_id in dict.fromkeys(finding.device_id for finding in proven):
        with transaction(server.engine) as session:
            row, state = lock_row(session, Device, device_id), session.get(State, device_id)
            same = state is not None and state.blob_sha256 == stated[device_id].blob_sha256
            if row is not None and row.status == "active" and same:
                words = "; ".join(finding.words for finding in proven if finding.device_id == device_id)
                row.status, row.status_reason = "quarantined", words
                done.add(device_id)
    return [replace(finding, quarantined=finding.device_id in done) for finding in proven]
