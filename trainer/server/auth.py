"""Who sends a request: signature, revocation, replay and the limit on requests, in one transaction on the device's row.

The signature is checked before anything is written, and a device id is the hash of its key, so keys can be kept in
memory: a stranger costs the database one look-up at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.errors import SyncError
from edge.sync.keys import device_id
from edge.sync.signing import SignedHeaders, parse_headers
from trainer.server.database import lock_row, reading, transaction
from trainer.server.limits import MINUTE_SECONDS
from trainer.server.opening import Server
from trainer.server.refusals import Refused
from trainer.server.replay import ReplayWindow
from trainer.server.tables import Device

_MAX_KEYS = 100_000


@dataclass(frozen=True)
class Request:
    """What is signed of a request. target: path and query as sent. body: the whole of it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Authority:
    """Decides who sends a request. One for each process."""

    server: Server
    _keys: dict[str, bytes] = field(default_factory=dict)

    def device(self, request: Request) -> str:
        """Return the id of the enrolled device that sends ``request``; its sequence number is used up.

        Raises Refused: 401 unknown-device, bad-signature; 403 revoked; 409 replayed; 429 too-many.
        """
        signed = signed_headers(request)
        require_signature(signed, self._public_key(signed.device_id), request)
        self._use_up(signed)
        return signed.device_id

    def _public_key(self, device: str) -> bytes:
        if (known := self._keys.get(device)) is not None:
            return known
        with reading(self.server.engine) as session:
            row = session.get(Device, device)
        if row is None:
            raise unknown_device(device)
        if len(self._keys) >= _MAX_KEYS:
            self._keys.clear()
        self._keys[device] = row.public_key
        return row.public_key

    def _use_up(self, signed: SignedHeaders) -> None:
        now = self.server.clock()
        with transaction(self.server.engine) as session:
            row = lock_row(session, Device, signed.device_id)
            if row is None:
                self._keys.pop(signed.device_id, None)
                raise unknown_device(signed.device_id)
            require_not_revoked(row)
            use_sequence(row, signed.sequence)
            row.last_seen_at = now
            too_many = self._count(row, now)
        if too_many:
            wait = MINUTE_SECONDS - int(now) % MINUTE_SECONDS
            raise Refused(
                429,
                "too-many",
                f"more than {self.server.settings.max_requests_per_minute} requests within a minute; "
                f"go on in {wait} seconds",
                headers={"retry-after": str(wait)},
            )

    def _count(self, row: Device, now: float) -> bool:
        minute = int(now // MINUTE_SECONDS)
        row.n_requests = row.n_requests + 1 if row.minute == minute else 1
        row.minute = minute
        return row.n_requests > self.server.settings.max_requests_per_minute


def signed_headers(request: Request) -> SignedHeaders:
    """Read the headers that carry the signature. Raises Refused 401 bad-signature."""
    try:
        return parse_headers(request.headers)
    except SyncError as error:
        raise Refused(401, "bad-signature", str(error)) from None


def require_signature(signed: SignedHeaders, public_key: bytes, request: Request) -> None:
    """Raise Refused 401 bad-signature unless the owner of ``public_key`` signed exactly this request."""
    if signed.device_id != device_id(public_key) or not signed.holds(
        public_key, request.method, request.target, request.body
    ):
        raise Refused(
            401, "bad-signature", "the signature does not fit this request and this device; enrol the device again"
        )


def require_not_revoked(row: Device) -> None:
    """Raise Refused 403 revoked for a device that the operator shut out."""
    if row.status == "revoked":
        raise Refused(403, "revoked", f"the operator revoked this device ({row.status_reason or 'no reason given'})")


def use_sequence(row: Device, sequence: int) -> None:
    """Mark ``sequence`` as seen. Raises Refused 409 replayed when it was seen, or is older than the window."""
    window = ReplayWindow.from_bytes(row.sequence_top, row.sequence_seen).take(sequence)
    if window is None:
        raise Refused(
            409,
            "replayed",
            f"request {sequence} was seen before or is too old; the newest is {row.sequence_top}",
            more={"sequence_top": row.sequence_top},
        )
    row.sequence_top, row.sequence_seen = window.top, window.to_bytes()


def unknown_device(device: str) -> Refused:
    return Refused(401, "unknown-device", f"device {device} is not enrolled here; enrol it with a token")
