"""What every message of the link is: fixed numbers, then perhaps bytes to the end. Strict both ways."""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

MAX_PAYLOAD = 1024
Self = TypeVar("Self", bound="Message")


@dataclass(frozen=True)
class Message:
    """A payload. FIXED: the numbers as a ``struct`` format; a field more than it has is the tail."""

    TYPE: ClassVar[int] = 0
    FIXED: ClassVar[str] = "<"

    def encode(self) -> bytes:
        """Return the payload. Raises ValueError for a number out of range or more than 1024 bytes."""
        values = [getattr(self, field.name) for field in fields(self)]
        n_fixed = len(struct.unpack(self.FIXED, bytes(struct.calcsize(self.FIXED))))
        tail = values[n_fixed] if len(values) > n_fixed else b""
        try:
            payload = struct.pack(self.FIXED, *values[:n_fixed]) + tail
        except struct.error as error:
            raise ValueError(f"{type(self).__name__} cannot be sent: {error}") from error
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"{type(self).__name__} has {len(payload)} bytes; a payload has at most {MAX_PAYLOAD}")
        return payload

    @classmethod
    def decode(cls: type[Self], payload: bytes) -> Self:
        """Read a payload. Raises ValueError for one that is too short or too long."""
        n = struct.calcsize(cls.FIXED)
        values = list(struct.unpack_from(cls.FIXED, payload)) if len(payload) >= n else []
        if len(fields(cls)) > len(values) and len(payload) >= n:
            values.append(payload[n:])
        elif len(payload) != n:
            raise ValueError(f"{cls.__name__} has {len(payload)} bytes; wanted {n}")
        return cls(*values)
