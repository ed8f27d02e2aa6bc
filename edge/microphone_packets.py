"""The words between the capture process and its supervisor: packets on a pipe, encoded and decoded without I/O.

A packet is a 24-byte header (magic, kind, sequence number, frames lost, overflows, payload length) and its payload.
One process writes, its parent reads; a byte out of place means that the writer went wrong, and ends the connection.
Without NumPy, so that the capture process stays small.
"""

from __future__ import annotations

import enum
import json
import struct
from dataclasses import asdict, dataclass

from edge.errors import DeviceError

MAGIC = b"SKm1"
HEADER = struct.Struct("<4sIIIII")
MAX_PAYLOAD_BYTES = 1 << 22


class Kind(enum.IntEnum):
    """OPENED: a device delivers from now on. REFUSED: none can be opened now, and why. AUDIO: frames of float32,
    channels interleaved, native byte order. LISTED: the names of all microphones."""

    OPENED = 1
    REFUSED = 2
    AUDIO = 3
    LISTED = 4


@dataclass(frozen=True)
class Packet:
    """n_lost: frames lost just before the payload, at the device's rate. n_overflows: how often that happened."""

    kind: Kind
    sequence: int
    payload: bytes
    n_lost: int = 0
    n_overflows: int = 0

    def text(self) -> str:
        """The sentence of a REFUSED packet, the lines of a LISTED one."""
        return self.payload.decode("utf-8", errors="replace")


@dataclass(frozen=True)
class OpenedDevice:
    """The device that delivers: its name with host API, its native rate in Hz, and the channels it was opened with."""

    name: str
    sample_rate: int
    n_channels: int = 1

    def describe(self) -> str:
        return f"{self.name} at {self.sample_rate} Hz"

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> OpenedDevice:
        fields = json.loads(payload)
        return cls(str(fields["name"]), int(fields["sample_rate"]), int(fields["n_channels"]))


def encode(packet: Packet) -> bytes:
    """The packet as bytes. Counts beyond 32 bits are held at the largest value."""
    most = 0xFFFFFFFF
    head = HEADER.pack(
        MAGIC,
        packet.kind,
        packet.sequence & most,
        min(packet.n_lost, most),
        min(packet.n_overflows, most),
        len(packet.payload),
    )
    return head + packet.payload


class PacketReader:
    """Bytes in, packets out, in whatever pieces the bytes come. Raises DeviceError for bytes that are no packet."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._sequence = 0

    def feed(self, data: bytes) -> list[Packet]:
        self._buffer += data
        packets = []
        while len(self._buffer) >= HEADER.size:
            magic, kind, sequence, n_lost, n_overflows, n_bytes = HEADER.unpack_from(self._buffer)
            known = magic == MAGIC and kind in tuple(Kind) and sequence == self._sequence & 0xFFFFFFFF
            if not known or n_bytes > MAX_PAYLOAD_BYTES or (kind == Kind.AUDIO and n_bytes % 4):
                raise DeviceError(
                    f"the capture process sent bytes that are no packet ({bytes(self._buffer[:8])!r} where packet "
                    f"{self._sequence} was due); it is started again"
                )
            if len(self._buffer) < HEADER.size + n_bytes:
                break
            payload = bytes(self._buffer[HEADER.size : HEADER.size + n_bytes])
            del self._buffer[: HEADER.size + n_bytes]
            packets.append(Packet(Kind(kind), sequence, payload, n_lost, n_overflows))
            self._sequence += 1
        return packets
