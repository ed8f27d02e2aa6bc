"""Which signed requests of a device were seen: the last ``REPLAY_WINDOW`` sequence numbers as bits. Pure.

Bit i stands for ``top - i``. A number is taken at most once; within the window order does not matter; what is older
than the window is refused, because nothing is known of it any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.sync.signing import REPLAY_WINDOW

_MASK = (1 << REPLAY_WINDOW) - 1


@dataclass(frozen=True)
class ReplayWindow:
    """top: the largest number seen, 0 at first. seen: bits, see above."""

    top: int = 0
    seen: int = 0

    def take(self, sequence: int) -> ReplayWindow | None:
        """Return the window after ``sequence`` (at least 1) was seen; None when it was seen before or is too old."""
        if sequence > self.top:
            ahead = sequence - self.top
            kept = self.seen << ahead if ahead < REPLAY_WINDOW else 0
            return ReplayWindow(sequence, (kept | 1) & _MASK)
        bit = self.top - sequence
        if bit >= REPLAY_WINDOW or self.seen >> bit & 1:
            return None
        return ReplayWindow(self.top, self.seen | 1 << bit)

    @classmethod
    def beginning_after(cls, sequence: int) -> ReplayWindow:
        """Return a window in which ``sequence`` and everything before it was seen."""
        return cls(sequence, _MASK)

    @classmethod
    def from_bytes(cls, top: int, seen: bytes) -> ReplayWindow:
        return cls(top, int.from_bytes(seen, "little"))

    def to_bytes(self) -> bytes:
        """Return the bits, 128 bytes at most; as short as they can be."""
        return self.seen.to_bytes((self.seen.bit_length() + 7) // 8, "little")
