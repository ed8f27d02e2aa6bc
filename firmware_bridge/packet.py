"""Packets in a stream of bytes: COBS between zeros, a head, a CRC. Bytes in any pieces come in, whole packets go out.

Consistent Overhead Byte Stuffing (Cheshire and Baker 1999) leaves no zero inside a packet, so after any damage the
next zero is where the next packet begins. No I/O; memory is bounded by one packet.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from firmware_bridge.protocol import MAX_PAYLOAD

_HEAD = struct.Struct("<BBHH")
_CRC = struct.Struct("<I")
_OVERHEAD = _HEAD.size + _CRC.size
MAX_STUFFED = MAX_PAYLOAD + _OVERHEAD + (MAX_PAYLOAD + _OVERHEAD) // 254 + 1
"""Bytes of the longest packet between its zeros."""
_CODES = [bytes([n + 1]) for n in range(255)]


@dataclass(frozen=True)
class Packet:
    """One whole packet. type, flags: u8. seq: u16."""

    type: int
    seq: int
    payload: bytes
    flags: int = 0


def encode_packet(type: int, seq: int, payload: bytes, flags: int = 0) -> bytes:
    """Return the bytes for the line, zeros at both ends. Raises ValueError for more than 1024 bytes."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes; at most {MAX_PAYLOAD} fit a packet")
    body = _HEAD.pack(type, flags, seq, len(payload)) + payload
    return b"\0" + stuff(body + _CRC.pack(zlib.crc32(body))) + b"\0"


def stuff(data: bytes) -> bytes:
    """COBS: return ``data`` without zeros, one byte longer for every 254."""
    parts: list[bytes] = []
    full = False
    for run in data.split(b"\0"):
        begin = 0
        while len(run) - begin >= 254:
            parts += (b"\xff", run[begin : begin + 254])
            begin += 254
        rest = run[begin:]
        parts += (_CODES[len(rest)], rest)
        full = begin > 0 and not rest
    if full:
        del parts[-2:]  # a full block at the very end stands for itself
    return b"".join(parts)


def unstuff(data: bytes) -> bytes | None:
    """Undo ``stuff``; None when the lengths inside do not add up. ``data`` holds no zero."""
    n, place, full = len(data), 0, []
    if n == 0:
        return None
    out = bytearray(data)
    while place < n:
        code = out[place]
        out[place] = 0
        if code == 255:
            full.append(place + 255)
        place += code
    if place != n:
        return None
    for end in reversed(full):  # no zero stands after a full block
        if end < n:
            del out[end]
    return bytes(out[1:])


class Decoder:
    """Finds the packets in what comes over a line, and counts what is none.

    n_good: packets. n_crc: of a wrong checksum. n_malformed: no packet at all. n_oversized: more bytes between two
    zeros than a packet has.
    """

    def __init__(self) -> None:
        self.n_good = self.n_crc = self.n_malformed = self.n_oversized = 0
        self._begun = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[Packet]:
        """Take bytes; return the packets that they complete."""
        packets: list[Packet] = []
        *ended, rest = data.split(b"\0")
        for end in ended:
            piece = end
            if self._begun or self._too_long:
                self._append(end)
                piece = bytes(self._begun)
                self._begun.clear()
            if self._too_long or len(piece) > MAX_STUFFED:
                self.n_oversized += 1
                self._too_long = False
            elif piece:
                packet = self._read(piece)
                if packet is not None:
                    packets.append(packet)
        self._append(rest)
        return packets

    def _append(self, piece: bytes) -> None:
        if self._too_long or len(self._begun) + len(piece) > MAX_STUFFED:
            self._too_long = True
            self._begun.clear()
        else:
            self._begun += piece

    def _read(self, piece: bytes) -> Packet | None:
        raw = unstuff(piece)
        if raw is None or len(raw) < _OVERHEAD:
            self.n_malformed += 1
            return None
        if zlib.crc32(raw[:-4]) != _CRC.unpack_from(raw, len(raw) - 4)[0]:
            self.n_crc += 1
            return None
        kind, flags, seq, length = _HEAD.unpack_from(raw)
        if length != len(raw) - _OVERHEAD or length > MAX_PAYLOAD:
            self.n_malformed += 1
            return None
        self.n_good += 1
        return Packet(kind, seq, raw[_HEAD.size : -4], flags)
