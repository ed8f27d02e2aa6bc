"""Commands to a device and their acknowledgements: four under way at most, each sent up to four times. No I/O.

A command is known by (session, sequence number). The device does each once and acknowledges every copy, so a command
whose acknowledgement was lost may be sent again. What the device refuses, or never acknowledges, comes back as failed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from firmware_bridge.errors import LinkError

WINDOW = 4
MAX_TRIES = 4
MAX_WAITING = 64
RETRY_S = 0.3


@dataclass(frozen=True)
class Outcome:
    """What became of a command. ticket: what ``ask`` returned. refused: the device's number for why, 0 when done;
    None when it never acknowledged."""

    ticket: int
    refused: int | None
    payload: bytes = b""

    @property
    def done(self) -> bool:
        return self.refused == 0


@dataclass(frozen=True)
class _Sent:
    ticket: int
    packet: bytes
    n_tries: int
    due: float


class ControlWindow:
    """make: (sequence number, ticket's type and payload) -> packet. Owned by one thread; seconds are monotonic."""

    def __init__(
        self,
        make: Callable[[int, int, bytes], bytes],
        *,
        window: int = WINDOW,
        max_tries: int = MAX_TRIES,
        retry_s: float = RETRY_S,
    ) -> None:
        self._make = make
        self._window = window
        self._max_tries = max_tries
        self._retry_s = retry_s
        self._waiting: deque[tuple[int, int, bytes]] = deque()
        self._under_way: OrderedDict[int, _Sent] = OrderedDict()
        self._next_ticket = 0
        self._next_seq = 0
        self.n_retries = 0
        self.n_late_acks = 0

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._under_way

    def ask(self, kind: int, payload: bytes) -> int:
        """Queue a command; return its ticket. Raises LinkError when 64 wait already."""
        if len(self._waiting) >= MAX_WAITING:
            raise LinkError(f"{MAX_WAITING} commands wait for the device already; wait until some are acknowledged")
        self._next_ticket += 1
        self._waiting.append((self._next_ticket, kind, payload))
        return self._next_ticket

    def due(self, now: float) -> tuple[list[bytes], list[Outcome]]:
        """Return the packets to send now, and the commands to give up."""
        packets: list[bytes] = []
        lost: list[Outcome] = []
        for seq, sent in list(self._under_way.items()):
            if now < sent.due:
                continue
            if sent.n_tries >= self._max_tries:
                del self._under_way[seq]
                lost.append(Outcome(sent.ticket, None))
                continue
            n_tries = sent.n_tries + 1
            self._under_way[seq] = replace(sent, n_tries=n_tries, due=now + self._retry_s * n_tries)
            self.n_retries += 1
            packets.append(sent.packet)
        while self._waiting and len(self._under_way) < self._window:
            ticket, kind, payload = self._waiting.popleft()
            seq = self._next_seq
            self._next_seq = (self._next_seq + 1) & 0xFFFF
            packet = self._make(seq, kind, payload)
            self._under_way[seq] = _Sent(ticket, packet, 1, now + self._retry_s)
            packets.append(packet)
        return packets, lost

    def acknowledged(self, seq: int, status: int, payload: bytes = b"") -> Outcome | None:
        """Take an acknowledgement; None when its command is not under way (any more)."""
        sent = self._under_way.pop(seq, None)
        if sent is None:
            self.n_late_acks += 1
            return None
        return Outcome(sent.ticket, status, payload)

    def drop_all(self) -> list[Outcome]:
        """The device has begun another session: nothing that was asked of the old one is answered any more."""
        tickets = [sent.ticket for sent in self._under_way.values()] + [ticket for ticket, _, _ in self._waiting]
        self._under_way.clear()
        self._waiting.clear()
        return [Outcome(ticket, None) for ticket in tickets]
