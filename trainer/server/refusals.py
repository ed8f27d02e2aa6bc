"""A refused request: a status, a word for programs and a sentence for people (the table of the protocol)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from edge.errors import SoundkeepError
from trainer.server.tables import Refusal

MAX_REASON_LENGTH = 1000
KEPT = 200
"""Refusals that are kept of each device, and of all strangers together."""


class Refused(SoundkeepError):
    """Raised anywhere below a request; it becomes ``{"error", "kind", ...}`` with its status."""

    def __init__(
        self,
        status: int,
        kind: str,
        sentence: str,
        *,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind
        self.more = dict(more or {})
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        return {"error": str(self), "kind": self.kind, **self.more}


def remember_refusal(session: Session, now: float, device_id: str | None, what: str, reason: str) -> None:
    """Keep a refusal for the status page."""
    session.add(Refusal(at=now, device_id=device_id, what=what, reason=reason[:MAX_REASON_LENGTH]))


def forget_refusals(session: Session) -> None:
    """Remove all but the newest ``KEPT`` refusals of each device: one that is refused all day fills no disk."""
    newest_first = func.row_number().over(partition_by=Refusal.device_id, order_by=Refusal.id.desc())
    ranked = select(Refusal.id, newest_first.label("n")).subquery()
    session.execute(delete(Refusal).where(Refusal.id.in_(select(ranked.c.id).where(ranked.c.n > KEPT))))
