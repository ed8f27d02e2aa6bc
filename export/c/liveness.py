"""One piece of memory for all tensors: whoever is not alive at the same time may lie in the same place. Pure.

Greedy by size: the largest first, each at the lowest offset where it meets none that is alive with it. Within a few
per cent of the best for networks of this kind, and the same answer every time (Pisarchyk and Lee 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ALIGNMENT = 8


@dataclass(frozen=True)
class Tensor:
    """first, last: the steps at which it is made and taken for the last time, both included."""

    name: str
    n_bytes: int
    first: int
    last: int

    def meets(self, other: Tensor) -> bool:
        return self.first <= other.last and other.first <= self.last

    @property
    def room(self) -> int:
        return -(-self.n_bytes // ALIGNMENT) * ALIGNMENT


def pack(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Return each tensor's offset in bytes, a multiple of ``ALIGNMENT``."""
    placed: list[tuple[int, Tensor]] = []
    for tensor in sorted(tensors, key=lambda t: (-t.n_bytes, t.first, t.name)):
        offset = 0
        for begin, other in sorted(((o, t) for o, t in placed if t.meets(tensor)), key=lambda pair: pair[0]):
            if begin - offset >= tensor.room:
                break
            offset = max(offset, begin + other.room)
        placed.append((offset, tensor))
    return {tensor.name: offset for offset, tensor in placed}


def peak(tensors: Iterable[Tensor], offsets: Mapping[str, int]) -> int:
    """Bytes from the beginning to the end of the last tensor."""
    return max((offsets[t.name] + t.room for t in tensors), default=0)


def least(tensors: Iterable[Tensor]) -> int:
    """What no plan can go below: the bytes that are alive at once at the fullest step."""
    known = list(tensors)
    return max(
        (sum(t.room for t in known if t.first <= step <= t.last) for step in {t.first for t in known}), default=0
    )


def naive(tensors: Iterable[Tensor]) -> int:
    """Every tensor in a place of its own."""
    return sum(t.room for t in tensors)


def overlapping(tensors: Iterable[Tensor], offsets: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs that are alive together and share a byte; empty for a plan that holds."""
    known = list(tensors)
    return [
        (a.name, b.name)
        for i, a in enumerate(known)
        for b in known[i + 1 :]
        if a.meets(b)
        and offsets[a.name] < offsets[b.name] + b.n_bytes
        and offsets[b.name] < offsets[a.name] + a.n_bytes
    ]
