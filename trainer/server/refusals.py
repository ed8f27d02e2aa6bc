"""A refused request: a status, a word for programs and a sentence for people (the table of the protocol)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from edge.errors import SoundkeepError
from trainer.server.tables import Refusal

MAX_REASON_LENGTH = 1000


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
