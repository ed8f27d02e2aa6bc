"""One upload in chunks: begun, resumed where the server says, and ended with what became of it.

Nothing about a half-sent upload is kept here. Its name is the hash of its bytes and the server knows how much of it is
there, so a cut costs at most one chunk, whoever was killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.errors import SyncError
from edge.sync.client import Answer, SignedClient
from edge.sync.outbox import no_crash
from edge.sync.printable import printable
from edge.sync.retry import TryLaterError, Verdict, judge

CHUNK_BYTES = 256 * 1024
MAX_TURNS_WITHOUT_PROGRESS = 8


@dataclass(frozen=True)
class Outcome:
    """What the server says of an upload. result: created, duplicate, superseded or rejected. items: result by name.

    revision: with superseded, the newest statement that the server knows.
    """

    result: str
    reason: str | None = None
    items: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0


def send_upload(
    client: SignedClient,
    kind: str,
    data: bytes,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    crash_point: Callable[[str], None] = no_crash,
) -> Outcome:
    """Send ``data`` and return what became of it; what the server has of it already is not sent again.

    Raises TryLaterError (go on later, from where it was), StoppedError, SyncError (the server talks nonsense).
    """
    name, size = hashlib.sha256(data).hexdigest(), len(data)
    small = size <= chunk_bytes
    begin = f"/v1/uploads?kind={kind}&sha256={name}&size={size}"
    answer = client.ask("POST", begin, data if small else b"", kind=kind)
    crash_point("upload-begun")
    offset, n_idle = -1, 0
    while True:
        outcome = _outcome(answer)
        if outcome is not None:
            crash_point("outcome-received")
            return outcome
        previous, offset = offset, _offset(answer, size)
        n_idle = 0 if offset > previous else n_idle + 1
        if n_idle > MAX_TURNS_WITHOUT_PROGRESS:
            raise TryLaterError(f"the upload {name[:12]} does not advance beyond byte {offset}; later again")
        chunk = data[offset : offset + chunk_bytes]
        answer = client.ask("PATCH", f"/v1/uploads/{name}?offset={offset}", chunk, kind=kind)
        if answer.status == 404:  # the server dropped what it had of it
            answer = client.ask("POST", begin, kind=kind)
        crash_point("chunk-sent")


def _outcome(answer: Answer) -> Outcome | None:
    verdict = judge(answer.status, answer.kind)
    told = answer.body.get("outcome")
    if verdict is Verdict.REFUSED:
        told = told if isinstance(told, dict) else {}
        reason = told.get("reason")
        return Outcome("rejected", printable(reason) if isinstance(reason, str) else answer.sentence, _items(told))
    if told is None:
        return None
    if not isinstance(told, dict) or told.get("result") not in ("created", "duplicate", "superseded", "rejected"):
        raise SyncError("the server's outcome of an upload cannot be read; update the older of both sides")
    revision = told.get("revision")
    return Outcome(
        told["result"],
        printable(told["reason"]) if isinstance(told.get("reason"), str) else None,
        _items(told),
        revision if type(revision) is int and revision > 0 else 0,
    )


def _items(told: Mapping[str, Any]) -> Mapping[str, str]:
    items = told.get("items")
    return {str(name): printable(str(said)) for name, said in items.items()} if isinstance(items, dict) else {}


def _offset(answer: Answer, size: int) -> int:
    offset: Any = answer.body.get("offset")
    if type(offset) is not int or not 0 <= offset <= size:
        raise SyncError(f"the server says that an upload of {size} bytes goes on at {offset!r:.40}; update the older")
    return offset
