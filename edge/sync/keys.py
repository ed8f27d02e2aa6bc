"""Who a device is: an ed25519 key pair that is made on it and never leaves it. The one file that knows cryptography.

The device's name is a hash of its public key, so that it can be neither chosen nor taken over.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.durable import write_file
from edge.errors import SyncError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
_MAX_FILE_BYTES = 4096


def device_id(public_key: bytes) -> str:
    """Return the name of the device that owns ``public_key`` (32 bytes): 32 hex digits."""
    return hashlib.sha256(b"soundkeep device 1\0" + public_key).hexdigest()[:32]


def signature_holds(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the owner of ``public_key`` signed ``data`` (RFC 8032)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True, eq=False)
class DeviceKey:
    """The private half. Make it with ``generate``, keep it with ``save``."""

    _private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> DeviceKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> DeviceKey:
        """Read what ``save`` wrote. Raises SyncError when it is missing or no such key."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            with path.open("rb") as file:
                private = load_pem_private_key(file.read(_MAX_FILE_BYTES), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SyncError(f"the device key {path} cannot be read ({error}); enrol this device again") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise SyncError(f"the device key {path} is not an ed25519 key; enrol this device again")
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key for its owner alone (PKCS#8 PEM, mode 0600). Raises OSError."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        write_file(path, [self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())])

    @property
    def public_bytes(self) -> bytes:
        """The public key, 32 bytes."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def device_id(self) -> str:
        return device_id(self.public_bytes)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``, 64 bytes."""
        return self._private.sign(data)
