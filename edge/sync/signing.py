"""What a device signs of each request, and the headers that carry it; both ends. No I/O.

Signed are method, target (path and query as sent), the hash of the body, the device, a sequence number and a nonce. The
sequence grows on the device and outlives restarts. The server remembers which of the last ``REPLAY_WINDOW`` it saw, so
that a request counts once whatever the network repeats, and order does not matter within that window.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge.errors import SyncError
from edge.sync.keys import SIGNATURE_BYTES, DeviceKey, signature_holds

DEVICE = "x-soundkeep-device"
SEQUENCE = "x-soundkeep-sequence"
NONCE = "x-soundkeep-nonce"
SIGNATURE = "x-soundkeep-signature"

REPLAY_WINDOW = 1024
MAX_SEQUENCE = 2**53
NONCE_BYTES = 16

_DEVICE_ID = re.compile(r"[0-9a-f]{32}\Z")
_NUMBER = re.compile(r"[1-9][0-9]{0,15}\Z")
_NONCE = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True)
class SignedHeaders:
    """The four headers of a request, checked for form only."""

    device_id: str
    sequence: int
    nonce: str
    signature: bytes

    def holds(self, public_key: bytes, method: str, target: str, body: bytes) -> bool:
        """Whether the owner of ``public_key`` signed this request."""
        return self.holds_for(public_key, method, target, hashlib.sha256(body).hexdigest())

    def holds_for(self, public_key: bytes, method: str, target: str, body_sha256: str) -> bool:
        """As ``holds``, with the body's hash in hex, for a body that was hashed while it streamed in."""
        text = signed_text(method, target, body_sha256, self.device_id, self.sequence, self.nonce)
        return signature_holds(public_key, self.signature, text)


def signed_text(method: str, target: str, body_sha256: str, device_id: str, sequence: int, nonce: str) -> bytes:
    """Return the bytes that are signed. target: path with query, percent-encoded as on the wire."""
    parts = ("soundkeep request 1", method.upper(), target, body_sha256, device_id, str(sequence), nonce)
    return "\n".join(parts).encode("ascii")


def sign_request(
    key: DeviceKey, method: str, target: str, body: bytes, *, sequence: int, nonce: bytes
) -> dict[str, str]:
    """Return the headers that make a request the device's own. nonce: 16 random bytes."""
    text = signed_text(method, target, hashlib.sha256(body).hexdigest(), key.device_id, sequence, nonce.hex())
    return {
        DEVICE: key.device_id,
        SEQUENCE: str(sequence),
        NONCE: nonce.hex(),
        SIGNATURE: base64.urlsafe_b64encode(key.sign(text)).decode("ascii"),
    }


def parse_headers(headers: Mapping[str, str]) -> SignedHeaders:
    """Read the four headers (names in lower case). Raises SyncError that names the one that is missing or malformed."""
    values = {name: headers.get(name, "") for name in (DEVICE, SEQUENCE, NONCE, SIGNATURE)}
    forms = {DEVICE: _DEVICE_ID, SEQUENCE: _NUMBER, NONCE: _NONCE}
    for name, form in forms.items():
        if not form.match(values[name]):
            raise SyncError(f"header {name} is {values[name][:40]!r}; a request is signed by an enrolled device")
    try:
        signature = base64.b64decode(values[SIGNATURE], altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        signature = b""
    sequence = int(values[SEQUENCE])
    if len(signature) != SIGNATURE_BYTES or sequence > MAX_SEQUENCE:
        raise SyncError(f"header {SIGNATURE} or {SEQUENCE} is malformed; a request is signed by an enrolled device")
    return SignedHeaders(values[DEVICE], sequence, values[NONCE], signature)
