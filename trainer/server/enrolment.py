"""How a device becomes known: a token that the operator hands over, used once, and the key that the device brings."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edge.errors import StateError
from edge.sync.keys import PUBLIC_BYTES, device_id
from trainer.server.auth import Request, require_not_revoked, require_signature, signed_headers, use_sequence
from trainer.server.database import add_missing, lock_row, reading, transaction
from trainer.server.limits import MINUTE_SECONDS
from trainer.server.opening import Server
from trainer.server.plain_words import plain_text
from trainer.server.refusals import Refused, remember_refusal
from trainer.server.replay import ReplayWindow
from trainer.server.tables import Device, Refusal, Setting, Token

CHANCE_LENGTH = 22
FINGERPRINT_LENGTH = 22
MAX_NAME_LENGTH = 100
REMEMBERED_PER_MINUTE = 20
"""Refusals of strangers that are kept for the status page: who has no token must not be able to fill the disk."""
ROOT_PATH = Path("repository") / "metadata" / "1.root.json"
SERVER_ID_KEY = "server_id"
_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{CHANCE_LENGTH}}}([A-Za-z0-9_-]{{{FINGERPRINT_LENGTH}}})?\Z")
_MAX_ROOT_BYTES = 1 << 20


def first_root(data_dir: Path) -> bytes | None:
    """Return the first TUF root file of the server; None where no repository was made. Raises StateError."""
    try:
        with (data_dir / ROOT_PATH).open("rb") as file:
            return file.read(_MAX_ROOT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"the root file of the bundles cannot be read ({error}); correct its rights") from error


def fingerprint(root: bytes) -> str:
    """Return the part of a token that names the first root file."""
    return base64.urlsafe_b64encode(hashlib.sha256(root).digest()).decode("ascii")[:FINGERPRINT_LENGTH]


def make_token(server: Server) -> str:
    """Return a new token for one device; only its hash is kept."""
    chance = secrets.token_urlsafe(16)
    while chance.startswith("-"):  # a command would take it for an option
        chance = secrets.token_urlsafe(16)
    with transaction(server.engine) as session:
        session.add(Token(sha256=_token_name(chance), created_at=server.clock()))
    root = first_root(server.data_dir)
    return chance if root is None else chance + fingerprint(root)


def enrol(server: Server, request: Request) -> dict[str, Any]:
    """Take up the device that sends ``request``; the same key with the same token gets the same answer again.

    Raises Refused: 401 bad-signature, 403 bad-token and revoked, 409 replayed, 422 refused.
    """
    token, public_key, name = _parse(request.body)
    signed = signed_headers(request)
    require_signature(signed, public_key, request)
    device, now = device_id(public_key), server.clock()
    _require_token(server, token, device, name)
    with transaction(server.engine) as session:
        offered = lock_row(session, Token, _token_name(token))
        if offered is None or not _serves(offered, device):  # another device was faster
            raise _bad_token()
        row = lock_row(session, Device, device)
        if row is None:
            row = Device(id=device, name=name, public_key=public_key, status="active", enrolled_at=now)
            # what this key signed before is of another life of the device, that the operator removed
            window = ReplayWindow.beginning_after(signed.sequence - 1)
            row.sequence_top, row.sequence_seen = window.top, window.to_bytes()
            session.add(row)
        require_not_revoked(row)
        use_sequence(row, signed.sequence)
        row.name, row.last_seen_at = name, now
        offered.used_by, offered.used_at = device, offered.used_at or now
        server_id = _server_id(session)
    root = first_root(server.data_dir)
    encoded = None if root is None else base64.b64encode(root).decode("ascii")
    return {"device_id": device, "server": server_id, "root": encoded}


def _require_token(server: Server, token: str, device: str, name: str) -> None:
    """Look first without a lock: a stranger makes no writer wait, and leaves few rows behind. Raises Refused 403."""
    now = server.clock()
    with reading(server.engine) as session:
        offered = session.get(Token, _token_name(token)) if _TOKEN.match(token) else None
        if offered is not None and _serves(offered, device):
            return
        late = select(Refusal.id).where(Refusal.device_id.is_(None), Refusal.at > now - MINUTE_SECONDS)
        n_late = len(session.scalars(late.limit(REMEMBERED_PER_MINUTE)).all())
    if n_late < REMEMBERED_PER_MINUTE:
        with transaction(server.engine) as session:
            remember_refusal(session, now, None, "enrolment", f"{name!r} came with a token that is not known or used")
    raise _bad_token()


def _serves(token: Token, device: str) -> bool:
    """Whether ``device`` may use the token: nobody did, or this device and it asks again."""
    return token.used_by == device or (token.used_by is None and token.used_at is None)


def _bad_token() -> Refused:
    return Refused(403, "bad-token", "this token is not known, or was used; ask the operator for another one")


def _token_name(token: str) -> str:
    return hashlib.sha256(b"soundkeep token 1\0" + token[:CHANCE_LENGTH].encode("ascii")).hexdigest()


def _parse(body: bytes) -> tuple[str, bytes, str]:
    try:
        values = json.loads(body)
        token, encoded, name = values["token"], values["public_key"], values["name"]
        if not isinstance(token, str) or not isinstance(encoded, str):
            raise TypeError("token and public_key are texts")
        public_key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        if len(public_key) != PUBLIC_BYTES:
            raise ValueError(f"the public key has {len(public_key)} bytes, wanted {PUBLIC_BYTES}")
        return token, public_key, plain_text(name, MAX_NAME_LENGTH)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise Refused(
            422, "refused", f"the enrolment is malformed: {str(error) or type(error).__name__:.200}"
        ) from None


def _server_id(session: Session) -> str:
    row = session.get(Setting, SERVER_ID_KEY)
    if row is None:  # of several first enrolments at once, one names the server
        add_missing(session, Setting, key=SERVER_ID_KEY, value=secrets.token_hex(16))
        row = session.get_one(Setting, SERVER_ID_KEY)
    return str(row.value)
