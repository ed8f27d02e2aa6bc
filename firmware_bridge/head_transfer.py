"""A head on its way to a device: begun, sent in chunks, committed. What goes wrong leaves the head that it has.

The device fills the bank that is not in use and changes over at a window's boundary, after the whole checksum was
right. So it may be cut anywhere, and done again from the beginning.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from firmware_bridge import protocol as p
from firmware_bridge.connection import Connection
from firmware_bridge.control import Outcome
from firmware_bridge.errors import LinkError
from firmware_bridge.heads import DeviceHead
from firmware_bridge.link_events import Device
from firmware_bridge.message import Message

CHUNK_BYTES = 960
AT_ONCE = 8
ANSWER_SECONDS = 10.0
WHY = {
    p.STATUS_UNKNOWN: "does not know the command",
    p.STATUS_OTHER_SESSION: "has started anew meanwhile; send it again",
    p.STATUS_MALFORMED: "finds the command malformed",
    p.STATUS_OTHER_EAR: "was built with another ear; build its firmware from this bundle, or choose the other bundle",
    p.STATUS_TOO_LARGE: "has no room for it; forget some classes, or build its firmware with larger banks",
    p.STATUS_WRONG_CRC: "got it damaged; send it again",
    p.STATUS_NO_BEGIN: "knows nothing of its beginning; send it again",
    p.STATUS_INCOMPLETE: "lacks a part of it; send it again",
    p.STATUS_UNSUPPORTED: "recognises nothing by itself; its firmware has no head",
}


def require_same_ear(device: Device, address: str, ear: bytes) -> None:
    """Raises LinkError for a device that takes no heads, or whose ear is another one. ear: eight bytes."""
    if not device.takes_heads:
        raise LinkError(f"{device.name} at {address} {WHY[p.STATUS_UNSUPPORTED]}")
    if any(device.ear) and device.ear != ear[: len(device.ear)]:
        raise LinkError(
            f"{device.name} at {address} was built with ear {device.ear.hex()}, this memory is of ear {ear.hex()}; "
            "build its firmware from this bundle, or choose the other one with --bundle"
        )


def send_head(link: Connection, head: DeviceHead, *, clock: Callable[[], float] = time.monotonic) -> float:
    """Send a head and have it used from the next window on; return the seconds that took. Raises LinkError."""
    device = link.device
    require_same_ear(device, str(link.address), head.ear)
    if len(head.data) > device.bank_bytes:
        raise LinkError(
            f"the head has {len(head.data)} bytes, and {device.name} has room for {device.bank_bytes}; forget some "
            "classes, or build its firmware with larger banks"
        )
    began, session = clock(), device.session
    sent: deque[Future[Outcome]] = deque()

    def ask(message: Message) -> None:
        sent.append(link.ask(lambda host: host.ask(message.TYPE, message.encode())))
        while len(sent) >= AT_ONCE:
            _check(sent.popleft(), device.name)

    def settle() -> None:
        while sent:
            _check(sent.popleft(), device.name)

    ask(
        p.HeadBegin(
            session,
            head.version,
            head.dim,
            head.n_classes,
            head.n_rivals,
            len(head.data),
            head.crc,
            head.ear.ljust(8, b"\0"),
        )
    )
    settle()
    for offset in range(0, len(head.data), CHUNK_BYTES):
        ask(p.HeadChunk(session, head.version, offset, head.data[offset : offset + CHUNK_BYTES]))
    settle()
    ask(p.HeadCommit(session, head.version))
    settle()
    return clock() - began


def seconds_on_the_line(n_bytes: int, baud: int) -> float:
    """How long the bytes of a head take at ``baud`` (ten bits a byte), with all that goes around them."""
    n_chunks = -(-n_bytes // CHUNK_BYTES)
    around = 4 + 6 + 12 + 4 + 2  # zeros and COBS, head, numbers of a chunk, CRC, a byte in 254 twice over
    return 10.0 * (n_bytes + around * (n_chunks + 2)) / baud


def _check(answer: Future[Outcome], name: str) -> None:
    try:
        outcome = answer.result(ANSWER_SECONDS)
    except FutureTimeoutError as error:
        raise LinkError(f"{name} did not answer within {ANSWER_SECONDS:g} s; it has the head that it had") from error
    if outcome.refused is None:
        raise LinkError(f"{name} did not acknowledge a part of the head after four tries; it has the head that it had")
    if not outcome.done:
        why = WHY.get(outcome.refused, f"refuses it ({outcome.refused})")
        raise LinkError(f"{name} {why}; it has the head that it had")
